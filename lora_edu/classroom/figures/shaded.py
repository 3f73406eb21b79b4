"""A table whose cells are shaded, so that the eye finds what the numbers say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.patches import Rectangle

from lora_edu.classroom.figures._canvas import PAD, Picture, wrapped
from lora_edu.classroom.figures._sentences import listed, sentence
from lora_edu.classroom.figures.palette import COLORS, INK, PAPER, mix, on
from lora_edu.classroom.figures.schematic.parts import outline
from lora_edu.classroom.figures.schematic.sheet import Block, sheet, word

ROW, GAP, NAMES, LABELS, WIDTH = 0.31, 0.16, 1.0, 1.75, 7.2  # inches
DEEPEST = 0.62  # share of the colour in the worst cell


def shaded_table(
    groups: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    columns: Sequence[str],
    limits: Sequence[tuple[float, float]],
    formats: Sequence[str],
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw numbers in cells, deeper where they are larger; the least of each group's column has a frame.

    Parameters
    ----------
    groups : mapping of str to mapping of str to sequence
        Name of a group to its rows: a name and one number a column. Smaller is better.
    columns : sequence of str
        Names of the columns.
    limits : sequence of (float, float)
        For each column the numbers that are lightest and deepest: they stand still under a slider.
    formats : sequence of str
        How each column's numbers are written.
    title, alt, ax
        As in `lora_layer`.

    Raises
    ------
    ValueError
        If `alt` is empty, there is no row, a row has not one number a column, or the limits of a column do not ascend.
    """
    rows = [row for group in groups.values() for row in group.values()]
    if not rows or {len(row) for row in rows} | {len(limits), len(formats)} != {len(columns)}:
        raise ValueError(f"groups must hold rows of {len(columns)} numbers, one for each of {list(columns)}")
    if not all(low < high for low, high in limits):
        raise ValueError(f"limits must be pairs that ascend, such as (0, 1), got {list(limits)}")
    cell = (WIDTH - 2 * PAD - NAMES - LABELS) / len(columns)
    heads = [wrapped(name, cell - 0.06, 13) for name in columns]
    lines = max(head.count("\n") + 1 for head in heads)
    top = PAD + len(rows) * ROW + (len(groups) - 1) * GAP
    left = PAD + NAMES + LABELS
    with sheet(WIDTH, top + 0.2 * lines + 0.62, title=title, alt=alt, ax=ax) as picture:
        for j, head in enumerate(heads):
            word(picture, (left + (j + 0.5) * cell, top + 0.06), head, va="bottom")
        y, best = top, {}
        for group, members in groups.items():
            numbers = np.array(list(members.values()), dtype=float)
            word(picture, (PAD, y - len(members) * ROW / 2), group, ha="left", weight="bold")
            for name, row in members.items():
                y -= ROW
                word(picture, (PAD + NAMES, y + ROW / 2), name, ha="left")
                _cells(picture, (left, y), cell, row, limits, formats)
            for j, i in enumerate(numbers.argmin(0)):
                place = Block(left + j * cell, y + (len(members) - 1 - i) * ROW, cell, ROW)
                if len(members) > 1:
                    outline(picture, place, INK, width=1.8)
                least = f"{columns[j]} {list(members)[i]} ({formats[j].format(numbers[i, j])})"
                best.setdefault(group, []).append(least)
            y -= GAP
        told = (f"{group}: {listed(found)}" for group, found in best.items())
        picture.alt = sentence(title, "The least of each column", *told)
    return picture


def _cells(
    picture: Picture,
    corner: tuple[float, float],
    width: float,
    row: Sequence[float],
    limits: Sequence[tuple[float, float]],
    formats: Sequence[str],
) -> None:
    """One row: a shade between the column's limits, and the number on it."""
    for j, (value, (low, high), text) in enumerate(zip(row, limits, formats, strict=True)):
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        fill = mix(COLORS[0], 0.04 + DEEPEST * share)
        x, y = corner[0] + j * width, corner[1]
        picture.add_patch(Rectangle((x, y), width, ROW, facecolor=fill, edgecolor=PAPER, linewidth=1.2))
        word(picture, (x + width / 2, y + ROW / 2 - 0.01), text.format(value), color=on(fill))
