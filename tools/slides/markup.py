"""Markdown, code and formulas as the HTML of a slide, and how much room each takes there.

Formulas are drawn at the end, all in one run of node: until then `Formulas.hold` keeps a mark in their place.
"""

import itertools
import json
import math
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

LINE = 39
"""Pixels of a line of text."""
CODE_LINE = 27
GAP = 16
"""Between two things on a slide."""
LETTERS, CODE_LETTERS, TABLE_LETTERS = 80, 94, 98
"""In a line of each kind."""
STYLE = "a11y-high-contrast-light"
"""Colours of code, as in the book."""
MARK = "\ue000{}\ue001"
SENTENCE = re.compile(r"(?<=[.?!])\s+(?=[A-Z$*`\"])")
DRAW = """
const katex = require(process.argv[1]);
const formulas = JSON.parse(require("fs").readFileSync(0));
const draw = ([text, displayMode]) => ["htmlAndMathml", "mathml"].map(
    (output) => katex.renderToString(text, { displayMode, output }));
try {
    process.stdout.write(JSON.stringify(formulas.map(draw)));
} catch (error) {
    console.error(error.message);
    process.exitCode = 1;
}
"""


class FormulaWrong(Exception):
    """KaTeX could not draw one; the message is its own."""


class Formulas:
    """The formulas of the decks that are written together."""

    def __init__(self) -> None:
        self.found: list[tuple[str, bool]] = []
        self._drawn: list[list[str]] = []

    def hold(self, text: str, options: Mapping[str, Any]) -> str:
        """Keep a formula; return the mark that stands for it."""
        self.found.append((text, bool(options["display_mode"])))
        return MARK.format(len(self.found) - 1)

    def draw(self, node: Path, katex: Path) -> None:
        """Draw all of them.

        Raises
        ------
        FormulaWrong
            If KaTeX refuses one.
        """
        done = subprocess.run(
            [str(node), "-e", DRAW, str(katex)],
            input=json.dumps(self.found),
            capture_output=True,
            encoding="utf-8",
        )
        if done.returncode:
            raise FormulaWrong(done.stderr.strip())
        self._drawn = json.loads(done.stdout)

    def put(self, page: str, form: int) -> str:
        """A page with its formulas: as KaTeX' HTML (form 0), or as MathML, which needs no style (form 1)."""
        return re.sub(MARK.format(r"(\d+)"), lambda found: self._drawn[int(found[1])][form], page)


class Block(NamedTuple):
    """A paragraph, heading, list, table, formula or the like."""

    kind: str
    """Of markdown-it's token, such as ``paragraph`` or ``math_block``."""
    source: str
    html: str


class Markup:
    """Reads the Markdown of a deck."""

    def __init__(self, formulas: Formulas) -> None:
        self._parser = MarkdownIt("commonmark", {"html": True}).enable("table")
        self._parser.use(dollarmath_plugin, allow_digits=False, allow_space=False, renderer=formulas.hold)
        self._references: dict[str, Any] = {}

    def blocks(self, text: str) -> Iterator[Block]:
        """The blocks of a cell. Its references hold until the next call."""
        self._references = {}
        tokens, lines = self._parser.parse(text, self._references), text.splitlines()
        for token in tokens:
            if token.level == 0 and token.nesting >= 0 and token.map:
                source = "\n".join(lines[slice(*token.map)])
                yield Block(token.type.removesuffix("_open"), source, self.html(source))

    def html(self, text: str) -> str:
        """Markdown as HTML."""
        return self._parser.render(text, self._references)

    def inline(self, text: str) -> str:
        """Markdown of one line, without the paragraph around it."""
        return self._parser.renderInline(text, self._references)


# ---------------------------------------------------------------- text


def words(text: str) -> int:
    """How many words a text has; a formula counts as one."""
    return len(re.sub(r"\$[^$]+\$|\]\([^)]*\)", " x ", text).split())


