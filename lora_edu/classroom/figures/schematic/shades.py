"""An answer as a strip of tokens, each as dark as the right token is probable: one row a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import Picture, text_width
from lora_edu.classroom.figures._sentences import count_of, listed, percent, sentence
from lora_edu.classroom.figures.palette import INK, ROLES, mix, on
from lora_edu.classroom.figures.schematic.example import UNSURE, readable_token
from lora_edu.classroom.figures.schematic.parts import rounded
from lora_edu.classroom.figures.schematic.sheet import SIZE, Block, sheet, word

WIDTH, MARGIN, TILE, GAP = 10.8, 1.95, 0.58, 0.06  # inches
WRITTEN = 0.5  # below this a probability is written into its tile


def shaded_tokens(
    tokens: Sequence[str],
    probabilities: Mapping[str, ArrayLike],
    *,
    roles: Mapping[str, str] | None = None,
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw a text once for each model, every token shaded by the probability that the model gave it.

    Below 50 % the probability is written into the tile, and below 10 % the tile has a frame too.

    Parameters
    ----------
    tokens : sequence of str
        The tokens as text.
    probabilities : mapping of str to array
        A model's name to its probabilities (0 to 1) of these tokens, shape (tokens,).
    roles : mapping of str to str, optional
        As in `lines`, for the models' names.
    title, alt, ax
        As in `lines`; without a title, one that counts the tokens below 50 %.

    Raises
    ------
    ValueError
        If there is no token, a shape differs, or a probability lies outside 0 to 1.
    """
    shown = [readable_token(text) for text in tokens]
    rows = {name: np.asarray(values, dtype=float) for name, values in probabilities.items()}
    if not shown or not rows:
        raise ValueError(f"there must be a token and a model, got {len(shown)} and {len(rows)}")
    for name, row in rows.items():
        if row.shape != (len(shown),) or not ((row >= 0) & (row <= 1)).all():
            raise ValueError(f"{name} must be probabilities (0 to 1) of shape ({len(shown)},), got {row}")
    low = {name: int((row < WRITTEN).sum()) for name, row in rows.items()}
    finding = f"Of {count_of(len(shown), 'token')}, below 50 %: {listed(f'{n} {count}' for n, count in low.items())}"
    lines = _in_lines(shown, list(rows.values()))
    step = len(rows) * (TILE + GAP) + 0.2
    height = 0.7 + len(lines) * step + 0.4
    with sheet(WIDTH, height, title=title or finding, alt=alt, ax=ax) as picture:
        for number, line in enumerate(lines):
            for place, (name, row) in enumerate(rows.items()):
                y = height - 0.7 - number * step - place * (TILE + GAP) - TILE
                role = (roles or {}).get(name)
                word(picture, (MARGIN - 0.15, y + TILE / 2), name, role=role, ha="right", weight="bold")
                for index, x, width in line:
                    _tile(picture, Block(x, y, width, TILE), shown[index], row[index])
        key = "shade: probability of the right token · written: below 50 % · framed: below 10 %"
        word(picture, (0.3, 0.3), key, soft=True, ha="left")
        picture.alt = _said(shown, rows)
    return picture


def _in_lines(shown: Sequence[str], rows: Sequence[np.ndarray]) -> list[list[tuple[int, float, float]]]:
    """For each line its tokens: index, left edge and width, the same in all rows."""
    lines, x = [[]], MARGIN
    for index, text in enumerate(shown):
        below = max(text_width(_written(row[index]), SIZE) for row in rows)
        width = max(text_width(text, SIZE, family="monospace"), below) + 0.16
        if x + width > WIDTH - 0.3 and lines[-1]:
            lines.append([])
            x = MARGIN
        lines[-1].append((index, x, width))
        x += width + GAP
    return lines


def _written(probability: float) -> str:
    """A low probability as it stands in a tile; nothing for a high one."""
    if probability >= WRITTEN:
        return ""
    return "<1%" if probability < 0.01 else f"{probability:.0%}"


def _tile(picture: Picture, block: Block, text: str, probability: float) -> None:
    fill = mix(ROLES["activations"], 0.06 + 0.86 * float(probability))
    unsure = probability < UNSURE
    picture.add_patch(
        rounded(block, fill, ROLES["gradients"] if unsure else fill, 2.0 if unsure else 0.0, radius=0.06)
    )
    x, y = block.x + block.width / 2, block.y + block.height / 2
    below = _written(probability)
    word(picture, (x, y + (0.13 if below else 0)), text, color=on(fill), family="monospace")
    if below:
        word(picture, (x, y - 0.14), below, color=INK)


def _said(shown: Sequence[str], rows: Mapping[str, np.ndarray]) -> str:
    parts = [f"{count_of(len(shown), 'token')} of an answer, from {shown[0]} to {shown[-1]}"]
    for name, row in rows.items():
        least = int(np.argmin(row))
        count = int((row < WRITTEN).sum())
        parts.append(
            f"{name}: {count} of them below 50%; the right token gets {percent(float(row.mean()))} on average, and "
            f"least at {shown[least]}: {percent(float(row[least]))}"
        )
    return sentence(*parts)
