"""Which of two ways is cheaper depends on the size: the point where their lines cross."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import STYLE, Picture
from lora_edu.classroom.figures._sentences import number
from lora_edu.classroom.figures.charts import lines


def crossover(
    series: Mapping[str, ArrayLike],
    *,
    x: ArrayLike,
    at: float,
    alt: str | None = None,
    limits: tuple[float, float] | None = None,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw one line a series over two logarithmic axes, and mark the place where two of them cross.

    Parameters
    ----------
    series : mapping of str to array
        Label to values above 0, each of shape (n,) or (repeats, n) as in `lines`.
    x : array
        Shape (n,), above 0, shared by all series.
    at : float
        Where on the x axis the mark stands.
    limits : tuple of float, optional
        Ends of the y axis, so that it stands still while a slider moves.
    alt, xlabel, ylabel, title, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty, a shape does not fit, or `at` is not above 0.
    """
    if not at > 0:
        raise ValueError(f"at must be above 0, on a logarithmic axis, got {at}")
    mark = {f"equal at {number(at)}": (at, None)}
    picture = lines(
        series, x=x, xlabel=xlabel, ylabel=ylabel, title=title, log_y=True, mark=mark, alt=alt, ax=ax
    )
    with mpl.rc_context(STYLE):  # new ticks
        picture.set_xscale("log")
        picture.set_ylim(limits)
        picture.minorticks_off()  # many decades: a tick each would slow the slider down
    return picture
