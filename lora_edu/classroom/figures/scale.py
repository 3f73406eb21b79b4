"""Counts and shapes, drawn true to scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.patches import Rectangle

from lora_edu.classroom.figures._canvas import PAD, Picture, drawing, set_title, text_width, wrapped
from lora_edu.classroom.figures._marks import slot_inches
from lora_edu.classroom.figures._sentences import listed, number, sentence
from lora_edu.classroom.figures.palette import ROLE_HATCHES, ROLES, colors_of, mix

GAP = 0.3  # inches between two squares, or their labels


def update_to_scale(
    out_features: int,
    in_features: int,
    r: int,
    *,
    alt: str | None = None,
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw a weight W with B beside it and A above it, sides in proportion, and how many numbers each holds.

    The longer side of W always has the same length: it is r that shrinks when the layer grows. A strip has an
    outline, so it is never thinner than a hair.

    Parameters
    ----------
    out_features, in_features : int
        Shape of W, at least 1 each.
    r : int
        Columns of B and rows of A, at least 1.
    alt, title, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty or a size is below 1.
    """
    for name, size in (("out_features", out_features), ("in_features", in_features), ("r", r)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    corner = r + 0.05 * max(out_features, in_features)  # where W begins, right of B and below A
    blocks = [
        ("W", "frozen", out_features, in_features, corner, corner),
        ("B, left", "trained", out_features, r, 0, corner),
        ("A, above", "trained", r, in_features, corner, 0),
    ]
    side = corner + max(out_features, in_features)
    with drawing(alt, ax) as picture:
        for name, role, rows, columns, x, y in blocks:
            text = f"{name}: {rows:,} × {columns:,}\n{rows * columns:,} numbers"
            color, hatch = ROLES[role], ROLE_HATCHES.get(role, "")
            fill = mix(color, 0.35) if hatch else color
            picture.add_patch(
                Rectangle(
                    (x, y),
                    columns,
                    rows,
                    facecolor=fill,
                    edgecolor=color,
                    hatch=hatch,
                    linewidth=0.8,
                    label=text,
                )
            )
        picture.set(xlim=(-0.02 * side, 1.8 * side), ylim=(1.02 * side, -0.02 * side), aspect="equal")
        picture.set_axis_off()
        set_title(picture, title)
        whole, update = out_features * in_features, r * (out_features + in_features)
        picture.alt = sentence(
            f"W, frozen, is {out_features:,} × {in_features:,}: {whole:,} numbers",
            f"B and A of rank {r:,}, to scale beside it, hold {update:,}: {update / whole:.2%} of W",
        )
        picture.legend(
            loc="center left",
            bbox_to_anchor=(1.04 * side, side / 2),
            bbox_transform=picture.transData,
            labelspacing=1,
            handlelength=1,
            borderpad=0,
            borderaxespad=0,
        )
    return picture


def areas(
    values: Mapping[str, float],
    *,
    alt: str | None = None,
    number_format: str = "{:,.0f}",
    roles: Mapping[str, str] | None = None,
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw one square a value, its area in proportion: it shows ratios for which bars would be too short.

    Parameters
    ----------
    values : mapping of str to float
        Label to value, each above 0.
    alt, title, ax
        As in `lines`.
    number_format : str
        How the number below a square is written.
    roles : mapping of str to str, optional
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty or a value is not above 0.
    """
    if not values or min(values.values()) <= 0:
        raise ValueError(f"values must be at least one, each above 0, got {dict(values)}")
    colors = colors_of(list(values), roles)
    with drawing(alt, ax) as picture:
        texts = [f"{wrapped(name, 1.5, 14)}\n{number_format.format(value)}" for name, value in values.items()]
        widths = [max(text_width(line, 14) for line in text.split("\n")) for text in texts]
        room, below = slot_inches(picture) - 2 * PAD, 0.27 * max(text.count("\n") + 1 for text in texts) + 0.1
        unit, sides = 2.7, [(value / max(values.values())) ** 0.5 for value in values.values()]
        while unit > 1 and _taken(unit, sides, widths) > room:
            unit -= 0.05  # inches of the largest side
        left = 0.0
        for side, width, text, color in zip(sides, widths, texts, colors, strict=True):
            slot = max(unit * side, width)
            corner = left + (slot - unit * side) / 2, 0
            picture.add_patch(Rectangle(corner, unit * side, unit * side, color=color))
            picture.text(left + slot / 2, -0.08, text, ha="center", va="top")
            left += slot + GAP
        picture.set(xlim=(0, left - GAP), ylim=(-below, unit), aspect="equal", anchor="SW")
        picture.set_axis_off()
        set_title(picture, title)
        least = min(values, key=values.__getitem__)
        most = max(values, key=values.__getitem__)
        sizes = listed(f"{name} {number_format.format(value)}" for name, value in values.items())
        picture.alt = sentence(
            f"Squares, their areas to scale: {sizes}",
            f"{most} is {number(values[most] / values[least])} times {least}" if most != least else "",
        )
    return picture


def _taken(unit: float, sides: Sequence[float], widths: Sequence[float]) -> float:
    """Inches that squares and the labels below them take side by side."""
    return sum(max(unit * side, width) + GAP for side, width in zip(sides, widths, strict=True)) - GAP
