"""Grade one student, exercise by exercise."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from lora_edu.classroom.checks import HINT, NOT_ATTEMPTED, PASS, WrongAnswer, examine
from lora_edu.classroom.grade.course import Task
from lora_edu.classroom.grade.hand_in import HandIn
from lora_edu.classroom.grade.remote import Remote
from lora_edu.classroom.grade.sandbox import Child, ChildLost, Sandbox
from lora_edu.classroom.values import one_line
from lora_edu.classroom.wire import BrokenProtocol, Decoder

MISSING, UNREADABLE, ERROR = "missing", "unreadable", "error"
TOO_SLOW, STOPPED, NOT_RUN = "too slow", "stopped", "not run"
STATUSES = (str(PASS), str(HINT), str(NOT_ATTEMPTED), MISSING, UNREADABLE, ERROR, TOO_SLOW, STOPPED, NOT_RUN)

RESULTS = "results"
WORD = "results; memory and random numbers by the word of the student's process"


@dataclass(frozen=True)
class Mark:
    """What one student has in one exercise.

    Parameters
    ----------
    student, exercise : str
        Whose, and which.
    status : str
        One of `STATUSES`; only ``"pass"`` counts.
    said : str
        The sentence about it, hints included.
    misconception : str
        The hint of the recorded wrong answer that it is; empty if it is none.
    rests_on : str
        What the status rests on: `RESULTS`, or `WORD` where a law looks at the student's process itself.
    """

    student: str
    exercise: str
    status: str
    said: str
    misconception: str = ""
    rests_on: str = RESULTS


@dataclass(frozen=True)
class Limits:
    """Seconds that an exercise may take in the child, and those of all of a student's exercises."""

    exercise: float = 20.0
    student: float = 120.0


def grade(hand_in: HandIn, tasks: list[Task], sandbox: Sandbox, limits: Limits) -> list[Mark]:
    """The marks of one student, one for each task; whatever the hand-in holds."""
    counts = any(_rests_on(task) == WORD and task.notebook in hand_in.notebooks for task in tasks)
    grader = _Grader(hand_in, replace(sandbox, counts=counts), limits)
    try:
        return [grader.mark(task) for task in tasks]
    finally:
        grader.close()


class _Grader:
    """One student, and the child that runs the student's code: another one when it is lost."""

    def __init__(self, hand_in: HandIn, sandbox: Sandbox, limits: Limits):
        self._hand_in, self._sandbox, self._limits = hand_in, sandbox, limits
        self._child: Child | None = None
        self._notebook: tuple[str, str | None] | None = None
        self._left = limits.student

    def close(self) -> None:
        if self._child:
            self._child.close()
        self._child = self._notebook = None

    def mark(self, task: Task) -> Mark:
        notebook = self._hand_in.notebooks.get(task.notebook)
        if notebook is None:
            return self._mark(task, MISSING, f"notebook {task.notebook} is not there")
        if isinstance(notebook, str):
            return self._mark(task, UNREADABLE, f"notebook {task.notebook}: {notebook}")
        if self._left <= 0:
            return self._mark(
                task, NOT_RUN, f"the {self._limits.student:.0f} seconds of this student are over"
            )
        return self._timed(task, notebook)

    def _timed(self, task: Task, notebook: bytes) -> Mark:
        start = time.monotonic()
        try:
            return self._examined(task, notebook)
        except (ChildLost, BrokenProtocol) as error:
            return self._lost(task, str(error))
        except (Exception, SystemExit) as error:  # such as a result that cannot be compared
            return self._mark(
                task, str(HINT), f"What the function returns cannot be compared: {one_line(error)}"
            )
        finally:
            if self._child and self._child.lost:
                self.close()
            self._left -= time.monotonic() - start

    def _examined(self, task: Task, notebook: bytes) -> Mark:
        child = self._ready(task, notebook)
        if self._notebook and self._notebook[1]:
            return self._mark(task, UNREADABLE, f"notebook {task.notebook}: {self._notebook[1]}")
        function, fault = self._defined(child, task)
        if function is _NOWHERE:
            told = fault or f"no cell defines {task.name}"
            return self._mark(task, ERROR if fault else MISSING, told)
        status, said = examine(task.checked, function)
        if child.lost:
            return self._lost(task, child.lost)
        if fault and status != PASS:
            said = f"{said} ({fault})"
        known = _misconception(task, said) if status == HINT else None
        return self._mark(task, str(status), said, known.hint if known else "", _rests_on(task))

    def _ready(self, task: Task, notebook: bytes) -> Child:
        """A child that has read the task's notebook."""
        if self._child is None:
            self._child = Child(self._sandbox)
        self._child.seconds = min(self._limits.exercise, max(1.0, self._left))
        if self._notebook is None or self._notebook[0] != task.notebook:
            header, _ = self._child.ask({"do": "notebook"}, notebook)
            fault = header.get("fault")
            self._notebook = task.notebook, None if fault is None else str(fault)[:200]
        return self._child

    def _defined(self, child: Child, task: Task) -> tuple[Any, str]:
        """The function as it is called here, and what went wrong while the child defined it."""
        request = {"do": "define", "name": task.name, "imports": task.imports, "stub": task.stub}
        header, body = child.ask(request)
        fault = header.get("fault")
        fault = fault[:300] if isinstance(fault, str) else ""
        if not header.get("found"):
            return _NOWHERE, fault
        if header.get("kind") == "callable":
            return Remote(child), fault
        return Decoder(body).decode(header.get("value")), fault

    def _lost(self, task: Task, why: str) -> Mark:
        if why == TOO_SLOW:
            return self._mark(task, TOO_SLOW, f"over {self._limits.exercise:.0f} seconds")
        return self._mark(task, STOPPED, f"its process {why}")

    def _mark(self, task: Task, status: str, said: str, *more: str) -> Mark:
        return Mark(self._hand_in.student, task.exercise, status, said, *more)


_NOWHERE = object()
"""In place of a function that no cell defines."""


def _misconception(task: Task, said: str) -> WrongAnswer | None:
    """The recorded wrong answer whose hint was given."""
    return next((wrong for wrong in task.checked.wrong_answers if said.startswith(wrong.hint)), None)


def _rests_on(task: Task) -> str:
    return WORD if any(law.of_process for law in task.checked.laws) else RESULTS


def passed(marks: list[Mark]) -> Iterator[Mark]:
    """Those that count."""
    return (mark for mark in marks if mark.status == PASS)
