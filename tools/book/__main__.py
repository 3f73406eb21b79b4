"""The book of the stored notebooks, and its slides: `python -m tools.book` writes build/book/ and build/slides/.

Notebooks whose sliders have no film in build/frames/, or an old one, are run first, all but notebook 10.
"""

import shutil
import sys

import nbformat

from lora_edu.llm.console import say
from tools.book.films import draw_films, without_films
from tools.book.site import ROOT, BookFailed, write_book
from tools.set_repo import present_slug
from tools.slides.deck import decks_written


def main() -> None:
    """Write the book of this repository."""
    build = ROOT / "build"
    frames, output = build / "frames", build / "book"
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    draw_films(list(without_films(paths, frames)), frames)
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in paths}
    has_decks = decks_written(notebooks, frames, build / "slides", present_slug(ROOT), book="../book")
    shutil.rmtree(output, ignore_errors=True)
    try:
        warnings = write_book(notebooks, frames, output, decks="../slides" if has_decks else "")
    except BookFailed as error:
        sys.exit(str(error))
    if warnings:
        say(warnings)
    say(f"The course as a book: {output / 'index.html'}")


if __name__ == "__main__":
    main()
