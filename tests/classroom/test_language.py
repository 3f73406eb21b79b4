"""The language in which the package speaks: who chooses it, what is looked up, and that English changes nothing."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from lora_edu.classroom import figures, language
from lora_edu.classroom.checks import HINT, NOT_ATTEMPTED, PASS, check, examine, load_exercises
from lora_edu.classroom.doctor import doctor
from lora_edu.classroom.experiments import capstone, gpu_fits
from lora_edu.classroom.predictions import find_question, load_predictions
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import compare, explore, predict
from lora_edu.llm import threads

ROOT = Path(__file__).resolve().parents[2]
HINTS = [
    (key, place) for number in ("00", "04") for key, e in load_exercises(number).items()
    for place in range(len(e.wrong_answers))
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_language_named(monkeypatch):
    monkeypatch.delenv(language.VARIABLE, raising=False)
    monkeypatch.delenv("LORA_EDU_PROGRESS", raising=False)


@pytest.fixture
def german(monkeypatch):
    monkeypatch.setenv(language.VARIABLE, "de")


# ---------------------------------------------------------------- who chooses


@pytest.mark.parametrize(
    ("folder", "chosen"),
    [
        ("notebooks/de", "de"),
        ("notebooks/de/solutions", "de"),
        ("work/de", "de"),
        ("notebooks", "en"),
        ("notebooks/solutions", "en"),
        ("notebooks/xx", "en"),
        ("de", "en"),
        ("notebooks/de/runs", "en"),
    ],
)
def test_the_folder_chooses(tmp_path, monkeypatch, folder, chosen):
    (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / folder)
    assert language.language() == chosen


@pytest.mark.parametrize("named", ["de", "DE", "de_AT.UTF-8", " de-CH"])
def test_the_variable_chooses_before_the_folder(tmp_path, monkeypatch, named):
    monkeypatch.setenv(language.VARIABLE, named)
    assert language.language() == "de"
    (tmp_path / "notebooks" / "de").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "notebooks" / "de")
    monkeypatch.setenv(language.VARIABLE, "en")
    assert language.language() == "en"


def test_an_unknown_language_is_english_and_says_so(monkeypatch):
    monkeypatch.setenv(language.VARIABLE, "klingon")
    with pytest.warns(UserWarning, match=r"must be one of \['de', 'en'\], got 'klingon'"):
        assert language.language() == "en"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert language.say("Right.") == "Right."  # said once


def test_a_folder_that_was_deleted_is_english(tmp_path, monkeypatch):
    folder = tmp_path / "notebooks" / "de"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    shutil.rmtree(folder)
    assert language.language() == "en"


# ---------------------------------------------------------------- what is looked up


def test_english_is_what_the_code_says():
    assert (
        language.say("{count:,} numbers in {name}", count=1234567, name="{W}") == "1,234,567 numbers in {W}"
    )
    assert language.say("{share:.1%}", share=0.125) == "12.5%"
    assert language.label("rank") == "rank" and language.numeral("1,024") == "1,024"
    assert language.text("exercise 04.1 hint", "No such hint.") == "No such hint."


def test_what_has_no_translation_stays_english(german):
    assert language.say("Never said: {count:,}.", count=1234) == "Never said: 1\N{NARROW NO-BREAK SPACE}234."
    assert language.label("never shown") == "never shown"
    assert language.text("exercise 99.1 hint", "No such hint.") == "No such hint."


def test_a_label_with_places_keeps_what_stands_there(german):
    assert language.label("added to lora_B[2, 3]") == "Zugabe zu lora_B[2, 3]"
    assert language.label("added to lora_B") == "added to lora_B"


def test_a_number_is_written_once(german):
    thin = "\N{NARROW NO-BREAK SPACE}"
    assert language.numeral("1,234,567 and 12.5%") == f"1{thin}234{thin}567 and 12.5{thin}%"
    assert language.numeral(language.numeral("90%")) == f"90{thin}%"
    assert language.numeral("(1, 2), 1.5e-04") == "(1, 2), 1.5e-04"


def test_catalogs_are_part_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [pattern] = project["tool"]["setuptools"]["package-data"]["lora_edu.classroom"]
    packed = sorted((ROOT / "lora_edu" / "classroom").glob(pattern))
    assert [path.stem for path in packed] == [name for name in language.languages() if name != "en"] == ["de"]
    assert all(path.parent == language.CATALOGS for path in packed)


# ---------------------------------------------------------------- checks


def alpha_not_divided(x, W, lora_A, lora_B, lora_alpha):
    return x @ W.T + lora_alpha * (x @ lora_A.T) @ lora_B.T


def test_a_german_learner_gets_a_german_hint(tmp_path, monkeypatch, capsys):
    (tmp_path / "notebooks" / "de").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "notebooks" / "de")
    assert check("04.1", alpha_not_divided) == HINT
    said = capsys.readouterr().out
    assert said == "04.1 Tipp. Fast: Deine Aktualisierung BAx ist r-mal zu groß. Ist alpha durch r geteilt?\n"
    assert check("04.1", load_exercises("04")["04.1"].solution) == PASS
    assert check("04.1", None) == NOT_ATTEMPTED
    assert capsys.readouterr().out.splitlines() == [
        "04.1 bestanden. Richtig.",
        "04.1 noch offen. Fülle die Funktion oben aus, führe ihre Zelle aus, dann diese.",
    ]
    monkeypatch.chdir(tmp_path / "notebooks")
    assert check("04.1", alpha_not_divided) == HINT
    assert capsys.readouterr().out.startswith("04.1 hint. Almost: your update BAx is r times too large.")


@pytest.mark.parametrize(("key", "place"), HINTS)
def test_every_misconception_is_recognised_in_german(monkeypatch, key, place):
    number = key.split(".")[0]
    english = load_exercises(number)[key].wrong_answers[place]
    monkeypatch.setenv(language.VARIABLE, "de")
    exercise = load_exercises(number)[key]
    hint = exercise.wrong_answers[place].hint
    assert hint != english.hint
    assert examine(exercise, english.function) == (HINT, hint)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda marks: "a", "statt"),
        (lambda marks: marks[9], "löst deine Funktion IndexError aus"),
        (lambda marks: print(1), "gibt mit print nur 1 aus; die Prüfung braucht `return`"),
        (lambda marks: marks.clear(), "verändert `marks` selbst (in place) und gibt nichts zurück"),
        (
            lambda marks: torch.tensor(sum(marks) / len(marks)),
            "richtig, aber vom Typ tensor; `.item()` macht daraus",
        ),
        (lambda marks: 3 * sum(marks) / len(marks), "Jedes Ergebnis ist das 3-Fache des richtigen."),
        (3, "Übergib die Funktion selbst"),
    ],
)
def test_what_a_check_finds_itself_is_german_too(german, capsys, function, said):
    assert check("00.1", function) == HINT
    assert said in capsys.readouterr().out


def test_a_tensor_is_told_by_its_shape(german, capsys):
    check("04.2", lambda W, lora_A, lora_B, lora_alpha: W[:1])
    assert "gibt sie zurück: einen Tensor der Form (1, " in capsys.readouterr().out
    check("04.2", lambda W, lora_A, lora_B, lora_alpha: W @ lora_A)
    assert (
        "lässt sich nicht multiplizieren: Die beiden inneren Zahlen müssen gleich sein."
        in capsys.readouterr().out
    )


def test_progress_is_german(german, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_EDU_PROGRESS", str(tmp_path / "mine.json"))
    check("00.1", sum)
    progress("00")
    assert capsys.readouterr().out.splitlines()[-1] == (
        "Notebook 00: 1 Prüfung, 0 bestanden, 1 versucht, 0 offen."
    )


@pytest.mark.slow
def test_the_grader_speaks_english_wherever_it_stands(tmp_path):
    notebook = nbformat.read(ROOT / "notebooks" / "de" / "00_start_here.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.source.startswith("def share_right"):
            cell.source = cell.source.replace(
                "raise NotImplementedError", "return 100 * sum(marks) / len(marks)"
            )
    (tmp_path / "anna").mkdir()
    nbformat.write(notebook, tmp_path / "anna" / "00_start_here.ipynb")
    subprocess.run(
        [sys.executable, "-m", "lora_edu.classroom.grade", str(tmp_path), "--notebooks", "00", "--unsafe"],
        cwd=ROOT / "notebooks" / "de",
        env={**os.environ, "PYTHONPATH": str(ROOT), language.VARIABLE: "de"},
        check=True,
    )
    grades = (tmp_path / "grades.csv").read_text(encoding="utf-8")
    assert (
        grades.count("That is in percent. Return the share itself, between 0 and 1.") == 2
    )  # said, and recognised


# ---------------------------------------------------------------- predictions, sliders, tables, the doctor


@pytest.mark.parametrize("key", [key for number in ("00", "04") for key in load_predictions(number)])
def test_predictions_are_german(monkeypatch, key):
    english = find_question(key)
    monkeypatch.setenv(language.VARIABLE, "de")
    german = find_question(key)
    assert german.text != english.text and german.why != english.why and german.text.endswith("?")
    assert german.choices.index(german.answer) == english.choices.index(english.answer)


def test_a_choice_is_answered_in_german(german):
    asked = predict("00.2")
    asked.buttons[0].click()
    assert asked.feedback.value == (
        '<div role="status">Du sagtest: fast: ein paar Wörter sind anders. Die Antwort: ja, Buchstabe für Buchstabe. '
        "Der Adapter steht neben den Gewichten. Keines von ihnen wurde geändert, also muss nichts rückgängig gemacht "
        "werden.</div>"
    )
    assert "Erst entscheiden, dann die Antwort öffnen" in asked.to_html()


def test_sliders_and_tables_are_labelled_in_german(german):
    drawn = []

    def draw(ax, rank, beginning):
        drawn.append(beginning)
        figures.lines({"loss": [1.0, rank]}, xlabel="steps taken", ylabel="loss", ax=ax)

    shown = explore(draw, rank=[1, 2], beginning=["both zero", "both random"])
    assert [slider.description for slider in shown.sliders.values()] == ["Rang", "Startwerte"]
    assert [name for name, _ in shown.sliders["beginning"].options] == ["beide null", "beide zufällig"]
    assert set(drawn) == {"both zero"}  # the experiment gets its own values
    assert shown.caption.value == "Verlust; x-Achse: Zahl der Schritte. Verlust: 1 bei 1, 1 bei 2."
    assert list(compare(biases_that_train=["1"], before=["2"]).columns) == ["trainierte Bias-Werte", "vorher"]


@pytest.mark.parametrize("fixed", ["", "2"])
def test_the_doctor_speaks_german(german, monkeypatch, capsys, fixed):
    monkeypatch.setenv("OMP_NUM_THREADS", fixed)
    before = torch.get_num_threads()
    try:
        doctor()
        for count in (1, 2):
            torch.set_num_threads(count)
            monkeypatch.setenv("OMP_NUM_THREADS", "1")
            assert "wie OMP_NUM_THREADS es sagt" in language.label(threads.choose_threads()[1])
    finally:
        torch.set_num_threads(before)
    said = capsys.readouterr().out
    assert "rechnet mit   " in said and "Speicher      " in said and "Stufe         " in said
    assert not any(word in said for word in ("computes", "threads", " cores ", "memory", "tier"))


# ---------------------------------------------------------------- figures

x, W = torch.tensor([1.0, 2, -1, 0, 1]), torch.arange(20.0).reshape(4, 5)
A, B = torch.ones(4, 5), torch.ones(4, 4)


def drawn_by(draw):
    picture = figures.new_pictures()[0]
    draw(picture)
    return picture


PICTURES = {
    "bars": lambda: figures.bars(
        {"exactly right": [[0.0, 0.2, 0.9, 0.58]]},
        groups=capstone.GROUPS,
        ylabel="share of events",
        number_format="{:.0%}",
        title="Before, no event was right. After training, most are",
    ),
    "scale": lambda: figures.update_to_scale(576, 576, r=8),
    "base": lambda: figures.one_base(
        ("the base", 269), {"robot": 0.937, "captain": 0.937, "gardener": 0.937}
    ),
    "map": figures.course_map,
    "layer": lambda: figures.lora_layer(x, W, A[:2], B[:, :2], 2),
    "deep layer": lambda: figures.lora_layer(x, W, A, B, 8),
    "passes": lambda: figures.forward_backward(x, W, A[:2], B[:, :2], 2, torch.tensor([1.0, -2, 0.5, -1])),
    "ranks": lambda: figures.share_by_rank(
        {"20 random A": np.linspace(0.2, 0.6, 5)}, ranks=[1, 2, 4, 8, 12], ylabel="cosine with G"
    ),
    "times": lambda: figures.running_time(
        {"apart": [1e-4, 1e-2], "formed anew": [1e-3, 1.1e-2], "merged": [9e-5, 9e-3]},
        sizes=[1, 1024],
        xlabel="tokens",
        title="For one token, forming W + BA costs most",
    ),
    **{
        f"GPU of {gib} GiB": partial(drawn_by, partial(gpu_fits.draw_ways, GPU_GiB=gib))
        for gib in gpu_fits.WAYS_GIB
    },
}
ENGLISH_WORDS = {
    *(
        "the",
        "of",
        "and",
        "at",
        "over",
        "is",
        "are",
        "numbers",
        "rank",
        "frozen",
        "fits",
        "nothing",
        "takes",
        "gets",
    ),
    *(
        "with",
        "leads",
        "share",
        "base",
        "tokens",
        "seconds",
        "weights",
        "gradients",
        "reads",
        "writes",
        "kept",
    ),
}


def words_in(picture):
    written = [text.get_text() for text in picture.findobj(lambda artist: hasattr(artist, "get_text"))]
    return {word.strip(".,:;()") for word in " ".join([picture.alt, *written]).lower().split()}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_german_and_collide_nowhere(name, monkeypatch):
    english = PICTURES[name]()
    assert words_in(english) & ENGLISH_WORDS
    monkeypatch.setenv(language.VARIABLE, "de")
    german = PICTURES[name]()
    figures.to_png(german)
    assert not words_in(german) & ENGLISH_WORDS
    assert not figures.collisions(german)
    assert german.alt != english.alt


def test_a_quoted_hint_is_in_the_language_too(monkeypatch):
    """A written test of 05.5 quotes hints of 04.2."""
    monkeypatch.setenv("LORA_EDU_LANGUAGE", "de")
    sentence = examine(load_exercises("05b")["05.5"], lambda candidate: True)[1]
    assert "bekäme den Tipp" in sentence and not re.search(r"\b(the|your|you)\b", sentence, re.IGNORECASE)
