"""Plain sentences out of numbers: what a figure says about itself."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lora_edu.classroom.language import numeral, say


def number(value: float) -> str:
    """A number as one says it: three digits, separators between thousands, a minus sign.

    >>> number(13107.2), number(0.03456), number(-4.0)
    ('13,107', '0.0346', '-4')
    """
    if not np.isfinite(value):
        return str(value)
    if abs(value) >= 1000:
        return numeral(f"{value:,.0f}")
    if 0 < abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    """A share (0 to 1) in per cent."""
    return numeral(f"{share:.0%}" if share in (0, 1) or 0.1 <= abs(share) < 0.995 else f"{share:.1%}")


def listed(items: Iterable[object]) -> str:
    """One, two and three."""
    *first, last = map(str, items)
    return say("{several} and {last}", several=", ".join(first), last=last) if first else last


def numbers(values: Iterable[float]) -> str:
    """Numbers, one after the other."""
    return ", ".join(number(float(value)) for value in values)


def sentence(*parts: str) -> str:
    """Parts that are not empty, as one text of sentences."""
    texts = [part.rstrip() for part in parts if part]
    return " ".join(text if text[-1] in ".?!" else f"{text}." for text in texts)


def count_of(count: int, noun: str, plural: str = "") -> str:
    """1 layer, 30 layers."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def over(what: str, along: str) -> str:
    """What is drawn, over what."""
    return say("{what} over {along}", what=what, along=along)


def at(y: float, x: float) -> str:
    """The height of a line at a place."""
    return say("{y} at {x}", y=number(y), x=number(x))


def least(y: float, x: float) -> str:
    """Where a line is lowest."""
    return say("least {y} at {x}", y=number(y), x=number(x))


def most(y: float, x: float) -> str:
    """Where a line is highest."""
    return say("most {y} at {x}", y=number(y), x=number(x))


def cross(x: float) -> str:
    """Where two lines cross."""
    return say("They cross at {x}", x=number(x))


def marked(words: Iterable[str]) -> str:
    """What is marked in a picture."""
    return say("Marked: {words}", words=listed(words))


def crossings(x: np.ndarray, one: np.ndarray, other: np.ndarray) -> list[float]:
    """Where two lines drawn over the same x cross, found on the straight pieces between the points."""
    gap = one - other
    before, after = gap[:-1], gap[1:]
    crossed = np.flatnonzero(before * after < 0)
    return [float(x[i] + (x[i + 1] - x[i]) * before[i] / (before[i] - after[i])) for i in crossed]
