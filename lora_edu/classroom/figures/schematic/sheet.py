"""A sheet of paper measured in inches, on which a schematic is drawn.

Lengths are inches from the sheet's lower left corner, whatever the drawing; so text keeps one size, and a
schematic is arithmetic on a few boxes. A drawing to scale chooses inches a number and keeps them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_edu.classroom.figures._canvas import (
    PAD,
    TITLE_LEADING,
    TITLE_SIZE,
    Picture,
    drawing,
    lay_card,
    set_title,
    wrapped,
)
from lora_edu.classroom.figures.palette import INK, ROLES, SOFT, readable
from lora_edu.classroom.language import label

SIZE, NAME_SIZE = 13, 15  # points: the least that is read from the last row, and names
CELL = 0.44  # inches a number takes where digits are shown

Point = tuple[float, float]


@dataclass(frozen=True)
class Block:
    """Where something was drawn."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> Point:
        return self.x + self.width, self.y + self.height / 2

    @property
    def left(self) -> Point:
        return self.x, self.y + self.height / 2

    @property
    def top(self) -> Point:
        return self.x + self.width / 2, self.y + self.height

    @property
    def bottom(self) -> Point:
        return self.x + self.width / 2, self.y


@contextmanager
def sheet(
    width: float, height: float, *, title: str, alt: str | None, ax: Picture | None
) -> Iterator[Picture]:
    """An empty sheet of paper, its title written; `ax` becomes as large as the sheet.

    Raises
    ------
    ValueError
        If `ax` shares its figure with others.
    """
    if ax is not None and len(ax.canvas.figure.axes) > 1:
        raise ValueError("ax must be alone in its figure: a schematic takes a whole one, so panels=1")
    with drawing(alt, ax) as picture:
        figure = picture.canvas.figure
        lines = wrapped(label(title), width - 2 * PAD, TITLE_SIZE, "bold").count("\n")
        height += lines * TITLE_SIZE * TITLE_LEADING / 72  # a long title makes the sheet taller
        figure.set_size_inches(width, height)
        figure.set_layout_engine("none")
        lay_card(figure)
        picture.set_position((0, 0, 1, 1))
        picture.set(xlim=(0, width), ylim=(0, height))
        picture.set_axis_off()
        set_title(picture, title)
        picture.is_sheet = True
        yield picture


def ink(role: str | None) -> str:
    """The colour in which a role's name is written."""
    return INK if role is None else readable(ROLES[role])


def word(
    picture: Picture,
    at: Point,
    text: str,
    *,
    role: str | None = None,
    soft: bool = False,
    size: float = SIZE,
    ha: str = "center",
    va: str = "center",
    **style: Any,
) -> None:
    """Write text; `soft` for what is said beside the drawing."""
    color = style.pop("color", SOFT if soft else ink(role))
    picture.text(*at, text, color=color, fontsize=size, ha=ha, va=va, parse_math=False, **style)


def chain_of(values: Sequence[tuple[str, np.ndarray, tuple[int | None, ...]]]) -> None:
    """Check shapes that must fit together.

    Raises
    ------
    ValueError
        If an array has not the wanted shape, or a number in it is not finite.
    """
    for name, array, wanted in values:
        fits = array.ndim == len(wanted) and all(
            w in (None, n) for w, n in zip(wanted, array.shape, strict=True)
        )
        if not fits or not array.size or not np.isfinite(array).all():
            shape = tuple("any" if n is None else n for n in wanted)
            raise ValueError(f"{name} must be finite numbers of shape {shape}, got shape {array.shape}")
