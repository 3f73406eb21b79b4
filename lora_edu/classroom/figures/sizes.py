"""How large the numbers of an update are, weight by weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import Picture, drawing, matrix_of
from lora_edu.classroom.figures._marks import SIZE, label
from lora_edu.classroom.figures._sentences import number, sentence
from lora_edu.classroom.figures.palette import COLORS, INK, PAPER, ROLES, readable

BROAD = 0.72  # of a group's room, from its first dot to its last


def update_sizes(
    W: ArrayLike,
    dW: ArrayLike,
    *,
    groups: Sequence[str],
    marked: tuple[str, int] | None = None,
    title: str = "Updates are all about one size. The weights are not",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw three dots for each weight on one logarithmic axis: a number of W, one of dW, and their ratio.

    Parameters
    ----------
    W, dW : array
        Typical size (root mean square) of a number, each of shape (groups, weights), above 0.
    groups : sequence of str
        Names of the groups, along the x axis; in a group the weights stand in their order.
    marked : (str, int), optional
        A name, and which weight of each group it belongs to: those are ringed.
    alt, title, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty, the shapes differ, or a size is not above 0.
    """
    base, update = matrix_of(W, "W"), matrix_of(dW, "dW")
    if base.shape != update.shape or len(base) != len(groups) or min(base.min(), update.min()) <= 0:
        raise ValueError(
            f"W and dW must be sizes above 0, a row for each of {len(groups)} groups, "
            f"got shapes {base.shape} and {update.shape}"
        )
    rows = {
        "W": (base, ROLES["frozen"], "s"),
        "ratio": (update / base, COLORS[0], "^"),
        "dW": (update, ROLES["trained"], "o"),
    }
    x = np.arange(len(groups))[:, None] + BROAD * (np.linspace(0, 1, base.shape[1]) - 0.5)
    with drawing(alt, ax) as picture:
        for name, (sizes, color, marker) in rows.items():
            picture.scatter(x, sizes, s=17, color=color, marker=marker, linewidths=0)
            picture.annotate(
                {"ratio": "dW / W"}.get(name, name),
                (1, float(np.exp(np.log(sizes).mean()))),
                (8, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                color=readable(color),
                fontsize=SIZE + 1,
                fontweight="bold",
                va="center",
            )
            if marked is not None:
                ring = {"s": 80, "facecolors": "none", "edgecolors": INK, "linewidths": 1.4}
                picture.scatter(x[:, marked[1]], sizes[:, marked[1]], **ring)
        picture.set_yscale("log")
        picture.set_ylim(10 ** np.floor(np.log10(update.min())), 10 ** np.ceil(np.log10(base.max())))
        picture.yaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,g}"))
        label(picture, "kind of weight, its blocks from left to right", "size of a number", title)
        picture.set_xticks(range(len(groups)), list(groups))
        picture.grid(axis="x", visible=False)
        picture.tick_params(axis="x", length=0)
        if marked is not None:
            handle = picture.scatter([], [], s=80, facecolors=PAPER, edgecolors=INK, linewidths=1.4)
            key = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderpad": 0.1, "handletextpad": 0.2}
            picture.legend([handle], [marked[0]], fontsize=SIZE, **key)
        told = {"W": "a number of W", "ratio": "dW / W", "dW": "a number of dW"}
        picture.alt = sentence(
            f"{base.size:,} weights, a dot each",
            *(f"{told[name]}: {said_of_range(sizes)}" for name, (sizes, _, _) in rows.items()),
            f"The largest ratio belongs to {_largest(update / base, groups, marked)}",
        )
    return picture


def said_of_range(sizes: np.ndarray) -> str:
    """From the smallest to the largest, and how many times that is."""
    low, high = float(sizes.min()), float(sizes.max())
    return f"{number(low)} to {number(high)}, a factor of {number(high / low)}"


def _largest(ratios: np.ndarray, groups: Sequence[str], marked: tuple[str, int] | None) -> str:
    group, place = divmod(int(np.argmax(ratios)), ratios.shape[1])
    where = marked[0] if marked is not None and marked[1] == place else f"number {place + 1}"
    return f"{groups[group]}, {where}"
