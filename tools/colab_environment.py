"""Make .venv-colab: the packages that Colab preinstalls, at Colab's versions, as far as the course meets them.

    python tools/colab_environment.py

Run it with the Python of .venv. PyTorch is the same as there and shares its files, since the CPU build of
another version would be 200 MB more and is not what is tested. requirements-colab.txt holds the rest; `make
constraints-colab` writes it. Every run puts the environment back to exactly that state, so a test may install
into it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv-colab"
PYTHON = VENV / "bin" / "python"
UV = [sys.executable, "-m", "uv"]


def site_packages() -> Path:
    """Where .venv-colab keeps its packages."""
    return Path(sysconfig.get_path("purelib", vars={"base": str(VENV)}))


def link_torch(folder: Path) -> None:
    """Hard-link the files of the running Python's PyTorch into `folder`."""
    files = metadata.files("torch")
    if files is None:
        raise FileNotFoundError("the installed torch has no list of its files (RECORD)")
    # A torch without its metadata counts as absent, so what tells that all is there comes last.
    for file in sorted(files, key=lambda file: file.parts[0].endswith(".dist-info")):
        if ".." in file.parts:  # commands such as torchrun name the Python that they were made for
            continue
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(str(file.locate()), target)


def make_environment() -> Path:
    """Make .venv-colab, or put it back to how it was made.

    Returns
    -------
    Path
        Its Python.

    Raises
    ------
    subprocess.CalledProcessError
        When uv fails; its own words are on stderr.
    """
    torch = f"torch=={metadata.version('torch')}"
    # The folder names Python's version and the file torch's: either one's change starts over.
    if not (site_packages() / f"torch-{metadata.version('torch')}.dist-info" / "METADATA").exists():
        subprocess.run([*UV, "venv", "--quiet", "--clear", "--python", sys.executable, VENV], check=True)
        link_torch(site_packages())
    install = [*UV, "pip", "install", "--python", PYTHON, "--exact", "-r", ROOT / "requirements-colab.txt"]
    subprocess.run([*install, torch], check=True)
    return PYTHON


if __name__ == "__main__":
    make_environment()
