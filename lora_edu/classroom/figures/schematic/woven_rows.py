"""The rows of one head in two orders: halves apart, as transformers pairs them, and woven, as llama.cpp does."""

from __future__ import annotations

from matplotlib.patches import Rectangle

from lora_edu.classroom.figures._canvas import Picture
from lora_edu.classroom.figures._sentences import listed, numbers, sentence
from lora_edu.classroom.figures.palette import COLORS, INK, PAPER, mix, on
from lora_edu.classroom.figures.schematic.parts import arrow
from lora_edu.classroom.figures.schematic.sheet import NAME_SIZE, sheet, word

TALL, WIDE, LOW = 0.42, 1.9, 0.55  # inches: a row, and where the last one lies
LEFT, RIGHT = 2.2, 6.3
MOST = 12
_LETTERS = "abcdef"
_COLORS = (COLORS[0], COLORS[3], COLORS[6], COLORS[4], COLORS[2], COLORS[5])


def woven_rows(
    head_dim: int = 8, *, title: str = "", alt: str | None = None, ax: Picture | None = None
) -> Picture:
    """Draw the rows of a head in both orders; rows that positions turn together have one colour and one letter.

    Parameters
    ----------
    head_dim : int
        Rows of the head, an even number from 4 to 12.
    title, alt, ax
        As in `lora_layer`.

    Raises
    ------
    ValueError
        If `head_dim` lies outside.
    """
    if head_dim % 2 or not 4 <= head_dim <= MOST:
        raise ValueError(f"head_dim must be an even number from 4 to {MOST}, got {head_dim}")
    half = head_dim // 2
    woven = [row for i in range(half) for row in (i, i + half)]
    with sheet(10.4, LOW + head_dim * TALL + 1.15, title=title, alt=alt, ax=ax) as picture:
        for x, name, order in ((LEFT, "transformers", list(range(head_dim))), (RIGHT, "llama.cpp", woven)):
            top = LOW + head_dim * TALL
            word(picture, (x + WIDE / 2, top + 0.08), name, size=NAME_SIZE, weight="bold", va="bottom")
            for place, row in enumerate(order):
                _row(picture, x, _middle(head_dim, place), row, half)
        for place, row in enumerate(woven):
            ends = (LEFT + WIDE, _middle(head_dim, row)), (RIGHT, _middle(head_dim, place))
            arrow(picture, *ends, color=mix(INK, 0.55), width=1.4)
        for i in range(half):
            _apart(picture, head_dim, i, half)
            _together(picture, head_dim, i)
        word(picture, (LEFT + WIDE / 2, 0.3), f"row i turns with row i + {half}", soft=True)
        word(picture, (RIGHT + WIDE / 2, 0.3), "row 2i turns with row 2i + 1", soft=True)
        pairs = listed(f"{i} with {i + half}" for i in range(half))
        picture.alt = sentence(
            f"A head of {head_dim} rows. transformers turns {pairs}",
            f"llama.cpp turns neighbours, so its file holds the rows in the order {numbers(woven)}",
        )
    return picture


def _middle(head_dim: int, place: int) -> float:
    return LOW + (head_dim - place - 0.5) * TALL


def _row(picture: Picture, x: float, y: float, row: int, half: int) -> None:
    fill = mix(_COLORS[row % half], 0.45)
    picture.add_patch(
        Rectangle((x, y - TALL / 2), WIDE, TALL, facecolor=fill, edgecolor=PAPER, linewidth=1.6)
    )
    word(picture, (x + WIDE / 2, y - 0.01), f"row {row}, pair {_LETTERS[row % half]}", color=on(fill))


def _apart(picture: Picture, head_dim: int, row: int, half: int) -> None:
    """A line to the left of the rows, from one of a pair to the other, half a head away."""
    x = LEFT - 0.2 - 0.3 * (half - 1 - row)
    ys = [_middle(head_dim, row), _middle(head_dim, row + half)]
    picture.plot(
        [LEFT - 0.05, x, x, LEFT - 0.05], [ys[0], ys[0], ys[1], ys[1]], color=_COLORS[row], linewidth=2
    )


def _together(picture: Picture, head_dim: int, pair: int) -> None:
    """A short line to the right of two neighbours."""
    x = RIGHT + WIDE + 0.05
    ys = [_middle(head_dim, 2 * pair), _middle(head_dim, 2 * pair + 1)]
    picture.plot([x, x + 0.15, x + 0.15, x], [ys[0], ys[0], ys[1], ys[1]], color=_COLORS[pair], linewidth=2)
