"""Scores against the learning rate, and against the length of a step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from lora_edu.classroom.figures import _sentences as say
from lora_edu.classroom.figures._canvas import STYLE, Picture, drawing, median_and_range
from lora_edu.classroom.figures._marks import SIZE, label, name_bars
from lora_edu.classroom.figures.charts import lines
from lora_edu.classroom.figures.palette import COLORS, INK, MARKERS, readable

SIDE_BY_SIDE = 1.16  # from one point to the next at the same place


def score_by_rate(
    series: Mapping[str, ArrayLike],
    *,
    rates: Sequence[float],
    xlabel: str = "learning rate",
    ylabel: str = "",
    ylim: tuple[float, float] = (-0.1, 1.05),
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw shares (0 to 1) against the learning rate, and ring each line's best rate.

    Parameters
    ----------
    series : mapping of str to array
        Label to one share a rate, nan where none was measured; repeats as in `lines`.
    rates : sequence of float
        The learning rates, rising; the axis is logarithmic.
    ylim : (float, float)
        Where the y axis begins and ends; below 0 leaves room between the first labels of both axes.
    xlabel, ylabel, title, alt, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty or a shape does not fit `rates`.
    """
    picture = lines(series, x=rates, xlabel=xlabel, ylabel=ylabel, title=title, alt=alt, ax=ax)
    best = []
    with mpl.rc_context(STYLE):  # new ticks
        for name, values in series.items():
            middle, _, _ = median_and_range(values, name, len(rates))
            top = int(np.nanargmax(middle))
            best.append(f"{name} {say.percent(float(middle[top]))} at {rates[top]:g}")
            ring: dict[str, Any] = {"facecolors": "none", "edgecolors": INK, "linewidths": 1.6, "zorder": 5}
            ring["clip_on"] = False  # the best may be the last
            picture.scatter([rates[top]], [middle[top]], s=170, **ring)
        picture.set_xscale("log")
        picture.set_xticks(list(rates), [f"{rate:g}" for rate in rates], fontsize=SIZE)
        picture.minorticks_off()
        picture.set_ylim(ylim)
        picture.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    where = f"{ylabel[:1].upper()}{ylabel[1:]} against the {xlabel}" if ylabel else ""
    picture.alt = alt or say.sentence(title, where, f"The best: {say.listed(best)}")
    return picture


def score_by_step(
    series: Mapping[str, Mapping[str, tuple[float, ArrayLike]]],
    *,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw shares (0 to 1) as points over a logarithmic length of step, each with its name at an end of its spread.

    Parameters
    ----------
    series : mapping of str to mapping of str to (float, array)
        Label to points: a short name to a place on the x axis, above 0, and a share, or one share a repeat. Points at
        one place are drawn side by side.
    xlabel, ylabel, title, alt, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty or a place is not above 0.
    """
    places = [place for points in series.values() for place, _ in points.values()]
    if any(not place > 0 for place in places):
        raise ValueError("every place must be above 0, on a logarithmic axis")
    with drawing(alt, ax) as picture:
        texts, met = [], Counter()
        for index, (label_, points) in enumerate(series.items()):
            style: dict[str, Any] = {
                "color": COLORS[index % len(COLORS)],
                "marker": MARKERS[index % len(MARKERS)],
            }
            told = []
            for name, (place, shares) in points.items():
                [middle], [low], [high] = median_and_range(np.atleast_1d(shares)[:, None], label_, 1)
                x = place * SIDE_BY_SIDE ** (met[place] - (places.count(place) - 1) / 2)
                above = met[place] % 2 == 0
                met[place] += 1
                picture.vlines(x, low, high, color=style["color"], linewidth=2)
                picture.plot(x, middle, markersize=9, linestyle="", label="" if told else label_, **style)
                picture.annotate(
                    name,
                    (x, high if above else low),
                    (0, 7 if above else -7),
                    textcoords="offset points",
                    ha="center",
                    va="bottom" if above else "top",
                    fontsize=SIZE,
                    color=readable(style["color"]),
                )
                told.append(f"{name} {say.percent(float(middle))}")
            texts.append(f"{label_}: {say.listed(told)}")
        picture.set_xscale("log")
        picture.margins(x=0.06, y=0.14)
        label(picture, xlabel, ylabel, title)
        picture.minorticks_off()
        doubled = 2.0 ** np.arange(np.floor(np.log2(min(places))), np.ceil(np.log2(max(places))) + 1)
        picture.set_xticks(doubled, [f"{place:,g}" for place in doubled])
        picture.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        name_bars(picture, list(series))
        picture.alt = say.sentence(f"{ylabel[:1].upper()}{ylabel[1:]} over {xlabel}, medians", *texts)
    return picture
