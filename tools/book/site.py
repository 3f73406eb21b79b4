"""From executed notebooks to the book: a folder of web pages that needs no network, no server and no kernel."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from nbformat import NotebookNode

from lora_edu.classroom.widgets.pages import LINKED
from lora_edu.llm.console import say
from tools import npm
from tools.book.sources import FRAMES, ROOT, write_sources
from tools.set_repo import present_slug

FORMULAS = "formulas"
"""Sphinx' tag for a book whose formulas KaTeX renders."""


class BookFailed(Exception):
    """Sphinx wrote no book; the message is its own."""


def write_book(notebooks: Mapping[str, NotebookNode], frames: Path, output: Path, decks: str = "") -> str:
    """Write the book of `notebooks` to `output`, beside what is there.

    Where there is no node, formulas are shown as they are in the source, and a line says so.

    Parameters
    ----------
    notebooks : mapping
        Executed, by name, such as ``01_rank_and_svd``, in the order of the book.
    frames : Path
        Where the films of their sliders lie; a slider without one stays still.
    output : Path
    decks : str
        Where their slides are, seen from the pages, such as ``../slides``; empty if there are none.

    Returns
    -------
    str
        Sphinx' warnings, a line each; empty if there are none.

    Raises
    ------
    BookFailed
        If Sphinx ends with an error.
    """
    with TemporaryDirectory() as folder:
        sources, rest = Path(folder, "sources"), Path(folder)
        pictures = write_sources(notebooks, frames, sources, present_slug(ROOT), decks)
        tags = ["-t", FORMULAS] if copy_styles(sources / "static") else []
        options = ["-q", *tags, "-d", str(rest / "doctrees"), "-w", str(rest / "warnings")]
        command = [sys.executable, "-m", "sphinx", *options, str(sources), str(output)]
        run_sphinx(command, rest / "said")
        warnings = (rest / "warnings").read_text(encoding="utf-8").replace(f"{sources}{os.sep}", "")
    (output / FRAMES).mkdir(exist_ok=True)
    for name in pictures:
        shutil.copy(frames / name, output / FRAMES)
    return warnings.strip()


def run_sphinx(command: Sequence[str], said: Path) -> None:
    """Run a command from the root of the repository; what it says goes to the file `said`.

    To a file and not to a pipe: a node that the command leaves behind would keep the pipe open, and this would wait.

    Raises
    ------
    BookFailed
        If it ends with an error.
    """
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with said.open("wb") as file:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    if done.returncode:
        raise BookFailed(said.read_text(encoding="utf-8", errors="replace").strip())


def copy_styles(static: Path) -> bool:
    """Put what the pages look like, and what moves their sliders, into `static`; whether KaTeX is there."""
    for file in LINKED:
        shutil.copy(file, static)
    try:
        npm.node()
        packages = npm.install()
    except npm.NodeMissing as error:
        say(f"Formulas on the pages stay as they are in the source: {error}.")
        return False
    copy_katex(packages, static)
    return True


def copy_katex(packages: Path, folder: Path) -> None:
    """Put the style and the letters of KaTeX' formulas into `folder`."""
    katex = packages / "katex" / "dist"
    (folder / "katex").mkdir(exist_ok=True)
    shutil.copy(packages / "katex" / "LICENSE", folder / "katex" / "LICENSE.txt")
    shutil.copy(katex / "katex.min.css", folder / "katex")
    # Of its three formats, the one that every browser takes first.
    shutil.copytree(
        katex / "fonts",
        folder / "katex" / "fonts",
        ignore=shutil.ignore_patterns("*.woff", "*.ttf"),
        dirs_exist_ok=True,
    )
