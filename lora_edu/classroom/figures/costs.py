"""What costs grow with: a shape, or a count over several powers of ten."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, PercentFormatter
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import STYLE, Picture
from lora_edu.classroom.figures._marks import SIZE, Mark, tick
from lora_edu.classroom.figures._sentences import listed, number, percent, sentence
from lora_edu.classroom.figures.charts import lines
from lora_edu.classroom.figures.palette import INK

LONGEST = 100  # times the shorter side: where the axis of shapes ends


def break_even(
    layers: Mapping[str, tuple[int, int]],
    *,
    alt: str | None = None,
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw the rank at which B and A hold as many numbers as W, over how long W is; one curve holds for all shapes.

    Parameters
    ----------
    layers : mapping of str to (int, int)
        Layers to mark: name to shape (out, in) of W, its longer side at most `LONGEST` times the other.
    alt, title, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty, or a shape is outside these bounds.
    """
    ratios = {name: max(shape) / max(min(shape), 1e-9) for name, shape in layers.items()}
    if any(min(shape) < 1 or ratios[name] > LONGEST for name, shape in layers.items()):
        raise ValueError(
            f"layers must have sides of at least 1 and up to {LONGEST} times, got {dict(layers)}"
        )
    x = np.geomspace(1, LONGEST, 60)
    picture = lines(
        {"break-even rank": x / (1 + x)},
        x=x,
        xlabel="longer side over shorter side of W",
        ylabel="share of the largest rank",
        ylim=(0, 1.1),
        title=title,
        alt=alt,
        ax=ax,
    )
    with mpl.rc_context(STYLE):  # new ticks
        picture.set_xscale("log")
        picture.set_xlim(0.85, 1.6 * LONGEST)  # the last label stands inside
        ticks = [1, 3, 10, 30, LONGEST]
        picture.set_xticks(ticks, [f"{t:g} : 1" for t in ticks])
        picture.minorticks_off()
        picture.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        picture.lines[0].set_marker("")
        for name, ratio in ratios.items():
            at, left = (ratio, ratio / (1 + ratio)), ratio > LONGEST**0.5
            picture.scatter(*at, s=230, facecolors="none", edgecolors=INK, linewidths=2, zorder=5)
            text = f"{name}, {layers[name][0]:,} × {layers[name][1]:,}"
            picture.annotate(
                text,
                at,
                (8 if left else 10, -12),
                textcoords="offset points",
                ha="right" if left else "left",
                va="top",
                fontsize=SIZE,
                parse_math=False,
            )
    picture.alt = alt or sentence(
        f"The break-even rank is {percent(0.5)} of the largest rank for a square W, and "
        f"{percent(LONGEST / (1 + LONGEST))} where one side is {LONGEST} times the other",
        "Marked: "
        + listed(
            f"{name}, {out:,} × {into:,}, breaks even at rank {number(out * into / (out + into))} of {min(out, into):,}"
            for name, (out, into) in layers.items()
        ),
    )
    return picture


def log_log(
    series: Mapping[str, ArrayLike],
    *,
    x: ArrayLike,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    roles: Mapping[str, str] | None = None,
    mark: Mapping[str, Mark] | None = None,
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw one line a series over two logarithmic axes; parameters as in `lines`, all numbers above 0.

    Raises
    ------
    ValueError
        If `alt` is empty, a shape does not fit, or a number is not above 0.
    """
    if min(np.min(x), *(np.min(values) for values in series.values())) <= 0:
        raise ValueError("series and x must be above 0, on logarithmic axes")
    picture = lines(
        series,
        x=x,
        xlabel=xlabel,
        ylabel=ylabel,
        title=title,
        log_y=True,
        roles=roles,
        mark=mark,
        alt=alt,
        ax=ax,
    )
    with mpl.rc_context(STYLE):  # new ticks
        picture.set_xscale("log")
        for axis in (picture.xaxis, picture.yaxis):
            axis.set_major_locator(LogLocator(numticks=6))
            axis.set_major_formatter(FuncFormatter(tick))
        picture.minorticks_off()
    return picture
