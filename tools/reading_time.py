"""How long a notebook takes, estimated from its source: in all, and by the core sections alone.

The rule: 110 words a minute, 6 seconds a line of code, a minute for each picture and each displayed equation,
half a minute for a prediction, and exercises at 1.5 times the minutes that their headings state. It is an
estimate: nobody was timed. It errs in the same way for all notebooks.

A section is what stands below a heading ``## ...``. A line in italics right below the heading marks it, for
the reader too::

    ## 5. What else does a library add?

    *Deeper: nothing later needs this section.*

The line begins with ``*Core`` or ``*Deeper``. A section without one is core, and so is the opening.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from nbformat import NotebookNode

WORDS_A_MINUTE = 110
MINUTES_A_LINE = 0.1
MINUTES_A_PICTURE = MINUTES_AN_EQUATION = 1.0
MINUTES_A_PREDICTION = 0.5
EXERCISE_FACTOR = 1.5
ROUNDED_TO = 5  # minutes: a finer number would promise what an estimate cannot hold

EXERCISE = re.compile(r"^### Exercise .*, (\d+) minutes?\)$", re.M)
MARKER = re.compile(r"\A\s*\*(\w+)\b[^*\n]*\*\s*$", re.M)
MARKERS = {"Core": True, "Deeper": False}


class Minutes(NamedTuple):
    """Minutes that a notebook takes: its core sections, and all of them."""

    core: int
    total: int


def tags_of(cell: NotebookNode) -> list[str]:
    """The cell's tags."""
    return list(cell.metadata.get("tags", []))


def prose(markdown: str) -> str:
    """Text of which each word is one that a learner reads as a sentence's.

    A formula becomes one word. Tables, code blocks and the addresses of links are left out.
    """
    text = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    text = re.sub(r"\$\$.*?\$\$|\$[^$]+\$", " formula ", text, flags=re.DOTALL)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("|"))


def words(text: str) -> list[str]:
    """The words of a text, punctuation alone left out."""
    return [word for word in text.split() if re.search(r"\w", word)]


def lines_of_code(code: str) -> int:
    """Lines that hold more than a comment."""
    silent = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return len({n for t in tokens if t.type not in silent for n in range(t.start[0], t.end[0] + 1)})


def is_prediction(cell: NotebookNode) -> bool:
    """Whether a code cell does nothing but ask."""
    statements = ast.parse(cell.source).body
    return len(statements) == 1 and _called(statements[0]) == "predict"


def shows_a_picture(cell: NotebookNode) -> bool:
    """Whether a code cell ends with a figure or a slider."""
    last = (ast.parse(cell.source).body or [None])[-1]
    name = _called(last)
    return name.startswith("figures.") or name.rpartition(".")[2].startswith("explore")


def _called(statement: ast.stmt | None) -> str:
    """The name of the function that a statement calls and whose result the cell shows; else nothing."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        return ast.unparse(statement.value.func)
    return ""


def sections(cells: Iterable[NotebookNode]) -> Iterable[tuple[bool, NotebookNode]]:
    """Each cell with whether it is core. A cell of text that holds several headings comes in parts.

    Raises
    ------
    ValueError
        Where the line below a heading is in italics and begins with another word than the markers.
    """
    core = True
    for cell in cells:
        if cell.cell_type != "markdown":
            yield core, cell
            continue
        before, *parts = re.split(r"^(?=## )", cell.source, flags=re.M)
        yield core, _with_text(cell, before)
        for part in parts:
            heading, _, body = part.partition("\n")
            core = _is_core(heading, body)
            yield core, _with_text(cell, body)


def _with_text(cell: NotebookNode, text: str) -> NotebookNode:
    return NotebookNode(cell, source=text)


def _is_core(heading: str, body: str) -> bool:
    marker = MARKER.match(body)
    if marker is None:
        return True
    if marker[1] not in MARKERS:
        raise ValueError(
            f"the line below '{heading}' must begin with one of {list(MARKERS)}, got {marker[1]!r}"
        )
    return MARKERS[marker[1]]


def cell_minutes(cell: NotebookNode) -> float:
    """Minutes for one cell of a source. Hint, stub, solution and claim take none: they are the exercise's or CI's."""
    if {"exercise", "solution", "hint", "claim"} & set(tags_of(cell)):
        return 0.0
    if cell.cell_type == "markdown":
        text = re.sub(r"^#+ .*$", "", prose(cell.source), flags=re.M)
        exercises = sum(int(minutes) for minutes in EXERCISE.findall(cell.source))
        equations = len(re.findall(r"\$\$.*?\$\$", cell.source, flags=re.DOTALL))
        return (
            len(words(text)) / WORDS_A_MINUTE + equations * MINUTES_AN_EQUATION + exercises * EXERCISE_FACTOR
        )
    if is_prediction(cell):
        return MINUTES_A_PREDICTION
    return lines_of_code(cell.source) * MINUTES_A_LINE + shows_a_picture(cell) * MINUTES_A_PICTURE


def minutes(cells: Sequence[NotebookNode]) -> Minutes:
    """Estimate how long a source takes. The first code cell, set-up and imports, is folded and takes none.

    Raises
    ------
    ValueError
        As in `sections`.
    """
    first_code = next((cell for cell in cells if cell.cell_type == "code"), None)
    timed = [
        (core, cell_minutes(cell))
        for core, cell in sections(cell for cell in cells if cell is not first_code)
    ]
    core, total = sum(time for core, time in timed if core), sum(time for _, time in timed)
    return Minutes(_rounded(core), _rounded(total))


def _rounded(time: float) -> int:
    return max(ROUNDED_TO, round(time / ROUNDED_TO) * ROUNDED_TO)
