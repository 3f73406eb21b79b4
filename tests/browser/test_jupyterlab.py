"""Sliders and predictions in JupyterLab, in Chromium, as a learner moves them: by keyboard and by mouse.

The numbers below a picture are computed a second time: here for the places that a slider is moved to, in tests/films.py
for all. How long a redraw takes is printed (``pytest -s``), never asserted.
"""

import base64
import re
import statistics
import time
from pathlib import Path

import nbformat
import pytest

from lora_edu.classroom.widgets.pages import explorer_texts
from tests.browser.lab import end_kernel, open_notebook, run_all, running_lab
from tests.browser.needed import needed_cells
from tests.browser.recomputed import EXPECTED
from tools import build_notebooks

ROOT = Path(__file__).resolve().parents[2]
SECONDS_TO_RUN, TRIES = 300, 1500


def test_every_slider_is_tried_here():
    sources = build_notebooks.selected_sources([], ROOT)
    with_sliders = {s.stem for s in sources if re.search(r"^explore\(", s.read_text("utf-8"), re.M)}
    assert with_sliders == set(EXPECTED)


# ---------------------------------------------------------------- JupyterLab and Chromium


def is_wanted(code):
    return code.startswith((build_notebooks.SETUP_TITLE, "predict(")) or re.search(r"^explore\(", code, re.M)


def working_copy(source, folder):
    """The learner's notebook: no text, no outputs, and of the code what its sliders and predictions need.

    All of it runs in the strict run of the notebooks. `test_a_slider_starts_as_in_the_stored_notebook` sees that
    nothing is missing.
    """
    notebook = build_notebooks.compose(source, f"notebooks/{source.stem}.ipynb", "owner/repo")
    code = [c for c in notebook.cells if c.cell_type == "code" and "claim" not in c.metadata.get("tags", [])]
    places = needed_cells([cell.source for cell in code], is_wanted)
    notebook.cells = [code[place] for place in places]
    nbformat.write(notebook, folder / f"{source.stem}.ipynb")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab on fresh copies of the notebooks."""
    with running_lab(tmp_path_factory.mktemp("lab")) as (address, work):
        for source in build_notebooks.selected_sources([name.split("_")[0] for name in EXPECTED], ROOT):
            working_copy(source, work)
        yield address


@pytest.fixture(scope="module", params=EXPECTED)
def notebook(request, lab, browser):
    """A notebook's name, and the page on which all its cells have run."""
    page = open_notebook(browser, lab, request.param)
    assert run_all(page, SECONDS_TO_RUN) == []
    yield request.param, page
    end_kernel(page)
    page.close()


# ---------------------------------------------------------------- sliders

# Empty while one picture takes the place of another: the old one's address is then gone.
PICTURE = """async image => {
    const response = await fetch(image.src).catch(() => new Response(''));
    const bytes = new Uint8Array(await response.arrayBuffer());
    return btoa(bytes.reduce((text, byte) => text + String.fromCharCode(byte), ''));
}"""
# From a key press to the new picture, in milliseconds.
REDRAW = """handle => new Promise((resolve, reject) => {
    const image = handle.closest('.jp-OutputArea').querySelector('img.widget-image');
    const observer = new MutationObserver(() => { observer.disconnect(); resolve(performance.now() - start); });
    observer.observe(image, {attributes: true, attributeFilter: ['src']});
    setTimeout(() => reject(new Error('no new picture')), 120000);
    const start = performance.now();
    handle.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}));
})"""


class Explorer:
    """A picture and its sliders, as the page shows them."""

    def __init__(self, cell, expected):
        self.expected = expected
        self.handles = cell.locator(".noUi-handle").all()
        self._readouts = cell.locator(".widget-readout")
        self._image = cell.locator("img.widget-image")
        self._caption = cell.locator(".lora-edu-live > .widget-html")

    def state(self):
        """Labels at the sliders, line of text, picture.

        The kernel sends the picture before the text. Read in this order, a right text has its picture.
        """
        labels, text = self._readouts.all_inner_texts(), self._caption.inner_text()
        return labels, text, base64.b64decode(self._image.evaluate(PICTURE))

    def settle(self, unlike=b""):
        """Wait until the line of text is right for what the sliders say, the picture is another one, and both stay.

        A line may be right for two places. Then the new picture is there a moment before its line.
        """
        before = None
        for _ in range(TRIES):  # not a deadline: the numbers it is compared with take their time, too
            labels, text, picture = state = self.state()
            right = picture not in (b"", unlike) and all(part in text for part in self.expected(*labels))
            if right and state == before:
                return state
            before = state if right else None
            time.sleep(0.1 if right else 0.02)
        raise AssertionError(f"sliders at {labels}: {text}")

    def go_to_start(self, handle):
        """Press Home. If that moves the slider another picture comes: the old line may be right for both places."""
        _, _, picture = self.settle()
        now, start = (float(handle.get_attribute(f"aria-value{end}")) for end in ("now", "min"))
        handle.press("Home")
        return self.settle(unlike=b"" if now == start else picture)


def explorers(name, page):
    cells = page.locator(".jp-CodeCell", has=page.locator("img.widget-image")).all()
    return [Explorer(cell, expected) for cell, expected in zip(cells, EXPECTED[name], strict=True)]


def test_a_slider_starts_as_in_the_stored_notebook(notebook):
    name, page = notebook
    stored = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    texts = [" ".join(text.replace("`", "").split()) for text in explorer_texts(stored)]  # as HTML shows it
    assert [explorer.state()[1] for explorer in explorers(name, page)] == texts


def test_arrow_keys_move_every_slider(notebook, capsys):
    name, page = notebook
    milliseconds = []
    for explorer in explorers(name, page):
        for handle in explorer.handles:
            first = explorer.go_to_start(handle)
            milliseconds.append(handle.evaluate(REDRAW))
            second = explorer.settle(unlike=first[-1])
            handle.press("ArrowLeft")
            assert explorer.settle(unlike=second[-1]) == first
    with capsys.disabled():
        print(
            f"\n{name}: a redraw takes {statistics.median(milliseconds):.0f} ms (median of {len(milliseconds)})"
        )


def test_the_mouse_drags_a_slider_of_each_notebook(notebook):
    _, page = notebook
    explorer = explorers(*notebook)[0]
    handle = explorer.handles[0]
    first = explorer.go_to_start(handle)
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    track = handle.locator("xpath=ancestor::*[contains(@class, 'noUi-base')]").bounding_box()
    page.mouse.move(track["x"] + track["width"], y, steps=8)
    page.mouse.up()
    explorer.settle(unlike=first[-1])


# ---------------------------------------------------------------- predictions


def test_a_prediction_is_answered_by_keyboard(notebook):
    _, page = notebook
    cells = page.locator(".jp-CodeCell", has=page.locator(".widget-button"))
    for cell in cells.all():
        buttons, answer = cell.locator(".widget-button"), cell.locator("[role=status]")
        assert answer.count() == 0
        buttons.first.focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        answer.wait_for(timeout=5000)
        assert re.match(r"Right\.|You said: .+\. The answer: ", answer.inner_text())
        assert all(button.is_disabled() for button in buttons.all())
