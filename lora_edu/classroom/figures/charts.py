"""Lines and bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import (
    COLORS,
    HATCHES,
    LINE_STYLES,
    MARKERS,
    STYLE,
    Picture,
    drawing,
    label,
    median_and_range,
)


def lines(
    series: Mapping[str, ArrayLike],
    *,
    alt: str,
    x: ArrayLike | None = None,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    log_y: bool = False,
    ylim: tuple[float, float] | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw one line a series; repeats become their median and a band from lowest to highest.

    Parameters
    ----------
    series : mapping of str to array
        Label to values, each of shape (n,) or (repeats, n).
    alt : str
        What there is to see, in a sentence; shown below the picture too.
    x : array, optional
        Shape (n,), shared by all series; 1 ... n if left out.
    xlabel, ylabel, title : str
        Texts, with units where there are any.
    log_y : bool
        Logarithmic y axis.
    ylim : (float, float), optional
        Where the y axis begins and ends, for lines that a slider moves; None: around the lines.
    ax : Picture, optional
        Where to draw; a new figure if left out.

    Raises
    ------
    ValueError
        If `alt` is empty or a shape does not fit.
    """
    positions = None if x is None else np.asarray(x)
    with drawing(alt, ax) as picture:
        for index, (name, values) in enumerate(series.items()):
            length = None if positions is None else len(positions)
            middle, low, high = median_and_range(values, name, length)
            steps = np.arange(1, len(middle) + 1) if positions is None else positions
            color = COLORS[index % len(COLORS)]
            picture.plot(
                steps,
                middle,
                color=color,
                linestyle=LINE_STYLES[index % len(LINE_STYLES)],
                marker=MARKERS[index % len(MARKERS)],
                markevery=max(1, len(middle) // 10),
                label=name,
            )
            if np.any(low < high):
                picture.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
        picture.set_yscale("log" if log_y else "linear")
        if ylim is not None:
            picture.set_ylim(ylim)
        label(picture, xlabel, ylabel, title, legend=len(series) > 1)
    return picture


def loss_curve(
    losses: Mapping[str, ArrayLike],
    *,
    alt: str,
    steps: ArrayLike | None = None,
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw training losses (nats a token) over optimizer steps; parameters as in `lines`."""
    picture = lines(losses, x=steps, xlabel="optimizer step", ylabel="loss", title=title, alt=alt, ax=ax)
    picture.xaxis.set_major_locator(MaxNLocator(integer=True))  # no step is half taken
    return picture


def bars(
    series: Mapping[str, ArrayLike],
    *,
    groups: Sequence[str],
    alt: str,
    ylabel: str = "",
    title: str = "",
    number_format: str = "{:.3g}",
    top: float | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw bars in groups; repeats become their median with a whisker from lowest to highest.

    Parameters
    ----------
    series : mapping of str to array
        Label to one value a group, each of shape (groups,) or (repeats, groups).
    groups : sequence of str
        Names of the groups, along the x axis.
    alt, ylabel, title, ax
        As in `lines`.
    number_format : str
        How the number over a bar is written. If it writes per cent, so does the y axis.
    top : float, optional
        Where the y axis ends, for bars that a slider moves; None: a little above the highest.

    Raises
    ------
    ValueError
        If `alt` is empty or a shape does not fit.
    """
    positions, width = np.arange(len(groups)), 0.8 / max(1, len(series))
    with drawing(alt, ax) as picture:
        for index, (name, values) in enumerate(series.items()):
            middle, low, high = median_and_range(values, name, len(groups))
            container = picture.bar(
                positions + (index - (len(series) - 1) / 2) * width,
                middle,
                width,
                yerr=[middle - low, high - middle] if np.any(low < high) else None,
                capsize=4,
                color=COLORS[index % len(COLORS)],
                hatch=HATCHES[index % len(HATCHES)],
                edgecolor="white",
                label=name,
            )
            picture.bar_label(container, fmt=number_format.format, padding=2)
        picture.set_xticks(positions, groups)
        picture.grid(axis="x", visible=False)
        picture.margins(y=0.15)
        if top is not None:
            picture.set_ylim(0, top)
        if "%" in number_format:
            picture.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        label(picture, "", ylabel, title, legend=len(series) > 1)
    return picture


def before_after(
    before: ArrayLike,
    after: ArrayLike,
    *,
    groups: Sequence[str],
    alt: str,
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw the exact match (fractions, 0 to 1) of each group before and after training, as in `bars`."""
    picture = bars(
        {"before": before, "after": after},
        groups=groups,
        ylabel="exact match",
        title=title,
        number_format="{:.0%}",
        alt=alt,
        ax=ax,
    )
    with mpl.rc_context(STYLE):  # new ticks
        picture.set_ylim(0, 1.15)
        picture.set_yticks(np.linspace(0, 1, 6))
    return picture


def rank_error(
    curves: Mapping[str, ArrayLike],
    *,
    alt: str,
    rank: int | None = None,
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw relative errors (0 to 1) over the rank that is kept, and mark one rank.

    Parameters
    ----------
    curves : mapping of str to array
        Label to errors for rank 0, 1, 2, …, all of one length; repeats as in `lines`.
    rank : int, optional
        The rank to mark.
    alt, title, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty, the lengths differ, or `rank` lies outside them.
    """
    count = max(np.shape(errors)[-1] for errors in curves.values())
    if rank is not None and not 0 <= rank < count:
        raise ValueError(f"rank must be in 0 … {count - 1}, got {rank}")
    picture = lines(
        curves,
        x=np.arange(count),
        xlabel="rank kept",
        ylabel="relative error",
        title=title,
        alt=alt,
        ax=ax,
    )
    with mpl.rc_context(STYLE):  # new ticks
        picture.set_ylim(0, 1.05)
        picture.xaxis.set_major_locator(MaxNLocator(integer=True))
        picture.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        if rank is not None:
            picture.axvline(rank, color="black", linewidth=1.5)
    return picture


def running_time(
    seconds: Mapping[str, ArrayLike],
    *,
    sizes: ArrayLike,
    alt: str,
    xlabel: str = "size",
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw seconds over problem sizes, both axes logarithmic, so that a power law is a straight line.

    Parameters
    ----------
    seconds : mapping of str to array
        Label to one time a size; repeats as in `lines`.
    sizes : array
        Shape (n,).
    xlabel : str
        What the sizes count.
    alt, title, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty or a shape does not fit.
    """
    picture = lines(
        seconds, x=sizes, xlabel=xlabel, ylabel="seconds", title=title, log_y=True, alt=alt, ax=ax
    )
    with mpl.rc_context(STYLE):  # new ticks
        picture.set_xscale("log", base=2)
        picture.set_xticks(np.asarray(sizes), [f"{size:g}" for size in np.asarray(sizes)])
    return picture