def first_sentences(text: str, most: int) -> str:
    """As many whole sentences from the start as `most` words hold; none if the first is longer."""
    kept: list[str] = []
    for sentence in SENTENCE.split(" ".join(text.split())):
        if words(" ".join([*kept, sentence])) > most:
            break
        kept.append(sentence)
    return " ".join(kept)


def last_sentences(text: str, most: int) -> str:
    """As many whole sentences from the end as `most` words hold."""
    kept: list[str] = []
    for sentence in reversed(SENTENCE.split(" ".join(text.split()))):
        if words(" ".join([sentence, *kept])) > most:
            break
        kept.insert(0, sentence)
    return " ".join(kept)


def text_height(text: str) -> int:
    """Of a paragraph or a list, about."""
    items = re.split(r"^(?=[-*] |\d+\. )", without_addresses(text), flags=re.MULTILINE)
    return sum(lines_of(" ".join(item.split()), LETTERS) * LINE for item in items if item.strip()) + GAP


def without_addresses(text: str) -> str:
    """Markdown without what its links lead to."""
    return re.sub(r"\]\([^)]*\)|\]\[[^]]*\]", "]", text)


def lines_of(text: str, letters: int) -> int:
    """How many lines a text takes where a line holds so many letters."""
    return sum(max(1, math.ceil(len(line) / letters)) for line in text.splitlines() or [""])


# ---------------------------------------------------------------- code and tables


def code_html(source: str) -> str:
    """Python with its colours."""
    return (
        f'<pre class="code"><code>{highlight(source, PythonLexer(), HtmlFormatter(nowrap=True))}</code></pre>'
    )


def code_style() -> str:
    """The colours that `code_html` names."""
    return HtmlFormatter(style=STYLE).get_style_defs(".code")


def code_height(text: str) -> int:
    """Of code; what it printed has no frame and takes less."""
    return lines_of(text, CODE_LETTERS) * CODE_LINE + 24


def row_heights(rows: Sequence[Sequence[str]]) -> list[int]:
    """Of each row of a table, about: as browsers do, wide columns get more of what the slide has."""
    columns = list(itertools.zip_longest(*rows, fillvalue=""))
    widest = [max(map(len, column)) + 2 for column in columns]
    share = min(1.0, TABLE_LETTERS / sum(widest))
    letters = [max(5, math.floor(width * share)) for width in widest]
    lines = [max(lines_of(cell, most) for cell, most in zip(row, letters, strict=False)) for row in rows]
    return [27 * count + 11 for count in lines]


def table_parts(source: str, room: int) -> list[tuple[str, int]]:
    """A Markdown table in as many parts of about one height as it needs, each with its heading and its own height."""
    lines = source.splitlines()
    cells = [re.split(r"(?<!\\)\|", without_addresses(line).strip("| ")) for line in lines]
    head, _, *heights = row_heights(cells)
    parts: list[tuple[list[str], int]] = []
    most = sum(heights) / math.ceil(sum(heights) / (room - head)) + head
    for row, height in zip(lines[2:], heights, strict=True):
        if not parts or parts[-1][1] >= most or parts[-1][1] + height > room:
            parts.append((lines[:2], head))
        parts[-1] = [*parts[-1][0], row], parts[-1][1] + height
    return [("\n".join(part), height) for part, height in parts]


def shown_height(shown: str) -> int:
    """Of what a cell showed as HTML: a table, or text."""
    if rows := re.findall(r"<tr.*?</tr>", shown, re.DOTALL):
        cells = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
        return sum(row_heights(cells)) + 10
    text = re.sub(
        r"<style.*?</style>|<[^>]+>", "", re.sub(r"<(p|br|div)\b[^>]*>", "\n", shown), flags=re.DOTALL
    )
    return sum(lines_of(line, LETTERS) * LINE for line in text.splitlines() if line.strip()) + 2 * GAP
