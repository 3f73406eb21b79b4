"""Sliders and predictions in JupyterLab, in Chromium, as a learner moves them: by keyboard and by mouse.

The numbers below a picture are computed here a second time. How long a redraw takes is printed (``pytest -s``),
never asserted.
"""

import base64
import json
import os
import re
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import sync_playwright

from tests.browser.recomputed import EXPECTED
from tools import build_notebooks

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LAB_OPTIONS = [
    "--no-browser",
    "--allow-root",
    "--LabApp.expose_app_in_browser=True",
    "--LabApp.extension_manager=readonly",
]
SETTINGS = {
    # Cells that are out of sight would otherwise not be on the page.
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
SECONDS_TO_START, SECONDS_TO_RUN, TRIES = 60, 300, 250


# These train the language model, or let it write, for minutes. Of their code, only what the sliders need is run here,
# named by how a cell begins.
NEEDED = {
    "06_lora_on_a_language_model": (
        "model, tokenizer =",
        "test =",
        "example =",
        "def draw_token",
        "untrained =",
        "scores =",
        "rates =",
        "def draw_targets",
    ),
    "11_many_adapters": (
        "model, tokenizer =",
        "for name in PERSONAS",
        "for number in",
        "base_bytes =",
        "def draw_storage",
        "generator =",
    ),
}


def test_every_slider_is_tried_here():
    sources = build_notebooks.selected_sources([], ROOT)
    with_sliders = {s.stem for s in sources if re.search(r"^explore\(", s.read_text("utf-8"), re.M)}
    assert with_sliders == set(EXPECTED)


# ---------------------------------------------------------------- JupyterLab and Chromium


def working_copy(source, folder):
    """The learner's notebook without outputs, and without code that takes minutes and moves no slider."""
    notebook = build_notebooks.compose(source, f"notebooks/{source.stem}.ipynb", "owner/repo")
    if source.stem in NEEDED:
        begins = (build_notebooks.SETUP_TITLE, "predict(", "explore(", *NEEDED[source.stem])
        notebook.cells = [c for c in notebook.cells if c.cell_type != "code" or c.source.startswith(begins)]
    nbformat.write(notebook, folder / f"{source.stem}.ipynb")


def wait_until_up(url, process, log):
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()}")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab with nobody's settings, on fresh copies of the notebooks."""
    home = tmp_path_factory.mktemp("lab")
    course = home / "course"
    (course / "work").mkdir(parents=True)
    for name in ("lora_edu", "data", "pyproject.toml"):
        (course / name).symlink_to(ROOT / name)
    for source in build_notebooks.selected_sources([name[:2] for name in EXPECTED], ROOT):
        working_copy(source, course / "work")
    for name, values in SETTINGS.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    environment = {
        **os.environ,
        **build_notebooks.KERNEL_ENVIRONMENT,
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "OMP_NUM_THREADS": "1",
    }
    address = [
        f"--ServerApp.port={port}",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={course / 'work'}",
    ]
    log = home / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *LAB_OPTIONS, *address],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_up(f"{url}/api?token={token}", process, log)
        # A workspace each, or the second page would open with the tabs of the first.
        yield f"{url}/lab/workspaces/{{name}}/tree/{{name}}.ipynb?token={token}"
    finally:
        process.terminate()  # the server ends its kernels
        process.wait(timeout=20)


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on the PATH")  # with CI=true, tests/ci_guard.py makes this a failure
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=CHROMIUM_OPTIONS)


RUN_ALL = """async () => {
    await window.jupyterapp.restored;
    const context = window.jupyterapp.shell.currentWidget.sessionContext;
    await context.ready;
    await context.session.kernel.info;
    window.jupyterapp.commands.execute('notebook:run-all-cells');  // not awaited: it ends with the last cell
}"""
# The cells' errors once the last cell has run or one has failed; until then null.
ERRORS = """() => {
    const cells = [...window.jupyterapp.shell.currentWidget.content.model.cells].filter(c => c.type == 'code');
    const outputs = cells.flatMap(cell => cell.outputs.toJSON());
    const errors = outputs.filter(output => output.output_type == 'error').map(output => output.evalue);
    return errors.length || cells.every(cell => cell.executionCount) ? errors : null;
}"""


@pytest.fixture(scope="module", params=EXPECTED)
def notebook(request, lab, browser):
    """A notebook's name, and the page on which all its cells have run."""
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.goto(lab.format(name=request.param))
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=1000 * SECONDS_TO_START)
    page.evaluate(RUN_ALL)
    errors = page.wait_for_function(ERRORS, timeout=1000 * SECONDS_TO_RUN).json_value()
    assert errors == []
    yield request.param, page
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
    setTimeout(() => reject(new Error('no new picture')), 5000);
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
        self._caption = cell.locator(".jp-OutputArea-output > .widget-html")

    def state(self):
        """Labels at the sliders, line of text, picture.

        The kernel sends the picture before the text. Read in this order, a right text has its picture.
        """
        labels, text = self._readouts.all_inner_texts(), self._caption.inner_text()
        return labels, text, base64.b64decode(self._image.evaluate(PICTURE))

    def settle(self, unlike=b""):
        """Wait until the line of text is right for what the sliders say, and the picture is another one."""
        for _ in range(TRIES):  # not a deadline: the numbers it is compared with take their time, too
            labels, text, picture = self.state()
            if picture not in (b"", unlike) and all(part in text for part in self.expected(*labels)):
                return labels, text, picture
            time.sleep(0.02)
        raise AssertionError(f"sliders at {labels}: {text}")

    def go_to_start(self, handle):
        handle.press("Home")
        return self.settle()


def explorers(name, page):
    cells = page.locator(".jp-CodeCell", has=page.locator("img.widget-image")).all()
    return [Explorer(cell, expected) for cell, expected in zip(cells, EXPECTED[name], strict=True)]


def test_a_slider_redraws(notebook, capsys):
    # The first test to move a slider: each value is drawn here for the first time.
    name, page = notebook
    for explorer in explorers(name, page):
        for handle in explorer.handles:
            explorer.go_to_start(handle)
            steps = min(10, int(float(handle.get_attribute("aria-valuemax"))))
            milliseconds = [handle.evaluate(REDRAW) for _ in range(steps)]
            median = statistics.median(milliseconds)
            with capsys.disabled():
                print(f"\n{name}: a redraw takes {median:.0f} ms (median of {len(milliseconds)})")


def test_arrow_keys_move_every_slider(notebook):
    for explorer in explorers(*notebook):
        for handle in explorer.handles:
            first = explorer.go_to_start(handle)
            handle.press("ArrowRight")
            second = explorer.settle(unlike=first[-1])
            handle.press("ArrowLeft")
            assert explorer.settle(unlike=second[-1]) == first


def test_the_mouse_drags_every_slider(notebook):
    _, page = notebook
    for explorer in explorers(*notebook):
        for handle in explorer.handles:
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
