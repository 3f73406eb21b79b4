"""Shares over the rank, for two or more groups side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import Picture, drawing, median_and_range
from lora_edu.classroom.figures._marks import SIZE, label, name_lines
from lora_edu.classroom.figures._sentences import percent, sentence
from lora_edu.classroom.figures.palette import INK, LINE_STYLES, MARKERS, colors_of

GAP = 1.1  # between two groups, in doublings of the rank

Points = tuple[Sequence[int] | None, ArrayLike]  # ranks and shares; without ranks: one share, a level


class _Line(NamedTuple):
    ranks: np.ndarray  # (n,); a level reaches from the first rank of the axis to the last
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    is_level: bool


def rank_panels(
    groups: Mapping[str, Mapping[str, Points]],
    *,
    ylabel: str = "",
    roles: Mapping[str, str] | None = None,
    alt: str | None = None,
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw the same lines of shares (0 to 1) for each group, over a logarithmic axis of ranks.

    Parameters
    ----------
    groups : mapping of str to mapping of str to (ranks, shares)
        For each group the same line names. Shares have shape (n,), or (repeats, n), drawn as their median and a band
        from lowest to highest. With None for ranks, n is 1 and the line is a level.
    ylabel, alt, title, ax
        As in `lines`.
    roles : mapping of str to str, optional
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty, two groups have different lines, or a shape does not fit.
    """
    names = list(next(iter(groups.values()), {}))
    if not names or any(list(lines) != names for lines in groups.values()):
        raise ValueError(f"groups must all have the lines of the first, {names}")
    ranks = sorted({rank for lines in groups.values() for known, _ in lines.values() for rank in known or ()})
    drawn = {
        group: {name: _line(name, points, ranks) for name, points in lines.items()}
        for group, lines in groups.items()
    }
    colors = colors_of(names, roles)
    room = np.log2(ranks[-1] / ranks[0])
    starts = [index * (room + GAP) - np.log2(ranks[0]) for index in range(len(groups))]
    with drawing(alt, ax) as picture:
        for start, lines in zip(starts, drawn.values(), strict=True):
            for index, line in enumerate(lines.values()):
                _draw(picture, start, line, index, colors[index])
        picture.set_yscale("linear")
        picture.set(ylim=(-0.03, 1.05), xlim=(-0.3, starts[-1] + np.log2(ranks[-1]) + 0.3))
        label(picture, "rank", ylabel, title)
        picture.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        shown = [rank for rank in ranks if rank < 16 or np.log2(rank) % 2 == 0]
        places = [start + np.log2(rank) for start in starts for rank in shown]
        picture.set_xticks(places, [str(rank) for rank in shown] * len(groups))
        for start, group in zip(starts, groups, strict=True):
            middle = start + np.log2(ranks[0]) + room / 2
            picture.annotate(
                group,
                (middle, 1),
                (0, 3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=SIZE + 1,
                fontweight="bold",
                color=INK,
            )
        ends = [starts[-1] + np.log2(line.ranks[-1]) for line in drawn[list(groups)[-1]].values()]
        heights = [float(line.middle[-1]) for line in drawn[list(groups)[-1]].values()]
        name_lines(picture, names, list(zip(ends, heights, strict=True)), colors)
        picture.alt = _said(drawn, ylabel)
    return picture


def _line(name: str, points: Points, ranks: Sequence[int]) -> _Line:
    known, shares = points
    middle, low, high = median_and_range(shares, name, 1 if known is None else len(known))
    if known is None:
        ends = np.array([ranks[0], ranks[-1]], float)
        return _Line(ends, middle.repeat(2), low.repeat(2), high.repeat(2), is_level=True)
    return _Line(np.array(known, float), middle, low, high, is_level=False)


def _draw(picture: Picture, start: float, line: _Line, index: int, color: str) -> None:
    x = start + np.log2(line.ranks)
    marker = "" if line.is_level else MARKERS[index % len(MARKERS)]
    picture.plot(x, line.middle, color=color, linestyle=LINE_STYLES[index % len(LINE_STYLES)], marker=marker)
    if np.any(line.low < line.high):
        picture.fill_between(x, line.low, line.high, color=color, alpha=0.18, linewidth=0)


def _said(drawn: Mapping[str, Mapping[str, _Line]], ylabel: str) -> str:
    """For each line of each group its first and its last share, or its only one."""
    parts = [f"{ylabel[:1].upper()}{ylabel[1:]} over the rank, medians"] if ylabel else []
    for group, lines in drawn.items():
        told = []
        for name, line in lines.items():
            first, last = percent(float(line.middle[0])), percent(float(line.middle[-1]))
            ends = f"{first} at {line.ranks[0]:.0f}, {last} at {line.ranks[-1]:.0f}"
            told.append(f"{name} {first}" if line.is_level else f"{name} {ends}")
        parts.append(f"{group[:1].upper()}{group[1:]}: {'; '.join(told)}")
    return sentence(*parts)
