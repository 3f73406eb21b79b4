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
from dataclasses import dataclass, field
from typing import Any

import torch


class Status(str):
    """A status that a cell does not show a second time, below the sentence that `check` prints."""

    __slots__ = ()

    def _ipython_display_(self) -> None:
        pass


RELATIVE, ABSOLUTE = 1e-4, 1e-6  # how far a result may be from the solution's
FEW_NUMBERS = 6  # a vector of more, or a matrix, is named by its shape
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
    message: str = field(default="", compare=False)


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
            a.double(), b.double(), rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True
        )
    if _is_number(a) and _is_number(b):
        return math.isclose(a, b, rel_tol=RELATIVE, abs_tol=ABSOLUTE) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def outcome(function: Callable, arguments: tuple) -> Any:
    """What a call returns, or which exception it raises."""
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:
        return Raised(type(error).__name__, _one_line(error))


def outcomes(function: Callable, exercise: Exercise) -> list:
    return [outcome(function, arguments) for arguments in exercise.cases()]


class _Short(reprlib.Repr):
    """Writes values so short that a sentence can hold several; survives a `__repr__` that raises."""

    def __init__(self):
        super().__init__()
        self.maxstring = self.maxother = 70

    def repr_instance(self, x: object, level: int) -> str:
        if isinstance(x, torch.nn.Module):
            return type(x).__name__
        if isinstance(x, torch.Tensor):
            if x.ndim > 1 or x.numel() > FEW_NUMBERS or x.is_meta:
                return f"tensor of shape {tuple(x.shape)}"
            numbers = ", ".join(f"{number:.6g}" for number in x.flatten().tolist())
            return f"tensor([{numbers}])" if x.ndim else f"tensor({numbers})"
        return super().repr_instance(x, level)


_SHORT = _Short()


def _shorten(value: Any) -> str:
    """A value in one short line; without memory addresses, so that the text is the same at each run."""
    text = _SHORT.repr(value)
    return textwrap.shorten(re.sub(r" at 0x[0-9a-f]+", "", text), width=70, placeholder=" ...")


def _one_line(error: BaseException) -> str:
    """What an exception says, as far as it says something."""
    try:
        return textwrap.shorten(re.sub(r" at 0x[0-9a-f]+", "", str(error)), width=120, placeholder=" ...")
    except Exception:
        return ""


def _difference(got: Any, expected: Any) -> str:
    """What came, and what should have come: only where the two part, if they are long."""
    if isinstance(got, torch.Tensor) and isinstance(expected, torch.Tensor):
        return _difference_of_tensors(got, expected)
    if isinstance(got, torch.Tensor) and got.ndim == 0 and same(got.item(), expected):
        return f"{_shorten(got)}, not {_shorten(expected)}: right, but a tensor; `.item()` makes it a plain number"
    if isinstance(expected, torch.Tensor) and expected.ndim == 0 and same(got, expected.item()):
        return f"{_shorten(got)}, not {_shorten(expected)}: right, but a plain number; a tensor is wanted"
    texts = _shorten(got), _shorten(expected)
    if isinstance(got, list | tuple) and isinstance(expected, list | tuple) and len(got) == len(expected):
        index = next(i for i, (a, b) in enumerate(zip(got, expected, strict=True)) if not same(a, b))
        if texts[0] == texts[1] or isinstance(got[index], torch.Tensor):
            return f"as item {index} {_difference(got[index], expected[index])}"
    return f"{texts[0]}, not {texts[1]}"


def _difference_of_tensors(got: torch.Tensor, expected: torch.Tensor) -> str:
    if got.shape != expected.shape:
        return f"a tensor of shape {tuple(got.shape)}, not {tuple(expected.shape)}"
    if got.ndim < 2 and got.numel() <= FEW_NUMBERS:
        return f"{_shorten(got)}, not {_shorten(expected)}"
    a, b = got.double(), expected.double()
    wrong = ~torch.isclose(a, b, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)
    first = wrong.nonzero()[0].tolist()
    found, wanted = a[tuple(first)].item(), b[tuple(first)].item()
    return (
        f"a tensor of the right shape in which {int(wrong.sum())} of {wrong.numel()} numbers are wrong: "
        f"{first} is {found:.6g}, not {wanted:.6g}"
    )


def _first_difference(exercise: Exercise, got: list, expected: list) -> str:
    index = next(i for i, (a, b) in enumerate(zip(got, expected, strict=True)) if not same(a, b))
    arguments = ", ".join(map(_shorten, list(exercise.cases())[index]))
    if isinstance(got[index], Raised):
        return f"Your function raises {got[index].name} for ({arguments}). {got[index].message}".rstrip()
    return f"For ({arguments}) it returns {_difference(got[index], expected[index])}."


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
    """Print and return how far an answer is: ``"not attempted"``, ``"hint"`` or ``"pass"``.

    Never raises, whatever it is given and the function does; an interrupt from the keyboard alone goes through.

    Parameters
    ----------
    exercise_id : str
        Notebook and number, such as ``"10.1"``.
    function : callable
        The learner's function. None, ``...`` and a stub that raises NotImplementedError are not attempted.
    """
    exercises = load_exercises(exercise_id.split(".")[0]) if isinstance(exercise_id, str) else {}
    if exercise_id not in list(exercises):  # a list, for an id that has no hash
        print(f"There is no exercise {_shorten(exercise_id)}; here are: {', '.join(exercises) or 'none'}.")
        return HINT
    try:
        status, sentence = examine(exercises[exercise_id], function)
    except Exception as error:  # such as a tensor on another device
        status, sentence = HINT, f"What your function returns cannot be compared: {_one_line(error)}"
    print(f"{exercise_id} {status}. {sentence}")
    return status
