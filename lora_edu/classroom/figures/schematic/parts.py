"""The vocabulary of the schematics: what is drawn on a sheet."""

from __future__ import annotations

import numpy as np
from matplotlib.patches import Arc, Circle, FancyArrowPatch, FancyBboxPatch, Rectangle

from lora_edu.classroom.figures._canvas import Picture, text_width
from lora_edu.classroom.figures.palette import (
    GRID,
    INK,
    PAPER,
    ROLE_HATCHES,
    ROLES,
    mix,
    on,
    readable,
)
from lora_edu.classroom.figures.schematic.sheet import CELL, NAME_SIZE, SIZE, Block, Point, word


def named(picture: Picture, block: Block, name: str, note: str, role: str | None, lock_it: bool) -> None:
    """Write a block's name over it and a note below it."""
    if name:
        word(
            picture,
            (block.top[0], block.top[1] + 0.06),
            name,
            role=role,
            size=NAME_SIZE,
            va="bottom",
            weight="bold",
        )
    if note:
        word(picture, (block.bottom[0], block.y - 0.07), note, soft=True, va="top")
    if lock_it:
        lock(picture, (block.top[0] + text_width(name, NAME_SIZE, "bold") / 2 + 0.22, block.top[1] + 0.09))


def area(picture: Picture, block: Block, role: str, *, share: float = 0.28, dashed: bool = False) -> Block:
    """Draw a filled, outlined rectangle; what is frozen is hatched."""
    color = ROLES[role]
    picture.add_patch(
        Rectangle(
            (block.x, block.y),
            block.width,
            block.height,
            facecolor="none" if dashed else mix(color, share),
            edgecolor=mix(color, 0.5) if role in ROLE_HATCHES else color,
            hatch=ROLE_HATCHES.get(role, ""),
            linewidth=0,
        )
    )
    outline(picture, block, color, dashed=dashed)
    return block


def outline(picture: Picture, block: Block, color: str, *, dashed: bool = False, width: float = 2.2) -> None:
    picture.add_patch(
        Rectangle(
            (block.x, block.y),
            block.width,
            block.height,
            fill=False,
            edgecolor=color,
            linewidth=width,
            linestyle=(0, (3, 2)) if dashed else "-",
            joinstyle="round",
        )
    )


def matrix(
    picture: Picture,
    at: Point,
    values: np.ndarray,
    role: str,
    *,
    name: str = "",
    note: str = "",
    cell: float = CELL,
    strongest: float | None = None,
    locked: bool = False,
) -> Block:
    """Draw a matrix to scale, its lower left corner at a point; digits where a cell has room for them.

    A shade is a number's size. `strongest` is the size of the deepest shade, so that it means the same while
    numbers move.
    """
    rows, columns = values.shape
    block = Block(*at, columns * cell, rows * cell)
    deepest = strongest or max(1e-12, float(np.abs(values).max()))
    for (i, j), value in np.ndenumerate(values):
        fill = mix(ROLES[role], 0.10 + 0.62 * min(1.0, abs(float(value)) / deepest))
        corner = block.x + j * cell, block.y + (rows - 1 - i) * cell
        picture.add_patch(Rectangle(corner, cell, cell, facecolor=fill, edgecolor=PAPER, linewidth=1.2))
        if cell >= 0.38:
            middle = corner[0] + cell / 2, corner[1] + cell / 2 - 0.01
            word(picture, middle, entry(float(value)), color=on(fill))
    outline(picture, block, ROLES[role])
    named(picture, block, name, note, role, locked)
    return block


def entry(value: float) -> str:
    """A number short enough for a cell."""
    short = f"{value:.0f}" if abs(value) >= 9.95 else f"{value:.1f}".removesuffix(".0")
    return (
        short.removeprefix("-") if float(short) == 0 else short.replace("-", "–")
    )  # a minus would be too wide


def column(values: np.ndarray) -> np.ndarray:
    """A vector as a matrix of one column."""
    return np.asarray(values, dtype=float).reshape(-1, 1)


def arrow(
    picture: Picture,
    start: Point,
    end: Point,
    role: str | None = None,
    *,
    curve: float = 0.0,
    dashed: bool = False,
    width: float = 2.2,
    color: str | None = None,
) -> None:
    """Draw an arrow: dashed where a gradient flows back."""
    picture.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>,head_length=5,head_width=3",
            mutation_scale=1.6,
            linewidth=width,
            color=color or (INK if role is None else ROLES[role]),
            connectionstyle=f"arc3,rad={curve}",
            linestyle=(0, (3.2, 1.4)) if dashed else "-",
            shrinkA=3,
            shrinkB=3,
            joinstyle="miter",
        )
    )


