"""Exercises whose answer is a test: a function that is handed a candidate and says whether it keeps a law.

A learner's test is judged by functions whose worth is known: it should pass every right one and catch every wrong one.
The wrong ones are answers that learners gave to an earlier exercise.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from lora_edu.classroom.calls import Call, call
from lora_edu.classroom.candidates import Candidate, Handed, seeded
from lora_edu.classroom.checks import HINT, PASS, Exercise, Status, WrongAnswer, known_mistake
from lora_edu.classroom.language import any_hint, say
from lora_edu.classroom.values import Raised, shorten

ROUNDS = 3  # each candidate is shown so often, so that guessing does not pay


def written_test(
    *,
    solution: Callable[[Callable], bool],
    right: tuple[Callable, ...],
    wrong: tuple[WrongAnswer, ...],
    weak: tuple[WrongAnswer, ...] = (),
) -> Exercise:
    """An exercise whose answer is a test: a function that is handed a candidate and says whether it keeps a law.

    Parameters
    ----------
    solution : callable
        Our test. It is handed a candidate and returns True or False.
    right : tuple of callable
        Functions that keep the law, at least two that round differently. The time and memory that a candidate takes
        must not grow with the value of a whole number that it is handed: a test may hand it any.
    wrong : tuple of WrongAnswer
        Functions that break it, with what their authors were told; normally `chosen` from an earlier exercise.
    weak : tuple of WrongAnswer
        Tests that learners write and that catch too little or fail a right function, with the hint that says why.
        Not those that pass every function, or none: of these nobody can tell why.
    """
    return WrittenTest(
        solution=solution,
        cases=lambda: [(_handed(each),) for each in (*right, *(answer.function for answer in wrong))],
        wrong_answers=weak,
        right=right,
        wrong=wrong,
    )


def chosen(exercise: Exercise, *names: str) -> tuple[WrongAnswer, ...]:
    """The wrong answers of an exercise whose functions have these names.

    Raises
    ------
    KeyError
        It has none of that name.
    """
    found = {answer.function.__name__: answer for answer in exercise.wrong_answers}
    return tuple(found[name] for name in names)


def _handed(function: Callable) -> Handed:
    return Handed(Candidate(function).answer)


@dataclass(frozen=True)
class WrittenTest(Exercise):
    """What `check` needs to know of an exercise that `written_test` makes; its cases are the candidates."""

    right: tuple[Callable, ...] = ()
    wrong: tuple[WrongAnswer, ...] = ()

    def calls(self, function: Callable) -> list[Call]:
        """What a test does with each candidate: of several rounds, each in another order, its worst."""
        made: list[list[Call]] = [[] for _ in self._expected()]
        for _ in range(ROUNDS):
            cases = list(enumerate(self.cases()))
            random.SystemRandom().shuffle(cases)
            for index, arguments in cases:
                with seeded():
                    made[index].append(call(function, arguments))
        return [_worst(calls, expected) for calls, expected in zip(made, self._expected(), strict=True)]

    def values(self, function: Callable) -> list:
        """Which candidates a test passes: those for which it returns True."""
        return [made.value is True for made in self.calls(function)]

    def judge(self, function: Callable, made: list[Call]) -> tuple[Status, str]:
        """How many wrong candidates a test catches, and whether it passes every right one."""
        passes, expected = [each.value is True for each in made], self._expected()
        caught = [not each for each in passes[len(self.right) :]]
        count = say(
            "Your test catches {caught} of {all} wrong functions.", caught=sum(caught), all=len(caught)
        )
        if passes == expected:
            return PASS, f"{say('Right.')} {count}"
        failed = [each for each in made[: len(self.right)] if each.value is not True]
        if broken := [each for each in failed if not _decides(each)]:
            return HINT, f"{say('Your test fails a right function:')} {_told(broken[0])}"
        if not any(passes):
            return HINT, _passes_none(failed[0])
        if all(passes):
            return HINT, f"{say('Your test passes every function.')} {self._slips(caught)}"
        if hint := known_mistake(self, passes, expected):
            return HINT, f"{hint} {count}"
        if failed:
            room = say("Right functions round differently: do your limits leave room?")
            return HINT, f"{say('Your test fails a right function:')} {_told(failed[0])} {room} {count}"
        return HINT, f"{count} {self._slips(caught)}"

    def _expected(self) -> list[bool]:
        return [True] * len(self.right) + [False] * len(self.wrong)

    def _slips(self, caught: list[bool]) -> str:
        """One wrong candidate that slips through, by what its author was told."""
        answer = next(answer for answer, is_caught in zip(self.wrong, caught, strict=True) if not is_caught)
        return say('One that slips through would be told: "{hint}"', hint=any_hint(answer.hint))


def _worst(calls: list[Call], expected: bool) -> Call:
    """The first call that does not say what it should; any of them if there is none."""
    return next((made for made in calls if (made.value is True) is not expected), calls[0])


def _decides(made: Call) -> bool:
    """Whether a test has come to a judgement: False, or an assertion that fails."""
    return made.value is False or (isinstance(made.value, Raised) and made.value.name == "AssertionError")


def _passes_none(first: Call) -> str:
    """What is said of a test that fails all candidates, by what it does with the first right one."""
    told = say("Your test passes no function, not even a right one:")
    why = say("Is a limit too small, do two shapes not match, or does the law ask for something else?")
    return f"{told} {_told(first)} {why}"


def _told(made: Call) -> str:
    """What a test does with a right candidate, instead of passing it."""
    if isinstance(made.value, Raised):
        return f"{say('it raises {name}.', name=made.value.name)} {made.value.message}".rstrip()
    if made.value is None:
        return say("it ends without `return`. Where all is well, `return True` at its end.")
    if made.value is False:
        return say("it returns False.")
    return say(
        "it returns {value}. Return True or False; `bool(...)` makes one of it.", value=shorten(made.value)
    )
