"""Set the course up from this kit, without a network, and open it: `sh start.sh`, on Windows `start.bat`.

The kit stays as it is: everything is made in a folder of this machine. What was set up once is opened at once.

The syntax stays within what Python 3.6 reads, so that an old Python gets a message and not a SyntaxError.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

KIT = Path(__file__).resolve().parent
MARK = ".lora_edu_kit"
"""In the folder that is set up: of which kit it is; empty while it is being set up."""
MACHINES = {("linux", "x86_64"): "linux", ("darwin", "arm64"): "macos", ("win32", "AMD64"): "windows"}


def check_machine(version, machine):
    """Exit with a message when the wheels of this kit are not for this Python or this machine."""
    wanted = (KIT / "python-version").read_text().strip()
    if "{}.{}".format(*version[:2]) != wanted:
        sys.exit(
            f"This kit needs Python {wanted}. This is Python {version[0]}.{version[1]} ({sys.executable}).\n"
            "Where it is installed under another name: PYTHON=/path/to/python sh start.sh"
        )
    platforms = json.loads((KIT / "kit.json").read_text())["platforms"]
    if MACHINES.get(machine) not in platforms:
        sys.exit("This kit is for {}; this machine is {} {}.".format(", ".join(platforms), *machine))


def check_folder(folder):
    """Exit with a message when `folder` holds something that no kit put there."""
    if folder.exists() and not (folder / MARK).is_file() and any(folder.iterdir()):
        sys.exit(f"{folder} holds other files: name a new folder with --folder")


def environment(folder):
    """The environment of what runs in `folder`: the wheels of this kit, the base model there, nobody's settings."""
    foreign = ("PIP_", "PYTHONPATH", "PYTHONHOME")
    settings = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    # A URL: pip splits this variable at spaces.
    wheels = (KIT / "wheels").as_uri()
    pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels}
    return dict(settings, LORA_EDU_CACHE=str(folder / "cache"), **pip)


def run(command, folder, stopped):
    """Run a command in `folder`; exit with the message `stopped` when it fails."""
    if subprocess.call(command, cwd=str(folder), env=environment(folder)):
        sys.exit(stopped + " The words of the program that failed are above.")


def copy_course(folder):
    """Copy the course file by file: a stick that cannot be written would pass its modes on to whole folders.

    What an older kit left is removed first, where a file that is no more would be found.
    """
    for part in ("notebooks", "lora_edu"):
        shutil.rmtree(str(folder / part), ignore_errors=True)
    for source in (KIT / "course").rglob("*"):
        target = folder / source.relative_to(KIT / "course")
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(source), str(target))


def make_environment(folder):
    """Make the virtual environment from nothing."""
    try:
        import ensurepip  # noqa: F401
        import venv
    except ImportError as error:
        sys.exit(
            f"This Python ({sys.executable}) cannot make virtual environments: {error}.\n"
            "On Debian and Ubuntu the package python3-venv is missing."
        )
    builder = venv.EnvBuilder(clear=True, symlinks=os.name != "nt", with_pip=True)
    builder.create(str(folder / ".venv"))


def python_of(folder):
    """The Python of the virtual environment."""
    return str(folder / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def prepare(folder, mark):
    """Copy the course, install its packages, and make the base model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text("")
    print(f"[1/3] The course in {folder}", flush=True)
    copy_course(folder)
    print("[2/3] Packages, some minutes", flush=True)
    make_environment(folder)
    pip = [python_of(folder), "-m", "pip", "install", "--disable-pip-version-check"]
    # Without constraints.txt: it may name another version for this patch release of Python. The kit has one of each.
    run(pip + ["-e", ".[course]"], folder, "The packages could not be installed.")
    print("[3/3] The base model", flush=True)
    run([python_of(folder), "-m", "lora_edu.llm.base_model"], folder, "The base model could not be made.")
    partial = folder / (MARK + ".partial")
    partial.write_text(mark, encoding="utf-8")
    partial.replace(folder / MARK)


def open_course(folder, options):
    """Open JupyterLab on working copies, as `make lab` does; return its exit status."""
    run([python_of(folder), "tools/working_copies.py"], folder, "The notebooks could not be copied.")
    configured = [str(folder / "configs" / "jupyter"), os.environ.get("JUPYTER_CONFIG_PATH", "")]
    offline = {"JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, configured)), "HF_HUB_OFFLINE": "1"}
    settings = dict(environment(folder), **offline)
    # Where there is a network after all, a learner may install what the kit lacks.
    del settings["PIP_NO_INDEX"]
    lab = ["-m", "jupyterlab", "--ServerApp.root_dir=" + str(folder), "--LabApp.default_url=/lab/tree/work"]
    opened = subprocess.Popen([python_of(folder)] + lab + options, cwd=str(folder), env=settings)
    while True:
        try:
            return opened.wait()
        except KeyboardInterrupt:  # JupyterLab got it too, and asks what to do
            continue


def main():
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description="Set the course up from this kit and open it. Other options go to JupyterLab, such as --no-browser."
    )
    parser.add_argument(
        "--folder", default="~/lora_edu_kit", help="where to set it up (default: %(default)s)"
    )
    parser.add_argument("--prepare", action="store_true", help="set it up and do not open it")
    arguments, options = parser.parse_known_args()
    folder = Path(arguments.folder).expanduser().resolve()
    check_machine(sys.version_info, (sys.platform, platform.machine()))
    check_folder(folder)
    # An environment survives neither another Python nor another place.
    kit = (KIT / "SHA256SUMS").read_text(encoding="utf-8")
    mark = "\n".join([platform.python_version(), sys.base_prefix, str(folder), kit])
    try:
        if not (folder / MARK).is_file() or (folder / MARK).read_text(encoding="utf-8") != mark:
            prepare(folder, mark)
        sys.exit(0 if arguments.prepare else open_course(folder, options))
    except OSError as error:
        sys.exit(f"The course could not be set up: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped. Run the same command again to go on.")


if __name__ == "__main__":
    main()
