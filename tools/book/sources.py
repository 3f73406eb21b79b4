"""What Sphinx reads: a folder with the notebooks and documents of the course, made ready for the book.

All pages of the book lie in one folder, whatever the folder of their source. So links among them name the file alone,
and links to other files of the repository lead to GitHub.
"""

import ast
import copy
import posixpath
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from lora_edu.classroom.widgets.pages import make_pages_live
from lora_edu.llm.files import write_text
from tools.book import landing
from tools.book.tours import TOURS, tour_page
from tools.reading_time import is_prediction, tags_of
from tools.teaching import PAGES as TEACHING

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "docs" / "book"
"""Sphinx' configuration, and the pages that only the book has."""
DOCUMENTS = ("notation", "glossary", "pictures", "speed")
"""Of docs/, in the order of the book."""
FRAMES = "frames"
"""Folder of the sliders' pictures, beside the pages."""
HEAD_LINKS = {
    "[Open in Colab]": "This page runs no Python. To run the code: [Open in Colab]",
    " · [Notation]": ". To look things up: [Notation]",
}
"""What the row of links at the head of a notebook says on its page."""
COLAB = "https://colab.research.google.com/github/{slug}/blob/main/notebooks/{name}.ipynb"
CODE = re.compile(r"(```.*?```|``.*?``|`[^`\n]*`)", re.DOTALL)
LINK = re.compile(r"(\]\(|^\[[^]\n]+\]: )([^)\s#]+)", re.MULTILINE)  # up to an address' fragment
HERE = re.compile(r"\]\(#[^)\s]+\)")  # a link to a heading of the same page
GLOSSARY_ROW = re.compile(r"^\| (?!word \|)([^|]+?) \| (.+) \| \w+ \|$", re.MULTILINE)


# ---------------------------------------------------------------- links


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Markdown with `change` applied to what is no code."""
    parts = CODE.split(text)
    return "".join(part if place % 2 else change(part) for place, part in enumerate(parts))


def with_book_links(text: str, folder: str, slug: str) -> str:
    """Markdown whose links lead to pages of the book, or else to the repository on GitHub.

    Parameters
    ----------
    text : str
    folder : str
        Where its file lies in the repository, such as ``notebooks``.
    slug : str
        ``owner/name`` of the repository.
    """
    online = f"https://github.com/{slug}/blob/main/"

    def address(target: str) -> str:
        if target.startswith(online):
            return page_of(target.removeprefix(online)) or target
        if re.match("[a-z]+:", target):
            return target
        path = posixpath.normpath(posixpath.join(folder, target))
        return page_of(path) or online + path

    def change(part: str) -> str:
        # JupyterLab finds a heading by its own letters, Sphinx by small ones.
        part = HERE.sub(lambda found: found[0].lower(), part)
        return LINK.sub(lambda found: found[1] + address(found[2]), part)

    return outside_code(text, change)


def page_of(path: str) -> str | None:
    """The source in the book of a file of the repository, if it is one."""
    folder, name = posixpath.split(path)
    stem, kind = posixpath.splitext(name)
    names = {"docs": DOCUMENTS, "docs/teaching": TEACHING}.get(folder, ()) if kind == ".md" else ()
    if stem in names or (folder, kind) == ("notebooks", ".ipynb") or folder == "docs/book":
        return name
    return path.removeprefix("docs/") if folder.startswith("docs/") and kind == ".png" else None


# ---------------------------------------------------------------- pages


def notebook_page(
    notebook: NotebookNode, name: str, frames: Path, slug: str, decks: str = ""
) -> tuple[NotebookNode, set[str]]:
    """A notebook as Sphinx is to read it, and the names of the sliders' pictures that its page shows."""
    page = copy.deepcopy(notebook)
    pictures = make_pages_live(page, frames, FRAMES)
    head = page.cells[0].source
    for link, words in HEAD_LINKS.items():
        head = head.replace(link, words, 1)
    if decks:
        head = head.replace("[Notation]", f"{deck_link(name, decks, 'Slides')} · [Notation]", 1)
    page.cells[0].source = head
    cells = []
    for cell in page.cells:
        if cell.cell_type == "markdown":
            cell.source = with_book_links(cell.source, "notebooks", slug)
        if cell.cell_type == "code":
            prepare_code_cell(cell)
        cells.append(cell)
        if "exercise" in tags_of(cell):
            cells.append(new_markdown_cell(f"[Try it in Colab]({COLAB.format(slug=slug, name=name)})"))
    page.cells = cells
    return page, pictures


def deck_link(name: str, decks: str, text: str) -> str:
    """A link to a notebook's slides. As HTML: to Markdown it would be a source of the book, which is not there."""
    return f'<a href="{decks}/{name}.html">{text}</a>'


def deck_line(names: Iterable[str], decks: str) -> str:
    """What the map of the course says of the slides; nothing if there are none."""
    links = " · ".join(deck_link(name, decks, name.partition("_")[0]) for name in names)
    return f"**Slides**, to teach from, of notebook {links}." if decks else ""


