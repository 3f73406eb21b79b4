"""The fast path of ``nf4`` and ``qlora``: what their plain words say, by two tables and in chunks.

A chunk is so small that what is made on the way stays in the cache of a CPU, and all chunks are worked on in
the same memory: asking the system for fresh memory can cost more than the arithmetic. Arguments are checked by
the callers.
"""

import math
from collections.abc import Callable, Iterator
from functools import cache

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lora_edu.methods.blockwise import normalize_blocks
from lora_edu.methods.codebook import nf4_code
from lora_edu.methods.double_quant import scales
from lora_edu.methods.packing import pack_4bit
from lora_edu.methods.quant_state import QuantState, block_count, packed_bytes

# Weights in a chunk. Quantizing makes more on the way; a GPU wants few chunks, and large ones.
QUANTIZE_CHUNK = 2**18
DEQUANTIZE_CHUNK = 2**20
GPU_CHUNK = 2**24

Panels = Callable[[Tensor, QuantState, torch.dtype], Iterator[tuple[slice, Tensor]]]
"""``dequantized_panels``, or another way to the same."""


def quantize(
    flat: Float[Tensor, "numel"], blocksize: int
) -> tuple[UInt8[Tensor, "bytes"], Float[Tensor, "blocks"]]:
    """Packed codes and scales; an odd tail is padded with a weight of zero."""
    numel = flat.numel()
    packed = torch.empty(packed_bytes(numel), dtype=torch.uint8, device=flat.device)
    absmax = torch.empty(block_count(numel, blocksize), dtype=torch.float32, device=flat.device)
    step = _chunk(QUANTIZE_CHUNK, math.lcm(blocksize, 2), flat.device)
    parts = flat.split(step), packed.split(step // 2), absmax.split(step // blocksize)
    for weights, codes, largest in zip(*parts, strict=True):
        x, absmax_here = normalize_blocks(weights, blocksize)
        largest.copy_(absmax_here)
        padded = torch.cat([x, x.new_zeros(1)]) if len(x) % 2 else x
        codes.copy_(pack_4bit(nearest_nf4_level(padded)))
    return packed, absmax


def nearest_nf4_level(x: Float[Tensor, "numel"]) -> UInt8[Tensor, "numel"]:
    """``nearest_level(x, nf4_code())`` by a table, several times faster.

    [-1, 1] is cut into 64 cells, so small that none holds two midpoints: one comparison in the cell decides.
    """
    first, midpoint = cells(x.device)
    cell = x.add(1).mul_(32).int()
    return first.index_select(0, cell).add_(x > midpoint.index_select(0, cell))


def dequantize(packed: UInt8[Tensor, "bytes"], s: QuantState, out: Float[Tensor, "numel"]) -> None:
    """Write the weights to ``out``, whose dtype rounds them."""
    step = _chunk(DEQUANTIZE_CHUNK, math.lcm(s.blocksize, 2), out.device)
    for levels, absmax, part in zip(*_split(packed, s, step), _pieces(out, step), strict=True):
        _scale_blocks(levels, absmax, s.blocksize, out=part)


def dequantized_panels(
    packed: UInt8[Tensor, "bytes"], s: QuantState, dtype: torch.dtype
) -> Iterator[tuple[slice, Float[Tensor, "rows in"]]]:
    """A matrix in panels of whole rows, ``(rows, W[rows])``; a panel is lost when the next one is asked for.

    A product with one panel after the other never holds the whole matrix. On a CPU it is also faster than
    dequantizing all of it, because the panel stays in the cache.
    """
    height, width = s.shape
    rows = panel_rows(DEQUANTIZE_CHUNK, s, packed.device)
    for start, levels, absmax in zip(range(0, height, rows), *_split(packed, s, rows * width), strict=True):
        _scale_blocks(levels, absmax, s.blocksize, out=levels)
        yield slice(start, min(start + rows, height)), levels.view(-1, width).to(dtype)


def panel_rows(size: int, s: QuantState, device: torch.device) -> int:
    """How many rows a panel of about ``size`` weights has, so that each panel starts with a byte and a block."""
    width = s.shape[1]
    return _chunk(size, math.lcm(s.blocksize, 2, width), device) // width


def matmul(
    x: Float[Tensor, "batch in"],
    packed: UInt8[Tensor, "bytes"],
    s: QuantState,
    panels: Panels = dequantized_panels,
) -> Tensor:
    """``x @ W.T``."""
    y = x.new_empty(x.shape[0], s.shape[0])
    for rows, W in panels(packed, s, x.dtype):
        torch.mm(x, W.T, out=y[:, rows])
    return y


def matmul_transposed(
    grad_y: Float[Tensor, "batch out"],
    packed: UInt8[Tensor, "bytes"],
    s: QuantState,
    panels: Panels = dequantized_panels,
) -> Tensor:
    """``grad_y @ W``, the panels' shares summed in at least float32, as one product would sum them."""
    sum_dtype = torch.promote_types(grad_y.dtype, torch.float32)
    shares = panels(packed, s, grad_y.dtype)
    rows, W = next(shares)
    grad_x = (grad_y[:, rows] @ W).to(sum_dtype)
    for rows, W in shares:
        if W.dtype == sum_dtype:
            grad_x.addmm_(grad_y[:, rows], W)
        else:
            grad_x += grad_y[:, rows] @ W
    return grad_x.to(grad_y.dtype)


def _chunk(size: int, unit: int, device: torch.device) -> int:
    """Weights in a chunk: whole units, at most ``size`` or else one unit."""
    return max(1, (size if device.type == "cpu" else GPU_CHUNK) // unit) * unit


def _split(
    packed: UInt8[Tensor, "bytes"], s: QuantState, step: int
) -> tuple[Iterator[Float[Tensor, "chunk"]], tuple[Tensor, ...]]:
    """For each chunk its levels, in one memory that the caller may write to, and its scales."""
    return _levels(_pieces(packed, step // 2), math.prod(s.shape)), _pieces(scales(s), step // s.blocksize)


def _pieces(tensor: Tensor, size: int) -> tuple[Tensor, ...]:
    """``tensor.split(size)``, which takes its time when there is nothing to split."""
    return tensor.split(size) if len(tensor) > size else (tensor,)


def _levels(chunks: tuple[UInt8[Tensor, "bytes"], ...], numel: int) -> Iterator[Float[Tensor, "chunk"]]:
    """``nf4_code()[unpack_4bit(codes, numel)]``, two levels a byte, for one chunk of bytes after the other."""
    table = _byte_levels(chunks[0].device)
    # index_select is the faster of the two, but on a CPU it works on one thread; gather works on all of them,
    # given rows, and wants a wider index.
    gather = table.device.type == "cpu" and torch.get_num_threads() > 1
    index = torch.empty_like(chunks[0], dtype=torch.int64 if gather else torch.int32)
    pairs = torch.empty_like(chunks[0], dtype=torch.int64)
    for codes in chunks:
        if len(codes) < len(pairs):  # the last chunk
            index, pairs = index[: len(codes)], pairs[: len(codes)]
        index.copy_(codes)
        if gather:
            rows = math.gcd(len(codes), 64)
            torch.gather(table.expand(rows, 256), 1, index.view(rows, -1), out=pairs.view(rows, -1))
        else:
            torch.index_select(table, 0, index, out=pairs)
        levels = pairs.view(torch.float32)
        yield levels if len(levels) <= numel else levels[:numel]
        numel -= len(levels)


def _scale_blocks(
    values: Float[Tensor, "numel"],
    absmax: Float[Tensor, "blocks"],
    blocksize: int,
    out: Float[Tensor, "numel"],
) -> None:
    """Write each block of ``values`` times its absmax to ``out``; the last block may be shorter."""
    tail = len(values) % blocksize
    if tail:
        torch.mul(values[-tail:], absmax[-1], out=out[-tail:])
        values, absmax, out = values[:-tail], absmax[:-1], out[:-tail]
    torch.mul(values.view(-1, blocksize), absmax.unsqueeze(1), out=out.view(-1, blocksize))


@cache
def cells(device: torch.device) -> tuple[UInt8[Tensor, "65"], Float[Tensor, "65"]]:
    """For each cell: the level at its lower end, and the midpoint within it or else infinity."""
    code = nf4_code()
    midpoints = (code[:-1] + code[1:]) / 2
    # The arithmetic of nearest_nf4_level: it never descends, so x above a midpoint is never in a lower cell.
    cell = midpoints.add(1).mul_(32).int()
    first = torch.searchsorted(cell, torch.arange(65, dtype=torch.int32)).to(torch.uint8)
    within = torch.full((65,), math.inf).index_copy(0, cell.long(), midpoints)
    return first.to(device), within.to(device)


@cache
def _byte_levels(device: torch.device) -> torch.Tensor:
    """The two levels that each of the 256 bytes names, seen as one int64 so that one read fetches both."""
    code = nf4_code()
    return torch.cartesian_prod(code, code).view(torch.int64).flatten().to(device)
