"""Bytes: terms that add up to a limit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from matplotlib.patches import Patch
from matplotlib.text import Text

from lora_edu.classroom.figures._canvas import Picture, drawing, set_title
from lora_edu.classroom.figures._sentences import listed, number, sentence
from lora_edu.classroom.figures.palette import COLORS, HATCHES, INK, PAPER
from lora_edu.classroom.language import label, say

_BOX = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}

_KEY: dict[str, Any] = {
    "fontsize": 13,
    "borderaxespad": 0.3,
    "borderpad": 0.1,
    "handlelength": 1.5,
    "columnspacing": 1.2,
}


def stacked(
    bars: Mapping[str, Mapping[str, float]],
    *,
    alt: str | None = None,
    limit: tuple[str, float],
    largest: float,
    unit: str = "GB",
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw one bar a candidate, made of its terms one after the other, and a limit that it may pass.

    Parameters
    ----------
    bars : mapping of str to mapping of str to float
        Name to its terms, the same terms for all, each at least 0. A bar that is longer than the axis ends there, with
        an arrow beside its sum.
    alt, title, ax
        As in `lines`.
    limit : (str, float)
        Name and size of what is there.
    largest : float
        Where the axis ends, so that it stands still.
    unit : str
        Of all numbers.

    Raises
    ------
    ValueError
        If `alt` is empty or two bars have different terms.
    """
    terms = list(next(iter(bars.values()), {}))
    if any(list(parts) != terms for parts in bars.values()):
        raise ValueError(f"bars must all have the terms of the first, {terms}")
    styles = _styles([label(term) for term in terms])
    bars = {label(bar): {label(term): size for term, size in parts.items()} for bar, parts in bars.items()}
    with drawing(alt, ax) as picture:
        totals, sums = [0.0] * len(bars), []
        for name, style in styles.items():
            sizes = [parts[name] for parts in bars.values()]
            picture.barh(range(len(bars)), sizes, 0.6, left=totals, **style)
            totals = [total + size for total, size in zip(totals, sizes, strict=True)]
        for position, total in enumerate(totals):
            cut = total > largest
            text, x = (
                (f"{total:.1f} {unit} →", largest) if cut else (f"{total:.2f} {unit}", total + largest / 100)
            )
            sums.append(
                picture.text(x, position, text, va="center", ha="right" if cut else "left", bbox=_BOX)
            )
        name, size = label(limit[0]), limit[1]
        ends = -0.6, len(bars) - 0.4
        picture.plot([size, size], ends, color=INK, linestyle="--", linewidth=1.8)
        picture.text(size + largest / 100, ends[1] - 0.04, name, ha="left", va="bottom", bbox=_BOX)
        picture.set_yticks(range(len(bars)), list(bars))
        picture.set(xlim=(0, 1.16 * largest), ylim=(len(bars) - 0.4, -0.6), xlabel=unit)
        set_title(picture, title)
        picture.grid(axis="y", visible=False)
        picture.before_drawing.append(lambda: [_clear_of(text, size, largest) for text in sums])
        shown = [name for name in styles if any(parts[name] for parts in bars.values())]
        handles = [Patch(label=name, **styles[name]) for name in shown]
        columns = min(3, len(handles))
        picture.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, **_KEY)
        whole = {name: sum(parts.values()) for name, parts in bars.items()}
        picture.alt = sentence(
            say("In {unit}: ", unit=unit)
            + listed(
                f"{bar} {number(total)} ({say('fits') if total <= size else say('too much')})"
                for bar, total in whole.items()
            ),
            say("The limit, {name}, is {size} {unit}", name=name, size=number(size), unit=unit),
        )
    return picture


def _clear_of(text: Text, size: float, largest: float) -> None:
    """Move a sum that the line of the limit would cross to the right of that line."""
    axes = text.axes
    assert axes is not None
    box, line = text.get_window_extent(), axes.transData.transform((size, 0))[0]
    if box.x0 - 6 < line < box.x1 + 6:
        text.set(x=size + largest / 100, ha="left")


def _styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and hatch of each name."""
    return {
        name: {"facecolor": COLORS[i % len(COLORS)], "hatch": HATCHES[i % len(HATCHES)], "edgecolor": PAPER}
        for i, name in enumerate(names)
    }
