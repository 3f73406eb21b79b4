"""Shapes, drawn true to scale."""

from __future__ import annotations

from matplotlib.patches import Rectangle

from lora_edu.classroom.figures._canvas import Picture, drawing, set_title
from lora_edu.classroom.figures._sentences import sentence
from lora_edu.classroom.figures.palette import ROLE_HATCHES, ROLES, mix
from lora_edu.classroom.language import say


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
        (say("B, left"), "trained", out_features, r, 0, corner),
        (say("A, above"), "trained", r, in_features, corner, 0),
    ]
    side = corner + max(out_features, in_features)
    with drawing(alt, ax) as picture:
        for name, role, rows, columns, x, y in blocks:
            sizes = {"rows": rows, "columns": columns, "count": rows * columns}
            text = say("{name}: {rows:,} × {columns:,}\n{count:,} numbers", name=name, **sizes)
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
            say(
                "W, frozen, is {rows:,} × {columns:,}: {whole:,} numbers",
                rows=out_features,
                columns=in_features,
                whole=whole,
            ),
            say(
                "B and A of rank {r:,}, to scale beside it, hold {update:,}: {share:.2%} of W",
                r=r,
                update=update,
                share=update / whole,
            ),
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
