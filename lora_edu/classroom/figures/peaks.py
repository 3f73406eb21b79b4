"""What a training holds at its peak, part by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.transforms import blended_transform_factory

from lora_edu.classroom.figures._canvas import PAD, Picture, drawing
from lora_edu.classroom.figures._marks import SIZE, label
from lora_edu.classroom.figures._sentences import listed, sentence
from lora_edu.classroom.figures.palette import COLORS, INK, PAPER, ROLE_HATCHES, ROLES, on

CLEAR = 6  # dots between a sum and the line of the limit
HATCHES = {"optimizer": "..", "gradients": "\\\\", "activations": ""} | ROLE_HATCHES


def memory_at_peak(
    bars: Mapping[str, Mapping[str, float]],
    *,
    roles: Mapping[str, str],
    measured: Mapping[str, float | None] | None = None,
    limit: tuple[str, float] | None = None,
    largest: float | None = None,
    unit: str = "GiB",
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw one bar a training, made of its parts one after the other, with the number in each part that has room.

    If sums were measured too, the parts are predictions: a diamond stands where the measured sum ends.

    Parameters
    ----------
    bars : mapping of str to mapping of str to float
        Name of a training to its parts, each at least 0; all have the same parts.
    roles : mapping of str to str
        For each part what it is, one of `ROLES`, which decides the colour; nothing for a part without a meaning.
    measured : mapping of str to float, optional
        For each training the sum that was measured; None where the memory was too small.
    limit : (str, float), optional
        Name and size of what is there: a line across all bars.
    largest : float, optional
        Where the axis ends, so that it stands still under a slider; None: with the longest bar.
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
    if measured is not None and set(measured) != set(bars):
        raise ValueError(f"measured must have the bars {list(bars)}, got {list(measured)}")
    totals = [sum(parts.values()) for parts in bars.values()]
    end = largest or max(totals)
    if end < max(totals):
        raise ValueError(f"largest must be at least the longest bar, {max(totals):g}, got {largest}")
    styles, across, texts = _styles(roles), (1.22 if measured is None else 1.62) * end, []
    with drawing(alt, ax) as picture:
        for place, (name, parts) in enumerate(bars.items()):
            _bar(picture, place, parts, styles, across / 9)
            text, found = f"{totals[place]:.2f} {unit}", (measured or {}).get(name)
            if measured is not None:
                text = f"{totals[place]:.2f}, " + (
                    "out of memory" if found is None else f"measured {found:.2f}"
                )
            if found is not None:
                picture.plot([found], [place], marker="D", color=INK, markersize=9, linestyle="")
            at = max(totals[place], found or 0.0) + end / 40
            box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}
            style: dict[str, Any] = {"va": "center", "fontweight": "bold", "fontsize": SIZE, "bbox": box}
            texts.append(picture.text(at, place, text, **style))
        if limit is not None:
            ends = -0.6, len(bars) + 0.15
            picture.plot([limit[1]] * 2, ends, color=INK, linestyle="--", linewidth=1.6, zorder=0.9)
            picture.text(limit[1] + end / 80, ends[1], limit[0], va="bottom", fontsize=SIZE)
            picture.before_drawing.append(lambda: _keep_off(picture, texts, limit[1], end / 40))
        bottom = len(bars) - 0.4 if limit is None else len(bars) + 0.2
        picture.set(xlim=(0, across), ylim=(bottom, -0.6))
        label(picture, unit, "", title)
        picture.set_yticks(range(len(bars)), list(bars))
        picture.grid(axis="y", visible=False)
        _key(picture, styles)
        told = [
            f"{name}: {listed(f'{part} {size:.2f}' for part, size in parts.items() if size)}, "
            f"together {sum(parts.values()):.2f}{_said_of((measured or {}).get(name), measured)}"
            for name, parts in bars.items()
        ]
        line = "" if limit is None else f"The line is {limit[0]}"
        picture.alt = sentence(f"In {unit}, at the peak", *told, line)
    return picture


def _keep_off(picture: Picture, texts: Sequence[Text], line: float, gap: float) -> None:
    """Move texts that stand on an upright line to the right of it, if they have room there; else it is interrupted."""
    x, beside = (picture.transData.transform((place, 0))[0] for place in (line, line + gap))
    for text in texts:
        box = text.get_window_extent()
        if box.x0 - CLEAR < x < box.x1 + CLEAR and beside + box.width < picture.bbox.x1:
            text.set_x(line + gap)


def _said_of(found: float | None, measured: Mapping[str, float | None] | None) -> str:
    if measured is None:
        return ""
    return ", which was out of memory" if found is None else f", measured {found:.2f}"


def _styles(roles: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Colour and hatch of each part."""
    plain = iter(COLORS * len(roles))
    colors = {part: ROLES[role] if role else next(plain) for part, role in roles.items()}
    return {
        part: {"facecolor": colors[part], "hatch": HATCHES.get(role, ""), "edgecolor": PAPER}
        for part, role in roles.items()
    }


def _bar(
    picture: Picture,
    place: int,
    parts: Mapping[str, float],
    styles: Mapping[str, Mapping[str, Any]],
    least: float,
) -> None:
    """The parts of one training, one after the other; those above `least` have room for their number."""
    left = 0.0
    for part, size in parts.items():
        picture.barh(place, size, 0.62, left=left, **styles[part])
        if size > least:
            color = styles[part]["facecolor"]
            box = {"facecolor": color, "edgecolor": "none", "pad": 1.5}
            style: dict[str, Any] = {"ha": "center", "va": "center", "color": on(color), "bbox": box}
            picture.text(left + size / 2, place, f"{size:.2f}", **style)
        left += size


def _key(picture: Picture, styles: Mapping[str, dict[str, Any]]) -> None:
    """Name the parts above the bars: many of them from the card's left edge on."""
    figure, few = picture.canvas.figure, len(styles) < 5
    from_edge = blended_transform_factory(figure.transFigure, picture.transAxes)
    picture.legend(
        handles=[Patch(label=part, **style) for part, style in styles.items()],
        loc="lower left",
        bbox_to_anchor=(0 if few else PAD / figure.get_size_inches()[0], 1),
        bbox_transform=picture.transAxes if few else from_edge,
        ncols=2 if few else 3,
        fontsize=SIZE,
        borderaxespad=0.3,
        borderpad=0.1,
        handlelength=1.5,
        columnspacing=1.2,
    )
