"""From 4 bits to a product in one kernel, for one token: what a model does most while it answers.

With one row of input a weight is used once, so a product takes as long as reading the weights does. Here the kernel
reads 4 bits a weight and multiplies at once; the 16 bits are never written. Sums are float32.

A table in memory, asked once a weight, would be the slowest part. So the table stands in registers: the instruction
``prmt`` picks four bytes out of eight by four numbers of three bits, and the codes themselves are such numbers. The
levels are kept as floats between 1 and 2, whose upper byte is the same for all: two bytes say a level to
about 2^-15 of the largest weight of its block.

References
----------
NVIDIA, PTX ISA, instructions ``prmt`` and ``lop3``.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from lora_edu.methods.codebook import nf4_code
from lora_edu.methods.quant_state import QuantState

SIZES = 32, 1024
"""The smallest and the largest block that a tile is made of."""


def fits(x: Float[Tensor, "batch in"], s: QuantState) -> bool:
    """Return whether the kernel takes this product: one row in 16 bits, and rows of whole blocks, on NVIDIA's GPU."""
    smallest, largest = SIZES
    blocks = smallest <= s.blocksize <= largest and s.blocksize & (s.blocksize - 1) == 0
    row = len(x) == 1 and x.element_size() == 2 and torch.version.hip is None
    return row and blocks and len(s.shape) == 2 and s.shape[1] % s.blocksize == 0


@dataclass(frozen=True)
class Weight:
    """A weight in 4 bits, and what is added to its product.

    Attributes
    ----------
    packed, state
        As ``quantize_nf4`` returns them.
    update
        ``hidden`` of shape (1, r), float32, and ``B`` of shape (out, r): ``hidden @ B.T`` is added, summed in float32.
    """

    packed: UInt8[Tensor, "bytes"]
    state: QuantState
    update: tuple[Float[Tensor, "1 r"], Float[Tensor, "out r"]] | None = None


def product(
    x: Float[Tensor, "1 in"], packed: UInt8[Tensor, "bytes"], s: QuantState
) -> Float[Tensor, "1 out"]:
    """Return ``x @ W.T`` for one row, in the dtype of ``x``."""
    return products(x, [Weight(packed, s)])[0]


def products(
    x: Float[Tensor, "1 in"], weights: Sequence[Weight], dtype: torch.dtype | None = None
) -> list[Float[Tensor, "1 out"]]:
    """Return the product of one row with each of a few weights, by one kernel.

    Parameters
    ----------
    x
        The row, in 16 bits: to float32 the levels are not exact enough.
    weights
        At most three, with blocks of one size, and scales quantized in one way.
    dtype
        Of what is returned; None: that of ``x``.
    """
    first = weights[0].state
    sizes = [w.state.shape[0] for w in weights]
    results = [torch.empty(1, size, dtype=dtype or x.dtype, device=x.device) for size in sizes]
    words, warps = _tile(sum(sizes), first.shape[1])
    ends = list(accumulate(triton.cdiv(size, OUTPUTS) for size in sizes))
    ranks = [w.update[1].shape[1] if w.update else 0 for w in weights]
    arguments = [_arguments(w, y) for w, y in zip(weights, results, strict=True)]
    arguments += arguments[:1] * (MOST - len(weights))  # of which no program knows
    kernel: Any = _products
    with torch.cuda.device_of(x):
        kernel[(ends[-1],)](
            x.contiguous(), _table(x.device), *arguments, *(ends + ends[-1:])[: MOST - 1],
            first.shape[1] // 8, first.blocksize // 8, first.nested_blocksize or 0, OUTPUTS, words,
            triton.next_power_of_2(max(ranks)) if any(ranks) else 0, len(weights), num_warps=warps,
        )  # fmt: skip
    return results


MOST = 3
"""Weights that one kernel multiplies with: those of queries, keys and values."""


def _arguments(w: Weight, y: Tensor) -> tuple:
    """What the kernel must know of a weight."""
    s = w.state
    nested = (s.absmax,) * 3 if s.nested_absmax is None else (s.nested_absmax, s.nested_code, s.offset)
    hidden, B = w.update or (y, y)
    update = (hidden, B, *B.stride(), B.shape[1] if w.update else 0)
    return w.packed.view(torch.int32), s.absmax, *nested, *update, y, y.shape[1]


OUTPUTS = 4
"""Outputs of a program. This, and what `_tile` returns, are among the fastest of 60 tried on an H200."""


