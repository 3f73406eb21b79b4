"""Labels at the ends of lines, marks for what the text speaks of, and numbers along an axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.scale import LinearScale
from matplotlib.ticker import FuncFormatter, PercentFormatter

from lora_edu.classroom.figures._canvas import Picture, set_title, text_width, wrapped
from lora_edu.classroom.figures.palette import INK, PAPER, SOFT, mix, readable
from lora_edu.classroom.language import numeral, say

SIZE = 13
MOST_LABELS = 4  # lines that are labelled at their ends; more get a legend
GAP = 8  # dots between two labels
NEAR = 0.9  # of the axes' width: a line that ends farther left is led to its label by dots
LABEL_INCHES = 1.75  # a longer label is broken into lines
# A point (x, y), a level (None, y), a place (x, None), or a region ((x0, x1), None).
Mark = tuple[Any, float | None]


def label(picture: Picture, xlabel: str, ylabel: str, title: str) -> None:
    """Write an axis' names with their units, a title, and separators between thousands."""
    picture.set(xlabel=xlabel, ylabel=ylabel)
    set_title(picture, title)
    for axis in (picture.xaxis, picture.yaxis):
        if isinstance(axis._scale, LinearScale):  # pyright: ignore[reportAttributeAccessIssue]
            axis.set_major_formatter(FuncFormatter(tick))


def tick(value: float, _: int | None = None) -> str:
    """The number at a tick, whole: no offset or power stands beside the axis.

    >>> tick(350000), tick(2.5e6), tick(7e9), tick(2e-8), tick(0.25)
    ('350,000', '2.5 million', '7 billion', '2e-8', '0.25')
    """
    size = abs(value)
    if size >= 1e9:
        return say("{number} billion", number=numeral(f"{value / 1e9:,g}"))
    if size >= 1e6:
        return say("{number} million", number=f"{value / 1e6:g}")
    if 0 < size < 1e-3:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return numeral(f"{value:,.6g}")


def percent_ticks() -> PercentFormatter:
    """Writes shares (0 to 1) at the ticks of an axis in per cent."""
    return PercentFormatter(xmax=1, symbol=numeral("0%")[1:])


def name_lines(
    picture: Picture, names: Sequence[str], ends: Sequence[tuple[float, float]], colors: Sequence[str]
) -> None:
    """Tell lines apart: names at their ends, or a legend beside the axes when there are many."""
    if len(names) < 2:
        return
    if len(names) > MOST_LABELS:
        picture.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=SIZE, handlelength=2.6)
        return
    texts = [
        picture.annotate(
            wrapped(name, LABEL_INCHES, SIZE),
            (1, 0.5),
            (8, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            color=readable(color),
            fontsize=SIZE,
            va="center",
            parse_math=False,
            fontweight="bold",
            linespacing=1.1,
        )
        for name, color in zip(names, colors, strict=True)
    ]

    leaders = [
        picture.annotate(
            "",
            end,
            (1, 0.5),
            textcoords="axes fraction",
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 1,
                "alpha": 0.6,
                "shrinkA": 0,
                "shrinkB": 4,
            },
        )
        for end, color in zip(ends, colors, strict=True)
    ]
    for leader in leaders:
        leader.set_in_layout(False)

    def place() -> None:
        height = picture.bbox.height
        stand = [picture.transAxes.inverted().transform(picture.transData.transform(end)) for end in ends]
        wanted = [y for _, y in stand]
        for leader, (x, _) in zip(leaders, stand, strict=True):
            if x < NEAR and leader.arrow_patch:  # it passes other lines, and must not look like one
                leader.arrow_patch.set(linestyle=(0, (1, 2)), zorder=0.8)
                leader.set_zorder(0.8)
        tall = [(text.get_window_extent().height + GAP) / height for text in texts]
        for text, leader, y in zip(texts, leaders, spread(wanted, tall), strict=True):
            text.xy = 1, y
            leader.set_position((1.012, y))

    picture.before_drawing.append(place)


