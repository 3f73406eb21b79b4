"""Numbers as computers keep them, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, PercentFormatter
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import PAD, STYLE, Picture, text_width
from lora_edu.classroom.figures._sentences import number, sentence
from lora_edu.classroom.figures.levels import error_by_bits
from lora_edu.classroom.figures.palette import COLORS, INK, PAPER
from lora_edu.classroom.figures.schematic.sheet import SIZE, Block, sheet, word

WIDE, PITCH, TALL, HEAD = 7.6, 0.48, 0.34, 0.24  # inches: sheet, from row to row, a box, names over it
ROOM = 0.12  # of the axis, between two block sizes
GAP = 0.35  # bits between two fields
DIGIT = 16  # points, if there is room
MEANING = 1.7  # inches at the rows' ends: boxes stand still under a slider
FIELD_COLORS = (COLORS[0], COLORS[3], COLORS[6], COLORS[5])


def bit_fields(
    rows: Mapping[str, tuple[Mapping[str, str], str]],
    *,
    alt: str | None = None,
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw bits in boxes, one row a format, and what they mean to the right of them.

    Parameters
    ----------
    rows : mapping of str to (fields, meaning)
        Label to the fields of a row, from left to right, each a name and its bits as text of 0 and 1, and to
        the text at the row's end. The name of a field stands over it where it first occurs.
    alt, title, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty, there is no row, or a field holds anything but 0 and 1.
    """
    if not rows:
        raise ValueError("rows must hold at least one row, got none")
    for name, (fields, _) in rows.items():
        for field, bits in fields.items():
            if not bits or set(bits) - {"0", "1"}:
                raise ValueError(f"{field} of {name} must be 0s and 1s, got {bits!r}")
    names = max(text_width(name, SIZE) for name in rows)
    meanings = max(MEANING, *(text_width(meaning, SIZE) for _, meaning in rows.values()))
    longest = max(sum(len(bits) + GAP for bits in fields.values()) for fields, _ in rows.values())
    unit = (WIDE - 2 * PAD - names - meanings - 0.3) / longest  # inches that a bit takes
    digit = text_width("0", DIGIT, family="monospace")
    size = min(DIGIT, DIGIT * unit / (1.08 * digit))
    heads, seen = _new_fields(rows), []
    y = height = 0.72 + PITCH * len(rows) + HEAD * sum(map(bool, heads)) + 0.1
    with sheet(WIDE, height, title=title, alt=alt, ax=ax) as picture:
        y -= 0.72
        for (name, (fields, meaning)), new in zip(rows.items(), heads, strict=True):
            y -= HEAD * bool(new)
            middle, x = y - PITCH / 2, PAD + names + 0.15
            word(picture, (PAD + names, middle), name, ha="right")
            for field, bits in fields.items():
                block = Block(x, middle - TALL / 2, len(bits) * unit, TALL)
                seen += [field] if field in new else []
                color = FIELD_COLORS[seen.index(field) % len(FIELD_COLORS)]
                if field in new:
                    centred = block.width > text_width(field, SIZE)  # else its name ends where its box ends
                    at = block.top[0] if centred else x + block.width
                    word(
                        picture,
                        (at, block.top[1] + 0.05),
                        field,
                        ha="center" if centred else "right",
                        va="bottom",
                    )
                style: dict[str, Any] = {"facecolor": (color, 0.22), "edgecolor": color}
                picture.add_patch(Rectangle((x, block.y), block.width, TALL, **style))
                # One text a field: a text a bit would be too slow for a slider.
                word(picture, (block.top[0], middle), bits, size=size, family="monospace")
                x += block.width + GAP * unit
            word(picture, (x + 0.05, middle), meaning, ha="left")
            y -= PITCH
        picture.alt = sentence(
            *(f"{name}: {' '.join(fields.values())}, {meaning}" for name, (fields, meaning) in rows.items())
        )
    return picture


def _new_fields(rows: Mapping[str, tuple[Mapping[str, str], str]]) -> list[set[str]]:
    """For each row the fields that no row above it has: their names stand over it."""
    seen, new = set(), []
    for fields, _ in rows.values():
        new.append(set(fields) - seen)
        seen |= set(fields)
    return new


def error_budget(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    chosen: tuple[float, float],
    along: Sequence[int] | None = None,
    alt: str | None = None,
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw relative errors, on a logarithmic axis, over the bits they cost, and mark one choice.

    Parameters
    ----------
    series : mapping of str to (bits, errors)
        Label to two arrays of one shape (n,), errors above 0.
    chosen : tuple of float
        Bits and error of the point to mark.
    along : sequence of int, optional
        A block size for each point of a line, shape (n,): written along the line of the marked point, where there is
        room.
    alt, title, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty, the shapes of a pair differ, a chosen number is not above 0, or no line with as many points
        as `along` holds the marked point.
    """
    if min(chosen) <= 0:
        raise ValueError(f"chosen must be two numbers above 0, got {chosen}")
    picture = error_by_bits(series, ylabel="relative error", title=title, alt=alt, ax=ax)
    with mpl.rc_context(STYLE):  # new ticks
        picture.set_yscale("log")
        picture.yaxis.set_major_locator(FixedLocator([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]))
        picture.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        picture.minorticks_off()
        if along is not None:
            _name_points(picture, series.values(), chosen, along)
        picture.scatter(*chosen, s=260, facecolors="none", edgecolors=INK, linewidths=2.2, zorder=3)
        marked = f"Marked: {number(chosen[0])} bits a weight, error {chosen[1]:.1%}"
        picture.alt = alt or sentence(title or marked, picture.alt)
    return picture


def _name_points(
    picture: Picture,
    series: Iterable[tuple[ArrayLike, ArrayLike]],
    chosen: tuple[float, float],
    along: Sequence[int],
) -> None:
    """Write the block size above the points of the marked line: both ends, and between them what has room."""
    lines = [[(float(x), float(y)) for x, y in zip(*pair, strict=True)] for pair in map(np.asarray, series)]
    found = [line for line in lines if chosen in line and len(line) == len(along)]
    if not found:
        raise ValueError(
            f"along must have a block size for each point of the line through {chosen}, got {along}"
        )
    line, wide = found[0], np.ptp([x for points in lines for x, _ in points])
    order = sorted(range(len(line)), key=lambda place: line[place])
    shown = [order[-1], order[0]]
    for place in reversed(order):
        if all(abs(line[place][0] - line[other][0]) > ROOM * wide for other in shown):
            shown.append(place)
    for place in shown:
        style: dict[str, Any] = {
            "textcoords": "offset points",
            "ha": "center",
            "va": "bottom",
            "fontsize": SIZE,
            "zorder": 4,
        }
        box = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.5, "alpha": 0.85}
        picture.annotate(f"{along[place]:,}", line[place], (0, 9), bbox=box, **style)
    low, high = picture.get_ylim()
    picture.set_ylim(low, 1.35 * high)  # room above the highest line
    picture.set_xlabel("bits per weight; along the marked line: block size")
