"""Matrices as pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import Picture, drawing, matrix_of, set_title
from lora_edu.classroom.figures._sentences import number, sentence


def image(
    values: ArrayLike,
    *,
    alt: str | None = None,
    limits: tuple[float, float] = (0, 1),
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw a matrix as grey levels, one pixel an entry.

    Parameters
    ----------
    values : array
        Shape (height, width).
    limits : tuple of float
        The values that are black and white; what lies beyond is cut off.
    alt, title, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty or `values` is not two-dimensional.
    """
    pixels = matrix_of(values, "values")
    with drawing(alt, ax) as picture:
        picture.imshow(pixels, cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="nearest")
        picture.set(xticks=[], yticks=[])  # hidden ticks would still be made, for the title's place
        picture.set_axis_off()
        set_title(picture, title)
        height, width = pixels.shape
        picture.alt = sentence(
            f"{title or 'A picture'}: {height:,} × {width:,} numbers from {number(pixels.min())} to "
            f"{number(pixels.max())} as grey levels, black at {number(limits[0])} and white at {number(limits[1])}"
        )
    return picture


def product(
    left: ArrayLike,
    right: ArrayLike,
    *,
    alt: str | None = None,
    names: tuple[str, str] = ("B", "A"),
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw a small matrix product as on paper: `right` above the result, `left` beside it.

    Each entry of the result stands in the row of `left` and the column of `right` that it is made of.

    Parameters
    ----------
    left, right : array
        Shapes (m, r) and (r, n).
    names : tuple of str
        What the two are called.
    alt, title, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty, a factor is not two-dimensional, or the shapes do not chain.
    """
    B, A = matrix_of(left, "left"), matrix_of(right, "right")
    if B.shape[1] != A.shape[0]:
        raise ValueError(f"left and right must chain, (m, r) and (r, n), got {B.shape} and {A.shape}")
    result, corner = B @ A, B.shape[1] + 1.5  # where the result begins, in cells
    blocks = [
        (names[0], B, 0.0, corner),
        (names[1], A, corner, 0.0),
        ("".join(names), result, corner, corner),
    ]
    strongest = 1.6 * max(np.abs(block).max() for _, block, _, _ in blocks)  # pale enough for black digits
    with drawing(alt, ax) as picture:
        for name, block, x, y in blocks:
            rows, columns = block.shape
            picture.imshow(
                block,
                cmap="PuOr",
                vmin=-strongest,
                vmax=strongest,
                extent=(x, x + columns, y + rows, y),
            )
            for (row, column), value in np.ndenumerate(block):
                picture.text(x + column + 0.5, y + row + 0.5, f"{value:g}", ha="center", va="center")
            picture.text(x + columns / 2, y - 0.45, f"{name}: {rows} × {columns}", ha="center", va="center")
        picture.set(xlim=(-0.5, corner + A.shape[1] + 0.5), ylim=(corner + B.shape[0] + 0.5, -1))
        picture.set_axis_off()
        set_title(picture, title)
        picture.alt = sentence(
            f"{names[0]}, {B.shape[0]} × {B.shape[1]}, times {names[1]}, {A.shape[0]} × {A.shape[1]}, is "
            f"{''.join(names)}, {result.shape[0]} × {result.shape[1]}",
            f"Its numbers lie between {number(result.min())} and {number(result.max())}; the factors hold "
            f"{B.size + A.size:,} numbers, the product {result.size:,}",
        )
    return picture
