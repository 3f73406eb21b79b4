"""The book of the stored notebooks: `python -m tools.book` writes it to build/book/.

Notebooks whose sliders have no film in build/frames/, or an old one, are run first, all but notebook 10.
"""

import shutil
import sys

import nbformat

from lora_edu.llm.console import say
from tools.book.films import draw_films, without_films
from tools.book.site import ROOT, BookFailed, write_book


def main() -> None:
    """Write the book of this repository."""
    frames, output = ROOT / "build" / "frames", ROOT / "build" / "book"
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    draw_films(list(without_films(notebooks, frames)), frames)
    shutil.rmtree(output, ignore_errors=True)
    try:
        warnings = write_book(
            {path.stem: nbformat.read(path, as_version=4) for path in notebooks}, frames, output
        )
    except BookFailed as error:
        sys.exit(str(error))
    if warnings:
        say(warnings)
    say(f"The course as a book: {output / 'index.html'}")


if __name__ == "__main__":
    main()
