"""The levels of a code, numbered, and where a number goes."""

from __future__ import annotations

import numpy as np
from matplotlib.patches import Polygon, Rectangle
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import Picture
from lora_edu.classroom.figures._sentences import count_of, number, sentence
from lora_edu.classroom.figures.palette import PAPER, ROLES, SOFT, mix
from lora_edu.classroom.figures.schematic.parts import arrow
from lora_edu.classroom.figures.schematic.sheet import Block, sheet, word

WIDE, TALL = 7.6, 4.05  # inches
AXIS = Block(0.45, 2.45, 6.7, 0.34)  # where the whole code stands
LENS = Block(1.1, 0.97, 5.4, 0.42)  # where the levels around the number stand, enlarged
NUMBER_INCHES = 0.3  # that the number of a level takes
GAPS = 1.6  # how far the lens reaches to either side, in gaps


def numbered_levels(
    code: ArrayLike,
    value: float,
    *,
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw the levels of a code, numbered from 0, a number, and an arrow to the level that is stored for it.

    Below, enlarged, stand the levels around it. What goes to the chosen level is shaded: half a gap to each side.

    Parameters
    ----------
    code : array
        Shape (n,), n at least 2, ascending.
    value : float
        The number, within the code.
    title, alt, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty, the code does not ascend, or the number lies outside it.
    """
    levels = np.asarray(code, dtype=float)
    if levels.ndim != 1 or len(levels) < 2 or not (np.diff(levels) > 0).all():
        raise ValueError(f"code must be ascending numbers of shape (n,), n at least 2, got {levels}")
    if not levels[0] <= value <= levels[-1]:
        raise ValueError(f"value must lie in {levels[0]:g} … {levels[-1]:g}, got {value}")
    chosen = int(np.abs(value - levels).argmin())
    edges = np.concatenate([levels[:1], (levels[1:] + levels[:-1]) / 2, levels[-1:]])
    cell = float(edges[chosen]), float(edges[chosen + 1])
    gap = float(np.diff(levels)[max(0, chosen - 1) : chosen + 1].max())
    near = float(levels[chosen] - GAPS * gap), float(levels[chosen] + GAPS * gap)
    error = abs(value - levels[chosen])
    with sheet(WIDE, TALL, title=title, alt=alt, ax=ax) as picture:
        _lens(picture, levels, near)
        _whole(picture, levels, chosen, cell, value)
        _enlarged(picture, levels, chosen, cell, near, value)
        off = f"{error:.5f}".rstrip("0").rstrip(".")
        becomes = f"{value:.5g} is stored as {chosen} and read as {levels[chosen]:.3g}: off by {off}."
        word(picture, (WIDE / 2, 0.3), _minus(f"{becomes} Half a gap: {gap / 2:.2g}."))
        picture.alt = sentence(
            f"{count_of(len(levels), 'level')}, numbered 0 to {len(levels) - 1}",
            becomes,
            f"Half a gap is {number(gap / 2)} there",
        )
    return picture


def _whole(
    picture: Picture, levels: np.ndarray, chosen: int, cell: tuple[float, float], value: float
) -> None:
    """The code from its first level to its last, each with its number if there is room."""
    ends = float(levels[0]), float(levels[-1])
    _shade(picture, AXIS, ends, cell)
    _strokes(picture, AXIS, [_at(AXIS, ends, level) for level in levels], chosen)
    step = 1
    while step * AXIS.width / (len(levels) - 1) < NUMBER_INCHES:
        step *= 2
    middle = _at(AXIS, ends, levels[chosen])
    for index in {*range(0, len(levels), step), chosen}:
        x = _at(AXIS, ends, levels[index])
        if index == chosen or abs(x - middle) >= NUMBER_INCHES:
            weight = "bold" if index == chosen else "normal"
            word(picture, (x, AXIS.y - 0.06), f"{index}", role="codes", va="top", weight=weight)
    for end in ends:
        word(picture, (_at(AXIS, ends, end), AXIS.y - 0.32), _minus(f"{end:g}"), soft=True, va="top")
    x, y = _at(AXIS, ends, value), AXIS.y + AXIS.height + 0.42
    _dot(picture, x, y)
    arrow(picture, (x, y), (middle, AXIS.y + AXIS.height), "frozen")
    aside = 0.14 if x < WIDE / 2 else -0.14
    side = "left" if aside > 0 else "right"
    word(picture, (x + aside, y), _minus(f"{value:g}"), role="frozen", ha=side, weight="bold")


def _enlarged(
    picture: Picture,
    levels: np.ndarray,
    chosen: int,
    cell: tuple[float, float],
    near: tuple[float, float],
    value: float,
) -> None:
    """The levels around the number, with what they mean."""
    seen = [index for index, level in enumerate(levels) if near[0] <= level <= near[1]]
    _shade(picture, LENS, near, cell)
    _strokes(picture, LENS, [_at(LENS, near, level) for level in levels[seen]], seen.index(chosen))
    for index in seen:
        weight = "bold" if index == chosen else "normal"
        x = _at(LENS, near, levels[index])
        said = f"{index}: {levels[index]:.3g}"
        word(picture, (x, LENS.y - 0.07), _minus(said), role="codes", va="top", weight=weight)
    x, y = _at(LENS, near, value), LENS.y + LENS.height + 0.26
    _dot(picture, x, y)
    arrow(picture, (x, y), (_at(LENS, near, levels[chosen]), LENS.y + LENS.height), "frozen")


def _lens(picture: Picture, levels: np.ndarray, near: tuple[float, float]) -> None:
    """Two slanting sides: what stands below is the part of the axis above, enlarged."""
    ends = float(levels[0]), float(levels[-1])
    left, right = (_at(AXIS, ends, float(np.clip(edge, *ends))) for edge in near)
    low_left, low_right = (_at(LENS, near, float(np.clip(edge, *ends))) for edge in near)
    corners = [(left, AXIS.y), (right, AXIS.y), (low_right, LENS.top[1]), (low_left, LENS.top[1])]
    picture.add_patch(Polygon(corners, facecolor=mix(SOFT, 0.1), linewidth=0, zorder=0))
    below = Rectangle(
        (low_left, LENS.y), low_right - low_left, LENS.height, facecolor=mix(SOFT, 0.1), linewidth=0, zorder=0
    )
    picture.add_patch(below)


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


def _at(block: Block, ends: tuple[float, float], value: float) -> float:
    """Where on the sheet a number stands, when a block reaches from one end to the other."""
    return block.x + block.width * (float(value) - ends[0]) / (ends[1] - ends[0])


def _shade(picture: Picture, block: Block, ends: tuple[float, float], cell: tuple[float, float]) -> None:
    left, right = (_at(block, ends, edge) for edge in cell)
    color = mix(ROLES["codes"], 0.22)
    picture.add_patch(
        Rectangle((left, block.y), right - left, block.height, facecolor=color, linewidth=0, zorder=1)
    )


def _strokes(picture: Picture, block: Block, places: list[float], chosen: int) -> None:
    """An upright stroke for each level, the chosen one thick."""
    picture.hlines(block.y, block.x, block.x + block.width, color=ROLES["codes"], linewidth=1)
    for index, x in enumerate(places):
        width = 4.5 if index == chosen else 1.8
        picture.vlines(x, block.y, block.y + block.height, color=ROLES["codes"], linewidth=width, zorder=2)


def _dot(picture: Picture, x: float, y: float) -> None:
    picture.plot([x], [y], "o", color=ROLES["frozen"], markeredgecolor=PAPER, markersize=10, zorder=4)
