"""The course as a map: which notebook needs which."""

from __future__ import annotations

from typing import NamedTuple

from lora_edu.classroom.figures._canvas import Picture
from lora_edu.classroom.figures._sentences import listed, sentence
from lora_edu.classroom.figures.palette import COLORS, INK, PAPER, ROLES, SOFT, mix
from lora_edu.classroom.figures.schematic.parts import arrow, rounded
from lora_edu.classroom.figures.schematic.sheet import NAME_SIZE, Block, sheet, word
from lora_edu.classroom.language import label, say, to_translate


class _Stop(NamedTuple):
    x: float
    y: float
    words: str
    part: str


STOPS: dict[str, _Stop] = {
    "00": _Stop(0, 0, to_translate("start here")[0], "start"),
    "01": _Stop(0, 1, to_translate("rank")[0], "LoRA"),
    "02": _Stop(1, 0, to_translate("updates")[0], "LoRA"),
    "03": _Stop(1, 1, to_translate("cost")[0], "LoRA"),
    "04": _Stop(2, 1, to_translate("the layer")[0], "LoRA"),
    "05": _Stop(3, 1, to_translate("training")[0], "LoRA"),
    "05b": _Stop(4, 1, to_translate("cost and\nshipping")[0], "LoRA"),
    "06": _Stop(4, 0, to_translate("language\nmodel")[0], "LoRA"),
    "07": _Stop(2, 2, to_translate("4 bits")[0], "QLoRA"),
    "08": _Stop(3, 2, to_translate("NF4")[0], "QLoRA"),
    "09": _Stop(4, 2, to_translate("QLoRA")[0], "QLoRA"),
    "10": _Stop(5, 1, to_translate("fine-tune")[0], "goal"),
    "11": _Stop(3, 0, to_translate("many\nadapters")[0], "beyond"),
    "12": _Stop(5, 0, to_translate("failures")[0], "beyond"),
    "13": _Stop(5, 2, to_translate("out of the\nnotebook")[0], "beyond"),
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
    ("05", "05b"),
    ("05", "06"),
    ("05b", "09"),
    ("06", "10"),
    ("07", "08"),
    ("08", "09"),
    ("09", "10"),
    ("10", "12"),
    ("10", "13"),
)
"""From a notebook to one that builds on it. What follows from two arrows in a row has none of its own."""

_FILLS = {
    "start": PAPER,
    "LoRA": mix(ROLES["trained"], 0.25),
    "QLoRA": mix(ROLES["codes"], 0.2),
    "goal": INK,
    "beyond": mix(COLORS[2], 0.25),
}
_EDGES = {"LoRA": ROLES["trained"], "QLoRA": ROLES["codes"]}

WIDTH, HEIGHT = 10.4, 4.5  # inches: the sheet
COLUMN, ROW = 1.68, 1.22  # from one box to the next
BOX = 1.26, 0.84
TOP_LEFT = 0.98, 3.3  # the middle of the first box


def course_map(*, title: str = "", alt: str | None = None, ax: Picture | None = None) -> Picture:
    """Draw the notebooks as boxes, and an arrow to each from what it builds on.

    Orange leads to LoRA, violet to 4 bits and QLoRA, grey lies beyond the capstone, which is dark.

    Parameters
    ----------
    title, alt, ax
        As in `lines`; without a title, one that says where the roads lead.
    """
    finding = say("Two roads, to LoRA and to QLoRA, meet in notebook 10")
    with sheet(WIDTH, HEIGHT, title=title or finding, alt=alt, ax=ax) as picture:
        for start, end in ARROWS:
            _arrow(picture, _block(STOPS[start]), _block(STOPS[end]))
        for number, stop in STOPS.items():
            _box(picture, number, stop)
        picture.alt = _said()
    return picture


def _said() -> str:
    followers = {number: [after for before, after in ARROWS if before == number] for number in STOPS}
    leads = (
        say("{number} leads to {after}", number=number, after=listed(after))
        for number, after in followers.items()
        if after
    )
    return sentence(say("Map of the course"), *leads, say("Notebook 10 is the goal"))


def _block(stop: _Stop) -> Block:
    middle = TOP_LEFT[0] + stop.x * COLUMN, TOP_LEFT[1] - stop.y * ROW
    return Block(middle[0] - BOX[0] / 2, middle[1] - BOX[1] / 2, *BOX)


def _arrow(picture: Picture, start: Block, end: Block) -> None:
    """To the next column from right to left edge; within a column straight down or up."""
    if end.x > start.x:
        arrow(picture, start.right, end.left, color=SOFT)
    elif end.y < start.y:
        arrow(picture, start.bottom, end.top, color=SOFT)
    else:
        arrow(picture, start.top, end.bottom, color=SOFT)


def _box(picture: Picture, number: str, stop: _Stop) -> None:
    block, color = _block(stop), PAPER if stop.part == "goal" else INK
    picture.add_patch(rounded(block, _FILLS[stop.part], _EDGES.get(stop.part, INK), 2.0))
    (x, _), y = block.top, block.y
    word(picture, (x, y + 0.64), number, color=color, size=NAME_SIZE, weight="bold")
    word(picture, (x, y + 0.28), label(stop.words), color=color, linespacing=0.95)
