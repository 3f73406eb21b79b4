"""Pages of the course in Chromium with the network off: nothing is asked for, and everything is there."""

import re
from pathlib import Path

import nbformat
import pytest

from lora_edu.llm.files import write_text
from tools import npm, pages, run_course

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHOWN = {path.stem: path for path in NOTEBOOKS if path.stem[:2] in ("01", "04", "08")}
NAMES = [*SHOWN, "notation", "glossary", "index"]
WIDTHS = [390, 1280]  # a phone, a screen; CSS pixels

# Dollars in what is read as text: code and the source beside a formula, which is out of sight, are left out.
DOLLARS = """() => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const found = [];
    while (walker.nextNode()) {
        const text = walker.currentNode;
        if (text.data.includes('$') && !text.parentElement.closest('pre, code, annotation')) found.push(text.data);
    }
    return found;
}"""
IMAGES = "() => [...document.images].map(image => [image.naturalWidth, image.alt])"
OVERHANG = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
LINKS = "() => [...document.querySelectorAll('a[href], link[href]')].map(link => link.getAttribute('href'))"
# As browsers do: the fragment as it stands, then decoded.
MISSING_TARGETS = """() => [...document.querySelectorAll('a[href^="#"]')]
    .map(link => link.getAttribute('href').slice(1))
    .filter(id => !document.getElementById(id) && !document.getElementById(decodeURIComponent(id)))"""
FONTS = "() => [...document.fonts].filter(font => font.status == 'loaded').map(font => font.family)"
# Code that is wider than its box: how far it can be moved.
HIDDEN_CODE = """() => [...document.querySelectorAll('.jp-InputArea-editor pre')].filter(box => {
    box.scrollLeft = 10000;
    return Math.abs(box.scrollWidth - box.clientWidth - box.scrollLeft) > 1;
}).length"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The pages of three notebooks as they are stored, of both documents, and the index."""
    folder = tmp_path_factory.mktemp("pages")
    notebooks = {name: nbformat.read(path, as_version=4) for name, path in SHOWN.items()}
    notebooks |= {path.stem: pages.document(path) for path in pages.DOCUMENTS}
    try:
        formulas = pages.render_formulas(pages.formulas_of(notebooks.values()))
    except npm.NodeMissing as error:
        pytest.skip(str(error))  # with CI=true, tests/ci_guard.py makes this a failure
    site = pages.Pages(folder, formulas)
    for name, notebook in notebooks.items():
        site.write(name, notebook)
    write_text(folder / "index.html", run_course.index_page(list(notebooks)))
    return folder


@pytest.fixture(scope="module", params=NAMES)
def opened(request, folder, browser):
    """A page's name, the page, and all that it asked for and said."""
    context = browser.new_context(offline=True, viewport={"width": WIDTHS[-1], "height": 900})
    page, requests, said = context.new_page(), [], []
    page.on("request", lambda asked: requests.append(asked.url))
    page.on("requestfailed", lambda asked: said.append(f"failed: {asked.url}"))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((folder / f"{request.param}.html").as_uri(), wait_until="load")
    page.evaluate("() => document.fonts.ready")
    yield request.param, page, requests, said
    context.close()


def test_a_page_asks_for_nothing_outside_its_folder_and_says_nothing(opened, folder):
    _, _, requests, said = opened
    assert [url for url in requests if not url.startswith((f"{folder.as_uri()}/", "data:"))] == []
    assert said == []


def test_formulas_are_drawn(opened):
    name, page, *_ = opened
    assert page.evaluate(DOLLARS) == []
    if name in ("glossary", "index"):
        return  # without formulas
    assert page.locator(".katex").count() > 10
    assert page.locator(".katex-error").count() == 0
    assert "KaTeX_Math" in page.evaluate(FONTS)


def test_every_picture_is_loaded_and_described(opened):
    name, page, *_ = opened
    cells = nbformat.read(SHOWN[name], as_version=4).cells if name in SHOWN else []
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    alts = [o.metadata["image/png"]["alt"] for o in outputs if "image/png" in o.get("data", {})]
    shown = page.evaluate(IMAGES)
    assert [alt for _, alt in shown] == alts
    assert all(width > 0 for width, _ in shown)
    assert len(alts) >= (5 if name in SHOWN else 0) and all(len(alt) > 10 for alt in alts)


def test_links_lead_somewhere(opened, folder):
    _, page, *_ = opened
    links = {link.partition("#")[0] for link in page.evaluate(LINKS) if not re.match("#|https?:", link)}
    later = {f"{path.stem}.html" for path in NOTEBOOKS}  # make course writes them all
    assert {link for link in links - later if not (folder / link).is_file()} == set()
    assert page.evaluate(MISSING_TARGETS) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_fits_its_width(opened, width):
    _, page, *_ = opened
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate(OVERHANG) == 0
    assert page.evaluate(HIDDEN_CODE) == 0
