"""Write the marks down: grades.csv, a line a student and exercise, and grades.html, a row a student.

Nothing of a student's is taken for more than text: control characters are left out, HTML is escaped, and what a
spreadsheet would take for a formula begins with an apostrophe. The CSV begins with the mark by which spreadsheets know
UTF-8.
"""

from __future__ import annotations

import csv
import html
import io
import os
import unicodedata
from collections import Counter
from pathlib import Path

from lora_edu.classroom.grade.course import Task
from lora_edu.classroom.grade.marks import RESULTS, Mark, passed
from lora_edu.llm.files import PARTIAL, write_text

COLUMNS = ("student", "exercise", "status", "points", "said", "misconception", "rests on")
LONGEST = 400  # characters of a sentence
FORMULA = tuple("=+-@＝＋－＠")  # what a cell begins with that a spreadsheet computes
JOINERS = "\u200c\u200d"  # invisible characters that names and emoji are written with
BOM = "\ufeff"
SIGNS = {"pass": "✓", "hint": "➜", "not attempted": "○", "missing": "·"}

STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem }
table { border: solid #8886; border-width: 1px 0 0 1px; border-spacing: 0; font-size: 13px }
th, td { border: solid #8886; border-width: 0 1px 1px 0; padding: 3px 7px; text-align: left; vertical-align: top }
.wide { overflow-x: auto } .wide td { white-space: nowrap }
td.pass { background: #009e7333 } td.hint { background: #e69f0033 } td.fault { background: #d55e0033 }
.wide th[scope=row] { position: sticky; left: 0; background: Canvas; min-width: 7rem; overflow-wrap: anywhere }
summary { cursor: pointer } details[open] { width: 16rem; white-space: normal } small { font-weight: normal }
h3 { font-size: 15px; margin: 1rem 0 4px }
"""


def one_line(text: str) -> str:
    """Text as it may stand in a file, a page or a terminal: in one line, without control characters, not too long."""
    kept = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)
    kept = "".join("�" if unicodedata.category(c) in ("Cs", "Cf") and c not in JOINERS else c for c in kept)
    return kept if len(kept) <= LONGEST else f"{kept[:LONGEST]} ..."


def _cell(text: str) -> str:
    """Text that no spreadsheet computes."""
    line = one_line(text)
    return f"'{line}" if line.lstrip().startswith(FORMULA) else line


def as_csv(marks: list[Mark]) -> str:
    """The marks, a line each; `points` is 1 for a pass."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for m in marks:
        points = "1" if m.status == "pass" else "0"
        row = (m.student, m.exercise, m.status, points, m.said, m.misconception, m.rests_on)
        writer.writerow([_cell(value) for value in row])
    return out.getvalue()


def as_html(marks: list[Mark], tasks: list[Task], notes: dict[str, list[str]], sandbox: str) -> str:
    """The page: a row a student, and what the class gets wrong."""
    about = (
        f"{len(notes)} students, {len(tasks)} exercises. Sandbox: {html.escape(one_line(sandbox))}. A mark with * "
        "rests partly on the word of the student's own process (docs/teaching/grading.md)."
    )
    body = [f"<p>{about}</p>", _students(marks, tasks, notes), _class(marks, tasks)]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Grades</title>'
    head += f"<style>{STYLE}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body><h1>Grades</h1>{"".join(body)}</body></html>\n'


def _students(marks: list[Mark], tasks: list[Task], notes: dict[str, list[str]]) -> str:
    by_student: dict[str, list[Mark]] = {}
    for mark in marks:
        by_student.setdefault(mark.student, []).append(mark)
    head = "".join(f'<th scope="col">{html.escape(task.exercise)}</th>' for task in tasks)
    rows = "".join(_row(student, its, by_student.get(student, [])) for student, its in notes.items())
    columns = f'<tr><th scope="col">student</th><th scope="col">passed</th>{head}</tr>'
    return f'<h2>Students</h2><div class="wide" tabindex="0"><table>{columns}{rows}</table></div>'


def _row(student: str, notes: list[str], marks: list[Mark]) -> str:
    small = "".join(f"<br><small>{html.escape(one_line(note))}</small>" for note in notes[:5])
    name = f'<th scope="row">{html.escape(one_line(student))}{small}</th>'
    return f"<tr>{name}<td>{len(list(passed(marks)))}</td>{''.join(map(_square, marks))}</tr>"


def _square(mark: Mark) -> str:
    kind = mark.status if mark.status in ("pass", "hint") else "" if mark.status in SIGNS else "fault"
    star = "" if mark.rests_on == RESULTS else "*"
    sign = f"{SIGNS.get(mark.status, '!')} {html.escape(mark.status)}{star}"
    if mark.status in ("pass", "missing"):
        return f'<td class="{kind}">{sign}</td>'
    said = html.escape(one_line(mark.said))
    return f'<td class="{kind}"><details><summary>{sign}</summary>{said}</details></td>'


def _class(marks: list[Mark], tasks: list[Task]) -> str:
    parts = []
    for task in tasks:
        of_task = [mark for mark in marks if mark.exercise == task.exercise]
        tried = [mark for mark in of_task if mark.status not in ("missing", "not attempted", "unreadable")]
        counted = Counter(_mistake(mark) for mark in tried if mark.status != "pass")
        rows = "".join(
            f"<tr><td>{count}</td><td>{html.escape(one_line(what))}</td></tr>"
            for what, count in counted.most_common()
        )
        title = f"{html.escape(task.exercise)} {html.escape(task.name)}"
        parts.append(f"<h3>{title}: {len(list(passed(tried)))} of {len(tried)} who tried pass</h3>")
        parts.append(f"<table>{rows}</table>" if rows else "")
    return f"<h2>The class: which mistake, how often</h2>{''.join(parts)}"


def _mistake(mark: Mark) -> str:
    if mark.misconception:
        return mark.misconception
    return "another mistake" if mark.status == "hint" else mark.status


NAMES = ("grades.csv", "grades.html")


def check_output(folder: Path) -> Path:
    """The folder, if both files can be written there.

    Raises
    ------
    ValueError
        A folder or a link has the name of one of them, or of what it is called while it is written; or nobody may
        write there.
    OSError
        It is no folder and cannot become one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} cannot be written to: give --output")
    for name in NAMES:
        for path in (folder / name, folder / f".{name}{PARTIAL}"):
            if path.is_symlink() or path.is_dir():
                raise ValueError(f"{path} must be free for a file, and is a folder or a link: give --output")
    return folder


def write_report(
    folder: Path, marks: list[Mark], tasks: list[Task], notes: dict[str, list[str]], sandbox: str
) -> tuple[Path, Path]:
    """Write both files into `folder`, whole or not at all; return their paths."""
    return (
        write_text(folder / NAMES[0], BOM + as_csv(marks)),
        write_text(folder / NAMES[1], as_html(marks, tasks, notes, sandbox)),
    )
