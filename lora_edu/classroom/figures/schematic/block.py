"""A transformer block: the residual stream, its two branches, and the seven linear layers."""

from __future__ import annotations

from collections.abc import Collection

from matplotlib.patches import Rectangle

from lora_edu.classroom.figures._canvas import Picture
from lora_edu.classroom.figures._sentences import count_of, listed, sentence
from lora_edu.classroom.figures.palette import ROLES
from lora_edu.classroom.figures.schematic.parts import area, arrow, box, lock, plus
from lora_edu.classroom.figures.schematic.sheet import Block, sheet, word

LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
STRIP = 0.08  # inches: the least width of A and B that can be seen
LONGEST = 1.35  # inches: the longest side of a weight


def transformer_block(
    adapted: Collection[str] = (),
    *,
    hidden: int = 576,
    keys: int = 192,
    inner: int = 1536,
    r: int = 8,
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw a block with its linear layers to scale, and A and B beside those that carry an adapter.

    Parameters
    ----------
    adapted : collection of str
        Names of the layers with an adapter, of `LAYERS`.
    hidden, keys, inner : int
        Width of the residual stream, of keys and values, and inside the MLP; those of SmolLM2-135M if left out.
    r : int
        Rank of the adapters.
    title, alt, ax
        As in `lines`; without a title, one that states what trains.

    Raises
    ------
    ValueError
        If a name is unknown or a size is below 1.
    """
    if set(adapted) - set(LAYERS):
        raise ValueError(f"adapted must name some of {list(LAYERS)}, got {sorted(adapted)}")
    if min(hidden, keys, inner, r) < 1:
        raise ValueError(f"hidden, keys, inner and r must be at least 1, got {(hidden, keys, inner, r)}")
    shapes = {
        "q_proj": (hidden, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, hidden),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }
    frozen = sum(rows * columns for rows, columns in shapes.values())
    trained = sum(r * sum(shapes[name]) for name in adapted)
    finding = (
        f"Adapters on {count_of(len(adapted), 'layer')} of seven: {trained:,} numbers train, {frozen:,} stay frozen"
        if adapted
        else f"A block has seven linear layers: {frozen:,} numbers"
    )
    scale = LONGEST / max(hidden, keys, inner)
    stream = 0.62
    with sheet(12.2, 5.35, title=title or finding, alt=alt, ax=ax) as picture:

        def weight(name: str, left: float, middle: float) -> Block:
            rows, columns = shapes[name]
            block = area(
                picture, Block(left, middle - rows * scale / 2, columns * scale, rows * scale), "frozen"
            )
            above = STRIP + 0.1 if name in adapted else 0.0
            short = name.removesuffix("_proj")
            word(
                picture,
                (block.top[0], block.top[1] + above + 0.05),
                short,
                role="frozen",
                va="bottom",
                weight="bold",
            )
            if name not in adapted:
                return block
            strip = max(r * scale, STRIP)
            adapter(picture, block, strip)
            return Block(left - strip - 0.05, block.y, block.width + strip + 0.05, block.height)

        arrow(picture, (0.35, stream), (11.95, stream), "activations", width=5)
        word(
            picture,
            (0.35, stream - 0.3),
            f"residual stream, {hidden:,} numbers a token",
            role="activations",
            ha="left",
        )
        norm = box(picture, (1.15, 2.6), "norm", width=0.75)
        attention, o = box(picture, (3.95, 2.6), "attention", width=1.15), weight("o_proj", 4.95, 2.6)
        first = plus(picture, (5.95, stream))
        for name, middle in (("q_proj", 3.75), ("k_proj", 2.6), ("v_proj", 1.65)):
            block, bend = weight(name, 2.25, middle), 0.08 * (2.6 - middle)
            arrow(picture, norm.right, block.left, curve=bend)
            arrow(picture, block.right, (attention.x, 2.6 + 0.12 * (middle - 2.6)), curve=bend)
        arrow(picture, attention.right, o.left)
        branch(picture, norm, o, first)

        norm = box(picture, (6.75, 2.6), "norm", width=0.75)
        gate, up = weight("gate_proj", 7.75, 3.62), weight("up_proj", 7.75, 1.75)
        bent, times = box(picture, (8.98, 3.62), "SiLU", width=0.72), plus(picture, (8.98, 2.6), "×")
        down = weight("down_proj", 9.6, 2.6)
        second = plus(picture, (11.25, stream))
        arrow(picture, norm.right, gate.left, curve=-0.1)
        arrow(picture, norm.right, up.left, curve=0.1)
        arrow(picture, gate.right, bent.left)
        arrow(picture, bent.bottom, times.top)
        arrow(picture, up.right, times.bottom, curve=0.25)
        arrow(picture, times.right, down.left)
        branch(picture, norm, down, second)

        lock(picture, (8.3, 0.22))
        word(picture, (8.6, 0.32), "frozen", role="frozen", ha="left")
        if adapted:
            word(picture, (10.9, 0.32), f"B and A, rank {r}", role="trained", ha="right")
        bare = [name.removesuffix("_proj") for name in LAYERS if name not in adapted]
        carried = [name.removesuffix("_proj") for name in LAYERS if name in adapted]
        picture.alt = sentence(
            "A transformer block. From the residual stream a norm leads to q, k and v, attention and o, whose result "
            "is added to the stream; a second norm leads to gate and up, whose product goes through down and is "
            "added too",
            f"The seven linear layers hold {frozen:,} numbers, all frozen",
            f"{listed(carried)} carry A and B of rank {r}: {trained:,} numbers, {trained / frozen:.2%}"
            if carried
            else "",
            f"{listed(bare)} carry none" if carried and bare else "",
        )
    return picture


def branch(picture: Picture, norm: Block, last: Block, joined: Block) -> None:
    """Draw the way from the stream up to a norm, and from the last weight down to where it is added."""
    stream = joined.y + joined.height / 2
    arrow(picture, (norm.bottom[0], stream), norm.bottom, "activations")
    right = joined.x + joined.width / 2
    if last.right[0] > right:
        arrow(picture, (right, last.y), joined.top, "activations")
    else:
        arrow(picture, last.right, joined.top, "activations", curve=-0.35)


def adapter(picture: Picture, weight: Block, strip: float) -> None:
    """Draw B beside a weight, as tall as it, and A above it, as wide."""
    for block in (
        Block(weight.x - 0.05 - strip, weight.y, strip, weight.height),
        Block(weight.x, weight.y + weight.height + 0.05, weight.width, strip),
    ):
        picture.add_patch(
            Rectangle((block.x, block.y), block.width, block.height, facecolor=ROLES["trained"], linewidth=0)
        )
