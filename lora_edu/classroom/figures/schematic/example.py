"""The scored example: which tokens are read, which must be said, and how sure the model is of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import Picture, text_width
from lora_edu.classroom.figures._sentences import count_of, percent, sentence
from lora_edu.classroom.figures.palette import COPIED, FORM, GRID, ROLES, SOFT, mix
from lora_edu.classroom.figures.schematic.parts import token
from lora_edu.classroom.figures.schematic.sheet import SIZE, Block, sheet, word

WIDTH, MARGIN, TILE = 10.8, 1.75, 0.4
IGNORED = -100  # PyTorch's and transformers' label for "not scored"
UNSURE = 0.1
MINUS = "\N{MINUS SIGN}"


def scored_example(
    tokens: Sequence[str],
    labels: Sequence[int],
    *,
    probabilities: ArrayLike | Mapping[str, ArrayLike] | None = None,
    copied: Sequence[bool] | None = None,
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw a training example as two strips: what is read, and below it what must be said next.

    The lower strip is the upper one, shifted by one: at each place the model must say the token that follows. What
    is not scored is grey. A row of probabilities shades the tokens that are scored; below 10 % they are framed.

    Parameters
    ----------
    tokens : sequence of str
        The tokens as text, at least two.
    labels : sequence of int
        As in transformers: one for each token, not shifted; -100 where it is not scored.
    probabilities : array or mapping of str to array, optional
        For each token the probability (0 to 1) that the model gave it, one for each token: what is not scored
        is ignored. A mapping draws one strip a model, such as {"base": ..., "with adapter": ...}.
    copied : sequence of bool, optional
        For each token whether it is copied from what was read: then form and copied tokens differ in colour, and
        copied ones have an edge. Not together with probabilities.
    title, alt, ax
        As in `lines`; without a title, one that states how many tokens are scored.

    Raises
    ------
    ValueError
        If the lengths differ, nothing is scored, a probability lies outside 0 to 1, or both probabilities and what is
        copied are given.
    """
    if copied is not None and (probabilities is not None or len(copied) != len(tokens)):
        raise ValueError(
            f"copied must be one a token, {len(tokens)}, and without probabilities, got {len(copied)}"
        )
    scored = [label != IGNORED for label in labels]
    if len(tokens) != len(labels) or len(tokens) < 2 or not any(scored[1:]):
        raise ValueError(
            f"tokens and labels must be two or more, as many of each, with one scored after the first, "
            f"got {len(tokens)} and {len(labels)}, scored: {sum(scored[1:])}"
        )
    rows = probabilities if isinstance(probabilities, Mapping) else {"must say next": probabilities}
    shades = {name: _checked(name, values, scored) for name, values in rows.items() if values is not None}
    shades = shades or {"must say next": np.full(len(tokens), np.nan)}
    shown = [readable_token(text) for text in tokens]
    lines = in_lines(shown)
    step = 0.52 + 0.48 * len(shades)
    height = 0.75 + len(lines) * (step + 0.18) + 0.35
    count = sum(scored[1:])
    finding = f"{count_of(count, 'token')} of {len(tokens)} are scored: the answer, shifted by one"
    with sheet(WIDTH, height, title=title or finding, alt=alt, ax=ax) as picture:
        y = height - 0.75
        for line in lines:
            for name, row in [("reads", 0), *((name, i + 1) for i, name in enumerate(shades))]:
                word(picture, (MARGIN - 0.15, y - 0.48 * row - TILE / 2), name, ha="right", weight="bold")
            for index, x, width in line:
                _place(picture, index, (x, y - TILE), width, shown, scored, shades, copied)
            y -= step + 0.18
        word(picture, (0.3, 0.3), _key(shades, copied), soft=True, ha="left")
        picture.alt = _said(shown, scored, shades, copied)
    return picture


