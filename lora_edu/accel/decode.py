"""From 4 bits to a product in one kernel, for one token: what a model does most while it answers.

With one row of input a weight is used once, so a product takes as long as reading the weights does. Here the kernel
reads 4 bits a weight and multiplies at once; the 16 bits are never written. Sums are float32, and no weight is rounded
to 16 bits on the way.
"""

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from jaxtyping import Float, UInt8
from torch import Tensor

from lora_edu.methods.quant_state import QuantState

MOST = 1024
"""Weights of a row that every tile holds at least: no block may be larger."""


def fits(x: Float[Tensor, "batch in"], s: QuantState) -> bool:
    """Return whether the kernel takes this product: one row, and rows of whole blocks."""
    return len(x) == 1 and len(s.shape) == 2 and s.shape[1] % s.blocksize == 0 and s.blocksize <= MOST


def product(
    x: Float[Tensor, "1 in"], packed: UInt8[Tensor, "bytes"], s: QuantState, levels: Float[Tensor, "16"]
) -> Float[Tensor, "1 out"]:
    """Return ``x @ W.T`` for one row, in the dtype of ``x``."""
    out_features, in_features = s.shape
    y = torch.empty(1, out_features, dtype=x.dtype, device=x.device)
    nested = (s.absmax,) * 3 if s.nested_absmax is None else (s.nested_absmax, s.nested_code, s.offset)
    outputs, weights, warps = _tile(out_features)
    kernel: Any = _product
    with torch.cuda.device_of(x):
        kernel[(triton.cdiv(out_features, outputs),)](
            x.contiguous(), packed, s.absmax, *nested, levels, y, out_features, in_features // s.blocksize,
            s.blocksize, s.nested_blocksize or 0, outputs, weights // s.blocksize, num_warps=warps,
        )  # fmt: skip
    return y


def _tile(out_features: int) -> tuple[int, int, int]:
    """Outputs of a program, weights of each at once, warps: among the fastest of 22 tried on an H200."""
    return (4, 2048, 4) if out_features <= 2048 else (8, 1024, 4)


@triton.jit
def _product(
    x, packed, absmax, nested_absmax, nested_code, offset, levels, y, out_features, blocks,
    SIZE: tl.constexpr, NESTED_SIZE: tl.constexpr, OUTPUTS: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """A few outputs: for each block of weights the sum of level times input, times the scale of the block."""
    row = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    inside_rows = row < out_features
    byte = tl.arange(0, SIZE // 2)
    total = tl.zeros((OUTPUTS, BLOCKS), tl.float32)
    for start in range(0, blocks, BLOCKS):
        block = start + tl.arange(0, BLOCKS)
        inside = inside_rows[:, None] & (block < blocks)[None, :]
        which = row.to(tl.int64)[:, None] * blocks + block[None, :]
        at = which[:, :, None] * (SIZE // 2) + byte[None, None, :]
        codes = tl.load(packed + at, mask=inside[:, :, None], other=0).to(tl.int32)
        here = (block < blocks)[:, None]
        inputs = tl.load(x + block[:, None] * SIZE + tl.arange(0, SIZE)[None, :], mask=here, other=0)
        # The weights of a byte meet inputs that are neighbours: the even one is in the high half.
        high, low = tl.split(tl.reshape(inputs.to(tl.float32), (BLOCKS, SIZE // 2, 2)))
        terms = (
            tl.load(levels + (codes >> 4)) * high[None, :, :]
            + tl.load(levels + (codes & 15)) * low[None, :, :]
        )
        scale = tl.load(absmax + which, mask=inside, other=0)
        if NESTED_SIZE:
            spread = tl.load(nested_absmax + which // NESTED_SIZE, mask=inside, other=0)
            scale = tl.load(nested_code + scale.to(tl.int32)) * spread + tl.load(offset)
        total += tl.sum(terms, 2) * scale
    tl.store(y + row, tl.sum(total, 1).to(y.dtype.element_ty), mask=inside_rows)
