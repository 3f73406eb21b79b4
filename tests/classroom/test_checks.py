"""Checks: every exercise of every notebook, and the machinery's promises."""

import pkgutil
import re
import sys

import pytest
import torch

from lora_edu.classroom import exercises
from lora_edu.classroom.checks import HINT, NOT_ATTEMPTED, PASS, check, load_exercises, same
from lora_edu.classroom.written_tests import WrittenTest

NOTEBOOKS = [
    name[1:]
    for _, name, _ in pkgutil.iter_modules(exercises.__path__)
    if name[1:].removesuffix("b").isdigit()
]
EXERCISES = {key: value for number in NOTEBOOKS for key, value in load_exercises(number).items()}
WRONG = [
    (key, wrong, form)
    for key, exercise in EXERCISES.items()
    for wrong in exercise.wrong_answers
    for form in (wrong.function, *wrong.others)
]


def stub(*_):
    raise NotImplementedError


@pytest.mark.parametrize("key", EXERCISES)
def test_solution_passes_and_the_stub_is_not_attempted(key):
    assert check(key, EXERCISES[key].solution) == PASS
    assert check(key, stub) == NOT_ATTEMPTED
    assert key.split(".")[0] in NOTEBOOKS


@pytest.mark.parametrize(
    ("key", "wrong", "form"), WRONG, ids=[f"{key}-{form.__name__}" for key, _, form in WRONG]
)
def test_each_wrong_answer_gets_its_own_hint(key, wrong, form, capsys):
    counted = (
        r" Your test catches \d+ of \d+ wrong functions\." if isinstance(EXERCISES[key], WrittenTest) else ""
    )
    assert check(key, form) == HINT
    assert re.fullmatch(f"{re.escape(f'{key} hint. {wrong.hint}')}{counted}\n", capsys.readouterr().out)
    assert [other.hint for other in EXERCISES[key].wrong_answers].count(wrong.hint) == 1


def test_every_exercise_knows_wrong_answers():
    assert EXERCISES and all(len(exercise.wrong_answers) >= 2 for exercise in EXERCISES.values())


class Odd:
    """Compares with nothing and cannot be written down."""

    def __eq__(self, other):
        raise RuntimeError("no")

    def __repr__(self):
        raise RuntimeError("no")


def loops(*_):
    return loops()


@pytest.mark.parametrize(
    "answer",
    [
        3,
        "text",
        lambda: 1,
        lambda *_: Odd(),
        lambda *_: [Odd()],
        lambda *_: float("nan"),
        lambda *_: 1 / 0,
        lambda *_: 10**5000,
        lambda *_: sys.exit(),
        loops,
    ],
)
@pytest.mark.parametrize("key", EXERCISES)
def test_no_answer_makes_a_check_raise(key, answer):
    assert check(key, answer) == HINT


@pytest.mark.parametrize("nothing", [None, ..., stub, lambda *_: None, lambda *_: ...])
@pytest.mark.parametrize("key", EXERCISES)
def test_nothing_is_not_attempted(key, nothing):
    assert check(key, nothing) == NOT_ATTEMPTED


def test_an_exception_is_named_and_says_why(capsys):
    assert check("10.2", lambda model: model.weights) == HINT
    text = capsys.readouterr().out
    assert "raises AttributeError" in text and "has no attribute 'weights'" in text


def test_an_exception_that_cannot_be_read_is_named(capsys):
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no")

    def raises(*_):
        raise Mute

    assert check("10.2", raises) == HINT
    assert "raises Mute for" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "answer", "told"),
    [
        ("02.1", lambda X, E: E.T @ X[:, :-1], "a tensor of shape (2, 2), not (2, 3)"),
        ("01.1", lambda W, X: X @ W.T + torch.eye(len(X), len(W)), "[-28, 1]]), not tensor([[30, -9]"),
        (
            "09.1",
            lambda *a: EXERCISES["09.1"].solution(*a) + torch.eye(16),
            "16 of 256 numbers are wrong: [0, 0]",
        ),
        (
            "05.2",
            lambda validation, test: test[0],
            "tensor([0.52, 0.61, 0.66]), not tensor([0.3, 0.7, 0.88])",
        ),
        ("07.2", lambda x, code: (x - code).abs().argmin(), ": right, but a tensor; `.item()`"),
        ("06.1", lambda *a: EXERCISES["06.1"].solution(*a).item(), "right, but a plain number"),
        ("06.3", lambda prompt, answer, end: ([*prompt, *answer, end], [0]), "[0]), not ([5"),
        ("07.3", lambda W, code, size: (W.int(), W.view(-1, size).abs().amax(1)), "as item 0 a tensor of"),
    ],
)
def test_an_unknown_mistake_is_shown_where_it_is(key, answer, told, capsys):
    assert check(key, answer) == HINT
    assert told in capsys.readouterr().out


def test_text_holds_no_memory_address(capsys):
    check("10.2", lambda model: object())
    text = capsys.readouterr().out
    assert "<object object>" in text and "0x" not in text


def test_a_result_that_cannot_be_compared_is_told(capsys):
    assert check("02.1", lambda X, E: EXERCISES["02.1"].solution(X, E).to("meta")) == HINT
    assert "02.1 hint. What your function returns cannot be compared: Tensor on" in capsys.readouterr().out


def test_an_exit_is_named_and_an_interrupt_goes_through(capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    assert check("10.2", lambda model: sys.exit("bye")) == HINT
    assert "Your function raises SystemExit for" in capsys.readouterr().out
    with pytest.raises(KeyboardInterrupt):
        check("10.2", interrupted)


def test_an_unknown_exercise_is_named(capsys):
    assert check("10.99", stub) == HINT
    assert check("98.1", stub) == HINT
    assert check(None, stub) == HINT
    assert check(["04.1"], stub) == HINT
    first, second, third, fourth = capsys.readouterr().out.splitlines()
    assert "'10.99'" in first and "10.1, 10.2" in first and "'98.1'" in second and "None" in third
    assert fourth == "There is no exercise ['04.1']; here are: none."


def test_a_check_leaves_the_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    check("10.2", lambda model: torch.rand(()).item())
    assert torch.equal(torch.rand(3), expected)


def test_a_law_is_told_when_it_fails(capsys):
    assert check("08.3", lambda indices: EXERCISES["08.3"].solution(indices).long()) == HINT
    assert "This should hold, and does not yet: each pair takes one byte" in capsys.readouterr().out


def test_a_change_that_nobody_asked_for_is_told(capsys):
    def freezes(model):
        fraction = EXERCISES["10.2"].solution(model)
        model.requires_grad_(False)
        return fraction

    assert check("10.2", freezes) == HINT
    assert "right, but your function changes `model` in place" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (1, 1.0, True),
        (1.0, 1.001, False),
        (float("nan"), float("nan"), True),
        (True, 1, False),
        (torch.ones(2), torch.ones(2).double(), True),
        (torch.ones(2), torch.ones(1, 2), False),
        ((1, torch.zeros(1)), [1.0, torch.zeros(1)], True),
        ([1], [1, 2], False),
        ("a", "a", True),
    ],
)
def test_same(a, b, expected):
    assert same(a, b) is expected


@pytest.mark.parametrize("key", EXERCISES)
def test_cases_are_fresh_at_each_call(key):
    cases = EXERCISES[key].cases
    for first, second in zip(cases(), cases(), strict=True):
        pairs = zip(first, second, strict=True)
        assert all(isinstance(a, int | float | str) or a is not b for a, b in pairs)
