"""A matrix of grey levels as a sum of terms of rank 1: each term alone, the running sum, and what is missing."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import Picture, wrapped
from lora_edu.classroom.figures._sentences import count_of, listed, number, percent, sentence
from lora_edu.classroom.figures.schematic.grey import grey
from lora_edu.classroom.figures.schematic.parts import plus
from lora_edu.classroom.figures.schematic.sheet import NAME_SIZE, SIZE, Block, sheet, word

MARGIN, GAP = 0.3, 0.46  # inches at the card's edge, and between two pictures
TERM_INCHES, COPY_INCHES = 2.6, 4.1  # width of a picture
LEGEND_STEPS = 41


def terms(
    U: ArrayLike,
    S: ArrayLike,
    Vh: ArrayLike,
    *,
    count: int = 3,
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw the first terms of a sum of columns times rows, each alone, and below them what they add up to.

    A term adds light where it is brighter than mid grey, and takes light away where it is darker.

    Parameters
    ----------
    U, S, Vh : array
        Shapes (m, k), (k,) and (k, n): term i is ``S[i] * outer(U[:, i], Vh[i])``.
    count : int
        How many terms, 1 … k.
    title, alt, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If the shapes do not chain or `count` is outside 1 … k.
    """
    U, S, Vh = _decomposition(U, S, Vh, "count", count)
    alone = [S[i] * np.outer(U[:, i], Vh[i]) for i in range(count)]
    sums = np.cumsum(alone, axis=0)
    reach = float(np.abs(alone).max())
    width, height = TERM_INCHES, TERM_INCHES * len(U) / Vh.shape[1]
    wide, tall = count * width + (count - 1) * GAP + 2 * MARGIN, 2 * height + 2.0
    with sheet(wide, tall, title=title, alt=alt, ax=ax) as picture:
        for index, (term, total) in enumerate(zip(alone, sums, strict=True)):
            left = MARGIN + index * (width + GAP)
            upper = grey(picture, Block(left, height + 1.15, width, height), term, (-reach, reach))
            lower = grey(picture, Block(left, 0.42, width, height), total, (0, 1))
            word(picture, (upper.top[0], upper.top[1] + 0.07), f"term {index + 1}", va="bottom")
            added = " + ".join(f"{i + 1}" for i in range(index + 1))
            said = f"term{'s' if index else ''} {added}: rank {index + 1}"
            word(picture, (lower.bottom[0], lower.y - 0.07), said, va="top")
            if index:
                plus(picture, (left - GAP / 2, upper.left[1]))
        key = "Alone: mid grey adds nothing, light adds, dark takes away. Below: the sum so far."
        key = wrapped(key, wide - 2 * MARGIN, SIZE)
        word(picture, (MARGIN, height + 0.8), key, ha="left", soft=True, linespacing=1.2)
        shares = S**2 / (S**2).sum()
        picture.alt = sentence(
            f"Terms 1 to {count} of a matrix of {len(U):,} × {Vh.shape[1]:,} grey levels, each alone, one column "
            "times one row; below each the sum so far",
            f"Of the energy they hold {listed(percent(float(share)) for share in shares[:count])}",
        )
    return picture


def copy_and_rest(
    U: ArrayLike,
    S: ArrayLike,
    Vh: ArrayLike,
    rank: int,
    *,
    reach: float,
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw the sum of the first terms, and beside it what is missing to the whole, with a legend.

    Parameters
    ----------
    U, S, Vh : array
        As in `terms`; all k terms together are the whole.
    rank : int
        How many terms are added, 1 … k.
    reach : float
        The size of a missing grey level that is black or white; zero is mid grey. Fixed, so that a shade means
        the same at every rank.
    title, alt, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If the shapes do not chain, `rank` is outside 1 … k, or `reach` is not above 0.
    """
    U, S, Vh = _decomposition(U, S, Vh, "rank", rank)
    if not reach > 0:
        raise ValueError(f"reach must be above 0, got {reach}")
    copy, rest = U[:, :rank] * S[:rank] @ Vh[:rank], U[:, rank:] * S[rank:] @ Vh[rank:]
    m, n = copy.shape
    width, height = COPY_INCHES, COPY_INCHES * m / n
    with sheet(2 * width + GAP + 2 * MARGIN, height + 1.75, title=title, alt=alt, ax=ax) as picture:
        left = grey(picture, Block(MARGIN, 0.85, width, height), copy, (0, 1))
        right = grey(picture, Block(MARGIN + width + GAP, 0.85, width, height), rest, (-reach, reach))
        for block, name in ((left, f"the sum of {count_of(rank, 'term')}"), (right, "what is missing")):
            word(picture, (block.top[0], block.top[1] + 0.07), name, va="bottom", size=NAME_SIZE)
        _legend(picture, right, reach)
        error = float(np.sqrt((S[rank:] ** 2).sum() / (S**2).sum()))
        numbers, missing = rank * (m + n), float(np.abs(rest).max()) if rest.size else 0.0
        word(picture, (left.bottom[0], left.y - 0.1), f"{numbers:,} numbers, error {error:.1%}", va="top")
        picture.alt = sentence(
            f"Rank {rank}: {numbers:,} numbers in place of {m * n:,}, relative error {error:.1%}",
            f"The grey levels that are missing reach {number(missing)}",
        )
    return picture


def _decomposition(
    U: ArrayLike, S: ArrayLike, Vh: ArrayLike, name: str, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three arrays, checked."""
    left, values, right = (np.asarray(array, dtype=float) for array in (U, S, Vh))
    k = len(values) if values.ndim == 1 else -1
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != k or len(right) != k:
        shapes = left.shape, values.shape, right.shape
        raise ValueError(f"U, S and Vh must have shapes (m, k), (k,) and (k, n), got {shapes}")
    if not 1 <= count <= k:
        raise ValueError(f"{name} must be in 1 … {k}, got {count}")
    return left, values, right


def _legend(picture: Picture, above: Block, reach: float) -> None:
    """Draw the scale of what is missing below its picture: too bright, exact, too dark."""
    strip = Block(above.x, above.y - 0.36, above.width, 0.2)
    grey(picture, strip, np.linspace(-1, 1, LEGEND_STEPS)[None], (-1, 1))
    y = strip.y - 0.06
    left, right = strip.x, strip.x + strip.width
    word(picture, (left, y), f"{number(reach)} too bright", ha="left", va="top")
    word(picture, (strip.bottom[0], y), "exact", va="top")
    word(picture, (right, y), f"{number(reach)} too dark", ha="right", va="top")
