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
from lora_edu.classroom.figures.palette import COLORS, LINE_STYLES, MARKERS, PAPER, ROLES, readable

ROOM = 0.12  # of each axis, beside the outermost points
# Where the names of a series' points stand: to the right and below of them, left, or above.
_BELOW = {"xytext": (7, -5), "ha": "left", "va": "top"}
_ABOVE = {"xytext": (0, 9), "ha": "center", "va": "bottom"}
_LEFT = {"xytext": (-6, 5), "ha": "right", "va": "bottom"}
_SIDES: tuple[dict[str, Any], ...] = (_BELOW, _LEFT, _ABOVE)
_BOX = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.5}  # no line strikes a name through


def trade_off(
    series: Mapping[str, Mapping[str, ArrayLike]],
    *,
    base: tuple[float, float],
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
        (repeats, 2); at most three series. Each has a place of its own for the names of its points.
    base : (float, float)
        Cost and score at the start, before any training.
    xlabel, ylabel, title, alt, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty, a shape does not fit, or there are more series than places for their names.
    """
    if len(series) > len(_SIDES):
        raise ValueError(f"series must be at most {len(_SIDES)}, got {len(series)}")
    points = {
        label_: {name: _repeats(values, name) for name, values in named.items()}
        for label_, named in series.items()
    }
    with drawing(alt, ax) as picture:
        told = []
        for index, (label_, named) in enumerate(points.items()):
            color = COLORS[index]
            middles = np.array([np.median(values, axis=0) for values in named.values()])
            style: dict[str, Any] = {"marker": MARKERS[index], "linestyle": LINE_STYLES[index]}
            picture.plot(*middles.T, markersize=9, linewidth=1.6, label=label_, color=color, **style)
            for (name, values), (x, y) in zip(named.items(), middles, strict=True):
                low, high = values.min(axis=0), values.max(axis=0)
                picture.hlines(y, low[0], high[0], color=color, linewidth=2)
                picture.vlines(x, low[1], high[1], color=color, linewidth=2)
                _name(picture, name, (x, y), color, _SIDES[index])
            ends = (
                f"{name} {say.percent(y)} at {x:.2f}" for name, (x, y) in zip(named, middles, strict=True)
            )
            told.append(f"{label_}: {say.listed(ends)}")
        picture.plot(*base, marker="s", markersize=11, linestyle="", color=ROLES["frozen"], clip_on=False)
        _name(picture, "base", base, ROLES["frozen"], {"xytext": (11, 0), "ha": "left", "va": "center"})
        picture.axvline(base[0], color=ROLES["frozen"], linestyle=":", linewidth=1.6)
        picture.margins(ROOM)
        label(picture, xlabel, ylabel, title)
        picture.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        name_bars(picture, list(points))
        picture.alt = say.sentence(
            title,
            f"{ylabel[:1].upper()}{ylabel[1:]} over {xlabel}, medians",
            *told,
            f"The base: {say.percent(base[1])} at {base[0]:.2f}",
        )
    return picture


def _name(picture: Picture, name: str, place: tuple[float, float], color: str, side: dict[str, Any]) -> None:
    picture.annotate(
        name, place, textcoords="offset points", fontsize=SIZE, color=readable(color), bbox=_BOX, **side
    )


def _repeats(values: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 2 or array.shape[1] != 2 or not len(array):
        raise ValueError(f"{name} must have cost and score of each repeat, (repeats, 2), got {array.shape}")
    return array
