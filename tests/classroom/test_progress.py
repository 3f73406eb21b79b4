"""Progress: what is kept, where, and what a learner sees of it."""

import json
from collections import Counter

import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from lora_edu.classroom.card import CARDS, card
from lora_edu.classroom.checks import HINT, NOT_ATTEMPTED, PASS, check
from lora_edu.classroom.progress import CHECKS, forget_progress, keep_progress, progress, read_progress
from tests.classroom.test_checks import EXERCISES, stub
from tools.working_copies import RECORD, copy_notebooks

EXERCISES_IN = Counter(key.split(".")[0] for key in EXERCISES)


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch):
    monkeypatch.delenv("LORA_EDU_PROGRESS", raising=False)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder of working copies, as `make lab` makes it."""
    (tmp_path / "notebooks").mkdir()
    copy_notebooks(tmp_path / "notebooks", tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_every_check_is_counted():
    halves = {
        number: [n for notebook, n in CHECKS.items() if notebook[:2] == number] for number in EXERCISES_IN
    }
    assert {number: sum(counts) for number, counts in halves.items()} == EXERCISES_IN
    assert sum(CHECKS.values()) == len(EXERCISES)


def test_a_second_half_counts_on(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LORA_EDU_PROGRESS", str(tmp_path / "mine.json"))
    keep_progress("05.1", passed=True)
    keep_progress("05.4", passed=True)
    progress("05b")
    progress("05")
    assert capsys.readouterr().out.splitlines() == [
        "Notebook 05b: 3 checks, 1 passed, 0 tried, 2 open.",
        "Notebook 05: 3 checks, 1 passed, 0 tried, 2 open.",
    ]


def test_a_check_is_noted_beside_the_working_copies(work):
    right = EXERCISES["03.1"].solution
    assert check("03.1", stub) == NOT_ATTEMPTED
    assert not (work / "progress.json").exists()
    assert check("03.1", lambda *sizes: 0) == HINT
    assert json.loads((work / "progress.json").read_text()) == {"03.1": "tried"}
    assert check("03.1", right) == PASS
    assert check("03.1", lambda *sizes: 0) == HINT
    assert json.loads((work / "progress.json").read_text()) == {"03.1": "passed"}
    assert names_in(work) == [RECORD, "progress.json"]
    forget_progress()
    assert names_in(work) == [RECORD]


def test_elsewhere_nothing_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    check("03.1", EXERCISES["03.1"].solution)
    forget_progress()
    progress("03")
    progress("00")
    progress()
    assert names_in(tmp_path) == []
    shown = capsys.readouterr().out.splitlines()
    assert shown == [
        "03.1 pass. Right.",
        f"Notebook 03: {CHECKS['03']} checks.",
        "Notebook 00: 1 check.",
        f"All notebooks: {sum(CHECKS.values())} checks.",
    ]


def test_a_file_may_be_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LORA_EDU_PROGRESS", str(tmp_path / "new folder" / "mine.json"))
    keep_progress("04.2", passed=True)
    keep_progress("04.1", passed=False)
    assert read_progress() == {"04.1": "tried", "04.2": "passed"}
    progress("04")
    progress()
    first, second, *lines = capsys.readouterr().out.splitlines()
    assert first == "Notebook 04: 5 checks, 1 passed, 1 tried, 3 open."
    every = sum(CHECKS.values())
    assert second == f"All notebooks: {every} checks, 1 passed, 1 tried, {every - 2} open."
    assert len(lines) == len(CHECKS) and lines[4] == first.removeprefix("Notebook ").rstrip(".")


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"04.1": 7}', "\xff"])
def test_a_damaged_file_counts_as_empty_and_is_written_anew(work, content, capsys):
    (work / "progress.json").write_bytes(content.encode("latin-1"))
    progress("04")
    assert capsys.readouterr().out.startswith("Notebook 04: 5 checks")
    keep_progress("04.1", passed=True)
    assert json.loads((work / "progress.json").read_text()) == {"04.1": "passed"}


def test_a_file_that_cannot_be_written_does_not_fail_a_check(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_EDU_PROGRESS", str(tmp_path))  # a folder
    assert check("03.1", EXERCISES["03.1"].solution) == PASS
    assert names_in(tmp_path) == []


def test_an_unknown_notebook_is_named():
    with pytest.raises(ValueError, match=r"notebook must be one of 00, 01, .*got '98'"):
        progress("98")


@pytest.mark.parametrize("kind", CARDS)
def test_a_card_escapes_its_text_and_keeps_all_words(kind):
    html = card(f"04.1 {kind}. `a < b` and <script>", kind)
    assert "<script>" not in html and "<code>a &lt; b</code> and &lt;script&gt;" in html
    assert f"<b>{kind}</b>" in html and CARDS[kind][1] in html


CELLS = [
    "from lora_edu.classroom.checks import check, load_exercises\nfrom lora_edu.classroom.progress import progress",
    'check("03.1", load_exercises("03")["03.1"].solution)',
    'check("03.2", lambda m, n: m * n // (m + n))',
    'progress("03")',
]


def test_a_notebook_shows_one_card_with_its_plain_text(work):
    notebook = new_notebook(cells=[new_code_cell(source) for source in CELLS])
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": work}}).execute()
    outputs = [cell.outputs for cell in notebook.cells[1:]]
    assert [len(each) for each in outputs] == [1, 1, 1]
    assert all(set(output.data) == {"text/plain", "text/html"} for [output] in outputs)
    assert all("display_id" not in str(output) for [output] in outputs)
    passed, hint, line = (output.data["text/plain"] for [output] in outputs)
    assert passed == "03.1 pass. Right."
    assert hint.startswith("03.2 hint. You round down with `//`.")
    assert line == f"Notebook 03: {CHECKS['03']} checks, 1 passed, 1 tried, {CHECKS['03'] - 2} open."
    assert "<b>hint</b>. You round down with <code>//</code>" in outputs[1][0].data["text/html"]
