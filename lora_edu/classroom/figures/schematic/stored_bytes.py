"""The bytes of 256 blocks, to scale: what double quantization takes away."""

from __future__ import annotations

from matplotlib.patches import Rectangle

from lora_edu.classroom.figures._canvas import PAD, Picture
from lora_edu.classroom.figures._sentences import sentence
from lora_edu.classroom.figures.palette import INK, ROLES, mix
from lora_edu.classroom.figures.schematic.parts import arrow, outline
from lora_edu.classroom.figures.schematic.sheet import Block, sheet, word

BLOCKS = 256  # whose scales share one scale of their own
ACROSS, DOWN = 0.0165, 0.024  # inches a byte
NAMES, WIDTH, LOW = 0.8, 7.2, 0.5
TALLEST = 68 * DOWN  # blocks of 128: the sheet stands still under a slider


def stored_bytes(
    blocksize: int,
    *,
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw each of 256 blocks as a column of bytes, codes below and scale above, before and after double quantization.

    Every byte has the same area, everywhere in the picture.

    Parameters
    ----------
    blocksize : int
        Weights a block, an even number from 16 to 128.
    title, alt, ax
        As in `lora_layer`.

    Raises
    ------
    ValueError
        If `alt` is empty, or `blocksize` lies outside.
    """
    if blocksize % 2 or not 16 <= blocksize <= 128:
        raise ValueError(f"blocksize must be an even number from 16 to 128, got {blocksize}")
    codes, weights = blocksize // 2, BLOCKS * blocksize
    bits = {scale: 4 + 8 * (scale + extra) / blocksize for scale, extra in ((4, 0), (1, 4 / BLOCKS))}
    with sheet(WIDTH, 2 * TALLEST + 1.9, title=title, alt=alt, ax=ax) as picture:
        for y, name, scale in ((LOW + TALLEST + 0.75, "before", 4), (LOW, "after", 1)):
            top = _columns(picture, y, codes, scale)
            word(picture, (PAD, y + codes * DOWN / 2), name, ha="left", weight="bold")
            total = f"{bits[scale] * weights / 8:,.0f} bytes, {bits[scale]:.3f} bits a weight"
            word(picture, (PAD + NAMES, y - 0.06), total, ha="left", va="top")
            right = PAD + NAMES + BLOCKS * ACROSS + 0.14
            for role, height, size in (
                ("scales", top - 0.03, scale),
                ("codes", y + codes * DOWN / 2 - 0.1, codes),
            ):
                word(picture, (right, height), f"{role} {BLOCKS * size:,} bytes", role=role, ha="left")
        _scale_of_scales(picture, LOW + (codes + 1) * DOWN)
        picture.alt = sentence(
            f"{BLOCKS} blocks of {blocksize} weights, {BLOCKS * codes:,} bytes of codes",
            f"Before, their scales take {4 * BLOCKS:,} bytes: {bits[4]:.3f} bits a weight",
            f"After, {BLOCKS} and 4 for the scale of the scales: {bits[1]:.5f}",
        )
    return picture


def _columns(picture: Picture, y: float, codes: int, scale: int) -> float:
    """256 columns that stand side by side: two areas, ruled at every sixteenth; returns how high they reach."""
    x, width, top = PAD + NAMES, BLOCKS * ACROSS, y + (codes + scale) * DOWN
    for role, low, high in (("codes", 0, codes), ("scales", codes, codes + scale)):
        area = (x, y + low * DOWN), width, (high - low) * DOWN
        picture.add_patch(Rectangle(*area, facecolor=mix(ROLES[role], 0.85), linewidth=0))
    lines = [x + k * ACROSS for k in range(0, BLOCKS + 1, 16)]
    picture.vlines(lines, y, top, color=mix("#FFFFFF", 0.75), linewidth=0.6)
    return top


def _scale_of_scales(picture: Picture, y: float) -> None:
    """Four bytes, two by two, above the columns whose scales they serve."""
    x = PAD + NAMES + 0.9 * BLOCKS * ACROSS
    block = Block(x, y + 0.14, 2 * ACROSS, 2 * DOWN)
    picture.add_patch(Rectangle((block.x, block.y), block.width, block.height, facecolor=ROLES["scales"]))
    outline(picture, block, INK, width=0.8)
    arrow(picture, (x - 0.42, block.y + 0.16), (x - 0.02, block.y + DOWN), width=1.4)
    word(picture, (x - 0.48, block.y + 0.17), "the scale of these 256 scales: 4 bytes", ha="right")
