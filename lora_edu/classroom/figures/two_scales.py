"""Bars made of parts, whole and enlarged: what is large is seen beside what is small."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from lora_edu.classroom.figures._canvas import Picture, drawing, set_title
from lora_edu.classroom.figures._sentences import listed, number, sentence
from lora_edu.classroom.figures.palette import HATCHES, INK, PAPER, ROLE_HATCHES, colors_of

KEY_COLUMNS = 4
ROOM = 1.3  # of an axis: where the sums of all bars stand in a column, clear of every line
_BOX = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}


def two_scales(
    whole: Picture,
    enlarged: Picture,
    bars: Mapping[str, Mapping[str, float]],
    *,
    tops: tuple[float, float],
    limits: Mapping[str, float],
    roles: Mapping[str, str] | None = None,
    unit: str = "GiB",
    alt: str | None = None,
    title: str = "",
    enlarged_title: str = "",
) -> None:
    """Draw one bar a candidate, made of its parts, on two scales side by side, and limits across all of them.

    Both axes stand still, whatever a slider brings. A bar that is longer than an axis ends there, with an arrow.

    Parameters
    ----------
    whole, enlarged : Picture
        Where to draw, side by side in one figure, as `explore` gives them with two panels.
    bars : mapping of str to mapping of str to float
        Name to its parts, the same for all, each at least 0.
    tops : (float, float)
        Where the axis of the whole ends, and that of its enlarged beginning.
    limits : mapping of str to float
        Name to size. Those on the finer scale are named there, the others on the coarser one.
    roles : mapping of str to str, optional
        For a part what it is, as in `lines`.
    unit : str
        Of all numbers.
    alt, title
        As in `lines`.
    enlarged_title : str
        What the finer scale shows.

    Raises
    ------
    ValueError
        If `alt` is empty, two bars have different parts, or the second top is not the smaller one.
    """
    names = list(next(iter(bars.values()), {}))
    if any(list(parts) != names for parts in bars.values()):
        raise ValueError(f"bars must all have the parts of the first, {names}")
    if not 0 < tops[1] < tops[0]:
        raise ValueError(f"tops must be a whole and a smaller part of it, above 0, got {tops}")
    styles = _styles(names, roles)
    near = {name: size for name, size in limits.items() if size <= tops[1]}
    far = {name: size for name, size in limits.items() if size > tops[1]}
    with drawing(alt, whole):
        _panel(whole, bars, styles, tops[0], limits, far, unit)
        whole.set_yticks(range(len(bars)), list(bars))
        set_title(whole, title)
        whole.alt = _said(bars, limits, unit, title, enlarged_title)
    with drawing(None, enlarged):
        _panel(enlarged, bars, styles, tops[1], near, near, unit)
        enlarged.set_yticks(range(len(bars)), [""] * len(bars))
        set_title(enlarged, enlarged_title)
        _key(whole.canvas.figure, styles)


def _key(figure: Figure, styles: Mapping[str, dict[str, Any]]) -> None:
    """Name the parts below both scales, with room of their own."""
    for old in list(figure.legends):
        old.remove()
    handles = [Patch(label=name, **style) for name, style in styles.items()]
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=KEY_COLUMNS,
        fontsize=13,
        handlelength=1.5,
        columnspacing=1.2,
    )
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        taken = (0.27 * -(-len(handles) // KEY_COLUMNS) + 0.1) / figure.get_size_inches()[1]
        left, bottom, width, height = engine.get()["rect"]
        engine.set(rect=(left, taken, width, bottom + height - taken))


def _panel(
    picture: Picture,
    bars: Mapping[str, Mapping[str, float]],
    styles: Mapping[str, dict[str, Any]],
    top: float,
    limits: Mapping[str, float],
    named: Mapping[str, float],
    unit: str,
) -> None:
    """One scale: bars, their sums, and the lines of the limits."""
    for row, parts in enumerate(bars.values()):
        left = 0.0
        for name, size in parts.items():
            if size and left < top:
                corner, width = (left, row - 0.3), min(size, top - left)
                picture.add_artist(Rectangle(corner, width, 0.6, **styles[name]))  # faster than a bar
            left += size
    ends = -0.6, len(bars) - 0.4
    for name, size in limits.items():
        picture.plot([size, size], ends, color=INK, linestyle="--", linewidth=1.6)
        if name in named:
            picture.text(size, ends[0] - 0.04, name, ha="center", va="bottom", bbox=_BOX)
    for row, parts in enumerate(bars.values()):
        total = sum(parts.values())
        picture.text(1.02 * top, row, f"{number(total)} {unit}" + " →" * (total > top), va="center")
    picture.set(xlim=(0, ROOM * top), ylim=(ends[1], ends[0]), xlabel=unit)
    picture.set_xticks([value for value in MaxNLocator(5).tick_values(0, top) if value <= top])
    picture.grid(axis="y", visible=False)


def _styles(names: list[str], roles: Mapping[str, str] | None) -> dict[str, dict[str, Any]]:
    """Colour and hatch of each part."""
    plain = iter(HATCHES)
    return {
        name: {
            "facecolor": color,
            "edgecolor": PAPER,
            "linewidth": 0,  # an edge would hide what is thin
            "hatch": ROLE_HATCHES.get(
                (roles or {}).get(name, ""), next(plain) if name not in (roles or {}) else ""
            ),
        }
        for name, color in zip(names, colors_of(names, roles), strict=True)
    }


def _said(
    bars: Mapping[str, Mapping[str, float]], limits: Mapping[str, float], unit: str, *titles: str
) -> str:
    """What each bar sums to, its two largest parts, and which limits hold it."""
    told = []
    for bar, parts in bars.items():
        total, largest = sum(parts.values()), sorted(parts, key=parts.__getitem__, reverse=True)[:2]
        held = [name for name, size in limits.items() if total <= size]
        told.append(
            f"{bar}: {number(total)} {unit}, most of it {listed(largest)}; fits {listed(held) if held else 'none'}"
        )
    return sentence(*titles, *told, f"The lines are {listed(limits)}")
