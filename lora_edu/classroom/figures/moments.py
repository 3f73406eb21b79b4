"""What is held, moment after moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.patches import Patch

from lora_edu.classroom.figures._canvas import Picture, drawing, wrapped
from lora_edu.classroom.figures._marks import SIZE, label, slot_inches
from lora_edu.classroom.figures._sentences import listed, number, sentence
from lora_edu.classroom.figures.palette import INK, PAPER, ROLES, SOFT, mix, on
from lora_edu.classroom.figures.peaks import HATCHES

FAINT = 0.3  # what is not there now


def held_over_time(
    moments: Mapping[str, Mapping[str, float]],
    *,
    roles: Mapping[str, str],
    now: int,
    top: float | None = None,
    unit: str = "MiB",
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw a column a moment, made of what is held then; one moment is now, the others are faint.

    Parameters
    ----------
    moments : mapping of str to mapping of str to float
        Name of a moment, in the order of time, to its parts, each at least 0; all have the same parts.
    roles : mapping of str to str
        For each part what it is, one of `ROLES`: it decides the colour.
    now : int
        The moment that is told, counted from 0.
    top : float, optional
        Where the y axis ends, so that it stands still under a slider; None: a little above the highest.
    unit : str
        Of all numbers.
    title, alt, ax
        As in `lines`; without a title, one that states what is held now.

    Raises
    ------
    ValueError
        If `alt` is empty, `now` is no moment, or the parts of a moment are not those that have a role.
    """
    if any(set(parts) != set(roles) for parts in moments.values()):
        raise ValueError(f"every moment must have the parts {list(roles)}")
    if not 0 <= now < len(moments):
        raise ValueError(f"now must be in 0 … {len(moments) - 1}, got {now}")
    totals = [sum(parts.values()) for parts in moments.values()]
    height = top or 1.12 * max(totals)
    name = list(moments)[now]
    with drawing(alt, ax) as picture:
        for place, parts in enumerate(moments.values()):
            floor = 0.0
            for part, size in parts.items():
                color, lit = ROLES[roles[part]], place == now
                face = color if lit else mix(color, FAINT)
                hatch = HATCHES.get(roles[part], "")
                picture.bar(place, size, 0.66, floor, color=face, hatch=hatch, edgecolor=PAPER)
                if lit and size > height / 14:
                    box = {"facecolor": color, "edgecolor": "none", "pad": 1.5}
                    inside: dict[str, Any] = {"ha": "center", "va": "center", "color": on(color), "bbox": box}
                    picture.text(place, floor + size / 2, f"{size:.1f}", **inside)
                floor += size
            weight, ink = ("bold", INK) if place == now else ("normal", SOFT)
            above: dict[str, Any] = {"ha": "center", "va": "bottom", "fontweight": weight, "color": ink}
            picture.text(place, floor + height / 80, f"{floor:.1f}", **above)
        picture.set(ylim=(0, height), xlim=(-0.6, len(moments) - 0.4))
        room = (slot_inches(picture) - 3.2) / len(moments)
        label(picture, "", unit, title or f"{name}: {number(totals[now])} {unit}")
        picture.set_xticks(range(len(moments)), [wrapped(moment, room, SIZE) for moment in moments])
        picture.tick_params(axis="x", length=0, labelsize=SIZE)
        picture.grid(axis="x", visible=False)
        handles = [
            Patch(label=part, facecolor=ROLES[role], hatch=HATCHES.get(role, ""), edgecolor=PAPER)
            for part, role in reversed(list(roles.items()))
        ]
        picture.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), fontsize=SIZE)
        held = {part: size for part, size in list(moments.values())[now].items() if size}
        course = listed(f"{number(total)} {moment}" for moment, total in zip(moments, totals, strict=True))
        picture.alt = sentence(
            title,
            f"Now, {name}: {number(totals[now])} {unit}, of "
            + listed(f"{part} {number(size)}" for part, size in held.items()),
            f"Over time, in {unit}: {course}",
        )
    return picture
