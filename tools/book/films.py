"""Which sliders of the stored notebooks have no film, or an old one; and the run that draws it."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat

from lora_edu.classroom.widgets.frames import FOLDER_VARIABLE, film_name
from lora_edu.classroom.widgets.pages import explorer_texts
from lora_edu.llm.console import say
from tools.book.sources import ROOT
from tools.run_course import NotebookFailed, Progress, execute

NEVER_RUN = ("10_qlora_finetune",)
"""Its one slider stays still without a film: it would take a whole fine-tune."""


def newest(files: Iterable[Path]) -> float:
    """When the last of some files was changed, in seconds."""
    return max((file.stat().st_mtime for file in files), default=0.0)


def without_films(notebooks: Iterable[Path], frames: Path, root: Path = ROOT) -> Iterator[Path]:
    """The notebooks with a slider whose film in `frames` is missing, or older than their source or the package."""
    package = newest((root / "lora_edu").rglob("*.py"))
    for notebook in notebooks:
        if notebook.stem in NEVER_RUN:
            continue
        source = root / "notebooks" / "src" / f"{notebook.stem}.py"
        changed = max(package, newest([source] if source.exists() else []))
        films = [frames / film_name(text) for text in explorer_texts(nbformat.read(notebook, as_version=4))]
        if any(not film.exists() or film.stat().st_mtime < changed for film in films):
            yield notebook


def draw_films(notebooks: Iterable[Path], frames: Path) -> None:
    """Run the notebooks for the films of their sliders alone. One that fails is named, and its sliders stay still."""
    progress = Progress()
    with TemporaryDirectory() as runs:
        settings = {FOLDER_VARIABLE: str(frames), "LORA_EDU_RUNS": runs}
        for path in notebooks:
            try:
                execute(path, progress, settings)
            except NotebookFailed as error:
                say(f"The sliders of {path.name} stay still: {str(error).splitlines()[-1]}")
