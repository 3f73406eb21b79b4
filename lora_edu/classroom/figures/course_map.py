"""The course as a map: which notebook needs which."""

from __future__ import annotations

from typing import Any, NamedTuple

from matplotlib.patches import FancyBboxPatch

from lora_edu.classroom.figures._canvas import COLORS, Picture, drawing


class _Stop(NamedTuple):
    x: float
    y: float
    words: str
    part: str


STOPS: dict[str, _Stop] = {
    "00": _Stop(0, 0, "start", "start"),
    "01": _Stop(0, 1, "rank", "LoRA"),
    "02": _Stop(1, 0, "updates", "LoRA"),
    "03": _Stop(1, 1, "cost", "LoRA"),
    "04": _Stop(2, 1, "the layer", "LoRA"),
    "05": _Stop(3, 1, "training", "LoRA"),
    "06": _Stop(4, 1, "language\nmodel", "LoRA"),
    "07": _Stop(2, 2, "4 bits", "QLoRA"),
    "08": _Stop(3, 2, "NF4", "QLoRA"),
    "09": _Stop(4, 2, "QLoRA", "QLoRA"),
    "10": _Stop(5, 1.5, "fine-tune", "goal"),
    "11": _Stop(3, 0, "many\nadapters", "beyond"),
    "12": _Stop(5, 0, "failures", "beyond"),
}
"""Each notebook: where it stands, in words, and the part of the course to which it belongs."""

ARROWS: tuple[tuple[str, str], ...] = (
    ("00", "01"),
    ("01", "02"),
    ("01", "03"),
    ("03", "04"),
    ("03", "07"),
    ("04", "05"),
    ("04", "11"),
    ("05", "06"),
    ("05", "09"),
    ("06", "10"),
    ("07", "08"),
    ("08", "09"),
    ("09", "10"),
    ("10", "12"),
)
"""From a notebook to one that builds on it. What follows from two arrows in a row has none of its own."""

_STYLES: dict[str, dict[str, Any]] = {
    "start": {"facecolor": "white", "edgecolor": "black"},
    "LoRA": {"facecolor": "#FBE3D3", "edgecolor": COLORS[1]},
    "QLoRA": {"facecolor": "#D6E9F5", "edgecolor": COLORS[0], "linestyle": "--"},
    "goal": {"facecolor": "black", "edgecolor": "black"},
    "beyond": {"facecolor": "white", "edgecolor": "black", "linestyle": ":"},
}
_WIDTH, _HEIGHT = 0.8, 0.6
_INCHES = (9.4, 4.2)


def course_map(*, ax: Picture | None = None) -> Picture:
    """Draw the notebooks as boxes, and an arrow to each from what it builds on.

    Notebooks on LoRA have a solid edge, those on 4 bits a dashed one, those beyond the capstone a dotted one; the
    capstone is black. The sentence below the picture is made from the arrows.

    Parameters
    ----------
    ax : Picture, optional
        Where to draw; a new figure if left out.
    """
    followers = {number: [after for before, after in ARROWS if before == number] for number in STOPS}
    told = "; ".join(f"{number} leads to {' and '.join(after)}" for number, after in followers.items() if after)
    with drawing(f"Map of the course. {told}. Notebook 10 is the goal.", ax) as picture:
        if ax is None:
            picture.canvas.figure.set_size_inches(*_INCHES)
        for before, after in ARROWS:
            _arrow(picture, STOPS[before], STOPS[after])
        for number, stop in STOPS.items():
            _box(picture, number, stop)
        picture.set(xlim=(-0.5, 5.5), ylim=(2.36, -0.36))
        picture.set_axis_off()
        picture.set_title("Two roads, to LoRA and to QLoRA, meet in notebook 10")
    return picture


def _arrow(picture: Picture, start: _Stop, end: _Stop) -> None:
    """From the right edge of a box to the left edge of the next, or straight down or up in one column."""
    side = (end.x > start.x) - (end.x < start.x)
    down = 0 if side else (1 if end.y > start.y else -1)
    tail = start.x + side * _WIDTH / 2, start.y + down * _HEIGHT / 2
    head = end.x - side * _WIDTH / 2, end.y - down * _HEIGHT / 2
    style = {"arrowstyle": "-|>", "color": "#555555", "linewidth": 1.8, "shrinkA": 1, "shrinkB": 1}
    picture.annotate("", xy=head, xytext=tail, arrowprops=style)


def _box(picture: Picture, number: str, stop: _Stop) -> None:
    corner = stop.x - _WIDTH / 2, stop.y - _HEIGHT / 2
    style = {"boxstyle": "round,pad=0,rounding_size=0.06", "linewidth": 2, **_STYLES[stop.part]}
    picture.add_patch(FancyBboxPatch(corner, _WIDTH, _HEIGHT, **style))
    color = "white" if stop.part == "goal" else "black"
    picture.text(stop.x, stop.y - 0.15, number, ha="center", va="center", color=color, weight="bold")
    picture.text(
        stop.x, stop.y + 0.09, stop.words, ha="center", va="center", color=color, fontsize=12, linespacing=0.95
    )
