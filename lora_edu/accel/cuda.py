"""``quantize_nf4`` and ``dequantize_nf4`` as one Triton kernel each, and the training path of QLoRA on top.

A kernel reads every byte once and writes every byte once: what lies between stays in the registers of a GPU, where
plain PyTorch writes each step of the arithmetic to memory and reads it back. The arithmetic is that of
``lora_edu.methods``, operation by operation, so the results are the same to the bit.

References
----------
Tillet, Kung and Cox 2019, "Triton: an intermediate language and compiler for tiled neural network computations",
MAPL 2019, doi 10.1145/3315508.3329973.
"""

import math
from functools import cache
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from jaxtyping import Float, UInt8
from torch import Tensor

from lora_edu.accel import decode
from lora_edu.llm.machine import has_bfloat16
from lora_edu.methods import _fast, _validate
from lora_edu.methods.codebook import nf4_code
from lora_edu.methods.double_quant import double_quantize
from lora_edu.methods.nf4 import QuantState, check_out, check_stored
from lora_edu.methods.quant_state import block_count, packed_bytes

# What one program of a kernel works on. Chosen by trial on an H200 (benchmarks/nf4.py --device cuda).
WEIGHTS_A_PROGRAM = 4096
WEIGHTS_TO_WRITE = 1024
COLUMNS_A_PROGRAM = 1024
# No product may be fused with a sum: that rounds once where PyTorch rounds twice.
EXACT = {"enable_fp_fusion": False}


