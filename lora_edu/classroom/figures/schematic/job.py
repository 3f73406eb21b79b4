"""One base, two answers: what a small trained adapter makes of a frozen model in 4 bits."""

from __future__ import annotations

from lora_edu.classroom.figures._canvas import Picture, wrapped
from lora_edu.classroom.figures._sentences import number, sentence
from lora_edu.classroom.figures.palette import GRID, INK, PAPER, ROLES, mix
from lora_edu.classroom.figures.schematic.parts import area, arrow, lock, plus, rounded
from lora_edu.classroom.figures.schematic.sheet import SIZE, Block, sheet, word

SIDE, CARD = 1.55, 3.15  # inches: the base's square, and how wide a card of text is


def one_job(
    said: str,
    base_answer: str,
    tuned_answer: str,
    *,
    base: float,
    adapter: float,
    unit: str = "MB",
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw a sentence on its two ways through a model: the base alone, and the base with its adapter, to scale.

    Parameters
    ----------
    said, base_answer, tuned_answer : str
        What goes in, and what comes out on either way.
    base, adapter : float
        What the base takes in 4 bits, and what its adapter takes, in `unit`: areas are in proportion.
    unit : str
        Of both.
    title, alt, ax
        As in `lines`; without a title, one that states the sizes.

    Raises
    ------
    ValueError
        If a size is not above 0.
    """
    if not min(base, adapter) > 0:
        raise ValueError(f"base and adapter must be above 0, got {base} and {adapter}")
    finding = (
        f"{number(adapter)} {unit} of trained numbers give a frozen base of {number(base)} {unit} a new job"
    )
    with sheet(10.8, 4.0, title=title or finding, alt=alt, ax=ax) as picture:
        asked = _card(picture, (0.3, 2.1), said, "the sentence", GRID)
        square = Block(4.45, 1.7, SIDE, SIDE)
        area(picture, square, "codes", share=0.5)
        lock(picture, (square.x + SIDE - 0.32, square.y + 0.12), role="codes")
        word(
            picture,
            (square.x + SIDE / 2, square.y + SIDE + 0.16),
            "the base, frozen",
            role="codes",
            weight="bold",
        )
        word(
            picture,
            (square.x + SIDE / 2, square.y + SIDE / 2 + 0.1),
            f"4 bits\n{number(base)} {unit}",
            color=INK,
        )
        side = SIDE * (adapter / base) ** 0.5
        small = Block(square.x + SIDE / 2 - side / 2, 0.92 - side / 2, side, side)
        area(picture, small, "trained", share=1)
        text = f"adapter, trained: {number(adapter)} {unit}"
        word(picture, (square.x + SIDE / 2, 0.42), text, role="trained", weight="bold")
        before = _card(picture, (7.35, 2.1), base_answer, "the base alone", ROLES["codes"])
        after = _card(picture, (7.35, 0.5), tuned_answer, "with the adapter", ROLES["trained"])
        joined = plus(picture, (6.62, after.left[1]), radius=0.15)
        arrow(picture, asked.right, square.left, "activations")
        arrow(picture, (asked.x + asked.width, asked.y + 0.1), small.left, "activations")
        arrow(picture, square.right, before.left, "activations")
        arrow(picture, (square.x + SIDE, square.y + 0.2), (6.53, joined.y + 0.25), "activations")
        arrow(picture, small.right, (joined.x, joined.y + 0.15), "trained")
        arrow(picture, joined.right, after.left, "activations")
        picture.alt = sentence(
            f"The sentence goes through the base, {number(base)} {unit} in 4 bits and frozen: {said}",
            f"The base alone answers: {base_answer}",
            f"With a trained adapter of {number(adapter)} {unit}: {tuned_answer}",
        )
    return picture


def _card(picture: Picture, corner: tuple[float, float], text: str, name: str, color: str) -> Block:
    """Draw a card as high as its text, the name over it."""
    lines = wrapped(text, CARD - 0.24, SIZE)
    block = Block(*corner, CARD, 0.235 * (lines.count("\n") + 1) + 0.18)
    picture.add_patch(rounded(block, mix(color, 0.1, PAPER), color))
    word(picture, (block.x + 0.12, block.y + block.height / 2), lines, ha="left")
    word(picture, (block.x, block.y + block.height + 0.15), name, ha="left", soft=True)
    return block