def scored_rows(
    rows: Mapping[str, tuple[Sequence[str], Sequence[int]]],
    *,
    most: int = 40,
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw several training examples, one below the other, as they are read; what is scored is coloured.

    Parameters
    ----------
    rows : mapping of str to (tokens, labels)
        By the name of an example: its tokens as text, and their labels, -100 where it is not scored.
    most : int
        Tokens of each that are drawn, from a few before the first scored one on. Dots stand for the others.
    title, alt, ax
        As in `lines`; without a title, one that counts the scored tokens of each.

    Raises
    ------
    ValueError
        If there is no example, or one is empty or has not as many labels as tokens.
    """
    if not rows or not all(tokens and len(tokens) == len(labels) for tokens, labels in rows.values()):
        raise ValueError(f"rows must hold an example at least, each of as many labels as tokens, got {rows}")
    counts = {name: (sum(map(_is_scored, labels)), len(labels)) for name, (_, labels) in rows.items()}
    drawn = []
    for name, (tokens, labels) in rows.items():
        places = _around_the_first_scored(labels, most)
        shown = ["…" if place is None else readable_token(tokens[place]) for place in places]
        scored = [place is not None and _is_scored(labels[place]) for place in places]
        drawn.append((name, shown, scored, in_lines(shown, next_too=False)))
    height = 1.1 + sum((TILE + 0.08) * len(lines) + 0.25 for *_, lines in drawn)
    finding = "Scored: " + ", ".join(f"{scored} of {all_} tokens" for scored, all_ in counts.values())
    with sheet(WIDTH, height, title=title or finding, alt=alt, ax=ax) as picture:
        y = height - 0.75 - TILE
        for name, shown, scored, lines in drawn:
            word(picture, (MARGIN - 0.15, y + TILE / 2), name, ha="right", weight="bold")
            for line in lines:
                for index, x, width in line:
                    fill = mix(ROLES["activations"], 0.5) if scored[index] else mix(GRID, 0.6)
                    token(
                        picture,
                        Block(x, y, width, TILE),
                        shown[index],
                        fill,
                        color=None if scored[index] else SOFT,
                    )
                y -= TILE + 0.08
            y -= 0.25
        word(picture, (0.3, 0.3), "grey: read, not scored · …: left out here", soft=True, ha="left")
        picture.alt = sentence(
            *(f"{name}: {n} of {all_} tokens are scored" for name, (n, all_) in counts.items())
        )
    return picture


def _is_scored(label: int) -> bool:
    return label != IGNORED


def _around_the_first_scored(labels: Sequence[int], most: int) -> list[int | None]:
    """Places that are shown of a row: some before its first scored token, what follows, and its end; None for a gap."""
    first = next((place for place, label in enumerate(labels) if _is_scored(label)), 0)
    start = max(0, min(first - most // 3, len(labels) - most))
    shown: list[int | None] = [None] if start else []
    if len(labels) - start <= most:
        return [*shown, *range(start, len(labels))]
    end = most // 8
    return [*shown, *range(start, start + most - end), None, *range(len(labels) - end, len(labels))]


def _place(
    picture: Picture,
    index: int,
    corner: tuple[float, float],
    width: float,
    shown: Sequence[str],
    scored: Sequence[bool],
    shades: Mapping[str, np.ndarray],
    copied: Sequence[bool] | None,
) -> None:
    """Draw the tile that is read at one place, and below it those that must be said there."""
    x, y = corner
    fill = mix(ROLES["activations"], 0.22) if scored[index] else mix(GRID, 0.6)
    token(picture, Block(x, y, width, TILE), shown[index], fill, color=None if scored[index] else SOFT)
    if index + 1 == len(shown):
        return
    for row, values in enumerate(shades.values()):
        block = Block(x, y - 0.48 * (row + 1), width, TILE)
        if not scored[index + 1]:
            word(picture, (x + width / 2, block.y + TILE / 2), "·", soft=True)
            continue
        if copied is not None:
            color = COPIED if copied[index + 1] else FORM
            edge = COPIED if copied[index + 1] else None
            token(picture, block, shown[index + 1], mix(color, 0.3), edge=edge)
            continue
        p = values[index + 1]
        strength = 0.5 if np.isnan(p) else 0.06 + 0.86 * p
        edge = ROLES["gradients"] if p < UNSURE else None
        token(picture, block, shown[index + 1], mix(ROLES["activations"], strength), edge=edge)


def in_lines(shown: Sequence[str], next_too: bool = True) -> list[list[tuple[int, float, float]]]:
    """For each line its tokens: index, left edge and width; with room for the one that follows, where it is said."""
    lines, x = [[]], MARGIN
    for index, text in enumerate(shown):
        following = shown[index + 1 : index + 2] if next_too else ()
        longest = max(text_width(t, SIZE, family="monospace") for t in (text, *following))
        width = longest + 0.2
        if x + width > WIDTH - 0.3 and lines[-1]:
            lines.append([])
            x = MARGIN
        lines[-1].append((index, x, width))
        x += width + 0.06
    return lines


def readable_token(text: str) -> str:
    """A token as it can be seen: spaces and ends of lines have signs."""
    return text.replace("\n", "⏎").replace(" ", "␣")


def _checked(name: str, values: ArrayLike, scored: Sequence[bool]) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    wanted = array[1:][np.asarray(scored[1:])] if array.shape == (len(scored),) else np.array([np.nan])
    if not ((wanted >= 0) & (wanted <= 1)).all():
        raise ValueError(f"{name} must be probabilities (0 to 1) of shape ({len(scored)},), got {values}")
    return array


def _key(shades: Mapping[str, np.ndarray], copied: Sequence[bool] | None) -> str:
    if copied is not None:
        return "with an edge: copied from the sentence · without: the form · grey: read, not scored"
    if any(np.isnan(values[1:]).all() for values in shades.values()):
        return f"grey: read, not scored · dot: nothing has to be said here, label {IGNORED:d}".replace(
            "-", MINUS
        )
    right = "shade: probability of the right token · framed: below 10 %"
    return f"{right} · grey: not scored · dot: label {IGNORED:d}".replace("-", MINUS)


def _said(
    shown: Sequence[str],
    scored: Sequence[bool],
    shades: Mapping[str, np.ndarray],
    copied: Sequence[bool] | None,
) -> str:
    answer = [i for i in range(1, len(shown)) if scored[i]]
    parts = [
        f"{len(shown)} tokens are read and {len(answer)} are scored, from {shown[answer[0]]} to {shown[answer[-1]]}",
        f"At each place the model must say the next one; what is not scored has the label {IGNORED}",
    ]
    if copied is not None:
        parts.append(f"{sum(copied)} of them are copied, the others are the form")
    for name, values in shades.items():
        right = values[answer]
        if not np.isnan(right).any():
            least = answer[int(np.argmin(right))]
            mean = float(np.mean(right))
            parts.append(
                f"{name}: the right token gets {percent(mean)} on average, and least at "
                f"{shown[least]}: {percent(float(values[least]))}"
            )
    return sentence(*parts)
