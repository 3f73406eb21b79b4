"""Run the whole course headless: `python -m tools.run_course`.

Executes notebooks/*.ipynb in order, writes each as a page to build/course/, then an index, and prints what
the capstone's fine-tune changed. A page is written only when its notebook ran to the end, the index only when
all did. The first cell that fails ends the run with its name and a non-zero exit status.
"""

import html
import json
import os
import shutil
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from lora_edu.classroom.widgets.pages import make_pages_live
from lora_edu.llm.console import say, unfailing
from lora_edu.llm.files import write_text
from tools import pages
from tools.npm import NodeMissing

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


def execute(path: Path, progress: Progress) -> NotebookNode:
    """Run a notebook in its own folder and return it with its outputs.

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
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise NotebookFailed(f"{client.where()} failed:\n{error}") from error
    progress.finish(f"{client.where()}, {time.monotonic() - start:.0f} s")
    return notebook


def rendered_formulas(notebooks: list[NotebookNode], progress: Progress) -> dict[pages.Formula, str]:
    """The notebooks' formulas as HTML; none, and a line that says why, where they cannot be rendered."""
    try:
        return pages.render_formulas(pages.formulas_of(notebooks))
    except NodeMissing as error:
        progress.finish(f"Formulas on the pages stay as they are in the source: {error}.")
        return {}


def index_page(names: list[str]) -> str:
    """The list of pages, as HTML."""
    items = "\n".join(
        f'<li><a href="{html.escape(name)}.html">{html.escape(name)}</a></li>' for name in names
    )
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>lora_edu</title>\n'
        f"<h1>lora_edu</h1>\n<ol>\n{items}\n</ol>\n</html>\n"
    )


def before_and_after(runs: Path) -> list[str]:
    """What each fine-tune that left its record under `runs` changed, in words."""
    from lora_edu.llm.finetune import summary  # here: it imports torch, which takes seconds

    records = sorted(runs.rglob("run.json"))
    return [summary(json.loads(record.read_text(encoding="utf-8"))) for record in records]


def run_course(notebooks: list[Path], output: Path) -> None:
    """Execute the notebooks in order and write their pages and the index to `output`.

    Raises
    ------
    NotebookFailed
        At the first cell that fails.
    """
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    os.environ["LORA_EDU_RUNS"] = str(output / "runs")
    progress = Progress()
    documents = {path.stem: pages.document(path) for path in pages.DOCUMENTS}
    # Before anything runs: a formula is in the source, and who must do without them hears it at once.
    sources = [nbformat.read(path, as_version=4) for path in notebooks]
    formulas = rendered_formulas([*sources, *documents.values()], progress)
    site = pages.Pages(output, formulas)
    for name, document in documents.items():
        site.write(name, document)
    frames = output.parent / "frames"
    os.environ["LORA_EDU_FRAMES"] = str(frames)
    (output / "frames").mkdir()
    for path in notebooks:
        notebook = execute(path, progress)
        for picture in make_pages_live(notebook, frames):
            shutil.copy(frames / picture, output / "frames")  # so that the folder of pages stands alone
        site.write(path.stem, notebook)
    write_text(output / "index.html", index_page([path.stem for path in [*notebooks, *pages.DOCUMENTS]]))
    say("\n".join(before_and_after(output / "runs")))


def main() -> None:
    """Run the course of this repository."""
    output = ROOT / "build" / "course"
    try:
        run_course(sorted((ROOT / "notebooks").glob("*.ipynb")), output)
    except NotebookFailed as error:
        sys.exit(f"\n{error}")
    say(f"The course as web pages: {output / 'index.html'}")


if __name__ == "__main__":
    main()