def _tile(out_features: int, in_features: int) -> tuple[int, int]:
    """Words of eight codes that a program reads of each row at once, and its warps."""
    few = out_features <= 2048
    return min(512 if few else 256, max(128, triton.next_power_of_2(in_features // 8))), 4 if few else 2


# ------------------------------------------------------------------ the table in registers


def _bytes_of_levels() -> tuple[list[int], list[int], float]:
    """Two bytes for each level, and the scale: 1.5 + scale x level is about the float of ``_float(middle, low)``."""
    scale = _float(255, 255) - 1.5
    pairs = []
    for level in nf4_code().tolist():
        near = 128 + int((0.5 + scale * level) * 127)
        tried = [(m, low) for m in range(max(128, near - 2), min(255, near + 2) + 1) for low in range(256)]
        pairs.append(min(tried, key=lambda pair: abs(_float(*pair) - 1.5 - scale * level)))
    return [low for _, low in pairs], [middle for middle, _ in pairs], scale


def _float(middle: int, low: int) -> float:
    """The float32 of four bytes, of which the upper one is that of all numbers between 1 and 2."""
    return struct.unpack("<f", bytes([low, low, middle, 0x3F]))[0]


LOW, MIDDLE, SCALE = _bytes_of_levels()
UNSCALE = tl.constexpr(1 / SCALE)


@cache
def _table(device: torch.device) -> Int[Tensor, "8"]:
    """The bytes of all levels: four registers of lower ones, four of middle ones."""
    return torch.tensor(LOW + MIDDLE, dtype=torch.uint8, device=device).view(torch.int32)


def _assembly() -> str:
    """PTX: $0 is $10 plus the sum of level times input over the codes of $1; $2 to $9 inputs, $11 to $18 the table."""
    lines = [".reg .b32 code, left, high, some, others, low, middle, pair, number;", ".reg .f32 level;"]
    # The lower three bits of each code choose among eight bytes; its fourth bit chooses between two such choices.
    lines += ["and.b32 code, $1, 0x77777777;", "shl.b32 left, $1, 4;"]
    sums = "$10"
    for half, signs in enumerate((0xD9C8, 0xFBEA)):
        if half:
            lines.append("shr.u32 code, code, 16;")
        lines.append(f"prmt.b32 high, left, $1, {signs};")  # all bits of a byte are its code's fourth bit
        for plane, first in (("low", 11), ("middle", 15)):
            lines.append(f"prmt.b32 some, ${first}, ${first + 1}, code;")
            lines.append(f"prmt.b32 others, ${first + 2}, ${first + 3}, code;")
            lines.append(f"lop3.b32 {plane}, some, others, high, 0xD8;")  # high ? others : some
        # The even one of a byte's two codes is in its high half, so it comes second.
        for place, element in enumerate((1, 0, 3, 2)):
            if place % 2 == 0:
                lines.append(f"prmt.b32 pair, low, middle, {(0x5140, 0x7362)[place // 2]};")
            lines.append(f"prmt.b32 number, pair, 0x3F3F3F3F, {(0x4100, 0x4322)[place % 2]};")
            lines.append("mov.b32 level, number;")
            lines.append(f"fma.rn.f32 $0, level, ${2 + 4 * half + element}, {sums};")
            sums = "$0"
    return "{" + "\n".join(lines) + "}"


ASSEMBLY = tl.constexpr(_assembly())
CONSTRAINTS = tl.constexpr("=&f,r," + "f," * 9 + ",".join("r" * 8))


@triton.jit
def _eight_inputs(x, start, words, WORDS: tl.constexpr):
    """The inputs of each word's eight codes, as eight tensors in float32."""
    at = start * 8 + tl.arange(0, WORDS * 8)
    inputs = tl.load(x + at, mask=at < words * 8, other=0)
    even, odd = tl.split(tl.reshape(inputs, (WORDS * 4, 2)))
    x04, x26 = tl.split(tl.reshape(even, (WORDS * 2, 2)))
    x15, x37 = tl.split(tl.reshape(odd, (WORDS * 2, 2)))
    x0, x4 = tl.split(tl.reshape(x04, (WORDS, 2)))
    x2, x6 = tl.split(tl.reshape(x26, (WORDS, 2)))
    x1, x5 = tl.split(tl.reshape(x15, (WORDS, 2)))
    x3, x7 = tl.split(tl.reshape(x37, (WORDS, 2)))
    return (
        x0.to(tl.float32)[None], x1.to(tl.float32)[None], x2.to(tl.float32)[None], x3.to(tl.float32)[None],
        x4.to(tl.float32)[None], x5.to(tl.float32)[None], x6.to(tl.float32)[None], x7.to(tl.float32)[None],
    )  # fmt: skip


@triton.jit
def _products(
    x, table, weight0, weight1, weight2, end0, end1, words,
    SIZE: tl.constexpr, NESTED_SIZE: tl.constexpr, OUTPUTS: tl.constexpr, WORDS: tl.constexpr, RANKS: tl.constexpr,
    COUNT: tl.constexpr,
):  # fmt: skip
    """A few outputs of one of COUNT weights: the programs of each end where those of the next begin."""
    program = tl.program_id(0)
    if program < end0:
        _product(program, x, table, weight0, words, SIZE, NESTED_SIZE, OUTPUTS, WORDS, RANKS)
    else:
        if COUNT > 1:
            if program < end1:
                _product(program - end0, x, table, weight1, words, SIZE, NESTED_SIZE, OUTPUTS, WORDS, RANKS)
            else:
                if COUNT > 2:
                    _product(
                        program - end1, x, table, weight2, words, SIZE, NESTED_SIZE, OUTPUTS, WORDS, RANKS
                    )


@triton.jit
def _product(
    program, x, table, weight, words,
    SIZE: tl.constexpr, NESTED_SIZE: tl.constexpr, OUTPUTS: tl.constexpr, WORDS: tl.constexpr, RANKS: tl.constexpr,
):  # fmt: skip
    """For each word of eight codes the sum of level times input, times the scale of its block; plus the update."""
    packed, absmax, nested_absmax, nested_code, offset, hidden, B, B_row, B_column, rank, y, out_features = (
        weight
    )
    row = (program * OUTPUTS + tl.arange(0, OUTPUTS))[:, None]
    inside_rows = row < out_features
    word = tl.arange(0, WORDS)
    four = tl.arange(0, WORDS // 4) * 4  # neighbours that are in one block
    total = tl.zeros((OUTPUTS, WORDS), tl.float32)
    mean = tl.load(offset) if NESTED_SIZE else 0.0
    t0, t1, t2, t3 = tl.load(table), tl.load(table + 1), tl.load(table + 2), tl.load(table + 3)
    t4, t5, t6, t7 = tl.load(table + 4), tl.load(table + 5), tl.load(table + 6), tl.load(table + 7)
    for start in range(0, words, WORDS):
        inside = inside_rows & (start + word < words)[None, :]
        codes = tl.load(packed + row.to(tl.int64) * words + (start + word)[None, :], mask=inside, other=0)
        inside = inside_rows & (start + four < words)[None, :]
        block = row * (words // SIZE) + ((start + four) // SIZE)[None, :]
        scale = tl.load(absmax + block, mask=inside, other=0)
        if NESTED_SIZE:
            spread = tl.load(nested_absmax + block // NESTED_SIZE, mask=inside, other=0)
            scale = tl.load(nested_code + scale.to(tl.int32)) * spread + mean
        scale = tl.reshape(tl.broadcast_to(scale[:, :, None], (OUTPUTS, WORDS // 4, 4)), (OUTPUTS, WORDS))
        x0, x1, x2, x3, x4, x5, x6, x7 = _eight_inputs(x, start, words, WORDS)
        middle = -1.5 * (((x0 + x1) + (x2 + x3)) + ((x4 + x5) + (x6 + x7)))
        sums = tl.inline_asm_elementwise(
            ASSEMBLY, CONSTRAINTS,
            [codes, x0, x1, x2, x3, x4, x5, x6, x7, middle, t0, t1, t2, t3, t4, t5, t6, t7],
            dtype=tl.float32, is_pure=True, pack=1,
        )  # fmt: skip
        total += sums * scale
    result = tl.sum(total, 1)[:, None] * UNSCALE
    if RANKS:
        place = tl.arange(0, RANKS)[None, :]
        update = tl.load(B + row * B_row + place * B_column, mask=inside_rows & (place < rank), other=0)
        seen = tl.load(hidden + place, mask=place < rank, other=0)
        result += tl.sum(update.to(tl.float32) * seen.to(tl.float32), 1)[:, None]
    tl.store(y + row, result.to(y.dtype.element_ty), mask=inside_rows)
