"""What must survive a translation: formulas, code, links, places to fill in, headings, tables, the space around."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterator

Found = Callable[[str], list[str]]

FORMULA = re.compile(r"\$\$.+?\$\$|\$[^$\n](?:[^$]*?[^$\s])?\$", re.DOTALL)
CODE = re.compile(r"`[^`]+`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PLACE = re.compile(r"\{[a-z]+ ?[a-z]+\}")  # of a text cell: {minutes}, {course map}


class TranslationError(ValueError):
    """A .po file that cannot be used; the message names the file and the entry."""


def formulas(text: str) -> list[str]:
    """Formulas, whatever white space or line breaks they hold."""
    return ["".join(found.split()) for found in FORMULA.findall(CODE.sub("", text))]


def code(text: str) -> list[str]:
    """Code between backticks, whatever its line breaks."""
    return [" ".join(found.split()) for found in CODE.findall(text)]


def places_of_cell(text: str) -> list[str]:
    return PLACE.findall(FORMULA.sub("", CODE.sub("", text)))


def places_of_sentence(text: str) -> list[str]:
    """Places to fill in, with their formats: ``{rows:,}``."""
    parsed = string.Formatter().parse(text)
    return [f"{{{name}{':' if spec else ''}{spec}}}" for _, name, spec, _ in parsed if name is not None]


def headings(text: str) -> list[str]:
    return re.findall(r"^#+(?= )", text, re.M)


def rows(text: str) -> list[str]:
    """Rows of tables, by the number of their bars."""
    return [f"a table row of {line.count('|')} bars" for line in text.splitlines() if line.startswith("|")]


def edges(text: str) -> list[str]:
    return [repr(text[: len(text) - len(text.lstrip())]), repr(text[len(text.rstrip()) :])]


OF_CELLS: dict[str, Found] = {
    "formula": formulas,
    "code": code,
    "link": LINK.findall,
    "place": places_of_cell,
    "heading": headings,
    "table": rows,
}
OF_SENTENCES: dict[str, Found] = {
    "code": code,
    "link": LINK.findall,
    "place": places_of_sentence,
    "white space at an end": edges,
}
FILLED_IN = ("say", "label", "page")
"""Contexts of texts with places in braces."""


def kinds(context: str) -> dict[str, Found]:
    """What is looked at in a text of this context."""
    if re.fullmatch(r"\d\d[a-z]?-[0-9a-f]{8}(-\d+)?", context):
        return OF_CELLS
    if context in FILLED_IN:
        return OF_SENTENCES
    return {name: found for name, found in OF_SENTENCES.items() if name != "place"}


def faults(context: str, english: str, translation: str) -> Iterator[str]:
    """In words, what a translation lost or has beyond its source. Order does not matter, and repeating is allowed."""
    for kind, found in kinds(context).items():
        try:
            wanted, given = Counter(found(english)), Counter(found(translation))
        except ValueError as error:
            yield f"its braces do not close ({error})"
            continue
        yield from (f"the {kind} {lost} is lost" for lost in (wanted - given))
        yield from (f"the {kind} {new} is not in the source" for new in given if new not in wanted)
