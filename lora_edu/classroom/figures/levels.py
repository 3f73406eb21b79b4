"""The bell curve that weights come from, cut into equal shares, and errors over the bits they cost."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import Picture, drawing
from lora_edu.classroom.figures._marks import label, name_lines
from lora_edu.classroom.figures._sentences import number, sentence
from lora_edu.classroom.figures.charts import last_point, said_of_lines
from lora_edu.classroom.figures.palette import COLORS, HATCHES, INK, LINE_STYLES, MARKERS, colors_of


def equal_shares(
    parts: int,
    *,
    alt: str | None = None,
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw the density of N(0, 1), cut at its quantiles into slices of equal area.

    Parameters
    ----------
    parts : int
        Number of slices, at least 2.
    alt, title, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty or `parts` is below 2.
    """
    if parts < 2:
        raise ValueError(f"parts must be at least 2, got {parts}")
    normal, end = NormalDist(), 3.5
    cuts = [normal.inv_cdf(i / parts) for i in range(1, parts)]
    slices = [np.append(np.linspace(low, high, 50), np.nan) for low, high in pairwise([-end, *cuts, end])]
    with drawing(alt, ax) as picture:
        for index in range(2):  # every other slice at once: NaN parts them
            x = np.concatenate(slices[index::2])
            density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
            color, hatch = COLORS[index], HATCHES[index]
            picture.fill_between(x, density, color=color, hatch=hatch, alpha=0.4, linewidth=0)
        picture.vlines(cuts, 0, [normal.pdf(cut) for cut in cuts], color=INK, linewidth=1.5)
        picture.set(xlim=(-end, end), ylim=(0, 0.42))
        label(picture, "standard deviations from the mean", "density", title)
        picture.alt = sentence(
            f"The bell curve of N(0, 1) in {parts} slices of equal area, {1 / parts:.3g} each",
            f"The cuts stand between {number(cuts[0])} and {number(cuts[-1])}"
            if parts > 2
            else "The cut stands at 0",
            f"The narrowest slice is {number(min(b - a for a, b in pairwise(cuts)))} wide"
            if parts > 2
            else "",
        )
    return picture


def error_by_bits(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    alt: str | None = None,
    xlabel: str = "bits per weight",
    ylabel: str = "error",
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw errors over the bits they cost, one line a method: what lies lower left is better.

    Parameters
    ----------
    series : mapping of str to (bits, errors)
        Label to two arrays of one shape (n,).
    alt, xlabel, ylabel, title, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty or the shapes of a pair differ.
    """
    for name, (bits, errors) in series.items():
        if np.ndim(bits) != 1 or np.shape(bits) != np.shape(errors):
            shapes = f"{np.shape(bits)} and {np.shape(errors)}"
            raise ValueError(f"{name} must be two arrays of one shape (n,), got {shapes}")
    drawn = {name: (np.asarray(b, float), np.asarray(e, float)) for name, (b, e) in series.items()}
    colors = colors_of(list(series), None)
    with drawing(alt, ax) as picture:
        for index, (name, (bits, errors)) in enumerate(drawn.items()):
            picture.plot(
                bits,
                errors,
                color=colors[index],
                linestyle=LINE_STYLES[index % len(LINE_STYLES)],
                marker=MARKERS[index % len(MARKERS)],
                label=name,
            )
        label(picture, xlabel, ylabel, title)
        name_lines(picture, list(drawn), [last_point(*line) for line in drawn.values()], colors)
        picture.alt = said_of_lines(drawn, xlabel, ylabel, None)
    return picture
