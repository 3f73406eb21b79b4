"""Singular values and what a cut through them leaves out, over a logarithmic axis of ranks."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import STYLE, Picture
from lora_edu.classroom.figures._marks import tick
from lora_edu.classroom.figures._sentences import listed, number, sentence
from lora_edu.classroom.figures.charts import lines
from lora_edu.classroom.figures.palette import INK, PAPER

FAINTEST = 1e-3  # of the matrix' norm: where the axis of singular values ends


def spectrum(
    singular_values: Mapping[str, ArrayLike],
    *,
    rank: int,
    last: int,
    roles: Mapping[str, str] | None = None,
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw singular values as they fall, both axes logarithmic, and mark those that a rank leaves out.

    Each matrix is measured by its own norm, so that the squares of its values add up to 1.

    Parameters
    ----------
    singular_values : mapping of str to array
        Label to singular values, largest first.
    rank : int
        Terms that are kept, at least 1 and below `last`.
    last : int
        The rank at which the axis ends.
    roles, title, alt, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If a row of values is empty or does not fall, or `rank` lies outside 1 … last - 1.
    """
    relative = {name: _relative(values, name)[:last] for name, values in singular_values.items()}
    _check_rank(rank, last)
    shown = {name: values[values >= FAINTEST] for name, values in relative.items()}
    picture = lines(
        shown,
        xlabel="term",
        ylabel="singular value / norm",
        title=title,
        log_y=True,
        roles=roles,
        ylim=(FAINTEST, 1),
        mark={"dropped": ((rank + 0.5, last), None)},
        alt=alt,
        ax=ax,
    )
    _logarithmic_ranks(picture, len(shown), last)
    with mpl.rc_context(STYLE):  # new ticks
        picture.yaxis.set_major_formatter(FuncFormatter(tick))
        picture.yaxis.set_minor_locator(NullLocator())
    firsts = (f"{name} {number(values[0])}" for name, values in relative.items())
    picture.alt = alt or sentence(
        f"Largest singular value over the norm: {listed(firsts)}", f"Dropped are those beyond term {rank}"
    )
    return picture


def error_by_rank(
    singular_values: Mapping[str, ArrayLike],
    *,
    rank: int,
    last: int,
    roles: Mapping[str, str] | None = None,
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw the least relative error of a copy over its rank, and mark one rank on every line.

    Parameters
    ----------
    singular_values, rank, last, roles, title, alt, ax
        As in `spectrum`. The error at a rank is the root of the summed squares of all later values.

    Raises
    ------
    ValueError
        As in `spectrum`.
    """
    errors = {name: _errors(_relative(values, name), last) for name, values in singular_values.items()}
    _check_rank(rank, last)
    picture = lines(
        errors,
        x=np.arange(1, last + 1),
        xlabel="rank kept",
        ylabel="relative error",
        title=title,
        roles=roles,
        mark={f"rank {rank}": ((rank - 0.06 * rank, rank + 0.06 * rank), None)},
        alt=alt,
        ax=ax,
    )
    _logarithmic_ranks(picture, len(errors), last)
    at = {name: float(values[rank - 1]) for name, values in errors.items()}
    picture.scatter([rank] * len(at), list(at.values()), s=70, color=INK, edgecolor=PAPER, zorder=4)
    with mpl.rc_context(STYLE):  # new ticks
        picture.set_ylim(0, 1.03)
        picture.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    told = ", ".join(f"{name} {error:.0%}" for name, error in at.items())
    picture.alt = alt or sentence(f"Least relative error at rank {rank}: {told}")
    return picture


def _relative(values: ArrayLike, name: str) -> np.ndarray:
    """Singular values over the root of their summed squares."""
    row = np.asarray(values, dtype=float)
    if row.ndim != 1 or not row.size or row[-1] < 0 or row[0] <= 0 or np.any(np.diff(row) > 0):
        raise ValueError(f"{name} must hold singular values, largest first, got {row}")
    return row / np.linalg.norm(row)


def _errors(relative: np.ndarray, last: int) -> np.ndarray:
    """The errors at rank 1 … last; a matrix with fewer terms has none left."""
    beyond = np.sqrt(np.cumsum(relative[::-1] ** 2)[::-1])[1 : last + 1]
    return np.pad(beyond, (0, last - len(beyond)))


def _check_rank(rank: int, last: int) -> None:
    if not 1 <= rank < last:
        raise ValueError(f"rank must be in 1 … {last - 1}, got {rank}")


def _logarithmic_ranks(picture: Picture, count: int, last: int) -> None:
    """Give small ranks, about which one asks, most of the room; no line carries markers, which would mean data."""
    fourfold = [4**k for k in range(last.bit_length()) if 4**k <= last]
    with mpl.rc_context(STYLE):  # new ticks
        picture.set_xscale("log", base=2)
        picture.set_xticks(fourfold, [f"{place:,}" for place in fourfold])
        picture.xaxis.set_minor_locator(NullLocator())
        picture.set_xlim(0.9, last)
    for line in picture.lines[:count]:
        line.set_marker("None")
