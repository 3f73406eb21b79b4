"""A notebook that a learner ran, saved and opens again without running it, in a JupyterLab started anew.

The file names widgets whose models went with the kernel. The static forms lie in it too, and must be what is seen.
"""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tests.browser.lab import open_notebook, run_all, running_lab

NAME, SECONDS = "a_notebook", 300
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
CELLS = [
    "from lora_edu.classroom import figures\nfrom lora_edu.classroom.widgets import chat, explore, predict",
    'predict("01.4")',
    "def draw(ax, rank):\n"
    '    return figures.lines({"y": [rank, 1 / rank]}, ax=ax, alt=f"Rank {rank}.")\n\n'
    "explore(draw, rank=[1, 2, 3], start={'rank': 2})",
    'chat(lambda speaker, messages: speaker.upper(), ["ann", "bob"], opening=[("ann", "hi")])',
    'print("before")\n'
    'display(explore(draw, rank=[1, 2, 3]), predict("01.1"), predict("01.3"))\n'
    'print("after")',
]
LIVE = ".lora-edu-live"
STATIC = ".lora-edu-static:not(.lora-edu-live *)"
TEXTS = ["We keep rank 8", "Rank 2.", "ANN", "before", "Rank 1.", "W @ X", "What is sharp first?", "after"]
SAVE = "async () => { await window.jupyterapp.commands.execute('docmanager:save'); }"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def live(home, browser):
    """What is seen after a run: the visible text, and how many live and static forms are visible."""
    with running_lab(home) as (address, work):
        notebook = new_notebook(cells=[new_code_cell(cell) for cell in CELLS], metadata=KERNEL)
        nbformat.write(notebook, work / f"{NAME}.ipynb")
        page = open_notebook(browser, address, NAME)
        assert run_all(page, SECONDS) == []
        page.locator(LIVE).nth(5).wait_for(timeout=1000 * SECONDS)
        found = seen(page)
        page.evaluate(SAVE)
        page.close()
    return found


@pytest.fixture(scope="module")
def reopened(home, browser, live):
    """The same, opened again, once JupyterLab has found out that the models are gone."""
    with running_lab(home) as (address, _):
        page = open_notebook(browser, address, NAME)
        page.wait_for_function(
            "document.querySelector('.jp-Notebook').textContent.split('model not found').length == 7",
            timeout=1000 * SECONDS,
        )
        yield seen(page)
        page.close()


def seen(page):
    outputs = page.locator(".jp-Cell-outputArea")
    pictures = page.locator(".jp-Cell-outputArea img")
    return {
        "text": "\n".join(outputs.all_inner_texts()),
        "live": count_visible(page.locator(LIVE)),
        "static": count_visible(page.locator(STATIC)),
        "pictures": [p.evaluate("p => p.naturalWidth > 0") for p in pictures.all() if p.is_visible()],
    }


def count_visible(found):
    return sum(element.is_visible() for element in found.all())


def test_a_notebook_that_runs_shows_the_live_form_alone(live):
    assert (live["live"], live["static"], live["pictures"]) == (6, 0, [True, True])
    assert [text for text in TEXTS if text not in live["text"]] == []
    assert live["text"].count("Rank 2.") == 1


def test_a_notebook_opened_again_shows_the_static_form_and_no_error(reopened):
    assert (reopened["live"], reopened["static"], reopened["pictures"]) == (0, 6, [True, True])
    assert [text for text in TEXTS if text not in reopened["text"]] == []
    for trouble in ("model not found", "Error displaying widget", "Loading widget"):
        assert trouble not in reopened["text"]
