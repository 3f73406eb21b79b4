"""Every page of build/book in Chromium with the network off: nothing is asked for, and everything is there.

`make test` writes the book, with the pictures that the notebooks' strict run drew, and then runs this.
"""

import functools
import html
import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest

from lora_edu.classroom.widgets.frames import read_film
from lora_edu.classroom.widgets.pages import explorer_texts
from tests.browser.book.walk import walked
from tools import npm
from tools.book.tours import TOURS

ROOT = Path(__file__).resolve().parents[3]
BOOK, FRAMES = ROOT / "build" / "book", ROOT / "build" / "frames"
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
DOCUMENTS = ["index", "look", "course", "notation", "glossary", "pictures", "speed", "grading"]
PAGES = [*DOCUMENTS, *TOURS, *NOTEBOOKS, "search"]
WIDTHS = [390, 1280]  # a phone, a screen; CSS pixels
TERMS = {"absmax": "07", "Eckart-Young": "01", "dropout": "04", "gradient checkpointing": "09", "GPTQ": "08"}

# Dollars in what is read as text: code and the source beside a formula, which is out of sight, are left out.
DOLLARS = """() => {
    const walker = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
    const found = [];
    while (walker.nextNode()) {
        const text = walker.currentNode;
        if (text.data.includes('$') && !text.parentElement.closest('pre, code, annotation')) found.push(text.data);
    }
    return found;
}"""
# Of Markdown, what no reader sees as words: formulas, addresses, tags, the language of a block of code.
NO_TEXT = re.compile(
    r"\$\$.*?\$\$|\$[^$]+\$|\]\([^)]*\)|\]\[\w+\]|^\[[^]]+\]: .*?$|<[^>]*>|```\w+", re.DOTALL | re.MULTILINE
)
SEEN_TEXT = """() => {
    const page = document.querySelector('main').cloneNode(true);
    for (const out of page.querySelectorAll('.katex, script, style')) out.remove();
    return page.textContent;
}"""
IMAGES = "() => [...document.images].map(image => [image.complete && image.naturalWidth > 0, image.alt])"
OVERHANG = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
LINKS = """() => [...document.querySelectorAll('a[href], link[href], script[src], img[src]')]
    .map(link => link.getAttribute('href') ?? link.getAttribute('src'))"""
# Of a formula axe would look at hundreds of boxes; who has a screen reader gets its MathML. In the dark, colours alone
# differ.
AXE = """async (rules) => {
    for (const formula of document.querySelectorAll('.katex')) formula.remove();
    const {violations} = await axe.run(document, {preload: false, resultTypes: ['violations'], ...rules});
    return violations.filter(found => ['serious', 'critical'].includes(found.impact))
        .map(found => [found.id, found.nodes.slice(0, 3).map(node => node.html.slice(0, 200))]);
}"""
RULES = {"light": {}, "dark": {"runOnly": ["color-contrast"]}}


def of(name):
    """The cells of a notebook's page; none for another page."""
    return nbformat.read(NOTEBOOKS[name], as_version=4).cells if name in NOTEBOOKS else []


@functools.cache
def places(page):
    """Where on a page links can lead."""
    return set(re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf-8")))


def without_code(text):
    return re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in PAGES]
)
def opened(request, browser):
    """A page's name, the page, and all that it asked for and said."""
    if not (BOOK / f"{request.param}.html").is_file():
        pytest.skip(
            "no book in build/book: make book"
        )  # with CI=true, tests/ci_guard.py makes this a failure
    file = BOOK / f"{request.param}.html"
    with walked(browser, file, color_scheme="light", viewport={"width": 1280, "height": 900}) as [
        page,
        requests,
        said,
    ]:
        yield request.param, page, requests, said