def quantize_nf4(
    W: Float[Tensor, "*shape"], blocksize: int = 64, double_quant: bool = False
) -> tuple[UInt8[Tensor, "bytes"], QuantState]:
    """``lora_edu.methods.nf4.quantize_nf4`` of weights on a GPU, bit for bit.

    Raises
    ------
    TypeError, ValueError
        ``W`` is no floating-point tensor on a GPU, is bfloat16 on one before compute capability 8.0, is empty or not
        finite; ``blocksize`` is no power of two above 1.
    """
    _validate.tensor("W", W)
    blocksize = check_blocksize("blocksize", blocksize)
    _check_cuda("W", W)
    flat = W.detach().reshape(-1)
    numel = flat.numel()
    packed = torch.empty(packed_bytes(numel), dtype=torch.uint8, device=W.device)
    absmax = torch.empty(block_count(numel, blocksize), dtype=torch.float32, device=W.device)
    whole = numel // blocksize
    if whole:
        blocks = max(1, WEIGHTS_A_PROGRAM // blocksize)
        programs = (triton.cdiv(whole, blocks),)
        with torch.cuda.device_of(W):
            kernel: Any = _quantize
            kernel[programs](
                flat, packed, absmax, *_fast.cells(W.device), whole, blocksize, blocks, num_warps=2, **EXACT
            )
    if whole < absmax.numel():  # a shorter last block is rounded in another way (methods.blockwise)
        codes, largest = _fast.quantize(flat[whole * blocksize :], blocksize)
        packed[whole * blocksize // 2 :] = codes
        absmax[whole:] = largest
    # The largest scale shows both, and asking it alone leaves the GPU less to wait for.
    _validate.require(math.isfinite(absmax.max().item()), "W", "finite", "NaN or infinity")
    state = QuantState(W.shape, W.dtype, blocksize, absmax)
    return packed, double_quantize(state) if double_quant else state


def dequantize_nf4(
    packed: UInt8[Tensor, "bytes"], quant_state: QuantState, out: Float[Tensor, "*shape"] | None = None
) -> Float[Tensor, "*shape"]:
    """``lora_edu.methods.nf4.dequantize_nf4`` of codes on a GPU, bit for bit, double quantization in the same kernel.

    Raises
    ------
    TypeError, ValueError
        ``packed``, ``quant_state`` and ``out`` do not belong together or are not on a GPU; the blocksize is no power
        of two above 1.
    """
    s = quant_state
    check_stored(packed, s)
    check_blocksize("quant_state.blocksize", s.blocksize)
    _check_cuda("packed", packed)
    if out is None:
        out = torch.empty(s.shape, dtype=s.dtype, device=packed.device)
    check_out(out, s)
    check_dtype("out", out.dtype)
    return write_weights(packed, s, out)


def matmul(x: Float[Tensor, "batch in"], packed: UInt8[Tensor, "bytes"], s: QuantState) -> Tensor:
    """``x @ W.T``: for one row by one kernel, else with ``W`` made whole."""
    _check_cuda("x", x)
    if decode.fits(x, s):
        return decode.product(x, packed, s)
    return x @ weights(packed, s, x.dtype).T


def matmul_transposed(
    grad_y: Float[Tensor, "batch out"], packed: UInt8[Tensor, "bytes"], s: QuantState
) -> Tensor:
    """``grad_y @ W``."""
    return grad_y @ weights(packed, s, grad_y.dtype)


def check_blocksize(name: str, blocksize: int) -> int:
    """Return the blocksize as Python's own integer; raise unless the kernels work with such blocks."""
    blocksize = _validate.integer(name, blocksize, 2)
    _validate.require(blocksize & (blocksize - 1) == 0, name, "a power of two for the kernels", blocksize)
    return blocksize


@triton.jit
def _quantize(W, packed, absmax, first, midpoint, blocks, SIZE: tl.constexpr, BLOCKS: tl.constexpr):
    """Whole blocks of weights to codes, two a byte, and the absmax of each block; cells as in ``methods._fast``."""
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    row = block[:, None]
    w = tl.load(W + row * SIZE + tl.arange(0, SIZE)[None, :], mask=row < blocks, other=0).to(tl.float32)
    # Without their sign the bits of floating-point numbers ascend, up to infinity and NaN: NaN is not lost.
    largest = tl.max(w.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 1).to(tl.float32, bitcast=True)
    tl.store(absmax + block, largest, mask=block < blocks)
    # Written as a bare 1e-38, which float32 holds only as a subnormal, it would make all that follows float64.
    one, tiny = tl.full(largest.shape, 1.0, tl.float32), tl.full(largest.shape, 1e-38, tl.float32)
    # A block with NaN becomes NaN: the cell of NaN is 0, that of a number out of range would lie outside the tables.
    divisor = tl.maximum(largest, tiny, propagate_nan=tl.PropagateNan.ALL)
    x = w * tl.div_rn(one, divisor)[:, None]
    cell = ((x + 1) * 32).to(tl.int32)
    code = tl.load(first + cell).to(tl.int32) + (x > tl.load(midpoint + cell)).to(tl.int32)
    high, low = tl.split(tl.reshape(code, (BLOCKS, SIZE // 2, 2)))
    byte = row * (SIZE // 2) + tl.arange(0, SIZE // 2)[None, :]
    tl.store(packed + byte, (high * 16 + low).to(tl.uint8), mask=row < blocks)


@triton.jit
def _dequantize(
    packed, absmax, nested_absmax, nested_code, offset, levels, out, numel, blocks_a_row, pitch,
    beside, beside_row, beside_column, target, target_row, beside_numel, beside_width, programs,
    SIZE: tl.constexpr, NESTED_SIZE: tl.constexpr, BLOCKS: tl.constexpr, PITCHED: tl.constexpr,
):  # fmt: skip
    """Codes to weights in the first ``programs``; those behind them, if any, copy a matrix to ``target``."""
    program = tl.program_id(0)
    if program < programs:
        _write_blocks(
            program, packed, absmax, nested_absmax, nested_code, offset, levels, out, numel, blocks_a_row, pitch,
            SIZE, NESTED_SIZE, BLOCKS, PITCHED,
        )  # fmt: skip
    else:
        at = (program - programs) * BLOCKS * SIZE + tl.arange(0, BLOCKS * SIZE)
        row, column = at // beside_width, at % beside_width
        value = tl.load(beside + row * beside_row + column * beside_column, mask=at < beside_numel)
        place = target + row.to(tl.int64) * target_row + column
        tl.store(place, value.to(target.dtype.element_ty), mask=at < beside_numel)


@triton.jit
def _write_blocks(
    program, packed, absmax, nested_absmax, nested_code, offset, levels, out, numel, blocks_a_row, pitch,
    SIZE: tl.constexpr, NESTED_SIZE: tl.constexpr, BLOCKS: tl.constexpr, PITCHED: tl.constexpr,
):  # fmt: skip
    """The level that each half of a byte names, times the absmax of its block.

    If PITCHED, rows of whole blocks begin ``pitch`` numbers after one another, else all are in one row.
    """
    block = program.to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    inside = block * SIZE < numel
    byte = block[:, None] * (SIZE // 2) + tl.arange(0, SIZE // 2)[None, :]
    codes = tl.load(packed + byte, mask=2 * byte < numel, other=0).to(tl.int32)
    scale = tl.load(absmax + block, mask=inside, other=0)
    if NESTED_SIZE:
        spread = tl.load(nested_absmax + block // NESTED_SIZE, mask=inside, other=0)
        scale = tl.load(nested_code + scale.to(tl.int32)) * spread + tl.load(offset)
    scale = scale[:, None]
    pair = tl.interleave(tl.load(levels + (codes >> 4)) * scale, tl.load(levels + (codes & 15)) * scale)
    start = block * SIZE
    if PITCHED:
        start = block // blocks_a_row * pitch + block % blocks_a_row * SIZE
    place = tl.arange(0, SIZE)[None, :]
    written = block[:, None] * SIZE + place < numel
    tl.store(out + start[:, None] + place, pair.to(out.dtype.element_ty), mask=written)


def weights(packed: Tensor, s: QuantState, dtype: torch.dtype) -> Tensor:
    check_blocksize("quant_state.blocksize", s.blocksize)
    return write_weights(packed, s, torch.empty(s.shape, dtype=dtype, device=packed.device))


def write_weights(
    packed: Tensor, s: QuantState, out: Tensor, beside: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Write the weights into ``out``: contiguous, or a matrix whose rows are.

    ``beside`` are two matrices of one shape: the first is copied to the second on the way, into its dtype.
    """
    pitched = not out.is_contiguous()
    if pitched and out.shape[1] % s.blocksize:  # a block would lie in two rows
        out.copy_(weights(packed, s, out.dtype))
        if beside:
            beside[1].copy_(beside[0])
        return out
    nested = (s.absmax,) * 3 if s.nested_absmax is None else (s.nested_absmax, s.nested_code, s.offset)
    rows = (out.shape[1] // s.blocksize, out.stride(0)) if pitched else (1, 1)
    copying = (
        out,
        16,
        16,
        out,
        16,
        0,
        16,
    )  # nothing; a 1 would be compiled in, to a kernel that is a sixth slower
    if beside:
        source, target = beside
        copying = (source, *source.stride(), target, target.stride(0), source.numel(), source.shape[1])
    blocks = max(1, WEIGHTS_TO_WRITE // s.blocksize)
    programs, more = (triton.cdiv(numel, blocks * s.blocksize) for numel in (out.numel(), copying[5]))
    with torch.cuda.device_of(packed):
        kernel: Any = _dequantize
        kernel[(programs + more,)](
            packed, s.absmax, *nested, _levels(packed.device), out, out.numel(), *rows, *copying, programs,
            s.blocksize, s.nested_blocksize or 0, blocks, pitched, num_warps=1, **EXACT,
        )  # fmt: skip
    return out


def join(
    x: Float[Tensor, "rows width"],
    more: Float[Tensor, "rows more"] | None,
    out: Float[Tensor, "rows columns"],
) -> Tensor:
    """Write ``x`` and behind it ``more``, if there is any, into ``out``, in its dtype; what is behind both stays."""
    x = x if x.stride(1) == 1 else x.contiguous()
    rows, width = x.shape
    columns = width + (0 if more is None else more.shape[1])
    other = x if more is None else more
    with torch.cuda.device_of(x):
        kernel: Any = _join
        kernel[(rows, triton.cdiv(columns, COLUMNS_A_PROGRAM))](
            x, x.stride(0), other, other.stride(0), out, out.stride(0), width, columns, COLUMNS_A_PROGRAM
        )
    return out


@triton.jit
def _join(x, x_row, more, more_row, out, out_row, width, columns, COLUMNS: tl.constexpr):
    """A part of a row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first = column < width
    value = tl.load(x + row * x_row + column, mask=first, other=0).to(out.dtype.element_ty)
    second = (column >= width) & (column < columns)
    behind = tl.load(more + row * more_row + column - width, mask=second, other=0).to(out.dtype.element_ty)
    tl.store(out + row * out_row + column, tl.where(first, value, behind), mask=column < columns)


@cache
def _levels(device: torch.device) -> Float[Tensor, "16"]:
    return nf4_code().to(device)


def _check_cuda(name: str, tensor: Tensor) -> None:
    _validate.require(tensor.is_cuda, name, "on a GPU", tensor.device)
    check_dtype(name, tensor.dtype)


def check_dtype(name: str, dtype: torch.dtype) -> None:
    """Raise where a kernel would compute in bfloat16 on a GPU without it (before compute capability 8.0)."""
    allowed = dtype != torch.bfloat16 or has_bfloat16()
    _validate.require(allowed, name, "float16 or float32 on a GPU before compute capability 8.0", dtype)
