"""The gradient of a weight: for each example a column times a row, and their sum."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import Picture
from lora_edu.classroom.figures._sentences import count_of, numbers, sentence
from lora_edu.classroom.figures.schematic.parts import column, matrix, plus
from lora_edu.classroom.figures.schematic.sheet import CELL, NAME_SIZE, Block, chain_of, sheet, word

EDGE, BETWEEN, NEAR = 0.4, 0.62, 0.14  # inches: at the sheet's edge, between two tables, around a table


def column_times_row(
    E: ArrayLike,
    X: ArrayLike,
    *,
    title: str = "Each example adds a column times a row",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw the gradient of a layer's weight as a sum of multiplication tables, one for each example.

    Parameters
    ----------
    E : array
        Gradients at the outputs, one example a row, shape (batch, out).
    X : array
        Inputs, one example a row, shape (batch, in).
    title, alt, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If the batches differ or a number is not finite.

    References
    ----------
    The chain rule for y = W x: dL/dW[o, i] = e[o] x[i].
    """
    E, X = np.asarray(E, dtype=float), np.asarray(X, dtype=float)
    chain_of([("E", E, (None, None))])
    batch, out = E.shape
    chain_of([("X", X, (batch, None))])
    gradient = E.T @ X
    wide, tall = X.shape[1] * CELL, out * CELL
    step = CELL + NEAR + wide + BETWEEN  # from one table to the next
    width, height = 2 * EDGE + batch * step + wide, tall + CELL + 1.9
    with sheet(width, height, title=title, alt=alt, ax=ax) as picture:
        low = 0.62
        for index, (e, x) in enumerate(zip(E, X, strict=True)):
            table = _table(picture, (EDGE + index * step, low), e, x, np.abs(gradient).max())
            sign = table.right[0] + BETWEEN / 2, table.right[1]
            if index + 1 < batch:
                plus(picture, sign)
            else:
                word(picture, sign, "=", size=NAME_SIZE + 6)
        rank = np.linalg.matrix_rank(gradient)
        corner = EDGE + batch * step, low
        matrix(picture, corner, gradient, "gradients", name="gradient of W", note=f"rank {rank}")
        picture.alt = sentence(
            *(
                f"Example {index}: the column {numbers(e)} times the row {numbers(x)} is a table of rank 1"
                for index, (e, x) in enumerate(zip(E, X, strict=True), start=1)
            ),
            f"The sum of {count_of(batch, 'table')}, {out} × {X.shape[1]}, is the gradient of W; it has rank {rank}",
        )
    return picture


def _table(
    picture: Picture, at: tuple[float, float], e: np.ndarray, x: np.ndarray, strongest: float
) -> Block:
    """Draw a multiplication table, its lower left corner at a point: e down its side, x along its top."""
    left, low = at
    corner = left + CELL + NEAR, low
    row = corner[0], low + len(e) * CELL + NEAR
    matrix(picture, (left, low), column(e), "gradients", name="e", note="")
    matrix(picture, row, x.reshape(1, -1), "activations", name="x")
    return matrix(picture, corner, np.outer(e, x), "gradients", note="rank 1", strongest=strongest)