def spread(wanted: Sequence[float], tall: Sequence[float]) -> list[float]:
    """Heights as near to the wanted ones as can be, in their order, so that labels do not overlap.

    Parameters
    ----------
    wanted, tall : sequence of float
        For each label where its middle should stand and how tall it is, the axes being 0 to 1.
    """
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], -i))
    groups: list[tuple[list[int], float]] = []  # labels that touch, and the height of their common middle
    for index in order:
        members, middle = [index], _within(wanted[index], tall[index])
        while groups and groups[-1][1] + _tall(groups[-1][0], tall) / 2 > middle - _tall(members, tall) / 2:
            lower, height = groups.pop()
            middle = (height * len(lower) + middle * len(members)) / (len(lower) + len(members))
            members = lower + members
            middle = _within(middle, _tall(members, tall))
        groups.append((members, middle))
    placed = [0.0] * len(wanted)
    for members, middle in groups:
        bottom = middle - _tall(members, tall) / 2
        for index in members:
            placed[index] = bottom + tall[index] / 2
            bottom += tall[index]
    return placed


def _within(middle: float, tall: float) -> float:
    """The nearest height at which something so tall lies beside the axes."""
    return min(max(middle, tall / 2), max(1 - tall / 2, tall / 2))


def _tall(members: Sequence[int], tall: Sequence[float]) -> float:
    return sum(tall[index] for index in members)


def draw_marks(picture: Picture, mark: Mapping[str, Mark] | None) -> None:
    """Mark what the text speaks of: a point, a level, a place on the x axis, or a region, each with a word."""
    for word, (x, y) in (mark or {}).items():
        style = {
            "fontsize": SIZE,
            "color": INK,
            "parse_math": False,
            "bbox": {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5, "alpha": 0.85},
        }
        if x is None:
            assert y is not None
            picture.axhline(y, color=INK, linewidth=1.4, linestyle=(0, (1, 1.5)))
            picture.annotate(
                word,
                (0, y),
                (6, 4),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="bottom",
                **style,
            )
        elif y is not None:
            picture.scatter([x], [y], s=230, facecolors="none", edgecolors=INK, linewidths=2, zorder=5)
            left = picture.transAxes.inverted().transform(picture.transData.transform((x, y)))[0] > 0.6
            picture.annotate(
                word,
                (x, y),
                (-13 if left else 13, 9),
                textcoords="offset points",
                ha="right" if left else "left",
                va="bottom",
                **style,
            )
        elif np.ndim(x):
            picture.axvspan(x[0], x[1], color=mix(SOFT, 0.16), zorder=0)
            word_above(picture, float(np.mean(x)), word)
        else:
            picture.axvline(x, color=INK, linewidth=1.5)
            word_above(picture, float(x), word)


def word_above(picture: Picture, x: float, word: str) -> None:
    """Write a word over the axes, where no line can run through it."""
    picture.annotate(
        word,
        (x, 1),
        (0, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=SIZE,
        color=INK,
        parse_math=False,
    )


def name_bars(picture: Picture, names: Sequence[str]) -> None:
    """Name the kinds of bars over the axes, in as many columns as fit."""
    if len(names) < 2:
        return
    room = slot_inches(picture) - 1.1
    widest = max(text_width(name, SIZE) for name in names) + 0.62
    columns = max(1, min(len(names), int(room / widest)))
    picture.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        fontsize=SIZE,
        borderaxespad=0.3,
        borderpad=0.1,
        handlelength=1.5,
        handletextpad=0.5,
        columnspacing=1.4,
    )


def slot_inches(picture: Picture) -> float:
    """The width of a picture's part of the figure."""
    spec = picture.get_subplotspec()
    assert spec is not None
    return picture.canvas.figure.get_size_inches()[0] / spec.get_gridspec().ncols
