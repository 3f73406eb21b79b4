"""One base and several adapters, to scale: who asks for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lora_edu.classroom.figures._canvas import Picture
from lora_edu.classroom.figures._sentences import listed, number, sentence
from lora_edu.classroom.figures.palette import ROLES, mix
from lora_edu.classroom.figures.schematic.parts import area, arrow, named, plus, rounded
from lora_edu.classroom.figures.schematic.sheet import Block, sheet, word
from lora_edu.classroom.language import label, say

SIDE = 2.3  # inches: the base's square


def one_base(
    base: tuple[str, float],
    adapters: Mapping[str, float],
    *,
    rows: Sequence[str | None] = (),
    unit: str = "MB",
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw a frozen base with its adapters, areas in proportion, and the adapter that each row of a batch goes through.

    Parameters
    ----------
    base : (str, float)
        Name and size of the base.
    adapters : mapping of str to float
        Name to size, 1 to 6 of them.
    rows : sequence of str or None
        For each row of a batch the name of its adapter; None: the base alone. At most 6.
    unit : str
        Of all sizes.
    title, alt, ax
        As in `lines`; without a title, one that states the sizes.

    Raises
    ------
    ValueError
        If there are too many or no adapters, a size is not above 0, or a row names an unknown adapter.
    """
    if not 1 <= len(adapters) <= 6 or len(rows) > 6:
        raise ValueError(f"adapters must be 1 to 6 and rows at most 6, got {len(adapters)} and {len(rows)}")
    if not min(base[1], *adapters.values()) > 0:
        raise ValueError(f"sizes must be above 0, got {base[1]} and {dict(adapters)}")
    if set(rows) - {*adapters, None}:
        raise ValueError(f"rows must name some of {list(adapters)} or None, got {list(rows)}")
    name, size = label(base[0]), base[1]
    total = sum(adapters.values())
    several = say("{count} adapters", count=len(adapters)) if len(adapters) > 1 else say("1 adapter")
    sizes = {"size": number(size), "total": number(total), "unit": unit}
    finding = say("One base of {size} {unit}, {several} of {total} {unit} in all", several=several, **sizes)
    with sheet(10.4, 4.1, title=title or finding, alt=alt, ax=ax) as picture:
        middle = 1.85
        frozen = area(picture, Block(3.35, middle - SIDE / 2, SIDE, SIDE), "frozen")
        named(
            picture,
            frozen,
            name,
            say("{size} {unit}, one copy", size=number(size), unit=unit),
            "frozen",
            True,
        )
        gap = min(0.62, 2.3 / max(1, len(adapters) - 1, len(rows) - 1))
        places = {adapter: middle + gap * ((len(adapters) - 1) / 2 - i) for i, adapter in enumerate(adapters)}
        for adapter, bytes_ in adapters.items():
            side, y, used = SIDE * (bytes_ / size) ** 0.5, places[adapter], adapter in rows or not rows
            area(
                picture, Block(7.2 - side / 2, y - side / 2, side, side), "trained", share=1 if used else 0.2
            )
            weight = "bold" if used else "normal"
            text = f"{adapter}: {number(bytes_)} {unit}"
            word(
                picture,
                (7.2 + max(side / 2, 0.12) + 0.14, y),
                text,
                role="trained" if used else None,
                soft=not used,
                ha="left",
                weight=weight,
            )
        for i, adapter in enumerate(rows):
            y = middle + gap * ((len(rows) - 1) / 2 - i)
            tile = Block(0.4, y - 0.19, 2.1, 0.38)
            picture.add_patch(rounded(tile, mix(ROLES["activations"], 0.25), ROLES["activations"]))
            word(picture, (1.45, y - 0.01), f"row {i + 1}: {adapter or 'the base'}")
            inside = min(max(y, frozen.y + 0.22), frozen.y + SIDE - 0.22)
            arrow(picture, tile.right, (frozen.x, inside), "activations")
            if adapter is not None:
                side = SIDE * (adapters[adapter] / size) ** 0.5
                joined = plus(picture, (frozen.right[0], inside), radius=0.15)
                arrow(picture, (7.2 - max(side / 2, 0.06), places[adapter]), joined.right, "trained")
        word(picture, (10.1, 0.3), say("an adapter adds to layers of the base"), soft=True, ha="right")
        used = [f"row {i + 1} by {adapter or 'the base alone'}" for i, adapter in enumerate(rows)]
        picture.alt = sentence(
            say("{name}, {size} {unit}, is frozen and there once. Beside it, to scale: ", name=name, **sizes)
            + listed(f"{adapter} {number(bytes_)} {unit}" for adapter, bytes_ in adapters.items()),
            say("Together the adapters take {share:.1%} of the base", share=total / size),
            f"In one batch: {listed(used)}" if used else "",
        )
    return picture
