"""The folder that GitHub Pages publishes: `python -m tools.publish` gathers it in build/site/.

The book is its root; decks and the chat page are folders beside the book's pages. In build/ the three lie beside each
other, so a link from one to another changes on the way.
"""

import posixpath
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = {"book": ".", "slides": "slides", "lora-chat": "chat"}
"""A folder of build/, and where it is published."""
NEEDED = ("book/index.html", "book/_static/katex/katex.min.css", "slides/index.html")
"""What `make book` leaves where node and npm work. Without them, formulas stay as they are in the source."""


def gather(build: Path, site: Path) -> list[str]:
    """Write anew to `site` what there is in `build` of the published parts; return their names.

    Raises
    ------
    FileNotFoundError
        When the book or the slides are missing, or were made without node.
    """
    for file in NEEDED:
        if not (build / file).is_file():
            raise FileNotFoundError(f"{file} is missing in {build}: make book")
    shutil.rmtree(site, ignore_errors=True)
    found = [part for part in PARTS if (build / part).is_dir()]
    for part in found:
        shutil.copytree(build / part, site / PARTS[part], dirs_exist_ok=True)
        for source in (build / part).glob("*.html"):
            page = site / PARTS[part] / source.name
            page.write_text(with_site_links(page.read_text(encoding="utf-8"), part), encoding="utf-8")
    return found


def with_site_links(page: str, part: str) -> str:
    """The HTML of a page of `part` whose links to the other parts lead to where they are published."""
    for other, place in PARTS.items():
        way = posixpath.relpath(place, PARTS[part])
        page = page.replace(f'="../{other}/', f'="{way}/')
    return page


def main() -> None:
    """Gather the site of this repository."""
    site = ROOT / "build" / "site"
    try:
        found = gather(ROOT / "build", site)
    except FileNotFoundError as error:
        sys.exit(str(error))
    files = [file for file in site.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    print(f"To publish ({', '.join(found)}): {site}, {len(files)} files, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