def test_formulas_are_drawn(opened):
    name, page, *_ = opened
    texts = [cell.source for cell in of(name) if cell.cell_type == "markdown"]
    if name in ("notation", "glossary", "speed"):
        texts = [(ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")]
    dollars = without_code("\n\n".join(texts)).replace("$$", "$").count("$")
    assert (
        page.locator(".katex").count() == dollars // 2
    )  # the course writes no dollars outside formulas and code
    assert page.locator(".katex-error").count() == 0
    assert page.evaluate(DOLLARS) == []


def test_no_word_of_a_notebook_is_lost(opened):
    name, page, *_ = opened
    shown = Counter(re.findall(r"\w+", page.evaluate(SEEN_TEXT)))
    texts = [
        html.unescape(NO_TEXT.sub(" ", cell.source)) for cell in of(name) if cell.cell_type == "markdown"
    ]
    assert Counter(re.findall(r"\w+", "\n".join(texts))) - shown == Counter()


def test_every_picture_is_loaded_and_described(opened):
    name, page, *_ = opened
    outputs = [output for cell in of(name) for output in cell.get("outputs", [])]
    alts = [o.metadata["image/png"]["alt"] for o in outputs if "image/png" in o.get("data", {})]
    shown = page.evaluate(IMAGES)
    assert all(loaded for loaded, _ in shown) and all(len(alt) > 10 for _, alt in shown)
    if name in NOTEBOOKS:
        assert [alt for _, alt in shown] == alts
    assert len(shown) >= {"index": 1, "course": 1, "pictures": 14, "speed": 3}.get(name, 0)


def test_every_slider_goes_to_both_ends_by_keyboard(opened):
    name, page, *_ = opened
    texts = explorer_texts(nbformat.read(NOTEBOOKS[name], as_version=4)) if name in NOTEBOOKS else []
    figures = page.locator("figure.lora-edu-film").all() if name in NOTEBOOKS else []
    assert len(figures) == len(texts)
    for figure, text in zip(figures, texts, strict=True):
        film = read_film(FRAMES, text)
        assert film is not None and figure.locator("figcaption").inner_text() == text.strip()
        for slider, labels in zip(figure.get_by_role("slider").all(), film["labels"].values(), strict=True):
            for key, label in (("End", labels[-1]), ("Home", labels[0])):
                slider.press(key)
                assert slider.get_attribute("aria-valuetext") == label
                picture = figure.locator("img")
                picture.evaluate("image => image.decode()")  # fails where there is no such picture
                assert picture.get_attribute("alt") == figure.locator("figcaption").text_content()


def test_predictions_answer_and_their_code_is_out_of_sight(opened):
    name, page, *_ = opened
    asked = [cell for cell in of(name) if "lora-edu-predict" in str(cell.get("outputs"))]
    found = page.locator(".lora-edu-predict").all() if name in NOTEBOOKS else []
    assert len(found) == len(asked)
    for prediction in found:
        prediction.get_by_role("button").first.press("Enter")
        assert re.match("Right|You said", prediction.get_by_role("status").inner_text())
    assert page.get_by_text(re.compile(r'^predict\("\d')).count() == 0


def test_a_tour_leads_through_its_pictures(opened):
    name, page, *_ = opened
    steps = TOURS[name].steps if name in TOURS else ()
    for number, step in enumerate(steps, start=1):
        shown = page.locator(".lora-edu-tour > ol > li:visible")
        assert shown.locator("> p").inner_text() == step.text
        assert page.get_by_text(f"Step {number} of {len(steps)}").is_visible()
        if step.ask:
            shown.get_by_role("button", name=step.ask.answer, exact=True).press("Enter")
            assert shown.get_by_role("status").inner_text() == f"Right. {step.ask.why}"
        figure = page.locator("figure:visible")
        for slider, label in step.labels.items():
            said = figure.locator("label", has_text=slider.replace("_", " ")).locator("output")
            assert said.inner_text() == label
        figure.locator("img").evaluate("image => image.decode()")
        if number < len(steps):
            page.get_by_role("button", name="Next").press("Enter")


def test_links_lead_somewhere(opened):
    _, page, *_ = opened
    for link in set(page.evaluate(LINKS)):
        if re.match("https?:|data:", link):
            continue
        address, _, place = link.partition("#")
        file = (
            BOOK / address.partition("?")[0]
            if address
            else Path(page.url.partition("#")[0].removeprefix("file://"))
        )
        assert file.is_file(), link
        if place and file.suffix == ".html":
            assert place in places(file), link


@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_fits_its_width(opened, width):
    _, page, *_ = opened
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate(OVERHANG) == 0


def test_a_page_asks_for_nothing_outside_its_folder_and_says_nothing(opened):
    _, _, requests, said = opened  # after the sliders moved
    assert [url for url in requests if not url.startswith((f"{BOOK.as_uri()}/", "data:"))] == []
    assert [text for text in said if not text.startswith("[PST]: ")] == []  # the theme notes its mode


@pytest.mark.parametrize("mode", RULES)
def test_nothing_hinders_a_reader(opened, mode):
    _, page, *_ = opened
    page.emulate_media(color_scheme=mode, reduced_motion="reduce")
    page.wait_for_function("mode => document.documentElement.dataset.theme === mode", arg=mode)
    page.evaluate((npm.WEB / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8"))
    assert page.evaluate(AXE, RULES[mode]) == []


@pytest.mark.parametrize(("term", "number"), TERMS.items())
def test_the_search_finds(browser, term, number):
    if not BOOK.is_dir():
        pytest.skip("no book in build/book: make book")
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto(f"{(BOOK / 'search.html').as_uri()}?q={term.replace(' ', '+')}")
    page.locator(f'#search-results a[href^="{number}_"]').first.wait_for(timeout=30_000)
    context.close()
