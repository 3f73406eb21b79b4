"""What a cell of code shows, as the HTML of a slide."""

import ast
import html

from nbformat import NotebookNode

from tools.slides import markup

MOST_PRINTED_LINES = 12


def text_of(output: NotebookNode, kind: str) -> str:
    """Of an output, as one string, whether its file stores it as one or as lines."""
    stored = output.get("data", {}).get(kind, "")
    return stored if isinstance(stored, str) else "".join(stored)


def picture_of(cell: NotebookNode) -> str:
    """The slider or the picture that a cell shows, as HTML; empty if it shows none."""
    for output in cell.outputs:
        if "lora-edu-film" in (film := text_of(output, "text/html")):
            return film
        if png := text_of(output, "image/png"):
            alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
            return f'<img src="data:image/png;base64,{png.strip()}" alt="{html.escape(alt)}">'
    return ""


def code_before_the_last_call(source: str) -> str:
    """What a cell computes before it shows a picture, if anything. Words for the picture alone are left out."""
    try:
        *statements, last = ast.parse(source).body
    except (SyntaxError, ValueError):
        return ""
    if not isinstance(last, ast.Expr):
        return ""
    kept: list[ast.stmt] = []
    for statement in reversed(statements):
        if not is_plain(statement) or made_by(statement) & set().union(*map(names_in, kept)):
            kept.insert(0, statement)
    lines = source.splitlines()
    return "\n".join(line for part in kept for line in lines[first_line(part) - 1 : part.end_lineno])


def is_plain(statement: ast.stmt) -> bool:
    """Whether a statement gives a name to words and numbers as they stand, and computes nothing."""
    computes = (ast.Call, ast.BinOp, ast.Subscript, ast.ListComp, ast.DictComp, ast.Attribute)
    return isinstance(statement, ast.Assign) and not any(
        isinstance(part, computes) for part in ast.walk(statement.value)
    )


def names_in(statement: ast.stmt) -> set[str]:
    """The names that a statement uses."""
    return {part.id for part in ast.walk(statement) if isinstance(part, ast.Name)}


def made_by(statement: ast.stmt) -> set[str]:
    """The names that an assignment gives."""
    return {
        part.id
        for part in ast.walk(statement)
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
    }


def first_line(statement: ast.stmt) -> int:
    """Where a statement begins, its decorators counted."""
    return min([statement.lineno, *(part.lineno for part in getattr(statement, "decorator_list", []))])


def printed(cell: NotebookNode) -> list[tuple[str, int]]:
    """What a cell of code shows below it: HTML and its height, of tables and the like, then of text.

    Of a long text the first lines are shown.
    """
    tables = [table for output in cell.outputs if (table := text_of(output, "text/html"))]
    parts = [(f'<div class="shown">{table}</div>', markup.shown_height(table)) for table in tables]
    texts = [
        output.get("text", "") or text_of(output, "text/plain")
        for output in cell.outputs
        if output.get("name") != "stderr" and not text_of(output, "text/html")
    ]
    lines = [line for line in "\n".join(texts).strip("\n").splitlines() if "%|" not in line]
    while lines and markup.lines_of("\n".join(lines), markup.CODE_LETTERS) > MOST_PRINTED_LINES:
        lines = [*lines[:-2], "…"] if lines[-1] == "…" else [*lines[:-1], "…"]
    if text := "\n".join(lines):
        parts.append((f'<pre class="out">{html.escape(text)}</pre>', markup.code_height(text) - markup.GAP))
    return parts
