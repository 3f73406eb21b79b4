"""Every deck of build/slides in Chromium with the network off: no slide overflows, all that moves does so by keyboard.

`make test` writes the decks with the book, and then runs this.
"""

import re
from pathlib import Path

import nbformat
import pytest

from lora_edu.classroom.widgets.frames import read_film
from lora_edu.classroom.widgets.pages import explorer_texts
from tests.browser.book.walk import walked

ROOT = Path(__file__).resolve().parents[3]
SLIDES, FRAMES = ROOT / "build" / "slides", ROOT / "build" / "frames"
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
FEWEST, MOST = 10, 60
"""Slides of a deck."""

# What reaches out of the slide's margins, is smaller than 20 pixels, or is a picture lower than 300 pixels and not as
# wide as the slide. Of a formula its frame is looked at: parts of it reach out of their boxes, and indices are small.
WRONG = """() => {
    const page = Reveal.getCurrentSlide().querySelector('.page'), found = [];
    const say = (what, element) => found.push(`${what}: ${element.outerHTML.slice(0, 120)}`);
    for (const element of page.querySelectorAll('*')) {
        if (element.closest('.katex *, script')) continue;
        const box = element.getBoundingClientRect();
        if (box.width === 0) continue;
        if (box.bottom > 682 || box.right > 1226 || box.top < 0 || box.left < 54) say('out', element);
        const hasText = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
        if (hasText && parseFloat(getComputedStyle(element).fontSize) < 19.9) say('small', element);
        if (element.matches('img')) {
            const scale = Math.min(box.width / element.naturalWidth, box.height / element.naturalHeight);
            if (scale * element.naturalHeight < 300 && scale * element.naturalWidth < 1100) say('low', element);
        }
    }
    if (page.scrollHeight > 720 || page.scrollWidth > 1280) say('overflow', page);
    return found;
}"""
WALK = f"""() => Reveal.getSlides().flatMap((slide, place) => {{
    Reveal.slide(place);
    const empty = slide.querySelectorAll('.page > :not(h1, h2, .where)').length ? [] : ['nothing below the heading'];
    return [...({WRONG})(), ...empty].map(wrong => `slide ${{place + 1}}: ${{wrong}}`);
}})"""
IMAGES = "() => [...document.images].map(image => [image.complete && image.naturalWidth > 0, image.alt])"
LINKS = "() => [...document.querySelectorAll('.page a[href], aside a[href]')].map(link => link.getAttribute('href'))"
TEXT = """() => [...document.querySelectorAll('.slides section')].map(slide => {
    const copy = slide.cloneNode(true);
    for (const out of copy.querySelectorAll('.katex, math, pre, code, script')) out.remove();
    return copy.textContent;
}).join(' ')"""
PLACE = "() => Reveal.getIndices().h"


@pytest.fixture(scope="module", params=[pytest.param(n, marks=pytest.mark.xdist_group(n)) for n in NOTEBOOKS])
def deck(request, browser):
    """A notebook's name, the page of its deck, and all that it asked for and said."""
    if not (SLIDES / f"{request.param}.html").is_file():
        pytest.skip(
            "no decks in build/slides: make book"
        )  # with CI=true, tests/ci_guard.py makes this a failure
    file = SLIDES / f"{request.param}.html"
    with walked(browser, file, viewport={"width": 1280, "height": 720}) as [page, requests, said]:
        yield request.param, page, requests, said


def go_to(page, element):
    """Turn to the slide of an element."""
    element.evaluate("element => Reveal.slide(Reveal.getIndices(element.closest('section')).h)")


def test_a_deck_fits_a_lecture_and_every_slide_its_frame(deck):
    _, page, *_ = deck
    assert page.evaluate(WALK) == []
    assert FEWEST <= page.evaluate("() => Reveal.getTotalSlides()") <= MOST


