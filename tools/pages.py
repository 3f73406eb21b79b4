"""From an executed notebook to a web page that asks for nothing: no network, no server, no kernel.

Two steps. `prepare` makes a notebook ready for any web page (badges left out, links among the course's own pages,
a title); `Pages` writes HTML with nbconvert. Formulas become HTML before that, by KaTeX, all in one run of node:
`formulas_of` finds them, `render_formulas` renders them. Where node is missing a page shows their source.
"""

import copy
import html
import json
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import (
    IPythonRenderer,
    MarkdownWithMath,
    MathBlockParser,
    MathInlineParser,
)
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook
from traitlets.config import Config

from lora_edu.llm.files import write_text
from tools import npm
from tools.set_repo import present_slug

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = tuple(ROOT / "docs" / f"{name}.md" for name in ("glossary", "notation"))
"""Pages beside the notebooks: notation, glossary."""
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

Formula = tuple[str, bool]
"""TeX without its dollars, and whether it stands on a line of its own."""

BADGE = re.compile(r"^\[!\[[^]]*\]\([^)]*\)\]\([^)]*\)\s*", re.MULTILINE)  # a picture that is a link


# ---------------------------------------------------------------- the notebook


def prepare(notebook: NotebookNode, slug: str | None = None) -> NotebookNode:
    """A copy of a notebook for a web page; the pages of all notebooks and of docs/ lie in one folder.

    Parameters
    ----------
    notebook : NotebookNode
        Executed, or without outputs.
    slug : str, optional
        ``owner/name`` of the repository; by default that of pyproject.toml.

    Returns
    -------
    NotebookNode
        Without badges; links to this repository's notebooks and documents name the file alone (``notation.md``);
        ``metadata.title`` is the first heading.
    """
    prepared = copy.deepcopy(notebook)
    repository = re.escape(f"https://github.com/{slug or present_slug(ROOT)}/blob/main/")
    documents = "|".join(re.escape(path.name) for path in DOCUMENTS)  # the others stay where they are
    own_page = re.compile(
        rf"\]\((?:{repository}|(?:\.\./)+)(?:notebooks/|docs/(?=(?:{documents})[)#]))([\w.-]+\.(?:ipynb|md))(?=[)#])"
    )
    for cell in prepared.cells:
        if cell.cell_type == "markdown":
            cell.source = own_page.sub(r"](\1", BADGE.sub("", cell.source))
    heading = next((re.match(r"# (.+)", cell.source) for cell in prepared.cells), None)
    prepared.metadata["title"] = heading[1] if heading else "lora_edu"
    return prepared


def document(path: Path) -> NotebookNode:
    """A Markdown file as a notebook of one cell."""
    return new_notebook(cells=[new_markdown_cell(path.read_text(encoding="utf-8"), id=path.stem)])


# ---------------------------------------------------------------- formulas in Markdown

# Pandoc's rule, more careful than Jupyter's: no space inside the dollars, no digit behind them. So "$5 and $6" are
# prices. And no backtick or further dollar between them: a formula does not reach into code.
INLINE_MATH = (
    r"(?s:(?<![$\\])\$(?!\s)(?P<math_inline_tex>(?:[^$`\\]|\\.)+?)(?<!\s)\$(?![\d$])(?P<after>[,.;:!?)]*))"
)
# Only what stands on lines of its own. nbconvert's rule also tears code spans apart that hold two dollars.
BLOCK_MATH = (
    r"(?s:^ {0,3}(?:\$\$(?:(?!\$\$).)+\$\$"
    r"|\\begin\{(?P<math_env_name>[a-z]+\*?)\}.*?\\end\{(?P=math_env_name)\})[ \t]*$)"
)


class PageBlockParser(MathBlockParser):
    """nbconvert's, with a stricter rule for display formulas."""

    SPECIFICATION = {**MathBlockParser.SPECIFICATION, "multiline_math": BLOCK_MATH}  # noqa: RUF012 (nbconvert's)


class PageInlineParser(MathInlineParser):
    """nbconvert's, with a stricter rule for formulas in a sentence."""

    SPECIFICATION = {**MathInlineParser.SPECIFICATION, "inline_math_tex": INLINE_MATH}  # noqa: RUF012

    def parse_inline_math_tex(self, m: re.Match[str], state: Any) -> Any:
        token = {"type": "inline_math", "raw": m["math_inline_tex"], "attrs": {"after": m["after"]}}
        state.append_token(token)
        return m.end()


