"""The updates of an adapter, layer by layer: how large each is, and which are not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.patches import Rectangle

from lora_edu.classroom.figures._canvas import PAD, Picture
from lora_edu.classroom.figures._sentences import count_of, listed, number, sentence
from lora_edu.classroom.figures.palette import GRID, PAPER, ROLES, SOFT, mix
from lora_edu.classroom.figures.schematic.sheet import sheet, word

WIDE, ROW, NAMES, RANKS, KEY = 7.6, 0.4, 1.1, 1.15, 1.5  # inches
DEEPEST, LIGHTEST = 1.0, 0.08  # share of the colour in the largest and in the smallest update
EVERY = 5  # blocks between two numbers


def update_map(
    norms: Mapping[str, Sequence[float]],
    ranks: Mapping[str, float],
    *,
    r: int,
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw one cell a layer, deeper where its update is larger; a layer without an update is empty, with a cross.

    Parameters
    ----------
    norms : mapping of str to sequence of float
        Kind of layer to the Frobenius norm of its update, one a block; NaN where there is none.
    ranks : mapping of str to float
        Kind of layer to the rank that holds 99 % of an update's energy, the median over the blocks.
    r : int
        Rank of the adapter.
    title, alt, ax
        As in `lora_layer`.

    Raises
    ------
    ValueError
        If `alt` is empty, the kinds differ in their number of blocks, no layer has an update, or `ranks` names others.
    """
    table = {kind: np.asarray(row, dtype=float) for kind, row in norms.items()}
    blocks = {len(row) for row in table.values()}
    if len(blocks) != 1 or all(np.isnan(row).all() for row in table.values()):
        raise ValueError(f"norms must hold one number a block for each kind, and not NaN alone, got {norms}")
    if set(ranks) != set(norms):
        raise ValueError(f"ranks must name the kinds of norms, {list(norms)}, got {list(ranks)}")
    (count,) = blocks
    largest = max(float(np.nanmax(row)) for row in table.values() if not np.isnan(row).all())
    left, cell = PAD + NAMES, (WIDE - 2 * PAD - NAMES - RANKS) / count
    bottom = PAD + 0.72
    top = bottom + ROW * len(table)
    with sheet(WIDE, top + 1.05, title=title, alt=alt, ax=ax) as picture:
        right = left + count * cell
        word(picture, (right + RANKS / 2, top + 0.06), f"rank (of {r})\nfor 99 %", soft=True, va="bottom")
        for i, (kind, row) in enumerate(table.items()):
            y = top - (i + 1) * ROW
            word(picture, (left - 0.12, y + ROW / 2), kind, ha="right")
            word(picture, (right + RANKS / 2, y + ROW / 2), f"{ranks[kind]:g}")
            for j, norm in enumerate(row):
                _cell(picture, (left + j * cell, y), cell, norm / (largest or 1.0))
        for j in sorted({*range(0, count, EVERY), 0}):
            word(picture, (left + (j + 0.5) * cell, bottom - 0.16), str(j), soft=True)
        _key(picture, left, largest)
        word(picture, (left - 0.12, bottom - 0.16), "block", soft=True, ha="right")
        picture.alt = _said(table, ranks, r, title)
    return picture


def _cell(picture: Picture, corner: tuple[float, float], width: float, share: float) -> None:
    missing = np.isnan(share)
    fill = PAPER if missing else mix(ROLES["trained"], LIGHTEST + (DEEPEST - LIGHTEST) * share)
    edge = GRID if missing else PAPER
    picture.add_patch(Rectangle(corner, width, ROW, facecolor=fill, edgecolor=edge, linewidth=1.0))
    if missing:
        x, y = corner[0] + width / 2, corner[1] + ROW / 2
        arm = min(width, ROW) / 5
        for rise in (-arm, arm):
            picture.plot([x - arm, x + arm], [y - rise, y + rise], color=SOFT, linewidth=1.2)


def _key(picture: Picture, left: float, largest: float) -> None:
    """Shades from nothing to the largest update."""
    y, steps = PAD + 0.04, 12
    word(picture, (left, y + 0.1), "norm 0", soft=True, ha="left")
    start = left + 0.75
    for step in range(steps):
        share = step / (steps - 1)
        fill = mix(ROLES["trained"], LIGHTEST + (DEEPEST - LIGHTEST) * share)
        corner = start + step * KEY / steps, y
        picture.add_patch(Rectangle(corner, KEY / steps, 0.2, facecolor=fill, linewidth=0))
    word(picture, (start + KEY + 0.08, y + 0.1), number(largest), soft=True, ha="left")


def _said(table: Mapping[str, np.ndarray], ranks: Mapping[str, float], r: int, title: str) -> str:
    """For each kind the median and the largest norm with its block, the rank, and how many blocks are without."""
    told = []
    for kind, row in table.items():
        missing = int(np.isnan(row).sum())
        if missing == len(row):
            told.append(f"{kind}: no update")
            continue
        text = (
            f"{kind}: norm {number(float(np.nanmedian(row)))}, at most {number(float(np.nanmax(row)))} in block "
            f"{int(np.nanargmax(row))}; 99 % of the energy in rank {ranks[kind]:g} of {r}"
        )
        without = [str(block) for block in np.flatnonzero(np.isnan(row))]
        told.append(text + (f"; {count_of(missing, 'block')} without, {listed(without)}" if missing else ""))
    count = len(next(iter(table.values())))
    return sentence(title, f"One cell a layer, {count_of(count, 'block')}, medians", *told)
