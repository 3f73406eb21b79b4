"""Run the whole course headless: `python -m tools.run_course`.

Executes notebooks/*.ipynb in order, writes the book (tools/book) of what they showed to build/course/, and prints what
the capstone's fine-tune changed. The first cell that fails ends the run with its name and a non-zero exit status, and
no book is written.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from lora_edu.classroom.widgets.frames import FOLDER_VARIABLE
from lora_edu.llm.console import say, unfailing
from tools.book.site import BookFailed, write_book
from tools.set_repo import present_slug
from tools.slides.deck import decks_written

ROOT = Path(__file__).resolve().parent.parent
CELL_TIMEOUT = 1800  # seconds: the fine-tune is one cell, and a slow laptop may take its time
QUIET_SECONDS = 15  # between two lines about the same notebook, where no terminal can rewrite a line


class Progress:
    """One line that is rewritten on a terminal; now and then a new line in a log."""

    def __init__(self):
        self.last = time.monotonic()

    def show(self, text: str) -> None:
        """Say where the run is."""
        if sys.stdout.isatty():
            width = shutil.get_terminal_size().columns - 1
            screen = unfailing()
            screen.write(f"\r\x1b[K{text[:width]}")
            screen.flush()
        elif time.monotonic() - self.last > QUIET_SECONDS:
            say(text)
            self.last = time.monotonic()

    def finish(self, text: str) -> None:
        """Replace the running line by one that stays."""
        start = "\r\x1b[K" if sys.stdout.isatty() else ""
        say(f"{start}{text}")
        self.last = time.monotonic()


class VisibleNotebookClient(NotebookClient):
    """A notebook client that shows the cell it is in and the last line which that cell printed."""

    def __init__(self, notebook: NotebookNode, name: str, progress: Progress, **options):
        super().__init__(notebook, on_cell_start=self.enter_cell, **options)
        self.name = name
        self.progress = progress
        self.code_cells = [cell.id for cell in notebook.cells if cell.cell_type == "code"]
        self.position = 0

    def enter_cell(self, cell: NotebookNode, cell_index: int) -> None:
        """Note and show the cell that starts."""
        if cell.cell_type == "code":
            self.position = self.code_cells.index(cell.id) + 1
            self.progress.show(self.where())

    def where(self) -> str:
        """The notebook and the cell that runs now."""
        return f"{self.name}, code cell {self.position} of {len(self.code_cells)}"

    def process_message(self, msg: dict, cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        """Show what the cell prints while it runs, a progress bar above all."""
        if msg["msg_type"] == "stream":
            lines = msg["content"]["text"].replace("\r", "\n").split("\n")
            printed = [line.strip() for line in lines if line.strip()]
            if printed:
                self.progress.show(f"{self.where()}: {printed[-1]}")
        return super().process_message(msg, cell, cell_index)


class NotebookFailed(Exception):
    """A cell raised, took too long, or lost its kernel; the message names notebook and cell."""


def execute(path: Path, progress: Progress, settings: Mapping[str, str]) -> NotebookNode:
    """Run a notebook in its own folder and return it with its outputs.

    Parameters
    ----------
    path : Path
    progress : Progress
    settings : mapping
        Environment variables of its kernel, beside those of this process.

    Raises
    ------
    NotebookFailed
        With the notebook, the code cell, and what it raised.
    """
    notebook = nbformat.read(path, as_version=4)
    client = VisibleNotebookClient(
        notebook,
        path.name,
        progress,
        timeout=CELL_TIMEOUT,
        store_widget_state=False,
        extra_arguments=["--log-level=ERROR"],  # a kernel warns at each start that TCP is not encrypted
        resources={"metadata": {"path": str(path.parent)}},
    )
    start = time.monotonic()
    try:
        client.execute(env=os.environ | settings)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise NotebookFailed(f"{client.where()} failed:\n{error}") from error
    progress.finish(f"{client.where()}, {time.monotonic() - start:.0f} s")
    return notebook


def before_and_after(runs: Path) -> list[str]:
    """What each fine-tune that left its record under `runs` changed, in words."""
    from lora_edu.llm.finetune import summary  # here: it imports torch, which takes seconds

    records = sorted(runs.rglob("run.json"))
    return [summary(json.loads(record.read_text(encoding="utf-8"))) for record in records]


def run_course(notebooks: list[Path], output: Path) -> None:
    """Execute the notebooks in order and write their book to `output`.

    Raises
    ------
    NotebookFailed
        At the first cell that fails.
    BookFailed
        If Sphinx ends with an error.
    """
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    frames = output.parent / "frames"
    settings = {"LORA_EDU_RUNS": str(output / "runs"), FOLDER_VARIABLE: str(frames)}
    progress = Progress()
    executed = {path.stem: execute(path, progress, settings) for path in notebooks}
    say("\n".join(before_and_after(output / "runs")))
    has_decks = decks_written(executed, frames, output / "slides", present_slug(ROOT), book="..")
    if warnings := write_book(executed, frames, output, decks="slides" if has_decks else ""):
        say(warnings)


def main() -> None:
    """Run the course of this repository."""
    output = ROOT / "build" / "course"
    try:
        run_course(sorted((ROOT / "notebooks").glob("*.ipynb")), output)
    except (NotebookFailed, BookFailed) as error:
        sys.exit(f"\n{error}")
    say(f"The course as a book: {output / 'index.html'}")


if __name__ == "__main__":
    main()
