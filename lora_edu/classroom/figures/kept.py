"""How much of an update is left after a weight was rounded, by the update's size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from lora_edu.classroom.figures import _sentences as say
from lora_edu.classroom.figures._canvas import Picture, drawing, median_and_range
from lora_edu.classroom.figures._marks import SIZE, label, name_lines
from lora_edu.classroom.figures.charts import last_point
from lora_edu.classroom.figures.palette import COLORS, LINE_STYLES, MARKERS, ROLES, readable

LITTLE = 0.1  # of an update: what keeps less is counted in the title


def kept_by_size(
    curves: Mapping[str, ArrayLike],
    *,
    sizes: Sequence[float],
    updates: ArrayLike,
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw the kept share of updates over their size, a line a layer, and a dot for each trained update.

    Parameters
    ----------
    curves : mapping of str to array
        Label to one kept share a size; repeats as in `lines`.
    sizes : sequence of float
        |update| / |W|, rising, above 0; the axis is logarithmic.
    updates : array
        Size and kept share of each trained update, (updates, 2).
    title : str
        The finding; if left out, how many updates keep less than a tenth.
    alt, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty, a shape does not fit, or a size is not above 0.
    """
    dots = np.asarray(updates, dtype=float)
    if dots.ndim != 2 or dots.shape[1] != 2 or not len(dots) or min(*sizes, *dots[:, 0]) <= 0:
        raise ValueError(
            f"updates must be a size above 0 and a kept share each, shape (updates, 2), got {dots.shape}"
        )
    lost = int((dots[:, 1] < LITTLE).sum())
    with drawing(alt, ax) as picture:
        ends, told = [], []
        for index, (name, values) in enumerate(curves.items()):
            middle, low, high = median_and_range(values, name, len(sizes))
            style: dict[str, Any] = {
                "linestyle": LINE_STYLES[index % 4],
                "marker": MARKERS[index % len(MARKERS)],
            }
            picture.plot(sizes, middle, color=COLORS[index % len(COLORS)], label=name, **style)
            picture.fill_between(sizes, low, high, color=COLORS[index % len(COLORS)], alpha=0.18, linewidth=0)
            ends.append(last_point(np.asarray(sizes), middle))
            told.append(f"{name}: {_said(middle, sizes)}")
        picture.scatter(*dots.T, s=22, color=ROLES["trained"], linewidths=0, zorder=4, alpha=0.7)
        picture.annotate(
            say.count_of(len(dots), "trained update"),
            (0, 0),
            (6, 4),
            xycoords="axes fraction",
            textcoords="offset points",
            color=readable(ROLES["trained"]),
            fontsize=SIZE,
            fontweight="bold",
        )
        picture.set_xscale("log")
        picture.set_xticks(list(sizes), [f"{100 * size:g} %" for size in sizes])
        picture.minorticks_off()
        picture.margins(x=0.04)
        picture.set_ylim(min(-0.15, float(dots[:, 1].min()) - 0.12), max(1.1, float(dots[:, 1].max()) + 0.1))
        finding = title or f"{lost} of {say.count_of(len(dots), 'update')} keep less than a tenth"
        label(picture, "size of the update, in % of the weight's norm", "kept of the update", finding)
        picture.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        name_lines(picture, list(curves), ends, [COLORS[i % len(COLORS)] for i in range(len(curves))])
        picture.alt = say.sentence(
            finding,
            f"Trained updates have {_range(dots[:, 0])} of their weight's norm and keep {_range(dots[:, 1])}",
            f"Random ones, by size: {'; '.join(told)}",
        )
    return picture


def _range(shares: np.ndarray) -> str:
    return f"{say.percent(float(shares.min()))} to {say.percent(float(shares.max()))}"


def _said(kept: np.ndarray, sizes: Sequence[float]) -> str:
    return ", ".join(
        f"{say.percent(float(share))} at {100 * size:g} %" for size, share in zip(sizes, kept, strict=True)
    )
