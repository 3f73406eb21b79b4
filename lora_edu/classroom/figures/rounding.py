"""What a number format leaves of a small change."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import Picture, drawing
from lora_edu.classroom.figures._marks import SIZE, label
from lora_edu.classroom.figures._sentences import sentence
from lora_edu.classroom.figures.palette import INK, PAPER, ROLES, readable

RISE = 0.36  # of a row: how far above it a change is drawn


def nearby_levels(
    rows: Mapping[str, ArrayLike],
    *,
    change: float,
    xlabel: str = "distance from the weight",
    title: str = "The larger a weight, the coarser its gaps in bfloat16",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw, a row for each number, the levels of a format around it, a change, and the level where that lands.

    Parameters
    ----------
    rows : mapping of str to array
        What a number is called to the distances (n,) of the levels around it; the number itself is a level, at 0.
    change : float
        What is added to each number.
    xlabel, alt, title, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty, or 0 is no level of a row.
    """
    levels = {name: np.asarray(values, dtype=float) for name, values in rows.items()}
    for name, values in levels.items():
        if values.ndim != 1 or not np.any(values == 0):
            raise ValueError(f"{name} must be distances of shape (n,), one of them 0, got {values}")
    reach = max(1.05 * change, *(np.abs(v).max() for v in levels.values()))
    landed = {name: float(v[np.argmin(np.abs(v - change))]) for name, v in levels.items()}
    with drawing(alt, ax) as picture:
        for index, (name, values) in enumerate(levels.items()):
            picture.hlines(index, -reach, reach, color=ROLES["frozen"], linewidth=1)
            picture.vlines(values, index - 0.2, index + 0.2, color=ROLES["frozen"], linewidth=2.2)
            tip = change, index - RISE
            _arrow(picture, (0.0, index - RISE), tip, color=ROLES["trained"])
            _arrow(picture, tip, (landed[name], index), color=INK, linestyle="--", shrinkB=7)
            picture.plot([landed[name]], [index], "o", color=PAPER, markeredgecolor=INK, markeredgewidth=2)
            picture.plot([0], [index], "s", color=ROLES["frozen"], markersize=5)
        label(picture, xlabel, "", title)
        picture.set_xlim(-1.05 * reach, 1.05 * reach)
        picture.set_yticks(range(len(levels)), list(levels))
        picture.set_ylim(len(levels) - 0.5, -0.75)
        picture.grid(visible=False)
        picture.tick_params(axis="y", length=0)
        picture.annotate(
            f"+ {change:g}",
            (change, -RISE),
            (6, 0),
            textcoords="offset points",
            color=readable(ROLES["trained"]),
            fontsize=SIZE,
            fontweight="bold",
            va="center",
        )
        picture.alt = sentence(
            f"A change of {change:g}, and where it lands",
            *(f"{name}: {_said(landed[name])}" for name in levels),
        )
    return picture


def _said(landed: float) -> str:
    return "back at the start, all of it lost" if landed == 0 else f"at {landed:.2g} from the start"


def _arrow(
    picture: Picture, start: tuple[float, float], end: tuple[float, float], **style: str | float
) -> None:
    way = {"arrowstyle": "-|>", "linewidth": 2, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 12} | style
    picture.annotate("", end, start, arrowprops=way)
