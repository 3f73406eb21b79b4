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
    """What a cell that shows a picture computes before, if anything."""
    try:
        last = ast.parse(source).body[-1]
    except (SyntaxError, IndexError):
        return ""
    if not isinstance(last, ast.Expr):
        return ""
    return "\n".join(source.splitlines()[: last.lineno - 1]).strip()


def printed(cell: NotebookNode) -> tuple[str, int]:
    """What a cell of code shows below it, as HTML, and its height. Of a long text the first lines."""
    tables = [text_of(output, "text/html") for output in cell.outputs]
    shown = "".join(f'<div class="shown">{table}</div>' for table in tables if table)
    height = sum(map(markup.shown_height, filter(None, tables)))
    streams = (output for output in cell.outputs if output.get("name") != "stderr")
    texts = [
        output.get("text", "") or text_of(output, "text/plain")
        for output in streams
        if not text_of(output, "text/html")
    ]
    lines = [line for line in "\n".join(texts).strip("\n").splitlines() if "%|" not in line]
    while lines and markup.lines_of("\n".join(lines), markup.CODE_LETTERS) > MOST_PRINTED_LINES:
        lines = [*lines[:-2], "…"] if lines[-1] == "…" else [*lines[:-1], "…"]
    if text := "\n".join(lines):
        shown += f'<pre class="out">{html.escape(text)}</pre>'
        height += markup.code_height(text) - markup.GAP
    return shown, height
