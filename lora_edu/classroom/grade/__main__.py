"""``python -m lora_edu.classroom.grade FOLDER``: grade what each student handed in."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from lora_edu.classroom.grade.course import Task, read_course
from lora_edu.classroom.grade.guards import private_memory
from lora_edu.classroom.grade.hand_in import read, students
from lora_edu.classroom.grade.marks import NOT_RUN, Limits, Mark, grade, passed
from lora_edu.classroom.grade.report import check_output, one_line, write_report
from lora_edu.classroom.grade.sandbox import Sandbox, find_sandbox
from lora_edu.classroom.language import ENGLISH, VARIABLE
from lora_edu.llm.console import say

GIB = 1 << 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Grade; return 0 once every student is dealt with, 2 if grading cannot start, 130 if it was interrupted."""
    options = _parser().parse_args(arguments)
    try:
        tasks = chosen(read_course(), options.notebooks, options.exercises)
        found = students(options.folder)
        output = check_output(options.output or options.folder)
        memory, seconds = int(options.memory * GIB), int(options.student_seconds) + 60
        sandbox, warning = find_sandbox(options.folder, memory, seconds, options.unsafe)
    except (ValueError, OSError) as error:
        say(str(error), sys.stderr)
        return 2
    if warning:
        say(f"Warning: {warning}", sys.stderr)
    marks, notes, limits = [], {}, Limits(options.seconds, options.student_seconds)
    interrupted = False
    with private_memory():
        try:
            for student, paths in found.items():
                its, notes[student] = _dealt_with(student, paths, tasks, sandbox, limits)
                marks += its
                say(f"{one_line(student)}: {len(list(passed(its)))} of {len(tasks)} passed")
        except KeyboardInterrupt:
            interrupted = True
            say(f"Interrupted: {len(notes)} of {len(found)} students are graded.", sys.stderr)
    for path in write_report(output, marks, tasks, notes, sandbox.kind):
        say(f"wrote {path}")
    return 130 if interrupted else 0


def chosen(
    tasks: list[Task], notebooks: Collection[str] | None, exercises: Collection[str] | None
) -> list[Task]:
    """The tasks of these notebooks, or with these ids; all of them where neither is named.

    Raises
    ------
    ValueError
        The course has no such notebook or exercise.
    """
    for option, asked, part in (("notebooks", notebooks, "notebook"), ("exercises", exercises, "exercise")):
        if asked:
            known = {getattr(task, part) for task in tasks}
            if unknown := set(asked) - known:
                raise ValueError(
                    f"--{option} must be among {', '.join(sorted(known))}, got {', '.join(sorted(unknown))}"
                )
            tasks = [task for task in tasks if getattr(task, part) in asked]
    return tasks


def _dealt_with(
    student: str, paths: list[Path], tasks: list[Task], sandbox: Sandbox, limits: Limits
) -> tuple[list[Mark], list[str]]:
    """The marks of one student and notes on the hand-in; a fault of the grader's own costs this student alone."""
    try:
        hand_in = read(student, paths, {task.notebook for task in tasks})
        return grade(hand_in, tasks, sandbox, limits), hand_in.notes
    except Exception as error:
        said = f"the grader failed: {type(error).__name__}: {error}"
        return [Mark(student, task.exercise, NOT_RUN, said) for task in tasks], [said]


def _positive(text: str) -> float:
    if not 0 < (value := float(text)) < 1e6:
        raise argparse.ArgumentTypeError(f"must be above 0 and below a million, got {text}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lora_edu.classroom.grade",
        description="Grade the exercises of a class without running its notebooks: docs/teaching/grading.md.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="one folder or zip file a student in it")
    parser.add_argument("--output", type=Path, help="where grades.csv and grades.html go; default: FOLDER")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--notebooks", nargs="+", metavar="NN", help="only these, such as 04 05b")
    part.add_argument("--exercises", nargs="+", metavar="NN.k", help="only these, such as 04.1 07.2")
    parser.add_argument("--seconds", type=_positive, default=20, help="for an exercise; default 20")
    parser.add_argument("--student-seconds", type=_positive, default=120, help="for a student; default 120")
    parser.add_argument(
        "--memory", type=_positive, default=2, help="GiB that a student's code may take; default 2"
    )
    parser.add_argument(
        "--unsafe",
        action="store_true",
        help="grade without a sandbox, where there is none: on a machine to lose",
    )
    return parser


if __name__ == "__main__":
    torch.set_num_threads(1)  # under `bounded_memory` OpenMP ends a process that gets no memory for a thread
    os.environ[VARIABLE] = ENGLISH  # the marks of a class are in one language, wherever the grader stands
    sys.exit(main())