def test_every_picture_is_loaded_and_described(deck):
    name, page, *_ = deck
    cells = nbformat.read(NOTEBOOKS[name], as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    skipped = sum("slide-skip" in cell.metadata.get("tags", []) for cell in cells)
    shown = page.evaluate(IMAGES)
    assert all(loaded and len(alt) > 10 for loaded, alt in shown)
    assert len(shown) >= sum("image/png" in output.get("data", {}) for output in outputs) - skipped


def test_every_slider_keeps_its_keys_and_goes_to_both_ends(deck):
    name, page, *_ = deck
    films = [
        film
        for text in explorer_texts(nbformat.read(NOTEBOOKS[name], as_version=4))
        if (film := read_film(FRAMES, text))
    ]
    figures = page.locator("figure.lora-edu-film").all()
    assert len(figures) == len(films)
    for figure, film in zip(figures, films, strict=True):
        go_to(page, figure)
        place = page.evaluate(PLACE)
        for slider, labels in zip(figure.get_by_role("slider").all(), film["labels"].values(), strict=True):
            for key, label in (("End", labels[-1]), ("Home", labels[0])):
                slider.press(key)
                assert slider.get_attribute("aria-valuetext") == label
                figure.locator("img").evaluate(
                    "image => image.decode()"
                )  # fails where there is no such picture
            slider.press("ArrowRight")
            assert slider.get_attribute("aria-valuetext") == labels[1]
        assert page.evaluate(WRONG) == []
        assert page.evaluate(PLACE) == place


def test_a_presenter_turns_though_a_slider_was_moved_and_escape_gives_the_arrows_back(deck):
    _, page, *_ = deck
    for figure in page.locator("figure.lora-edu-film").all()[:1]:
        go_to(page, figure)
        place = page.evaluate(PLACE)
        figure.get_by_role("slider").first.press("PageDown")
        assert page.evaluate(PLACE) == place + 1
        page.keyboard.press("PageUp")
        figure.get_by_role("slider").first.press("Escape")
        page.keyboard.press("ArrowRight")
        assert page.evaluate(PLACE) == place + 1


def test_a_prediction_answers_only_after_a_choice(deck):
    name, page, *_ = deck
    cells = nbformat.read(NOTEBOOKS[name], as_version=4).cells
    asked = page.locator(".lora-edu-predict").all()
    assert len(asked) == sum("lora-edu-predict" in str(cell.get("outputs")) for cell in cells)
    for prediction in asked:
        go_to(page, prediction)
        place = page.evaluate(PLACE)
        assert prediction.get_by_role("status").inner_text() == ""
        prediction.get_by_role("button").first.press(" ")
        assert re.match("Right|You said", prediction.get_by_role("status").inner_text())
        assert page.evaluate(WRONG) == [] and page.evaluate(PLACE) == place


def test_formulas_are_drawn_and_links_lead_somewhere(deck):
    _, page, *_ = deck
    assert page.locator(".katex-error").count() == 0
    assert not re.search("[$\ue000]", page.evaluate(TEXT))
    links = page.evaluate(LINKS)
    assert any("colab" in link for link in links)
    for link in links:
        assert re.match("https:", link) or (SLIDES / link.partition("#")[0]).is_file(), link


def test_a_deck_asks_for_nothing_outside_its_folder_and_says_nothing(deck):
    _, _, requests, said = deck  # after the sliders moved
    assert [url for url in requests if not url.startswith((f"{SLIDES.as_uri()}/", "data:"))] == []
    assert said == []


def test_the_speaker_sees_the_notes_in_a_window_of_their_own(browser):
    deck = SLIDES / "00_start_here.html"
    if not deck.is_file():
        pytest.skip("no decks in build/slides: make book")
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto(deck.as_uri())
    with context.expect_page() as opened:
        page.keyboard.press("s")
    opened.value.get_by_text("Keys: S opens these notes").wait_for(timeout=30_000)
    context.close()


def test_the_walk_finds_what_is_wrong(browser):
    deck = SLIDES / "00_start_here.html"
    if not deck.is_file():
        pytest.skip("no decks in build/slides: make book")
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 720})
    page = context.new_page()
    page.goto(deck.as_uri())
    page.evaluate("""() => {
        const [title, first] = document.querySelectorAll('.page');
        title.insertAdjacentHTML('beforeend', '<p style="height: 700px">high</p>');
        first.insertAdjacentHTML('beforeend', '<p style="font-size: 12px; width: 1300px">wide</p>');
    }""")
    found = {(wrong.split(":")[0], wrong.split(": ")[1]) for wrong in page.evaluate(WALK)}
    assert {("slide 1", "overflow"), ("slide 2", "out"), ("slide 2", "small")} <= found
    context.close()
