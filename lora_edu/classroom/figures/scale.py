"""Counts and shapes, drawn true to scale."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.patches import Rectangle

from lora_edu.classroom.figures._canvas import Picture, drawing, set_title
from lora_edu.classroom.figures._sentences import listed, number, sentence
from lora_edu.classroom.figures.palette import COLORS, ROLE_HATCHES, ROLES, mix


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
                    (x, y), columns, rows, facecolor=fill, edgecolor=color, hatch=hatch, linewidth=0.8, label=text
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
        picture.legend(loc="center right", labelspacing=1, handlelength=1, borderpad=0, borderaxespad=0)
    return picture


def areas(
    values: Mapping[str, float],
    *,
    alt: str | None = None,
    number_format: str = "{:,.0f}",
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

    Raises
    ------
    ValueError
        If `alt` is empty or a value is not above 0.
    """
    if not values or min(values.values()) <= 0:
        raise ValueError(f"values must be at least one, each above 0, got {dict(values)}")
    largest, least_width = max(values.values()), 0.62  # room for the label below a small square
    left = 0.0
    with drawing(alt, ax) as picture:
        for index, (name, value) in enumerate(values.items()):
            side = (value / largest) ** 0.5
            width = max(side, least_width)
            corner = left + (width - side) / 2, 0
            picture.add_patch(Rectangle(corner, side, side, color=COLORS[index % len(COLORS)]))
            text = f"{name}\n{number_format.format(value)}"
            picture.text(left + width / 2, -0.04, text, ha="center", va="top")
            left += width + 0.08
        picture.set(xlim=(-0.02, left - 0.06), ylim=(-0.32, 1.02), aspect="equal")
        picture.set_axis_off()
        set_title(picture, title)
        least = min(values, key=values.__getitem__)
        most = max(values, key=values.__getitem__)
        picture.alt = sentence(
            f"Squares, their areas to scale: {listed(f'{name} {number_format.format(v)}' for name, v in values.items())}",
            f"{most} is {number(values[most] / values[least])} times {least}" if most != least else "",
        )
    return picture