class PageRenderer(IPythonRenderer):
    """Markdown as HTML: formulas by `formula(tex, display)`, links to notebooks and documents as links to pages."""

    def __init__(self, formula: Callable[[str, bool], str]):
        super().__init__(escape=False)
        self.formula = formula

    def inline_math(self, body: str, after: str = "") -> str:
        rendered = self.formula(body, False)
        if rendered.count('class="base"') != 1:  # one of KaTeX's boxes: no place to break
            return rendered + after
        return f'<span class="unbroken">{rendered}{after}</span>'

    def block_math(self, body: str) -> str:
        return self.formula(body, True)

    def latex_environment(self, name: str, body: str) -> str:
        return self.formula(f"\\begin{{{name}}}{body}\\end{{{name}}}", True)

    def link(self, text: str, url: str, title: str | None = None) -> str:
        page = re.sub(r"^([\w.-]+)\.(?:ipynb|md)(?=#|$)", r"\1.html", url)
        return super().link(text, page, title)


def markdown_to_html(source: str, formula: Callable[[str, bool], str]) -> str:
    """Markdown as HTML, with formulas as `formula(tex, display)` gives them."""
    parsers = {"block": PageBlockParser(), "inline": PageInlineParser(hard_wrap=False)}
    return MarkdownWithMath(PageRenderer(formula), **parsers).render(source)


def formulas_of(notebooks: Iterable[NotebookNode]) -> list[Formula]:
    """The formulas of all Markdown cells, each once, in order of appearance."""
    found: dict[Formula, None] = {}

    def note(tex: str, display: bool) -> str:
        found[tex, display] = None
        return ""

    for notebook in notebooks:
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                markdown_to_html(cell.source, note)
    return list(found)


def render_formulas(formulas: list[Formula]) -> dict[Formula, str]:
    """HTML and MathML of each formula, by KaTeX. One that KaTeX cannot read is left out.

    Raises
    ------
    NodeMissing
        There is no node here, or npm could not fetch KaTeX.
    """
    npm.install()
    rendered = json.loads(npm.run_script(npm.WEB / "formulas.mjs", json.dumps(formulas)))
    return {formula: text for formula, text in zip(formulas, rendered, strict=True) if text is not None}


def formula_source(tex: str, display: bool) -> str:
    """A formula as it is in the source, readable, as HTML."""
    dollars = "$$" if display else "$"
    return f'<span class="formula">{html.escape(f"{dollars}{tex}{dollars}")}</span>'


# ---------------------------------------------------------------- the page


def copy_styles(folder: Path, formulas: bool) -> list[str]:
    """Put what the pages in `folder` look like into `folder`/assets.

    Parameters
    ----------
    folder : Path
        Where the pages are written.
    formulas : bool
        Whether they hold rendered formulas: KaTeX's style and fonts are then copied, too.

    Returns
    -------
    list of str
        The style sheets, as a page in `folder` links to them.
    """
    assets = folder / "assets"
    assets.mkdir(parents=True, exist_ok=True)
    shutil.copy(npm.WEB / "page.css", assets)
    if not formulas:
        return ["assets/page.css"]
    katex = npm.install() / "katex" / "dist"
    shutil.copy(katex / "katex.min.css", assets)
    # Of its three formats, the one that every browser takes first.
    shutil.copytree(katex / "fonts", assets / "fonts", ignore=shutil.ignore_patterns("*.woff", "*.ttf"))
    return ["assets/katex.min.css", "assets/page.css"]


def page_exporter(formulas: dict[Formula, str]) -> HTMLExporter:
    """An exporter whose pages hold their pictures, and a widget's static picture in its place."""

    def formula(tex: str, display: bool) -> str:
        return formulas.get((tex, display)) or formula_source(tex, display)

    kinds = HTMLExporter().default_config["NbConvertBase"]["display_data_priority"]
    static = Config(NbConvertBase={"display_data_priority": [kind for kind in kinds if kind != WIDGET_VIEW]})
    template = (npm.WEB / "page.html.j2").read_text(encoding="utf-8")
    exporter = HTMLExporter(config=static, raw_template=template)
    exporter.register_filter("markdown2html", lambda source: markdown_to_html(source, formula))
    return exporter


class Pages:
    """A folder of web pages, each whole or not there.

    Parameters
    ----------
    folder : Path
        Where the pages are written.
    formulas : dict
        The HTML of their formulas, from `render_formulas`; a formula that is not in it is shown as its source.
    """

    def __init__(self, folder: Path, formulas: dict[Formula, str]):
        self.folder = folder
        self.stylesheets = copy_styles(folder, bool(formulas))
        self.exporter = page_exporter(formulas)

    def write(self, name: str, notebook: NotebookNode) -> Path:
        """Write a notebook's page under `name` and return its path."""
        resources: dict[str, Any] = {"stylesheets": self.stylesheets}
        text, _ = self.exporter.from_notebook_node(prepare(notebook), resources)
        return write_text(self.folder / f"{name}.html", text)
