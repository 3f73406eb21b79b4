"""Set up everything the course needs: `python3 tools/setup_env.py course` (or `book`, `test`).

Makes the virtual environment .venv, installs the exact versions of constraints.txt in it, and fetches the
base model. Every `make` command starts with it; when nothing has changed since the last run it does nothing.

The syntax stays within what Python 3.6 reads, so that an old Python gets a message and not a SyntaxError.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = str(VENV / "bin" / "python")
STAMP = VENV / "lora_edu.json"
INCLUDED = {"course": ["course"], "book": ["book", "course"], "test": ["test", "book", "course"]}

MINIMUM_PYTHON = (3, 11)
NEEDED_GB = 3.0
UV_VERSION = "0.13.9"

PIP = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "-c", "constraints.txt"]
UV = [PYTHON, "-m", "uv", "pip", "install", "--python", PYTHON, "-c", "constraints.txt"]


def check_python(version=sys.version_info):
    """Exit with a message when `version` is too old for the course."""
    if tuple(version) < MINIMUM_PYTHON:
        sys.exit(
            "Python {}.{} or newer is needed. This is Python {}.{} ({}).\n"
            "Install a newer one and name it: make PYTHON=python3.12 ...".format(
                *MINIMUM_PYTHON, *version[:2], sys.executable
            )
        )


def check_disk(needed_gb=NEEDED_GB):
    """Exit with a message when fewer than `needed_gb` (10^9 bytes) are free where the repository lies."""
    free_gb = shutil.disk_usage(str(ROOT)).free / 1e9
    if free_gb < needed_gb:
        sys.exit(
            f"The disk is too full: {needed_gb} GB are needed in {ROOT}, {free_gb:.1f} GB are free.\n"
            "Free some space, then run the same command again."
        )


def check_venv_module():
    """Exit with a message when Python comes without its venv module, as on Debian."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        sys.exit(
            f"This Python ({sys.executable}) cannot make virtual environments: {error}.\n"
            "On Debian and Ubuntu: sudo apt install python3-venv. Then run the same command again."
        )


def first_that_works(*commands):
    """Run the commands in turn until one succeeds; exit with a message when none does."""
    for command in commands:
        if subprocess.call(command, cwd=str(ROOT)) == 0:
            return
    check_disk(needed_gb=1.0)
    sys.exit(
        "Packages could not be installed; the installer's own words are above.\n"
        "Most often the network is down or the package index cannot be reached: check the connection and\n"
        "the proxy, then run the same command again. What was downloaded is kept."
    )


def torch_commands():
    """The ways to install PyTorch, best first.

    Linux without an NVIDIA GPU takes the CPU build, which is ten times smaller. Only PyTorch's own index has
    it. Where that does not answer, pip decides: it alone reads pip's settings (mirrors, local folders).
    """
    if sys.platform != "linux" or shutil.which("nvidia-smi"):
        return [[*UV, "torch"], [*PIP, "torch"]]
    cpu_build = [*UV, "--torch-backend=cpu", "torch"]
    index_answers = subprocess.run(
        [*cpu_build, "--dry-run"],
        cwd=str(ROOT),
        env=dict(os.environ, UV_HTTP_RETRIES="1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return [cpu_build, [*PIP, "torch"]] if index_answers.returncode == 0 else [[*PIP, "torch"]]


def make_venv(stamp):
    """Make .venv, from nothing when it belongs to another Python or another folder."""
    import venv

    foreign = bool(stamp) and stamp["made_for"] != made_for()
    if foreign:
        print("      Python or the folder has changed: starting over.", flush=True)
    try:
        venv.create(str(VENV), with_pip=True, clear=foreign, symlinks=True)
    except (OSError, subprocess.CalledProcessError) as error:
        check_disk(needed_gb=1.0)
        sys.exit(f"The virtual environment {VENV} could not be made: {error}")
    write_stamp({})


def made_for():
    """What a virtual environment cannot survive a change of: its Python, and its own place."""
    return [platform.python_version(), sys.base_prefix, str(ROOT)]


def wanted_packages():
    """A fingerprint of the files that decide what is installed."""
    files = [ROOT / "pyproject.toml", ROOT / "constraints.txt", Path(__file__)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def read_stamp():
    """What the last finished set-up left behind; empty when there was none, or half of it."""
    try:
        return json.loads(STAMP.read_text())
    except (FileNotFoundError, ValueError):
        return {}


def write_stamp(ready):
    """Record for whom .venv was made, and for each extra in `ready` the packages it holds."""
    partial = STAMP.with_suffix(".partial")
    partial.write_text(json.dumps({"made_for": made_for(), "ready": ready}, indent=1))
    partial.replace(STAMP)


def install(extra):
    """Install the packages of `extra` unless they are installed already."""
    stamp = read_stamp()
    packages = wanted_packages()
    if stamp and stamp["made_for"] == made_for() and stamp["ready"].get(extra) == packages:
        return
    check_venv_module()
    check_disk()
    print("[1/4] Virtual environment in .venv", flush=True)
    make_venv(stamp)
    print("[2/4] The installer, uv", flush=True)
    first_that_works([*PIP, "--quiet", "uv==" + UV_VERSION])
    print("[3/4] PyTorch (200 MB without a GPU, some GB with one)", flush=True)
    first_that_works(*torch_commands())
    print("[4/4] The packages of constraints.txt", flush=True)
    package = ["-e", f".[{extra}]"]
    first_that_works([*UV, *package], [*PIP, *package])
    write_stamp(dict.fromkeys(INCLUDED[extra], packages))


def main():
    """Set up the extra that the command line names."""
    check_python()
    if len(sys.argv) != 2 or sys.argv[1] not in INCLUDED:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(INCLUDED)}")
    try:
        install(sys.argv[1])
        sys.exit(subprocess.call([PYTHON, "-m", "lora_edu.llm.base_model"], cwd=str(ROOT)))
    except KeyboardInterrupt:
        sys.exit("\nStopped. Run the same command again to go on.")


if __name__ == "__main__":
    main()
