"""Check a learner's function, and say what kind of mistake it makes.

An exercise knows a reference solution, inputs to try, and the wrong answers that learners give. The
learner's function is run on the inputs. If its results are those of a known wrong answer, the hint names the
misconception behind it. The exercises of notebook NN are in ``exercises/nNN.py``, and those whose answer is a test or
the repair of a fault in ``exercises/nNN_tests.py``; they are loaded when asked for.

`calls` runs a function and sees what it does; `values` compares results and describes them; `written_tests` judges a
test that a learner writes.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import itertools
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from lora_edu.classroom.calls import Call, call, outcome, why
from lora_edu.classroom.card import show
from lora_edu.classroom.language import label, say, text, to_translate
from lora_edu.classroom.progress import keep_progress
from lora_edu.classroom.values import (
    LINE,
    Raised,
    alike,
    difference,
    factor,
    listed,
    one_line,
    same,
    shorten,
    without_addresses,
)


class Status(str):
    """A status that a cell does not show a second time, below the sentence that `check` prints."""

    __slots__ = ()

    def _ipython_display_(self) -> None:
        pass


PASS, HINT, NOT_ATTEMPTED = map(Status, to_translate("pass", "hint", "not attempted"))
PRINTED_LINES = 8  # of what a function prints, so many are shown again below its verdict


@dataclass(frozen=True)
class WrongAnswer:
    """A function that learners write, the hint that names its misconception, and other forms of the mistake."""

    function: Callable
    hint: str
    others: tuple[Callable, ...] = ()


@dataclass(frozen=True)
class Law:
    """A property that every right answer has.

    Parameters
    ----------
    statement : str
        The property in words.
    holds : callable
        ``holds(function, *arguments)`` says whether it holds for one case's arguments.
    of_process : bool
        Whether it looks at the process in which the function runs (its memory, its random numbers), not at results
        alone. Who runs the function elsewhere has that process's word for it.
    """

    statement: str
    holds: Callable[..., bool]
    of_process: bool = False


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
        Tried after the cases, each on fresh arguments of every case.
    may_change : frozenset of str
        What of its arguments a right answer changes, if the exercise asks for that: ``"requires_grad"`` of a
        model's parameters, say. All else must be as it was.
    planted : callable or None
        What stands in the notebook, if that is no empty stub but a function with a fault to be found.
    symptom : str
        How that fault is seen: told while the results are still the planted function's.
    """

    solution: Callable
    cases: Callable[[], Iterable[tuple]]
    wrong_answers: tuple[WrongAnswer, ...] = ()
    laws: tuple[Law, ...] = ()
    may_change: frozenset[str] = frozenset()
    planted: Callable | None = None
    symptom: str = ""

    def calls(self, function: Callable) -> list[Call]:
        """What a function does in each case."""
        return [call(function, arguments) for arguments in self.cases()]

    def values(self, function: Callable) -> list:
        """What it returns in each case, or which exception it raises."""
        return [outcome(function, arguments) for arguments in self.cases()]

    def judge(self, function: Callable, made: list[Call]) -> tuple[Status, str]:
        """The status of a function that did `made`, and one sentence about it."""
        return _verdict(self, function, made)


def load_exercises(notebook: str) -> dict[str, Exercise]:
    """The exercises of one notebook (``"10"``, ``"05b"``) by id; empty if it has none."""
    if not notebook.removesuffix("b").isdigit():
        return {}
    names = [f"lora_edu.classroom.exercises.n{notebook}{more}" for more in ("", "_tests")]
    modules = [importlib.import_module(name) for name in names if importlib.util.find_spec(name)]
    found = {key: exercise for module in modules for key, exercise in module.EXERCISES.items()}
    return {key: _in_language(key, exercise) for key, exercise in found.items()}


def _in_language(key: str, exercise: Exercise) -> Exercise:
    """The exercise with hints and laws in the language of this process."""
    hints, laws = f"exercise {key} hint", f"exercise {key} law"
    return replace(
        exercise,
        wrong_answers=tuple(replace(w, hint=text(hints, w.hint)) for w in exercise.wrong_answers),
        laws=tuple(replace(law, statement=text(laws, law.statement)) for law in exercise.laws),
        symptom=text(f"exercise {key} symptom", exercise.symptom) if exercise.symptom else "",
    )


