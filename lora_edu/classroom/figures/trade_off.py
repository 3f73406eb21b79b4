"""What a way to train wins, over what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from lora_edu.classroom.figures import _sentences as say
from lora_edu.classroom.figures._canvas import Picture, drawing
from lora_edu.classroom.figures._marks import SIZE, label, name_bars
from lora_edu.classroom.figures.palette import COLORS, INK, MARKERS, SOFT, readable

ROOM = 0.12  # of each axis, beside the outermost points


def trade_off(
    series: Mapping[str, Mapping[str, ArrayLike]],
    *,
    before: float,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw scores (0 to 1) over a cost: a line a series through its points, whose spread is drawn both ways.

    Parameters
    ----------
    series : mapping of str to mapping of str to array
        Label to points, in the order in which they are joined: a short name to cost and score of each repeat,
        (repeats, 2). The names of one series stand above its points, those of the next below, and so on.
    before : float
        The cost at the start, drawn as a line.
    xlabel, ylabel, title, alt, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty or a shape does not fit.
    """
    points = {
        label_: {name: _repeats(values, name) for name, values in named.items()}
        for label_, named in series.items()
    }
    with drawing(alt, ax) as picture:
        told = []
        for index, (label_, named) in enumerate(points.items()):
            style: dict[str, Any] = {
                "color": COLORS[index % len(COLORS)],
                "marker": MARKERS[index % len(MARKERS)],
            }
            middles = np.array([np.median(values, axis=0) for values in named.values()])
            picture.plot(*middles.T, markersize=9, linewidth=1.6, alpha=0.95, label=label_, **style)
            above = index % 2 == 0
            for (name, values), (x, y) in zip(named.items(), middles, strict=True):
                low, high = values.min(axis=0), values.max(axis=0)
                picture.hlines(y, low[0], high[0], color=style["color"], linewidth=2)
                picture.vlines(x, low[1], high[1], color=style["color"], linewidth=2)
                picture.annotate(
                    name,
                    (x, high[1] if above else low[1]),
                    (0, 8 if above else -8),
                    textcoords="offset points",
                    ha="center",
                    va="bottom" if above else "top",
                    fontsize=SIZE,
                    color=readable(style["color"]),
                )
            ends = [
                f"{name} {say.percent(y)} at {x:.2f}" for name, (x, y) in zip(named, middles, strict=True)
            ]
            told.append(f"{label_}: {say.listed(ends)}")
        picture.axvline(before, color=INK, linestyle="--", linewidth=1.6)
        picture.annotate(
            "base",
            (before, 0.02),
            (6, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=SOFT,
            fontsize=SIZE,
        )
        picture.margins(ROOM)
        label(picture, xlabel, ylabel, title)
        picture.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        name_bars(picture, list(points))
        picture.alt = say.sentence(
            title,
            f"{ylabel[:1].upper()}{ylabel[1:]} over {xlabel}, medians",
            *told,
            f"The base is at {before:.2f}",
        )
    return picture


def _repeats(values: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 2 or array.shape[1] != 2 or not len(array):
        raise ValueError(f"{name} must have cost and score of each repeat, (repeats, 2), got {array.shape}")
    return array
