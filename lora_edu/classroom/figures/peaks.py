"""What a training holds at its peak, part by part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.patches import Patch

from lora_edu.classroom.figures._canvas import Picture, drawing
from lora_edu.classroom.figures._marks import SIZE, label
from lora_edu.classroom.figures._sentences import listed, sentence
from lora_edu.classroom.figures.palette import PAPER, ROLE_HATCHES, ROLES, on

HATCHES = {"optimizer": "..", "gradients": "\\\\", "activations": ""} | ROLE_HATCHES


def memory_at_peak(
    bars: Mapping[str, Mapping[str, float]],
    *,
    roles: Mapping[str, str],
    unit: str = "GiB",
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw one bar a training, made of its parts one after the other, with the number in each part that has room.

    Parameters
    ----------
    bars : mapping of str to mapping of str to float
        Name of a training to its parts, each at least 0; all have the same parts.
    roles : mapping of str to str
        For each part what it is, one of `ROLES`: it decides the colour.
    unit : str
        Of all numbers.
    title, alt, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty or the parts of a bar are not those that have a role.
    """
    if any(set(parts) != set(roles) for parts in bars.values()):
        raise ValueError(f"every bar must have the parts {list(roles)}")
    largest = max(sum(parts.values()) for parts in bars.values())
    styles: dict[str, dict[str, Any]] = {
        part: {"facecolor": ROLES[role], "hatch": HATCHES.get(role, ""), "edgecolor": PAPER}
        for part, role in roles.items()
    }
    with drawing(alt, ax) as picture:
        for place, parts in enumerate(bars.values()):
            left = 0.0
            for part, size in parts.items():
                picture.barh(place, size, 0.62, left=left, **styles[part])
                if size > largest / 12:
                    box = {"facecolor": ROLES[roles[part]], "edgecolor": "none", "pad": 1.5}
                    middle = left + size / 2
                    color = on(ROLES[roles[part]])
                    picture.text(
                        middle, place, f"{size:.2f}", ha="center", va="center", color=color, bbox=box
                    )
                left += size
            picture.text(left + largest / 60, place, f"{left:.2f} {unit}", va="center", fontweight="bold")
        picture.set_yticks(range(len(bars)), list(bars))
        picture.set(xlim=(0, 1.22 * largest), ylim=(len(bars) - 0.4, -0.6))
        label(picture, unit, "", title)
        picture.set_yticks(range(len(bars)), list(bars))
        picture.grid(axis="y", visible=False)
        handles = [Patch(label=part, **style) for part, style in styles.items()]
        picture.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=2,
            fontsize=SIZE,
            borderaxespad=0.3,
            borderpad=0.1,
            handlelength=1.5,
            columnspacing=1.2,
        )
        texts = [
            f"{name}: {listed(f'{part} {size:.2f}' for part, size in parts.items() if size)}, "
            f"together {sum(parts.values()):.2f}"
            for name, parts in bars.items()
        ]
        picture.alt = sentence(f"In {unit}, at the peak", *texts)
    return picture
