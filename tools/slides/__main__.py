"""Slides of the stored notebooks: `python -m tools.slides` writes them to build/slides/.

Notebooks whose sliders have no film in build/frames/, or an old one, are run first, all but notebook 10.
"""

import sys

import nbformat

from lora_edu.llm.console import say
from tools.book.films import draw_films, without_films
from tools.set_repo import present_slug
from tools.slides.deck import ROOT, decks_written


def main() -> None:
    """Write the decks of this repository."""
    build = ROOT / "build"
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    draw_films(list(without_films(paths, build / "frames")), build / "frames")
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in paths}
    book = "../book" if (build / "book" / "index.html").exists() else ""
    output = build / "slides"
    if not decks_written(notebooks, build / "frames", output, present_slug(ROOT), book):
        sys.exit(1)
    say(f"A deck of each notebook: {output / 'index.html'}")


if __name__ == "__main__":
    main()