def _is_empty(result: Any) -> bool:
    if isinstance(result, Raised):
        return result.name == "NotImplementedError"
    return result is None or result is ...


def _quoted(made: list[Call]) -> str:
    """What the first call that prints has printed, in one line."""
    printed = next(call.printed for call in made if call.printed.strip())
    return textwrap.shorten(without_addresses(printed), width=LINE, placeholder=" ...")


def _changed_names(exercise: Exercise, made: list[Call], allowed: frozenset[str] = frozenset()) -> str:
    """The arguments that are others after the calls, in what is not allowed to change; empty if none is."""
    names = list(inspect.signature(exercise.solution).parameters)
    positions = {position for call in made for position, kind in call.changed if kind not in allowed}
    return say(" and ").join(f"`{names[position]}`" for position in sorted(positions))


def _nothing_returned(exercise: Exercise, made: list[Call]) -> tuple[Status, str]:
    if any(call.printed.strip() for call in made):
        return HINT, say("Your function prints {quoted}; the check needs `return`.", quoted=_quoted(made))
    if changed := _changed_names(exercise, made):
        return (
            HINT,
            say(
                "Your function changes {changed} in place and returns nothing; the check needs `return`.",
                changed=changed,
            ),
        )
    if any(isinstance(call.value, Raised) for call in made):
        return NOT_ATTEMPTED, say(
            "The function returns nothing yet. Fill it in, run its cell, then this one."
        )
    return NOT_ATTEMPTED, say("The function ends without `return`, so it returns nothing. Return the result.")


def faulty(exercise_id: str) -> Callable:
    """The function with the fault, as the notebook's cell holds it: to see its symptom before anything is mended.

    Raises
    ------
    KeyError
        No exercise of this id starts from a planted fault.
    """
    function = _exercises_beside(exercise_id)[exercise_id].planted
    if function is None:
        raise KeyError(f"exercise {exercise_id} has no planted fault")
    return function


def _exercises_beside(exercise_id: Any) -> dict[str, Exercise]:
    """Those of the notebook that an id names, and of its second half if it has one."""
    number = exercise_id.split(".")[0] if isinstance(exercise_id, str) else ""
    return load_exercises(number) | load_exercises(f"{number}b")


def known_mistake(exercise: Exercise, got: list, expected: list) -> str | None:
    """The hint of the wrong answer that gives these results on all cases."""
    for wrong in exercise.wrong_answers:
        for form in (wrong.function, *wrong.others):
            theirs = exercise.values(form)
            if all(map(alike, got, theirs)) and _tells_them_apart(got, theirs, expected):
                return wrong.hint
    return None


def _tells_them_apart(got: list, theirs: list, expected: list) -> bool:
    """Whether results agree in more than the type of an exception: in a wrong value, or in what exceptions say."""
    wrong_values = (
        not isinstance(a, Raised) and not same(a, b) for a, b in zip(theirs, expected, strict=True)
    )
    messages = ([r.message for r in results if isinstance(r, Raised)] for results in (got, theirs))
    return any(wrong_values) or len({tuple(each) for each in messages}) == 1


def _by_shape(arguments: str) -> bool:
    """Whether a line of arguments names a tensor by its shape alone."""
    return say("tensor of shape {shape}", shape="") in arguments


def _first_difference(exercise: Exercise, made: list[Call], expected: list) -> str:
    """What is wrong in the case that takes least room to be told."""
    wrong = [i for i, call in enumerate(made) if not same(call.value, expected[i])]
    arguments = [listed(arguments) for arguments in exercise.cases()]
    index = min(wrong, key=lambda i: (_by_shape(arguments[i]), len(arguments[i])))
    got, given = made[index].value, arguments[index]
    if isinstance(got, Raised):
        told = say("Your function raises {error} for {given}.", error=got.name, given=given)
        return f"{told} {why(got)}".rstrip()
    if got is None and made[index].printed.strip():
        quoted = _quoted([made[index]])
        return say(
            "For {given} it prints {quoted} and returns nothing; the check needs `return`.",
            given=given,
            quoted=quoted,
        )
    if got is None:
        return say("For {given} it ends without `return`, so it returns nothing.", given=given)
    told = say("For {given} it returns {this}.", given=given, this=difference(got, expected[index]))
    multiple = factor([call.value for call in made], expected)
    if not multiple:
        return told
    return f"{told} " + say("Each result is {multiple} times the right one.", multiple=f"{multiple:.6g}")


