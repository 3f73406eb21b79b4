"""``python -m lora_edu.classroom.grade FOLDER``: grade what each student handed in."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lora_edu.classroom.grade.course import read_course
from lora_edu.classroom.grade.guards import keep_memory_private
from lora_edu.classroom.grade.hand_in import read, students
from lora_edu.classroom.grade.marks import Limits, grade, passed
from lora_edu.classroom.grade.report import check_output, one_line, write_report
from lora_edu.classroom.grade.sandbox import find_sandbox
from lora_edu.llm.console import say

GIB = 1 << 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Grade; return 0 once every student is dealt with, 2 if grading cannot start."""
    options = _parser().parse_args(arguments)
    try:
        tasks = read_course()
        if options.notebooks:
            tasks = [task for task in tasks if task.notebook in options.notebooks]
        found = students(options.folder)
        output = check_output(options.output or options.folder)
        memory, seconds = int(options.memory * GIB), int(options.student_seconds) + 60
        sandbox, warning = find_sandbox(options.folder, memory, seconds, options.unsafe)
    except (ValueError, OSError) as error:
        say(str(error), sys.stderr)
        return 2
    if warning:
        say(f"Warning: {warning}", sys.stderr)
    keep_memory_private()
    marks, notes, limits = [], {}, Limits(options.seconds, options.student_seconds)
    for student, paths in found.items():
        hand_in = read(student, paths, {task.notebook for task in tasks})
        marks += (its := grade(hand_in, tasks, sandbox, limits))
        notes[student] = hand_in.notes
        say(f"{one_line(student)}: {len(list(passed(its)))} of {len(tasks)} passed")
    for path in write_report(output, marks, tasks, notes, sandbox.kind):
        say(f"wrote {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lora_edu.classroom.grade",
        description="Grade the exercises of a class without running its notebooks: docs/teaching/grading.md.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="one folder or zip file a student in it")
    parser.add_argument("--output", type=Path, help="where grades.csv and grades.html go; default: FOLDER")
    parser.add_argument("--notebooks", nargs="+", metavar="NN", help="only these, such as 04 05b")
    parser.add_argument("--seconds", type=float, default=20, help="for an exercise; default 20")
    parser.add_argument("--student-seconds", type=float, default=120, help="for a student; default 120")
    parser.add_argument(
        "--memory", type=float, default=2, help="GiB that a student's code may take; default 2"
    )
    parser.add_argument(
        "--unsafe",
        action="store_true",
        help="grade without a sandbox, where there is none: on a machine to lose",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
