"""Bars, with their numbers and the spread over repeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike

from lora_edu.classroom.figures import _sentences as say
from lora_edu.classroom.figures._canvas import Picture, drawing, median_and_range, text_width, wrapped
from lora_edu.classroom.figures._marks import SIZE, label, name_bars, percent_ticks, slot_inches
from lora_edu.classroom.figures.palette import HATCHES, INK, PAPER, colors_of
from lora_edu.classroom.language import label as in_language
from lora_edu.classroom.language import numeral

THREE_DIGITS = "{:.3g}"


def bars(
    series: Mapping[str, ArrayLike],
    *,
    groups: Sequence[str],
    alt: str | None = None,
    ylabel: str = "",
    title: str = "",
    number_format: str = THREE_DIGITS,
    top: float | None = None,
    roles: Mapping[str, str] | None = None,
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
    roles : mapping of str to str, optional
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty or a shape does not fit.
    """
    positions, width = np.arange(len(groups)), 0.8 / max(1, len(series))
    colors = colors_of(list(series), roles)
    series = {in_language(name): values for name, values in series.items()}
    groups, ylabel = [in_language(group) for group in groups], in_language(ylabel)
    drawn: dict[str, np.ndarray] = {}
    repeats = False
    with drawing(alt, ax) as picture:
        room = (slot_inches(picture) - 1.2) / max(1, len(groups))  # inches of a group
        for index, (name, values) in enumerate(series.items()):
            middle, low, high = median_and_range(values, name, len(groups))
            spread = bool(np.any(low < high))
            places = positions + (index - (len(series) - 1) / 2) * width
            picture.bar(
                places,
                middle,
                width,
                color=colors[index],
                hatch=HATCHES[index % len(HATCHES)],
                edgecolor=PAPER,
                label=name,
            )
            texts = [written(value, number_format) for value in middle]
            aside = spread and max(text_width(text, SIZE) for text in texts) + 0.1 < room * width
            if spread:
                whiskers(picture, places + aside * 0.41 * width, middle, low, high)
            number_bars(picture, places - aside * 0.08 * width, middle if aside else high, texts)
            drawn[name], repeats = middle, repeats or spread
        picture.grid(axis="x", visible=False)
        picture.tick_params(axis="x", length=0)
        picture.margins(y=0.15)
        if top is not None:
            picture.set_ylim(0, top)
        label(picture, "", ylabel, title)
        picture.set_xticks(positions, [wrapped(group, room - 0.12, 14) for group in groups])
        if "%" in number_format:
            picture.yaxis.set_major_formatter(percent_ticks())
        name_bars(picture, list(drawn))
        picture.alt = said_of_bars(drawn, groups, ylabel, number_format, repeats)
    return picture


def whiskers(picture: Picture, x: np.ndarray, middle: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Draw from the lowest to the highest repeat; a light rim keeps it visible on any bar."""
    drawn = picture.errorbar(
        x, middle, [middle - low, high - middle], fmt="none", ecolor=INK, elinewidth=1.6, capsize=3
    )
    for part in (*drawn.lines[1], *drawn.lines[2]):
        part.set_path_effects([withStroke(linewidth=3.6, foreground=PAPER)])


def number_bars(picture: Picture, x: np.ndarray, ends: np.ndarray, texts: Sequence[str]) -> None:
    """Write each bar's number at its end; where the whisker is in the way, at the whisker's end."""
    for place, end, text in zip(x, ends, texts, strict=True):
        picture.annotate(
            text,
            (place, end),
            (0, 3 if end >= 0 else -3),
            textcoords="offset points",
            ha="center",
            va="bottom" if end >= 0 else "top",
            fontsize=SIZE,
        )


def written(value: float, number_format: str) -> str:
    """A number as its format says, or as one says it where that is three digits."""
    return say.number(value) if number_format == THREE_DIGITS else numeral(number_format.format(value))


def said_of_bars(
    drawn: Mapping[str, np.ndarray], groups: Sequence[str], ylabel: str, number_format: str, repeats: bool
) -> str:
    """Every number, up to twelve; else the least and the most of each kind."""
    what = f"{ylabel[:1].upper()}{ylabel[1:]}"
    parts = [", ".join([what] * bool(ylabel) + [say.say("medians over repeats")] * repeats)]
    for name, values in drawn.items():
        if len(drawn) * len(groups) <= 12:
            pairs = say.listed(
                f"{group} {written(v, number_format)}" for group, v in zip(groups, values, strict=True)
            )
        else:
            least, most = int(np.argmin(values)), int(np.argmax(values))
            few, many = written(values[least], number_format), written(values[most], number_format)
            extremes = {"few": few, "least": groups[least], "many": many, "most": groups[most]}
            pairs = say.say("least {few} ({least}), most {many} ({most})", **extremes)
        parts.append(f"{name}: {pairs}".replace("\n", " "))
    return say.sentence(*parts)
