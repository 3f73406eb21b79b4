"""One adapter, the files that it can become, and the programs that run each of them."""

from __future__ import annotations

from collections.abc import Mapping

from lora_edu.classroom.figures._canvas import Picture
from lora_edu.classroom.figures._sentences import listed, sentence
from lora_edu.classroom.figures.palette import INK, PAPER, ROLES, SOFT, mix
from lora_edu.classroom.figures.schematic.parts import arrow, rounded
from lora_edu.classroom.figures.schematic.sheet import NAME_SIZE, Block, sheet, word

WIDTH, ROW = 10.4, 0.95  # inches: the sheet, and from a file to the next
SOURCE = Block(0.3, 0, 1.2, 0.72)
FILE, PROGRAM = (2.1, 2.5), (5.0, 1.62)  # where a column begins, and how wide it is
TALL, GAP, LOW = 0.72, 0.12, 0.3
MOST = 3
RUN, RECIPE = "run here", "a recipe"

Programs = Mapping[str, bool]


def routes(
    adapter: tuple[str, str],
    files: Mapping[tuple[str, str], Programs],
    *,
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw the ways from an adapter to the programs that run it.

    Parameters
    ----------
    adapter : (str, str)
        Its name, and a note such as its size.
    files : mapping of (str, str) to mapping of str to bool
        A file's name and note, to its programs, 1 to 3: whether the course has run the file there.
    title, alt, ax
        As in `lora_layer`.

    Raises
    ------
    ValueError
        If there is no file, or one has no program or more than three.
    """
    if not files or not all(1 <= len(programs) <= MOST for programs in files.values()):
        raise ValueError(f"files must have 1 to {MOST} programs each, got {dict(files)}")
    with sheet(WIDTH, ROW * len(files) + 0.75, title=title, alt=alt, ax=ax) as picture:
        middle = LOW + ROW * (len(files) - 1) / 2
        source = Block(SOURCE.x, middle, SOURCE.width, SOURCE.height)
        _card(picture, source, *adapter, fill=mix(ROLES["trained"], 0.35), edge=ROLES["trained"])
        for index, ((name, note), programs) in enumerate(files.items()):
            y = LOW + ROW * (len(files) - 1 - index)
            file = Block(FILE[0], y, FILE[1], TALL)
            arrow(picture, source.right, file.left, color=SOFT)
            _card(picture, file, name, note, fill=PAPER, edge=INK)
            arrow(picture, file.right, (PROGRAM[0], file.right[1]), color=SOFT)
            for place, (program, ran) in enumerate(programs.items()):
                block = Block(PROGRAM[0] + place * (PROGRAM[1] + GAP), y, PROGRAM[1], TALL)
                fill, edge = (mix(INK, 0.12), INK) if ran else (PAPER, SOFT)
                _card(picture, block, program, RUN if ran else RECIPE, fill=fill, edge=edge, dashed=not ran)
        said = (f"{name} ({note}): {_ways(programs)}" for (name, note), programs in files.items())
        picture.alt = sentence(f"{adapter[0]}, {adapter[1]}, becomes {len(files)} files", *said)
    return picture


def _ways(programs: Programs) -> str:
    return listed(f"{name}, {RUN if ran else RECIPE}" for name, ran in programs.items())


def _card(
    picture: Picture, block: Block, name: str, note: str, *, fill: str, edge: str, dashed: bool = False
) -> None:
    """A rounded box with a name and a note below it; dashed where nothing was run."""
    patch = rounded(block, fill, edge, 1.8)
    if dashed:
        patch.set_linestyle((0, (3, 2)))
    picture.add_patch(patch)
    x = block.top[0]
    word(picture, (x, block.y + 0.49), name, size=NAME_SIZE, weight="bold", color=SOFT if dashed else INK)
    word(picture, (x, block.y + 0.21), note, soft=True)
