"""A page without Python, opened as a file: its sliders and predictions, moved by keyboard, finger and play button."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from lora_edu.classroom.widgets import predict
from lora_edu.classroom.widgets.pages import LINKED, make_pages_live
from tests.classroom.test_pages import NOISES, RANKS, explorer, notebook_of


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of a page with two sliders and two predictions, its pictures in a folder beside it."""
    folder = tmp_path_factory.mktemp("page")
    explorer().write_film(folder / "frames")
    notebook = notebook_of(explorer(), predict("01.4"), predict("01.3"))
    make_pages_live(notebook, folder / "frames")
    shown = "\n".join(output.data["text/html"] for cell in notebook.cells for output in cell.outputs)
    style, script = (file.read_text(encoding="utf-8") for file in LINKED)
    head = f'<meta charset="utf-8"><style>{style}</style><script>{script}</script>'
    (folder / "page.html").write_text(f'<!doctype html><html lang="en">{head}{shown}</html>', "utf-8")
    return (folder / "page.html").as_uri()


@pytest.fixture
def page(browser, address):
    """The page; at the end, its console was silent and it asked for nothing but files."""
    context = browser.new_context(has_touch=True)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    yield page
    context.close()
    assert said == [] and asked and all(url.startswith("file://") for url in asked)


def seen(page):
    """The picture's file and description, once the picture is there; the line below says the same."""
    picture = page.locator("figure img")
    page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=picture.element_handle())
    text = picture.get_attribute("alt")
    assert page.locator("figcaption").inner_text() == text
    return Path(picture.get_attribute("src")).name, text


def test_every_slider_goes_to_both_ends_by_keyboard(page):
    rank, noise = page.get_by_role("slider").all()
    pictures = {seen(page)}
    for slider, values in ((rank, RANKS), (noise, NOISES)):
        for key, value in (("Home", values[0]), ("End", values[-1])):
            slider.focus()
            page.keyboard.press(key)
            assert slider.get_attribute("aria-valuetext") == f"{value:g}"
            pictures.add(seen(page))
    assert {text for _, text in pictures} == {
        "rank 2, noise 0",
        "rank 1, noise 0",
        "rank 3, noise 0",
        "rank 3, noise 0.5",
    }
    assert len({name for name, _ in pictures}) == len(pictures)
    page.keyboard.press("ArrowLeft")
    assert seen(page)[1] == "rank 3, noise 0"


def test_a_finger_moves_a_slider(page):
    box = page.get_by_role("slider").first.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] - 4, box["y"] + box["height"] / 2)
    assert seen(page)[1] == "rank 3, noise 0"


def test_play_runs_to_the_last_value_and_stops(page):
    [play] = page.get_by_role("button", name="play").all()  # the second slider has two values
    play.press("Enter")
    assert seen(page)[1] == "rank 3, noise 0" and play.inner_text() == "▶ play"
    assert play.evaluate("button => { button.click(); return button.textContent; }") == "■ stop"
    expect(page.locator("figcaption")).to_have_text("rank 2, noise 0", timeout=60_000)
    expect(page.locator("figcaption")).to_have_text("rank 3, noise 0", timeout=60_000)
    assert seen(page)[1] == "rank 3, noise 0" and play.inner_text() == "▶ play"


def test_the_answer_of_a_prediction_opens_after_the_choice(page):
    wrong, right = page.locator(".lora-edu-predict").all()
    assert "A copy that is all zeros" not in page.locator("body").inner_text()
    wrong.get_by_role("button").first.focus()
    page.keyboard.press("Enter")
    said = wrong.get_by_role("status").inner_text()
    assert said.startswith("You said: under 10 %. The answer: over 90 %. A copy that is all zeros")
    assert all(button.is_disabled() for button in wrong.get_by_role("button").all())
    right.get_by_role("button", name="the fence").press("Space")
    assert right.get_by_role("status").inner_text().startswith("Right. Its edges run along")


def test_without_javascript_the_page_can_be_read(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator("figure img").get_attribute("alt") == "rank 2, noise 0"
    assert page.locator("figcaption").inner_text() == "rank 2, noise 0"
    assert all(slider.is_disabled() for slider in page.get_by_role("slider").all())
    asked = page.locator(".lora-edu-predict").first
    assert not asked.get_by_text("A copy that is all zeros").is_visible()
    asked.locator("summary").click()
    assert asked.get_by_text("A copy that is all zeros").is_visible()
    context.close()
