"""From slides to files: one page of reveal.js a notebook, beside what all of them share. No network, no server."""

import copy
import html
import posixpath
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from nbformat import NotebookNode

from lora_edu.classroom.widgets.pages import LINKED, make_pages_live
from lora_edu.llm.console import say
from lora_edu.llm.files import write_text
from tools import npm
from tools.book.site import copy_katex
from tools.book.sources import COLAB, FRAMES, LINK, ROOT, outside_code, page_of
from tools.slides.markup import Formulas, FormulaWrong, Markup, code_style
from tools.slides.outline import Slide, slides_of

STATIC = ROOT / "docs" / "slides"
SHARED = "shared"
"""Folder of styles and scripts, beside the decks."""
STYLES = ("reveal.css", "katex/katex.min.css", "code.css", "page.css", "deck.css")
SCRIPTS = ("reveal.js", "notes.js", "page.js", "deck.js")
KEYS = """<p>Keys: S opens these notes in a window of their own, F fills the screen, Esc shows all slides. A slider
takes the arrow keys once it is clicked or reached with Tab; Esc gives them back to the slides. Page Up and Page Down,
the keys of a presenter, always turn.</p>"""
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
{styles}
</head>
<body>
<div class="reveal"><div class="slides">
{slides}
</div></div>
{scripts}
</body>
</html>
"""
INDEX = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Slides</title>
</head>
<body style="max-width: 40em; margin: 3em auto; padding: 0 1em; font: 1.1em/1.7 system-ui, sans-serif">
<h1>Slides</h1>
<ol start="0" style="list-style: none; padding: 0">
{rows}
</ol>
</body>
</html>
"""


def decks_written(
    notebooks: Mapping[str, NotebookNode], frames: Path, output: Path, slug: str, book: str
) -> bool:
    """Write the decks, as `write_decks` does, in place of older ones, or say why not; whether they are there."""
    try:
        write_decks(notebooks, frames, output, slug, book)
    except (npm.NodeMissing, FormulaWrong) as error:
        say(f"No slides: {error}.")
        return False
    return True


def write_decks(
    notebooks: Mapping[str, NotebookNode], frames: Path, output: Path, slug: str, book: str
) -> None:
    """Write a deck for each notebook to `output`, and an index of them, in place of what was there.

    Parameters
    ----------
    notebooks : mapping
        Executed, by name, such as ``01_rank_and_svd``.
    frames : Path
        Where the films of their sliders lie; a slider without one stays still.
    output : Path
    slug : str
        ``owner/name`` of the repository.
    book : str
        Where the pages of the book are, seen from the decks, such as ``../book``. If empty, links lead to GitHub.

    Raises
    ------
    NodeMissing
        If there is no node here, or npm could not fetch reveal.js.
    FormulaWrong
        If KaTeX refuses a formula.
    """
    node, packages = npm.node(), npm.install()
    formulas, decks, pictures = Formulas(), {}, set()
    for name, notebook in notebooks.items():
        page = copy.deepcopy(notebook)
        pictures |= make_pages_live(page, frames, FRAMES)
        decks[name] = slides_of(page.cells, Markup(formulas), lambda text: with_addresses(text, slug, book))
        end_with_links(decks[name], address(f"{name}.ipynb", slug, book), COLAB.format(slug=slug, name=name))
    formulas.draw(node, packages / "katex" / "dist" / "katex.min.js")
    shutil.rmtree(output, ignore_errors=True)
    copy_shared(packages, output / SHARED)
    (output / FRAMES).mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        shutil.copy(frames / picture, output / FRAMES)
    for name, slides in decks.items():
        write_text(output / f"{name}.html", deck_page(slides, formulas))
    write_text(output / "index.html", index_page(decks))


# ---------------------------------------------------------------- links


def address(target: str, slug: str, book: str) -> str:
    """Where a link of a notebook leads from its deck: to the page of the book, if it is there, or else to GitHub."""
    if re.match("[a-z]+:", target):
        return target
    path = posixpath.normpath(posixpath.join("notebooks", target))
    page = page_of(path)
    if page and book:
        return f"{book}/{posixpath.splitext(page)[0]}.html"
    return f"https://github.com/{slug}/blob/main/{path}"


def with_addresses(text: str, slug: str, book: str) -> str:
    """Markdown of a notebook whose links lead somewhere from its deck."""

    def change(part: str) -> str:
        return LINK.sub(lambda found: found[1] + address(found[2], slug, book), part)

    return outside_code(text, change)


def end_with_links(slides: list[Slide], page: str, colab: str) -> None:
    """Add to the last slide where to go on."""
    if slides[-1].kind != "end":
        slides.append(Slide("The end", kind="end"))
    links = {"Read it again, in the book": page, "Run its code in Colab": colab}
    shown = " · ".join(f'<a href="{html.escape(to)}">{text}</a>' for text, to in links.items())
    slides[-1].body.append(f'<p class="links">{shown}</p>')


# ---------------------------------------------------------------- files


def copy_shared(packages: Path, folder: Path) -> None:
    """Put styles and scripts into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    reveal = packages / "reveal.js" / "dist"
    files = [reveal / "reveal.js", reveal / "reveal.css", reveal / "plugin" / "notes.js", *LINKED]
    for file in [*files, *STATIC.iterdir()]:
        shutil.copy(file, folder)
    shutil.copy(packages / "reveal.js" / "LICENSE", folder / "LICENSE-reveal.js.txt")
    copy_katex(packages, folder)
    write_text(folder / "code.css", code_style())


def deck_page(slides: list[Slide], formulas: Formulas) -> str:
    """The page of a deck."""
    slides[0].notes.insert(0, KEYS)
    title = re.sub(r"<[^>]+>", "", slides[0].heading)
    return PAGE.format(
        title=html.escape(f"{html.unescape(title)} · slides"),
        styles="\n".join(f'<link rel="stylesheet" href="{SHARED}/{name}">' for name in STYLES),
        scripts="\n".join(f'<script src="{SHARED}/{name}"></script>' for name in SCRIPTS),
        slides="\n".join(slide_html(slide, formulas) for slide in slides),
    )


def slide_html(slide: Slide, formulas: Formulas) -> str:
    """A slide and its notes."""
    where = f'<p class="where">{slide.section}</p>' if slide.section else ""
    level = "h1" if slide.kind == "title" else "h2"
    heading = f"<{level}>{slide.heading}</{level}>" if slide.heading else ""
    body = "\n".join([where, heading, slide.lead, *slide.body])
    roomy = (" roomy wide" if slide.is_wide else " roomy") if slide.holds_little else ""
    return (
        f'<section><div class="page {slide.kind}{roomy}">\n{formulas.put(body, 0)}\n</div>\n'
        f'<aside class="notes">{formulas.put("".join(slide.notes), 1)}</aside></section>'
    )


def index_page(decks: Mapping[str, list[Slide]]) -> str:
    """A list of the decks."""
    rows = [f'<li><a href="{name}.html">{slides[0].heading}</a></li>' for name, slides in decks.items()]
    return INDEX.format(rows="\n".join(rows))
