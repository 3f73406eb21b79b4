"""Check a learner's function, and say what kind of mistake it makes.

An exercise knows a reference solution, inputs to try, and the wrong answers that learners give. The
learner's function is run on the inputs. If its results are those of a known wrong answer, the hint names the
misconception behind it. The exercises of notebook NN are in ``exercises/nNN.py``, loaded when asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
import reprlib
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch


class Status(str):
    """A status that a cell does not show a second time, below the sentence that `check` prints."""

    __slots__ = ()

    def _ipython_display_(self) -> None:
        pass


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 70
PASS, HINT, NOT_ATTEMPTED = Status("pass"), Status("hint"), Status("not attempted")


@dataclass(frozen=True)
class WrongAnswer:
    """A function that learners write, and the hint that names its misconception."""

    function: Callable
    hint: str


@dataclass(frozen=True)
class Law:
    """A property that every right answer has, whatever its input; `holds(function)` says whether it does."""

    statement: str
    holds: Callable[[Callable], bool]


@dataclass(frozen=True)
class Exercise:
    """What `check` needs to know.

    Parameters
    ----------
    solution : callable
        The reference answer.
    cases : callable
        Returns fresh argument tuples at each call, always the same ones.
    wrong_answers : tuple of WrongAnswer
        Each differs from `solution`, and from the others, on at least one case.
    laws : tuple of Law
        Tried after the cases.
    """

    solution: Callable
    cases: Callable[[], Iterable[tuple]]
    wrong_answers: tuple[WrongAnswer, ...] = ()
    laws: tuple[Law, ...] = ()


@dataclass(frozen=True)
class Raised:
    """The outcome of a call that raised; two are equal when the exception's type is."""

    name: str


def load_exercises(notebook: str) -> dict[str, Exercise]:
    """The exercises of one notebook (``"10"``) by id; empty if it has none."""
    name = f"lora_edu.classroom.exercises.n{notebook}"
    if importlib.util.find_spec(name) is None:
        return {}
    return importlib.import_module(name).EXERCISES


def same(a: Any, b: Any) -> bool:
    """Equality for results: numbers and tensors to rounding, sequences item by item."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and torch.allclose(
            a.double(), b.double(), rtol=1e-4, atol=1e-6, equal_nan=True
        )
    if _is_number(a) and _is_number(b):
        return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def outcome(function: Callable, arguments: tuple) -> Any:
    """What a call returns, or which exception it raises."""
    try:
        return function(*arguments)
    except Exception as error:
        return Raised(type(error).__name__)


def outcomes(function: Callable, exercise: Exercise) -> list:
    return [outcome(function, arguments) for arguments in exercise.cases()]


def _shorten(value: Any) -> str:
    """A value in one short line; without memory addresses, so that the text is the same at each run."""
    text = _REPR.repr(value)  # unlike repr, does not raise when the value's own __repr__ does
    return textwrap.shorten(re.sub(r" at 0x[0-9a-f]+", "", text), width=70, placeholder=" ...")


def _first_difference(exercise: Exercise, got: list, expected: list) -> str:
    index = next(i for i, (a, b) in enumerate(zip(got, expected, strict=True)) if not same(a, b))
    arguments = ", ".join(map(_shorten, list(exercise.cases())[index]))
    if isinstance(got[index], Raised):
        return f"Your function raises {got[index].name} for ({arguments})."
    return f"For ({arguments}) it returns {_shorten(got[index])}, not {_shorten(expected[index])}."


def _is_empty(result: Any) -> bool:
    if isinstance(result, Raised):
        return result.name == "NotImplementedError"
    return result is None or result is ...


def examine(exercise: Exercise, function: Any) -> tuple[Status, str]:
    """The status of a learner's function and one sentence about it."""
    if function is None or function is ...:
        return NOT_ATTEMPTED, "Fill in the function above, run its cell, then run this one."
    if not callable(function):
        return HINT, f"Pass the function itself, not its result. This is of type {type(function).__name__}."
    with torch.random.fork_rng(devices=[]):  # a check must not move the learner's random numbers
        got, expected = outcomes(function, exercise), outcomes(exercise.solution, exercise)
        if all(map(_is_empty, got)):
            return NOT_ATTEMPTED, "The function returns nothing yet. Fill it in, run its cell, then this one."
        if not all(map(same, got, expected)):
            for wrong in exercise.wrong_answers:
                if all(map(same, got, outcomes(wrong.function, exercise))):
                    return HINT, wrong.hint
            return HINT, _first_difference(exercise, got, expected)
        for law in exercise.laws:
            if outcome(law.holds, (function,)) is not True:
                return HINT, f"This should hold, and does not yet: {law.statement}"
    return PASS, "Right."


def check(exercise_id: str, function: Any) -> Status:
    """Print and return how far an answer is: ``"not attempted"``, ``"hint"`` or ``"pass"``. Never raises.

    Parameters
    ----------
    exercise_id : str
        Notebook and number, such as ``"10.1"``.
    function : callable
        The learner's function. None, ``...`` and a stub that raises NotImplementedError are not attempted.
    """
    exercises = load_exercises(exercise_id.split(".")[0]) if isinstance(exercise_id, str) else {}
    if exercise_id not in exercises:
        print(f"There is no exercise {exercise_id!r}; here are: {', '.join(exercises) or 'none'}.")
        return HINT
    status, sentence = examine(exercises[exercise_id], function)
    print(f"{exercise_id} {status}. {sentence}")
    return status