def box(
    picture: Picture, middle: Point, text: str, *, width: float, height: float = 0.46, fill: str = PAPER
) -> Block:
    """Draw a rounded box with a text in it: something that is done."""
    block = Block(middle[0] - width / 2, middle[1] - height / 2, width, height)
    picture.add_patch(rounded(block, fill, INK))
    word(picture, middle, text)
    return block


def rounded(block: Block, fill: str, edge: str, width: float = 1.6, radius: float = 0.08) -> FancyBboxPatch:
    return FancyBboxPatch(
        (block.x, block.y),
        block.width,
        block.height,
        boxstyle=f"round,pad=0,rounding_size={radius}",
        facecolor=fill,
        edgecolor=edge,
        linewidth=width,
    )


def plus(picture: Picture, middle: Point, sign: str = "+", radius: float = 0.19) -> Block:
    """Draw a circle in which paths are added (or multiplied)."""
    picture.add_patch(Circle(middle, radius, facecolor=PAPER, edgecolor=INK, linewidth=1.8, zorder=3))
    x, y = middle
    arms = (
        [((-1, 0), (1, 0)), ((0, -1), (0, 1))]
        if sign == "+"
        else [((-0.7, -0.7), (0.7, 0.7)), ((-0.7, 0.7), (0.7, -0.7))]
    )
    for (a, b), (c, d) in arms:
        reach = 0.55 * radius
        picture.plot(
            [x + a * reach, x + c * reach], [y + b * reach, y + d * reach], color=INK, linewidth=1.8, zorder=4
        )
    return Block(x - radius, y - radius, 2 * radius, 2 * radius)


def lock(picture: Picture, at: Point, size: float = 0.2, role: str = "frozen") -> None:
    """Draw a padlock, its lower left corner at a point: what it stands by is frozen."""
    (x, y), color = at, ROLES[role]
    picture.add_patch(rounded(Block(x, y, size, 0.75 * size), color, color, 0, radius=0.15 * size))
    picture.add_patch(
        Arc(
            (x + size / 2, y + 0.72 * size),
            0.62 * size,
            0.85 * size,
            theta1=0,
            theta2=180,
            color=color,
            linewidth=2,
        )
    )


def bits(picture: Picture, block: Block, *, share: float = 1.0, rows: int = 6) -> None:
    """Draw a weight stored in 4 bits: a dark sheet with holes, like a punched card."""
    picture.add_patch(
        Rectangle(
            (block.x, block.y), block.width, block.height, facecolor=mix(ROLES["codes"], share), linewidth=0
        )
    )
    step = block.height / rows
    for row in range(rows):
        for side in (0.16, 0.56):
            hole = block.x + side * block.width, block.y + (row + 0.32) * step
            picture.add_patch(
                Rectangle(
                    hole,
                    0.28 * block.width,
                    0.36 * step,
                    facecolor=mix("#FFFFFF", 0.4, mix(ROLES["codes"], share)),
                    linewidth=0,
                )
            )


def token(
    picture: Picture, block: Block, text: str, fill: str, *, edge: str | None = None, color: str | None = None
) -> None:
    """Draw a token: a rounded tile with its text, spaces shown."""
    picture.add_patch(rounded(block, fill, edge or fill, 2.0 if edge else 0.0, radius=0.06))
    middle = block.x + block.width / 2, block.y + block.height / 2 - 0.01
    word(picture, middle, text, color=color or on(fill), family="monospace")


def tag(picture: Picture, middle: Point, text: str, role: str) -> Block:
    """Draw a filled label such as "kept"."""
    width = text_width(text, SIZE) + 0.18
    block = Block(middle[0] - width / 2, middle[1] - 0.12, width, 0.25)
    fill = readable(ROLES[role])
    picture.add_patch(rounded(block, fill, fill, 0, radius=0.1))
    word(picture, (middle[0], middle[1] - 0.005), text, color=on(fill))
    return block


def numbered(picture: Picture, middle: Point, step: int, role: str = "gradients") -> None:
    """Draw the number of a step in a filled circle."""
    fill = ROLES[role]
    picture.add_patch(Circle(middle, 0.14, facecolor=fill, edgecolor="none", zorder=5))
    word(picture, (middle[0], middle[1] - 0.01), str(step), color=on(fill), weight="bold", zorder=6)


def bracket(picture: Picture, left: float, right: float, y: float, text: str) -> None:
    """Draw a line under a stretch of the drawing and say what it is."""
    picture.plot(
        [left, left, right, right],
        [y + 0.07, y, y, y + 0.07],
        color=GRID,
        linewidth=1.6,
        solid_joinstyle="round",
    )
    word(picture, ((left + right) / 2, y - 0.06), text, soft=True, va="top")
