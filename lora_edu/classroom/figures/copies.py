"""A matrix of grey levels, what a format keeps of it, and what that loses."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import Picture, matrix_of
from lora_edu.classroom.figures._sentences import number, sentence
from lora_edu.classroom.figures.schematic.grey import grey
from lora_edu.classroom.figures.schematic.sheet import NAME_SIZE, Block, sheet, word

MARGIN, GAP, INCHES = 0.3, 0.25, 3.0  # at the card's edge, between two pictures, and the width of one


def original_and_copy(
    original: ArrayLike,
    copy: ArrayLike,
    *,
    limits: tuple[float, float] = (0, 1),
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw a matrix as grey levels, a copy of it, and their difference, in which mid grey is no error.

    Parameters
    ----------
    original, copy : array
        Shape (height, width).
    limits : tuple of float
        The values that are black and white. The error is that of the numbers within them, relative to these; so an
        outlier that was planted counts in neither.
    title, alt, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty, the two have not one shape (height, width), or no number of the original but 0 lies
        within the limits.
    """
    before, after = matrix_of(original, "original"), matrix_of(copy, "copy")
    if before.shape != after.shape:
        raise ValueError(f"copy must have the shape of original, {before.shape}, got {after.shape}")
    counted = (limits[0] <= before) & (before <= limits[1])
    size = float(np.linalg.norm(before[counted]))
    if not size > 0:
        raise ValueError(f"limits must hold numbers of original that are not 0, got {limits}")
    lost = after - before
    error = float(np.linalg.norm(lost[counted])) / size
    zeros = int((after == 0).sum())
    reach = (limits[1] - limits[0]) / 2
    height, width = before.shape
    tall = INCHES * height / width
    views = (
        ("original", before, limits, ""),
        ("read back", after, limits, f"{zeros:,} of {after.size:,} are 0"),
        ("error", lost, (-reach, reach), f"{error:.1%} (mid grey: no error)"),
    )
    with sheet(3 * INCHES + 2 * GAP + 2 * MARGIN, tall + 1.5, title=title, alt=alt, ax=ax) as picture:
        for index, (name, values, ends, note) in enumerate(views):
            place = grey(picture, Block(MARGIN + index * (INCHES + GAP), 0.5, INCHES, tall), values, ends)
            word(picture, (place.top[0], place.top[1] + 0.07), name, va="bottom", size=NAME_SIZE)
            word(picture, (place.bottom[0], place.y - 0.08), note, va="top")
        picture.alt = sentence(
            title,
            f"{zeros:,} of {after.size:,} numbers are read back as 0",
            f"The largest is {number(float(np.abs(before).max()))}; those from {number(limits[0])} to "
            f"{number(limits[1])} have an error of {error:.1%}",
        )
    return picture
