"""Files of one adapter as blocks of bytes, to one scale: the text at the front, then A and B of layer after layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.patches import Rectangle

from lora_edu.classroom.figures._canvas import PAD, Picture
from lora_edu.classroom.figures._sentences import sentence
from lora_edu.classroom.figures.palette import COLORS, GRID, PAPER, ROLES, mix, on
from lora_edu.classroom.figures.schematic.parts import outline
from lora_edu.classroom.figures.schematic.sheet import NAME_SIZE, Block, sheet, word

TEXT = "text"
LONGEST, THICK = 9.6, 0.42  # inches: the strip of the largest file
SHOWN, WIDE, GAP = 4, 8.85, 0.25  # tensors that are enlarged, and their row
ROW = 2.35  # from a file to the next
_SHADES = {"A": 0.3, "B": 0.85}

Part = tuple[str, int]


def adapter_files(
    files: Mapping[str, Sequence[Part]],
    *,
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw each file as a strip of its parts, and its first four tensors enlarged, with their names.

    Parameters
    ----------
    files : mapping of str to sequence of (str, int)
        A file's name to its parts in their order: name and bytes. What comes before the tensors is called ``"text"``;
        a tensor's name ends in A or B, small or large.
    title, alt, ax
        As in `lora_layer`.

    Raises
    ------
    ValueError
        If there is no file, or one with fewer than four tensors or a part without bytes.
    """
    largest = max((sum(size for _, size in parts) for parts in files.values()), default=0)
    for name, parts in files.items():
        if sum(part != TEXT for part, _ in parts) < SHOWN or min(size for _, size in parts) < 1:
            raise ValueError(f"files must have at least {SHOWN} tensors and no empty part, {name} has not")
    if not files:
        raise ValueError("files must be at least one, got none")
    with sheet(10.4, ROW * len(files) + 0.65, title=title, alt=alt, ax=ax) as picture:
        for index, (name, parts) in enumerate(files.items()):
            y = ROW * (len(files) - 1 - index) + 1.35
            _strip(picture, y, name, parts, LONGEST / largest)
            _enlarged(picture, y, parts, LONGEST / largest)
        picture.alt = sentence(*(_said(name, parts) for name, parts in files.items()))
    return picture


def _said(name: str, parts: Sequence[Part]) -> str:
    text = sum(size for part, size in parts if part == TEXT)
    tensors = [part for part in parts if part[0] != TEXT]
    whole = sum(size for _, size in parts)
    first = ", ".join(f"{part} {size:,}" for part, size in tensors[:SHOWN])
    return f"{name}: {whole:,} bytes, of which {text:,} of text, then {len(tensors)} tensors; the first are {first}"


def _kind(part: str) -> str:
    return part[-1].upper()


def _fill(part: str) -> str:
    return mix(COLORS[2], 0.55) if part == TEXT else mix(ROLES["trained"], _SHADES[_kind(part)])


def _strip(picture: Picture, y: float, name: str, parts: Sequence[Part], inch: float) -> None:
    """All parts side by side, and what the file is called above them."""
    left = PAD
    for part, size in parts:
        picture.add_patch(
            Rectangle((left, y), size * inch, THICK, facecolor=_fill(part), edgecolor=PAPER, linewidth=0.4)
        )
        left += size * inch
    outline(picture, Block(PAD, y, left - PAD, THICK), ROLES["trained"], width=1.4)
    total = sum(size for _, size in parts)
    at = PAD, y + THICK + 0.09
    word(picture, at, f"{name}: {total:,} bytes", ha="left", va="bottom", size=NAME_SIZE, weight="bold")
    text = sum(size for part, size in parts if part == TEXT)
    word(picture, (10.4 - PAD, at[1]), f"grey: {text:,} of text", ha="right", va="bottom", soft=True)


def _enlarged(picture: Picture, y: float, parts: Sequence[Part], inch: float) -> None:
    """The first tensors, widths in proportion among them, below the place where they lie in the strip."""
    text = sum(size for part, size in parts if part == TEXT)
    tensors = [part for part in parts if part[0] != TEXT][:SHOWN]
    total = sum(size for _, size in tensors)
    inches = (WIDE - GAP * (SHOWN - 1)) / total
    left, low, high = PAD, y - 0.62, y - 0.28
    ends = PAD + text * inch, PAD + (text + total) * inch
    for x, end in zip((PAD, PAD + WIDE), ends, strict=True):
        picture.plot([end, x], [y - 0.02, high + 0.03], color=GRID, linewidth=1.4)
    for name, size in tensors:
        block = Block(left, low, size * inches, high - low)
        fill = _fill(name)
        picture.add_patch(Rectangle((left, low), block.width, block.height, facecolor=fill, linewidth=0))
        word(picture, (block.top[0], (low + high) / 2 - 0.01), _kind(name), color=on(fill), weight="bold")
        word(picture, (block.top[0], low - 0.06), name, va="top")
        word(picture, (block.top[0], low - 0.29), f"{size:,}", va="top", soft=True)
        left += block.width + GAP
