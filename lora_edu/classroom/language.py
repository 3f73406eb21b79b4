"""The language in which the package speaks to a learner: English, or one that has a catalog in ``languages/``.

A notebook's code is the same in every language, so no cell can say which one it is. The folder does: a kernel that
stands in ``notebooks/de`` (or ``notebooks/de/solutions``, ``work/de``) speaks German. The environment variable
``LORA_EDU_LANGUAGE`` decides before the folder, for Colab, a terminal or a whole class.

A catalog, ``languages/de.json``, is written by ``python -m tools.translate build`` out of the .po files that people
edit. It maps a context to pairs of English and translated text:

    say                       sentences of the package, with places such as {count} for what is filled in
    label                     short texts that reach a figure or a slider as values, and titles in a notebook's cells
    prediction 04.1 choice    a question, its choices, its reason
    exercise 04.1 hint        the hints of an exercise's wrong answers

What is not in it stays English. In English nothing is looked up, and every text is what the code says.
"""

from __future__ import annotations

import json
import os
import re
import string
import warnings
from functools import cache
from pathlib import Path
from typing import Any

VARIABLE = "LORA_EDU_LANGUAGE"
ENGLISH = "en"
CATALOGS = Path(__file__).with_name("languages")
HOMES = ("notebooks", "work")
"""Folders whose sub-folders are named after languages."""


def languages() -> list[str]:
    """The languages that there are: ``en``, and those with a catalog."""
    return sorted([ENGLISH, *(path.stem for path in CATALOGS.glob("*.json"))])


def language() -> str:
    """The language of this process now, such as ``"de"``."""
    try:
        folder = str(Path.cwd())
    except OSError:  # it was deleted
        folder = ""
    return _language(os.environ.get(VARIABLE, ""), folder)


@cache
def _language(named: str, folder: str) -> str:
    known = languages()
    if named:
        wanted = re.split(r"[-_.]", named.strip().lower())[0]  # de_AT.UTF-8 is German, too
        if wanted in known:
            return wanted
        warnings.warn(f"{VARIABLE} must be one of {known}, got {named!r}: English is used.", stacklevel=3)
        return ENGLISH
    place = Path(folder)
    place = place.parent if place.name == "solutions" else place
    return place.name if place.parent.name in HOMES and place.name in known else ENGLISH


@cache
def _catalog(name: str) -> dict[str, dict[str, str]]:
    path = CATALOGS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def text(context: str, english: str) -> str:
    """The translation of a text in a context; the English one where there is none."""
    return _catalog(language()).get(context, {}).get(english, english)


def any_hint(english: str) -> str:
    """The translation of a hint, whichever exercise it belongs to."""
    for context, texts in _catalog(language()).items():
        if context.startswith("exercise ") and english in texts:
            return texts[english]
    return english


def say(english: str, **values: Any) -> str:
    """A sentence of the package in this notebook's language, with values in its places.

    `english` must be written out where `say` is called: from there `tools.translate` collects it.
    """
    return _FORMAT.vformat(text("say", english), (), values) if values else text("say", english)


def label(english: str) -> str:
    """A text that reaches a function as a value, such as a title; in English itself.

    Where the catalog has a text with places, such as ``"added to {factor}"``, what stands there is kept.
    """
    if language() == ENGLISH or not english:
        return english
    known = _catalog(language()).get("label", {})
    if english in known:
        return known[english]
    for pattern, translation in _patterns(language()):
        if found := pattern.fullmatch(english):
            return translation.format(**found.groupdict())
    return english


_PLACES = re.compile(r"[^{}]*(\{[a-z_]\w*\}[^{}]*)+")  # not the braces of a formula


@cache
def _patterns(name: str) -> list[tuple[re.Pattern[str], str]]:
    """Labels with places, as patterns."""
    labels = _catalog(name).get("label", {}).items()
    return [(_pattern(english), translation) for english, translation in labels if _PLACES.fullmatch(english)]


def _pattern(english: str) -> re.Pattern[str]:
    parts, seen = [], set()
    for written, place, _, _ in string.Formatter().parse(english):
        parts.append(re.escape(written))
        if place:
            parts.append(f"(?P={place})" if place in seen else f"(?P<{place}>.+)")
            seen.add(place)
    return re.compile("".join(parts), re.DOTALL)


def to_translate(*english: str) -> tuple[str, ...]:
    """The same texts: marks constants that a figure or a table will pass through `label`."""
    return english


def numeral(written: str) -> str:
    """A number as this language writes it. Outside English a thin space stands between thousands and before ``%``.

    The decimal point stays: in every language learners see Python's own numbers beside it.
    """
    if language() == ENGLISH:
        return written
    return re.sub(r"(?<=\d)%", f"{THIN}%", re.sub(r"(?<=\d),(?=\d{3})", THIN, written))


THIN = "\N{NARROW NO-BREAK SPACE}"


class _Numerals(string.Formatter):
    """Fills in numbers as the language writes them."""

    def format_field(self, value: Any, format_spec: str) -> str:
        written = super().format_field(value, format_spec)
        return written if isinstance(value, str) else numeral(written)


_FORMAT = _Numerals()