def _what_it_printed(made: list[Call]) -> str:
    """What the function printed in the first case that prints, below its verdict."""
    lines = next((call.printed for call in made if call.printed.strip()), "").rstrip().splitlines()
    more = ["..."] if len(lines) > PRINTED_LINES else []
    return (
        "".join(f"\n  {line}" for line in [say("It printed:"), *lines[:PRINTED_LINES], *more])
        if lines
        else ""
    )


def examine(exercise: Exercise, function: Any) -> tuple[Status, str]:
    """The status of a learner's function and one sentence about it."""
    if function is None or function is ...:
        return NOT_ATTEMPTED, say("Fill in the function above, run its cell, then run this one.")
    if not callable(function):
        kind = type(function).__name__
        return HINT, say("Pass the function itself, not its result. This is of type {kind}.", kind=kind)
    with torch.random.fork_rng(devices=[]):  # a check must not move the learner's random numbers
        made = exercise.calls(function)
        if all(_is_empty(call.value) for call in made):
            return _nothing_returned(exercise, made)
        status, sentence = exercise.judge(function, made)
    return status, sentence + without_addresses(_what_it_printed(made))


def _verdict(exercise: Exercise, function: Callable, made: list[Call]) -> tuple[Status, str]:
    got, expected = [call.value for call in made], exercise.values(exercise.solution)
    if not all(map(same, got, expected)):
        if exercise.planted and all(map(alike, got, exercise.values(exercise.planted))):
            return NOT_ATTEMPTED, say("The fault is still in: {symptom}", symptom=exercise.symptom)
        return HINT, known_mistake(exercise, got, expected) or _first_difference(exercise, made, expected)
    if law := _broken_law(exercise, function, len(made)):
        return HINT, say("This should hold, and does not yet: {law}", law=law.statement)
    if changed := _changed_names(exercise, made, exercise.may_change):
        told = say("The result is right, but your function changes {changed} in place.", changed=changed)
        advice = say("Leave it as it was: `+=` and methods whose name ends in `_` write into it.")
        return HINT, f"{told} {advice}"
    return PASS, say("Right.")


def _broken_law(exercise: Exercise, function: Callable, cases: int) -> Law | None:
    """The first law that does not hold, on fresh arguments of each case."""
    for index, law in itertools.product(range(cases), exercise.laws):
        arguments = list(exercise.cases())[index]
        held = call(law.holds, (function, *arguments)).value
        if isinstance(held, Raised) or not held:
            return law
    return None


def check(exercise_id: str, function: Any) -> Status:
    """Show and return how far an answer is: ``"not attempted"``, ``"hint"`` or ``"pass"``.

    A notebook shows a card, a terminal prints. Beside the working copies the answer is noted (`progress`).
    Never raises, whatever it is given and the function does; an interrupt from the keyboard alone goes through.

    Parameters
    ----------
    exercise_id : str
        Notebook and number, such as ``"10.1"``.
    function : callable
        The learner's function. None, ``...`` and a stub that raises NotImplementedError are not attempted.
    """
    exercises = _exercises_beside(exercise_id)
    if exercise_id not in list(exercises):  # a list, for an id that has no hash
        here = ", ".join(exercises) or say("none")
        show(
            say("There is no exercise {this}; here are: {here}.", this=shorten(exercise_id), here=here), HINT
        )
        return HINT
    try:
        status, sentence = examine(exercises[exercise_id], function)
    except (Exception, SystemExit) as error:  # such as a tensor on another device
        said = say("What your function returns cannot be compared: {error}", error=one_line(error))
        status, sentence = HINT, said
    if status != NOT_ATTEMPTED:
        keep_progress(exercise_id, passed=status == PASS)
    show(f"{exercise_id} {label(status)}. {sentence}", status)
    return status
