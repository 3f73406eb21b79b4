"""What a 2 × 2 matrix does to the plane: a circle becomes an ellipse, whose axes are the singular vectors."""

from __future__ import annotations

import numpy as np
from matplotlib.patches import Circle, Polygon
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import Picture, text_width
from lora_edu.classroom.figures._sentences import sentence
from lora_edu.classroom.figures.palette import COLORS, GRID, ROLES, SOFT, mix, readable
from lora_edu.classroom.figures.schematic.parts import arrow
from lora_edu.classroom.figures.schematic.sheet import NAME_SIZE, Point, chain_of, sheet, word

WIDTH, HEIGHT, LONGEST = 8.2, 5.35, 1.6  # inches; the last is the ellipse's long half axis
TERM_COLORS = COLORS[0], COLORS[3]
FLOW = ROLES["activations"]
FIGURES = "₁₂"
POINTS = 181  # of the circle
TITLES = {
    1: "At rank 1 the ellipse falls flat",
    2: "The circle becomes an ellipse, whose half axes are σ₁ and σ₂",
}


def circle_to_ellipse(
    W: ArrayLike,
    angle: float,
    *,
    rank: int = 2,
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw all inputs of length 1, a circle, and their outputs, an ellipse, with one input x and its y = W x.

    Axes of the ellipse have the lengths of the singular values. At rank 1 the second term is left out, and the
    ellipse falls flat on its long axis; the whole one stays as a shadow.

    Parameters
    ----------
    W : array
        Shape (2, 2), with a non-zero entry.
    angle : float
        Of x with the first axis, in degrees.
    rank : int
        Terms kept, 1 or 2.
    title, alt, ax
        As in `lines`; without a title it says what happens at that rank.

    Raises
    ------
    ValueError
        If `W` is no finite 2 × 2 matrix or zero, or `rank` is neither 1 nor 2.
    """
    whole = np.asarray(W, dtype=float)
    chain_of([("W", whole, (2, 2))])
    if rank not in (1, 2) or not whole.any():
        raise ValueError(f"rank must be 1 or 2 and W not zero, got rank {rank} and W {whole.tolist()}")
    U, S, Vh = np.linalg.svd(whole)
    turn = np.sign(Vh.sum(axis=1)) + (Vh.sum(axis=1) == 0)  # an axis may point either way: up and right
    U, Vh = U * turn, Vh * turn[:, None]
    W = U[:, :rank] * S[:rank] @ Vh[:rank]
    x = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    unit, around = LONGEST / S[0], np.linspace(0, 2 * np.pi, POINTS)
    circle = np.array([np.cos(around), np.sin(around)])
    with sheet(WIDTH, HEIGHT, title=title or TITLES[rank], alt=alt, ax=ax) as picture:
        left, right = (2.0, 2.85), (6.0, 2.85)
        for center in (left, right):
            _axes(picture, center, LONGEST + 0.1)
        picture.add_patch(Circle(left, unit, facecolor=mix(FLOW, 0.12), edgecolor=FLOW, linewidth=2))
        _outline(picture, right, unit * whole @ circle, ghost=rank == 1)
        _outline(picture, right, unit * W @ circle)
        for i in range(2):
            _axis(picture, left, unit * Vh[i], f"v{FIGURES[i]}", TERM_COLORS[i])
        for i in range(rank):
            _axis(picture, right, unit * S[i] * U[:, i], f"σ{FIGURES[i]}u{FIGURES[i]}", TERM_COLORS[i])
        _flow(picture, left, unit * x, "x", Vh)
        _flow(picture, right, unit * W @ x, "y", U.T)
        arrow(picture, (3.62, 2.85), (4.42, 2.85))
        word(picture, (4.02, 2.95), "W" if rank == 2 else "W, rank 1", size=NAME_SIZE, va="bottom")
        heard, lengths = Vh @ x, np.where(np.arange(2) < rank, S, 0)
        for i in range(2):
            told = f"along v{FIGURES[i]} it hears {_signed(heard[i])}"
            writes = f"writes {_signed(heard[i] * lengths[i])} along u{FIGURES[i]}"
            color, y = readable(TERM_COLORS[i]), 0.72 - 0.34 * i
            word(picture, (left[0], y), told, color=color)
            word(picture, (4.02, y), f"× {lengths[i]:.2f}", color=color)
            word(picture, (right[0], y), writes, color=color)
        picture.alt = sentence(
            f"The circle becomes an ellipse with half axes of {S[0]:.2f} and {S[1]:.2f}"
            if rank == 2
            else f"At rank 1 the circle becomes a stroke of {S[0]:.2f} to either side",
            f"x at {angle:g}° is heard as {_signed(heard[0])} along v₁ and {_signed(heard[1])} along v₂; "
            f"its y is {np.linalg.norm(W @ x):.2f} long",
        )
    return picture


def _signed(value: float) -> str:
    """Two digits, and no minus before zero."""
    return f"{value + 0.0:.2f}".replace("-0.00", "0.00").replace("-", "\N{MINUS SIGN}")


def _axes(picture: Picture, center: Point, reach: float) -> None:
    for x, y in ((reach, 0), (0, reach)):
        ends = [center[0] - x, center[0] + x], [center[1] - y, center[1] + y]
        picture.plot(*ends, color=GRID, linewidth=1.4, zorder=0)


def _outline(picture: Picture, center: Point, points: np.ndarray, *, ghost: bool = False) -> None:
    """Draw a closed line of points (2, n) around a centre; what is no more, dashed."""
    fill, edge = ("none", SOFT) if ghost else (mix(FLOW, 0.12), FLOW)
    style = (0, (2, 2)) if ghost else "-"
    shape = Polygon(points.T + center, facecolor=fill, edgecolor=edge, linewidth=2, linestyle=style)
    picture.add_patch(shape)


def _axis(picture: Picture, center: Point, to: np.ndarray, name: str, color: str) -> None:
    """Draw a singular vector from a centre, its name beyond its tip."""
    along = to / np.hypot(*to)
    half = text_width(name, NAME_SIZE, "bold") / 2, 0.13
    x, y = center + to + along * (0.05 + np.abs(along) @ half)
    arrow(picture, center, (center[0] + to[0], center[1] + to[1]), color=color)
    word(picture, (x, y), name, color=readable(color), size=NAME_SIZE, weight="bold")


def _flow(picture: Picture, center: Point, to: np.ndarray, name: str, axes: np.ndarray) -> None:
    """Draw x or y from a centre, its name beside it, on the side away from the nearest axis, one a row."""
    length = float(np.hypot(*to))
    style = {"color": readable(FLOW), "size": NAME_SIZE, "weight": "bold"}
    if length < 0.02:  # no arrow has no direction
        word(picture, (center[0] + 0.85, center[1] - 0.2), f"{name} = 0", **style)
        return
    along = to / length
    nearest = axes[np.argmax(axes @ along)]
    side = np.array([-along[1], along[0]])  # to the left of the arrow
    turned = float(side @ nearest)
    if turned > 1e-6 or (abs(turned) <= 1e-6 and side @ axes.sum(axis=0) < 0):
        side = -side
    x, y = center + 0.62 * to + 0.19 * side
    arrow(picture, center, (center[0] + to[0], center[1] + to[1]), color=FLOW)
    word(picture, (x, y), name, **style)