def prepare_code_cell(cell: NotebookNode) -> None:
    """Say in myst-nb's words what to show of a cell, and what its picture shows."""
    tags = tags_of(cell)
    if "claim" in tags:
        tags.append("remove-cell")
    elif cell.metadata.get("jupyter", {}).get("source_hidden"):
        tags.append("hide-input")
    elif asks(cell):
        tags.append("remove-input")
    cell.metadata["tags"] = tags
    for output in cell.outputs:
        alt = output.get("metadata", {}).get("image/png", {}).get("alt")
        if alt:  # myst-nb reads it from the cell alone; no cell shows two pictures
            cell.metadata["mystnb"] = {"image": {"alt": alt}}


def asks(cell: NotebookNode) -> bool:
    """Whether a cell does nothing but ask for a prediction. (One with a line of IPython's own does not.)"""
    try:
        ast.parse(cell.source)
    except SyntaxError:
        return False
    return is_prediction(cell)


def document_page(name: str, slug: str, folder: str = "docs") -> str:
    """A document of docs/, or of a folder in it, as Sphinx is to read it."""
    text = with_book_links((ROOT / folder / f"{name}.md").read_text(encoding="utf-8"), folder, slug)
    if name == TEACHING[0]:
        text += "\n```{toctree}\n:hidden:\n\n" + "\n".join(TEACHING[1:]) + "\n```\n"
    return with_places(text) if name == "glossary" else text


# ---------------------------------------------------------------- the glossary


def term_words(entry: str) -> list[str]:
    """The words that an entry of the glossary explains: "Adam, AdamW" has two, "head (of a model)" has one."""
    return [word.strip() for word in re.sub(r"\(.*?\)", "", entry).split(",")]


def term_place(word: str) -> str:
    """Where a word stands on the glossary's page."""
    return "term-" + re.sub(r"\W+", "-", word.lower()).strip("-")


def with_places(text: str) -> str:
    """The glossary, with a place at each row that links can lead to; an ambiguous word has one, at its first row."""
    seen: set[str] = set()

    def row(found: re.Match[str]) -> str:
        places = [place for place in map(term_place, term_words(found[1])) if place not in seen]
        seen.update(places)
        spans = "".join(f'<span id="{place}"></span>' for place in places)
        return f"| {spans}{found[0].removeprefix('| ')}"

    return GLOSSARY_ROW.sub(row, text)


def glossary_terms() -> dict[str, tuple[str, str]]:
    """For each word of the glossary its place there and its meaning; of an ambiguous word the first place, and both."""
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    terms: dict[str, tuple[str, str]] = {}
    for entry, meaning in GLOSSARY_ROW.findall(text):
        for word in term_words(entry):
            before = f"{terms[word][1]} Or: " if word in terms else ""
            terms[word] = term_place(word), before + meaning
    return terms


# ---------------------------------------------------------------- all of them


def write_sources(
    notebooks: Mapping[str, NotebookNode], frames: Path, folder: Path, slug: str, decks: str = ""
) -> set[str]:
    """Write what Sphinx reads into the empty `folder`.

    Parameters
    ----------
    notebooks : mapping
        Executed, by name, such as ``01_rank_and_svd``, in the order of the book.
    frames : Path
        Where the films of their sliders lie.
    folder : Path
    slug : str
        ``owner/name`` of the repository.
    decks : str
        Where the slides are, seen from the pages; empty if there are none.

    Returns
    -------
    set of str
        The names of the sliders' pictures that the pages show.
    """
    shutil.copytree(BOOK, folder, dirs_exist_ok=True)
    lists = {
        "notebooks": notebooks,
        "tour_pages": TOURS,
        "tours": [f"- [{tour.title}]({name}.md) {tour.promise}" for name, tour in TOURS.items()],
    }
    fill = {**landing.words(folder), **{key: "\n".join(lines) for key, lines in lists.items()}, "slug": slug}
    fill["slides"] = deck_line(notebooks, decks)
    for path in folder.glob("*.md"):
        text = re.sub(r"\{\{(\w+)\}\}", lambda found: fill[found[1]], path.read_text(encoding="utf-8"))
        write_text(path, with_book_links(text, "docs/book", slug))
    for name in DOCUMENTS:
        write_text(folder / f"{name}.md", document_page(name, slug))
    for name in TEACHING:
        write_text(folder / f"{name}.md", document_page(name, slug, "docs/teaching"))
    for name in ("pictures", "speed"):
        shutil.copytree(ROOT / "docs" / name, folder / name)
    shown: set[str] = set()
    for name, notebook in notebooks.items():
        page, pictures = notebook_page(notebook, name, frames, slug, decks)
        write_text(folder / f"{name}.ipynb", nbformat.writes(page))
        shown |= pictures
    for name, tour in TOURS.items():
        text, pictures = tour_page(tour, notebooks, frames, FRAMES)
        write_text(folder / f"{name}.md", text)
        shown |= pictures
    return shown
