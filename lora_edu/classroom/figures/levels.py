"""Numbers on a line, the bell curve they come from, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import (
    COLORS,
    HATCHES,
    LINE_STYLES,
    MARKERS,
    Picture,
    drawing,
    label,
)


def equal_shares(
    parts: int,
    *,
    alt: str,
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
        picture.vlines(cuts, 0, [normal.pdf(cut) for cut in cuts], color="black", linewidth=1.5)
        picture.set(xlim=(-end, end), ylim=(0, 0.42))
        label(picture, "standard deviations from the mean", "density", title, legend=False)
    return picture


def number_lines(
    rows: Mapping[str, ArrayLike],
    *,
    alt: str,
    xlabel: str = "",
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw each set of numbers as strokes on a line of its own, the first on top.

    Parameters
    ----------
    rows : mapping of str to array
        Label to numbers, each of shape (n,).
    alt, xlabel, title, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty, there is no row, or a row is no finite vector.
    """
    vectors = {name: np.asarray(values, dtype=float) for name, values in rows.items()}
    if not vectors:
        raise ValueError("rows must hold at least one set of numbers, got none")
    for name, values in vectors.items():
        if values.ndim != 1 or not values.size or not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite numbers of shape (n,), got {values}")
    with drawing(alt, ax) as picture:
        for index, values in enumerate(vectors.values()):
            color = COLORS[index % len(COLORS)]
            picture.hlines(index, values.min(), values.max(), color=color, linewidth=0.8)
            picture.vlines(values, index - 0.3, index + 0.3, color=color, linewidth=2.5)
        picture.set_yticks(range(len(vectors)), list(vectors))
        picture.set_ylim(len(vectors) - 0.4, -0.6)
        picture.grid(axis="y", visible=False)
        label(picture, xlabel, "", title, legend=False)
    return picture


def error_by_bits(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    alt: str,
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
    with drawing(alt, ax) as picture:
        for index, (name, (bits, errors)) in enumerate(series.items()):
            picture.plot(
                bits,
                errors,
                color=COLORS[index % len(COLORS)],
                linestyle=LINE_STYLES[index % len(LINE_STYLES)],
                marker=MARKERS[index % len(MARKERS)],
                label=name,
            )
        label(picture, xlabel, ylabel, title, legend=len(series) > 1)
    return picture
