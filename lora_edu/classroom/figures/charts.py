"""Lines and bars."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike

from lora_edu.classroom.figures import _sentences as say
from lora_edu.classroom.figures._canvas import STYLE, Picture, drawing, median_and_range
from lora_edu.classroom.figures._marks import (
    Mark,
    draw_marks,
    label,
    name_lines,
)
from lora_edu.classroom.figures.palette import LINE_STYLES, MARKERS, colors_of
from lora_edu.classroom.language import label as in_language
from lora_edu.classroom.language import numeral, to_translate

[SECONDS] = to_translate("seconds")


def lines(
    series: Mapping[str, ArrayLike],
    *,
    alt: str | None = None,
    x: ArrayLike | None = None,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    log_y: bool = False,
    ylim: tuple[float, float] | None = None,
    roles: Mapping[str, str] | None = None,
    mark: Mapping[str, Mark] | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw one line a series; repeats become their median and a band from lowest to highest.

    Parameters
    ----------
    series : mapping of str to array
        Label to values, each of shape (n,) or (repeats, n).
    alt : str, optional
        What there is to see, in a sentence, shown below the picture too; in place of the figure's own.
    x : array, optional
        Shape (n,), shared by all series; 1 ... n if left out.
    xlabel, ylabel : str
        Texts, with units where there are any.
    title : str
        The finding, in a few words.
    log_y : bool
        Logarithmic y axis.
    ylim : (float, float), optional
        Where the y axis begins and ends, for lines that a slider moves; None: around the lines.
    roles : mapping of str to str, optional
        For a series what it is, one of `ROLES`: it decides the colour.
    mark : mapping of str to (x, y), optional
        What the text speaks of, by a word: a point, a level (None, y), a place (x, None), a region ((x0, x1), None).
    ax : Picture, optional
        Where to draw; a new figure if left out.

    Raises
    ------
    ValueError
        If `alt` is empty or a shape does not fit.
    """
    positions = None if x is None else np.asarray(x)
    colors = colors_of(list(series), roles)
    xlabel, ylabel = in_language(xlabel), in_language(ylabel)
    series = {in_language(name): values for name, values in series.items()}
    mark = {in_language(word): place for word, place in mark.items()} if mark else mark
    drawn: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    with drawing(alt, ax) as picture:
        for index, (name, values) in enumerate(series.items()):
            length = None if positions is None else len(positions)
            middle, low, high = median_and_range(values, name, length)
            steps = np.arange(1, len(middle) + 1) if positions is None else positions
            picture.plot(
                steps,
                middle,
                color=colors[index],
                linestyle=LINE_STYLES[index % len(LINE_STYLES)],
                marker=MARKERS[index % len(MARKERS)],
                markevery=max(1, len(middle) // 10),
                label=name,
            )
            if np.any(low < high):
                picture.fill_between(steps, low, high, color=colors[index], alpha=0.18, linewidth=0)
            drawn[name] = steps, middle
        picture.set_yscale("log" if log_y else "linear")
        picture.margins(x=0.03)
        if ylim is not None:
            picture.set_ylim(ylim)
        label(picture, xlabel, ylabel, title)
        name_lines(picture, list(drawn), [last_point(*line) for line in drawn.values()], colors)
        draw_marks(picture, mark)
        picture.alt = said_of_lines(drawn, xlabel, ylabel, mark)
    return picture


def last_point(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Where a line ends; it may break off before its last number."""
    finite = np.flatnonzero(np.isfinite(y))
    end = finite[-1] if len(finite) else -1
    return float(x[end]), float(np.nan_to_num(y[end]))


def said_of_lines(
    drawn: Mapping[str, tuple[np.ndarray, np.ndarray]],
    xlabel: str,
    ylabel: str,
    mark: Mapping[str, Mark] | None,
) -> str:
    """Where each line begins and ends, how far it swings between, where two of them cross, and what is marked."""
    what = f"{ylabel[:1].upper()}{ylabel[1:]}"
    parts = [say.over(what, xlabel)] if xlabel and ylabel else []
    for name, (x, y) in drawn.items():
        kept = np.isfinite(y)
        x, y = x[kept], y[kept]
        if not len(y):
            continue
        told = [say.at(y[0], x[0]), say.at(y[-1], x[-1])]
        low, high = int(np.argmin(y)), int(np.argmax(y))
        told += [say.least(y[low], x[low])] if y[low] < min(y[0], y[-1]) else []
        told += [say.most(y[high], x[high])] if y[high] > max(y[0], y[-1]) else []
        parts.append(f"{name}: {', '.join(told)}")
    if len(drawn) == 2:
        (x, one), (x2, other) = drawn.values()
        crossed = say.crossings(x, one, other) if np.array_equal(x, x2) else []
        parts += [say.cross(crossed[0])] if len(crossed) == 1 else []
    parts += [say.marked(mark)] if mark else []
    return say.sentence(*parts)


def loss_curve(
    losses: Mapping[str, ArrayLike],
    *,
    alt: str | None = None,
    steps: ArrayLike | None = None,
    title: str = "",
    roles: Mapping[str, str] | None = None,
    mark: Mapping[str, Mark] | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw training losses (nats a token) over optimizer steps; parameters as in `lines`."""
    picture = lines(
        losses,
        x=steps,
        xlabel="optimizer step",
        ylabel="loss, nats a token",
        title=title,
        roles=roles,
        mark=mark,
        alt=alt,
        ax=ax,
    )
    picture.xaxis.set_major_locator(MaxNLocator(integer=True))  # no step is half taken
    return picture


def rank_error(
    curves: Mapping[str, ArrayLike],
    *,
    alt: str | None = None,
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
        mark=None if rank is None else {f"rank {rank}": (rank, None)},
        alt=alt,
        ax=ax,
    )
    with mpl.rc_context(STYLE):  # new ticks
        picture.set_ylim(0, 1.05)
        picture.xaxis.set_major_locator(MaxNLocator(integer=True))
        picture.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    return picture


def running_time(
    seconds: Mapping[str, ArrayLike],
    *,
    sizes: ArrayLike,
    alt: str | None = None,
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
    picture = lines(seconds, x=sizes, xlabel=xlabel, ylabel=SECONDS, title=title, log_y=True, alt=alt, ax=ax)
    with mpl.rc_context(STYLE):  # new ticks
        picture.set_xscale("log", base=2)
        picture.set_xticks(np.asarray(sizes), [numeral(f"{size:,g}") for size in np.asarray(sizes)])
    return picture
