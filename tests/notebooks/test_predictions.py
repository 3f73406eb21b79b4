"""The predictions of all notebooks: the answers lie where no cell shows them, and no place is right more often.

A fair share of a place: the sum of 1 / (number of choices) over the notebook's predictions that have this place.
"""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from lora_edu.classroom.predictions import find_question, load_predictions
from tools import build_notebooks

ROOT = Path(__file__).resolve().parents[2]
SOURCES = build_notebooks.selected_sources([], ROOT)
NUMBERS = [source.stem.split("_")[0] for source in SOURCES]
BUILT = sorted((ROOT / "notebooks").glob("*.ipynb")) + sorted((ROOT / "notebooks/solutions").glob("*.ipynb"))
FILES = [*SOURCES, *BUILT]


def code_of(path):
    """The sources of a notebook's code cells."""
    cells = (
        build_notebooks.read_source(path) if path.suffix == ".py" else nbformat.read(path, as_version=4).cells
    )
    return [cell.source for cell in cells if cell.cell_type == "code"]


def predict_calls(codes):
    nodes = [node for code in codes for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    return [node for node in nodes if isinstance(node.func, ast.Name) and node.func.id == "predict"]


def leaks(codes, questions):
    """What of the cells tells an answer: a call with more than an id and numbers of a model, or a right `answer=`."""
    told = [
        ast.unparse(call)
        for call in predict_calls(codes)
        if len(call.args) != 1
        or any(keyword.arg in ("choices", "answer", "why") for keyword in call.keywords)
        or any(isinstance(keyword.value, ast.Constant) for keyword in call.keywords)
        or not isinstance(call.args[0], ast.Constant)
    ]
    answers = "|".join(re.escape(question.answer) for question in questions)
    return told + re.findall(rf"answer\s*=\s*['\"](?:{answers})['\"]", "\n".join(codes))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT / "notebooks").as_posix())
def test_no_cell_holds_an_answer(path):
    assert leaks(code_of(path), load_predictions(path.stem.split("_")[0]).values()) == []


@pytest.mark.parametrize("number", NUMBERS)
def test_a_planted_answer_is_found(number):
    questions = load_predictions(number).values()
    for question in questions:
        whole = f"predict({question.text!r}, {list(question.choices)!r}, answer={question.answer!r})"
        assert len(leaks([whole], questions)) == 2
        assert len(leaks([f"ask(answer = {question.answer!r})"], questions)) == 1


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_notebook_asks_all_its_questions_in_order(source):
    asked = [ast.literal_eval(call.args[0]) for call in predict_calls(code_of(source))]
    assert asked == list(load_predictions(source.stem.split("_")[0])) != []


def shares(questions):
    """For each place, and for the last one whatever its number, how often it is right and how often it should be."""
    for place in range(max(len(question.choices) for question in questions)):
        among = [question for question in questions if len(question.choices) > place]
        yield (
            sum(q.choices.index(q.answer) == place for q in among),
            sum(1 / len(q.choices) for q in among),
        )
    yield sum(q.answer == q.choices[-1] for q in questions), sum(1 / len(q.choices) for q in questions)


@pytest.mark.parametrize("number", NUMBERS)
def test_no_place_is_right_more_often_than_its_share_plus_one(number):
    assert all(count <= fair + 1 for count, fair in shares(list(load_predictions(number).values())))


def test_over_the_course_no_place_is_right_more_often_than_its_share_plus_a_tenth():
    questions = [question for number in NUMBERS for question in load_predictions(number).values()]
    assert all(count <= fair + len(questions) / 10 for count, fair in shares(questions))


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_stand_in_order(number):
    for question in load_predictions(number).values():
        found = [re.findall(r"\d[\d,]*(?:\.\d+)?", choice) for choice in question.choices]
        if all(len(numbers) == 1 for numbers in found):
            values = [float(numbers[0].replace(",", "")) for numbers in found]
            assert values in (sorted(values), sorted(values, reverse=True)), question.choices


@pytest.mark.parametrize("asked", [1, 2, 3, 4, 8, 25])
def test_how_many_the_base_got_right_is_in_the_choice_that_is_right_and_in_no_other(asked):
    for right in range(asked + 1):
        question = find_question("10.1", right=right, asked=asked)
        holding = []
        for choice in question.choices:
            numbers = [0] if choice == "none" else [int(number) for number in re.findall(r"\d+", choice)]
            if numbers[0] <= right <= numbers[-1]:
                holding.append(choice)
        assert holding == [question.answer] and str(asked) in question.text


@pytest.mark.parametrize(("parameters", "trained"), [(134_515_008, 2_442_240), (7_615_616_512, 20_185_088)])
def test_the_share_that_trains_is_the_models_own(parameters, trained):
    question = find_question("10.2", parameters=parameters, trained=trained)
    shares = [float(choice.removesuffix(" %")) / 100 for choice in question.choices]
    assert min(shares, key=lambda share: abs(share - trained / parameters)) == pytest.approx(
        float(question.answer.removesuffix(" %")) / 100
    )
    assert f"{parameters:,}" in question.text and shares == sorted(shares)


def test_values_that_a_question_does_not_take_are_refused():
    with pytest.raises(ValueError, match="must get these"):
        find_question("10.1", right=1)
    with pytest.raises(ValueError, match="takes no values"):
        find_question("10.3", right=1)
