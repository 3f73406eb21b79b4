"""Numbers as computers keep them, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, PercentFormatter
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import STYLE, Picture, drawing, set_title, text_width
from lora_edu.classroom.figures._sentences import number, sentence
from lora_edu.classroom.figures.levels import error_by_bits
from lora_edu.classroom.figures.palette import COLORS, INK

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
    gap, height, seen, y, widest = 0.35, 0.66, [], 0.0, 0.0
    with drawing(alt, ax) as picture:
        for name, (fields, meaning) in rows.items():
            y += 1 if set(fields) <= set(seen) else 1.45  # room for the names of new fields
            picture.text(-gap, y, f"{name} ", ha="right", va="center")
            x = 0.0
            for field, bits in fields.items():
                if field not in seen:
                    seen.append(field)
                    wide = len(bits) * 0.14 > text_width(field, 13)  # else its name ends where its box ends
                    at = x + len(bits) / (2 if wide else 1)
                    picture.text(
                        at, y - 0.62, field, ha="center" if wide else "right", va="center", fontsize=13
                    )
                color = FIELD_COLORS[seen.index(field) % len(FIELD_COLORS)]
                box = Rectangle(
                    (x, y - height / 2),
                    len(bits),
                    height,
                    facecolor=(color, 0.22),
                    edgecolor=color,
                )
                picture.add_patch(box)
                # One text a field: a text a bit would be too slow for a slider.
                middle = x + len(bits) / 2
                picture.text(middle, y, bits, ha="center", va="center", fontsize=16, family="monospace")
                x += len(bits) + gap
            widest = max(widest, x)
            picture.text(x + gap, y, meaning, ha="left", va="center")
        picture.set(xlim=(-7.2, widest + 12), ylim=(y + 0.6, 0.4))
        picture.set_axis_off()
        set_title(picture, title)
        picture.alt = sentence(
            *(f"{name}: {' '.join(fields.values())}, {meaning}" for name, (fields, meaning) in rows.items())
        )
    return picture


def error_budget(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    chosen: tuple[float, float],
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
    alt, title, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty, the shapes of a pair differ, or a chosen number is not above 0.
    """
    if min(chosen) <= 0:
        raise ValueError(f"chosen must be two numbers above 0, got {chosen}")
    picture = error_by_bits(series, ylabel="relative error", title=title, alt=alt, ax=ax)
    with mpl.rc_context(STYLE):  # new ticks
        picture.set_yscale("log")
        picture.yaxis.set_major_locator(FixedLocator([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]))
        picture.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        picture.minorticks_off()
        picture.scatter(*chosen, s=260, facecolors="none", edgecolors=INK, linewidths=2.2, zorder=3)
        marked = f"Marked: {number(chosen[0])} bits a weight, error {chosen[1]:.1%}"
        picture.alt = alt or sentence(title or marked, picture.alt)
    return picture
