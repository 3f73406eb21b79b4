"""Sixteen levels: how they walk to their places, and how often each is used."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import Picture, drawing, matrix_of, set_title
from lora_edu.classroom.figures._marks import SIZE, label
from lora_edu.classroom.figures._sentences import number, percent, sentence
from lora_edu.classroom.figures.palette import COLORS, INK, PAPER, ROLES, SOFT, mix

ROOM = 1.06  # of the steps: the last level must not sit on the axes' edge


def settling(
    walk: Picture,
    error: Picture,
    codes: ArrayLike,
    errors: ArrayLike,
    *,
    target: ArrayLike,
    step: int,
    name: str = "NF4",
    target_error: float,
    alt: str | None = None,
    title: str = "",
) -> None:
    """Draw the way of each level from step 0 to `step`, downward, and beside it the error, falling.

    Both axes stand still. A grey line runs through the picture where a level of the target lies.

    Parameters
    ----------
    walk, error : Picture
        Where to draw, side by side in one figure, as `explore` gives them with two panels.
    codes : array
        Levels in [-1, 1] after each step, shape (steps + 1, levels).
    errors : array
        One for each step, shape (steps + 1,).
    target : array
        The levels that they are compared with, shape (levels,).
    step : int
        How many steps are drawn, 0 to the number of steps.
    name : str
        What the target is called.
    target_error : float
        Its error.
    alt, title
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty, a shape does not fit, or `step` lies outside.
    """
    ways, falls, goal = matrix_of(codes, "codes"), np.asarray(errors, float), np.asarray(target, float)
    last = len(ways) - 1
    if falls.shape != (last + 1,) or goal.shape != ways.shape[1:] or not 0 <= step <= last:
        raise ValueError(
            f"errors and target must fit codes of shape {ways.shape} and step lie in 0 … {last}, "
            f"got shapes {falls.shape} and {goal.shape} and step {step}"
        )
    steps = np.arange(step + 1)
    with drawing(alt, walk):
        walk.vlines(goal, -0.06 * last, ROOM * last, color=mix(SOFT, 0.45), linewidth=1.4)
        walk.plot(ways[: step + 1], steps, color=ROLES["codes"], linewidth=2)
        dots = {"s": 52, "color": ROLES["codes"], "edgecolors": PAPER, "zorder": 4}
        walk.scatter(ways[step], np.full(len(goal), step), **dots)
        walk.set(xlim=(-1.06, 1.06), ylim=(ROOM * last, -0.06 * last))
        label(walk, f"level; grey: {name}", "step", title)
        walk.grid(axis="x", visible=False)
        gap = float(np.abs(ways[step] - goal).max())
        walk.alt = sentence(
            f"After {step} of {last} steps no level lies farther than {number(gap)} from {name}'s",
            f"The error is {falls[step]:.4f}, {name}'s is {target_error:.4f}",
        )
    with drawing(None, error):
        error.axhline(target_error, color=INK, linewidth=1.4, linestyle=(0, (1, 1.5)))
        error.plot(steps, falls[: step + 1], color=COLORS[0], linewidth=2.6)
        error.scatter([step], [falls[step]], s=60, color=COLORS[0], edgecolors=PAPER, zorder=4)
        low, high = min(falls.min(), target_error), falls.max()
        error.set(
            xlim=(-0.03 * last, ROOM * last), ylim=(low - 0.12 * (high - low), high + 0.08 * (high - low))
        )
        where = {"textcoords": "offset points", "ha": "right", "fontsize": SIZE, "color": INK}
        at = ROOM * last, target_error
        error.annotate(f"{name}: {target_error:.4f}", at, (-4, -5), va="top", **where)
        label(error, "step", "error", "")
        set_title(error, f"The error: {falls[step]:.4f}")


def level_use(
    code: ArrayLike,
    shares: ArrayLike,
    *,
    top: float | None = None,
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw how often each level is used, a stem where the level stands, and a line for equal use.

    Parameters
    ----------
    code : array
        The levels, shape (n,).
    shares : array
        How often each is used, shape (n,), of sum 1.
    top : float, optional
        Where the axis of shares ends, for stems that a slider moves.
    title, alt, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty or the shapes differ.
    """
    levels, used = np.asarray(code, float), np.asarray(shares, float)
    if levels.ndim != 1 or levels.shape != used.shape:
        raise ValueError(f"code and shares must both be of shape (n,), got {levels.shape} and {used.shape}")
    equal, most, least = 1 / len(levels), int(np.argmax(used)), int(np.argmin(used))
    times = used[most] / used[least] if used[least] else 0.0
    rarest = f"by {percent(used[least])}: {times:.1f} times" if times else "by none"
    with drawing(alt, ax) as picture:
        picture.vlines(levels, 0, 100 * used, color=ROLES["codes"], linewidth=5)
        picture.scatter(levels, 100 * used, s=70, color=ROLES["codes"], edgecolors=PAPER, zorder=4)
        picture.axhline(100 * equal, color=INK, linewidth=1.4, linestyle=(0, (1, 1.5)))
        picture.annotate(
            f"equal:\n{100 * equal:.3g} %",
            (1, 100 * equal),
            (6, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="left",
            va="center",
            fontsize=SIZE,
        )
        picture.set(xlim=(-1.08, 1.08), ylim=(0, top or 115 * used.max()))
        label(picture, "level, a share of the block's largest weight", "% of the weights", title)
        picture.grid(axis="x", visible=False)
        picture.alt = sentence(
            title,
            f"Most used is the level {number(levels[most])}, by {percent(used[most])} of the weights, "
            f"least {number(levels[least])}, {rarest}",
            f"Equal use would be {100 * equal:.3g} %",
        )
    return picture
