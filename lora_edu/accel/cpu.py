"""``quantize_nf4`` and ``dequantize_nf4`` as loops over blocks, compiled by numba, and QLoRA's products on top.

The arithmetic is that of ``lora_edu.methods``, operation by operation, so the weights are the same to the bit.
"""

import math
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lora_edu.methods import _fast, _validate
from lora_edu.methods.codebook import nf4_code
from lora_edu.methods.double_quant import double_quantize
from lora_edu.methods.nf4 import CODE_OF_ZERO, QuantState, check_out, check_stored
from lora_edu.methods.quant_state import block_count, packed_bytes

LEVELS = nf4_code().cpu().numpy()
MIDPOINTS = (LEVELS[:-1] + LEVELS[1:]) / 2
# The two levels that each byte names, seen as one number so that one read fetches both.
PAIRS = torch.cartesian_prod(nf4_code(), nf4_code()).cpu().numpy().view(np.uint64).ravel()
# Smallest divisor, as in methods.blockwise: an all-zero block becomes zeros.
TINY = np.float32(1e-38)
ONE = np.float32(1)
BYTE, EIGHT = np.uint64(255), np.uint64(8)
# Blocks worked on at a time, in memory that stays in the cache.
BLOCKS = 64
# A product with at most so many rows is faster with strips of W, of about so many weights, than with panels.
FEW_ROWS = 4
STRIP = 2**13
# Without OpenMP numba ends the process when a second thread starts a loop.
ONE_AT_A_TIME = Lock()


def quantize_nf4(
    W: Float[Tensor, "*shape"], blocksize: int = 64, double_quant: bool = False
) -> tuple[UInt8[Tensor, "bytes"], QuantState]:
    """``lora_edu.methods.nf4.quantize_nf4`` of weights in the memory of the CPU, bit for bit.

    Raises
    ------
    TypeError, ValueError
        ``W`` is no floating-point tensor on the CPU, is empty or not finite; ``blocksize`` is no integer above 0.
    """
    _validate.tensor("W", W)
    check_blocksize("blocksize", blocksize)
    _check_cpu("W", W)
    flat = W.detach().flatten().float()
    packed = torch.empty(packed_bytes(flat.numel()), dtype=torch.uint8, device=W.device)
    absmax = torch.empty(block_count(flat.numel(), blocksize), dtype=torch.float32, device=W.device)
    arrays = flat.numpy(), packed.numpy(), absmax.numpy()
    _run(_quantize, _quantize_range, 0, flat.numel(), blocksize, *arrays)
    _validate.finite("W", absmax)
    state = QuantState(W.shape, W.dtype, blocksize, absmax)
    return packed, double_quantize(state) if double_quant else state


def dequantize_nf4(
    packed: UInt8[Tensor, "bytes"], quant_state: QuantState, out: Float[Tensor, "*shape"] | None = None
) -> Float[Tensor, "*shape"]:
    """``lora_edu.methods.nf4.dequantize_nf4`` of codes in the memory of the CPU, bit for bit.

    An ``out`` that is not float32 is rounded from a float32 copy of the whole weight.

    Raises
    ------
    TypeError, ValueError
        ``packed``, ``quant_state`` and ``out`` do not belong together, or are not on the CPU.
    """
    s = quant_state
    check_stored(packed, s)
    _check_cpu("packed", packed)
    if out is None:
        out = torch.empty(s.shape, dtype=s.dtype, device=packed.device)
    check_out(out, s)
    _check_cpu("out", out)
    wide = out.detach() if out.dtype == torch.float32 else torch.empty_like(out, dtype=torch.float32)
    arrays = packed.numpy(), _constants(s), wide.view(-1).numpy()
    _run(_dequantize, _dequantize_range, 0, wide.numel(), s.blocksize, *arrays)
    return out if wide.data_ptr() == out.data_ptr() else out.copy_(wide)


def matmul(x: Float[Tensor, "batch in"], packed: UInt8[Tensor, "bytes"], s: QuantState) -> Tensor:
    """``x @ W.T``: of few rows in one loop, else as in ``lora_edu.methods`` with one panel of ``W`` after the other."""
    _check_cpu("x", x)
    _check_cpu("packed", packed)
    if not _has_few_rows(x):
        return _fast.matmul(x, packed, s, dequantized_panels)
    y = x.new_empty(1, x.shape[0], s.shape[0])
    _multiply_few_rows(x, packed, s, y, transposed=False)
    return y[0]


def matmul_transposed(
    grad_y: Float[Tensor, "batch out"], packed: UInt8[Tensor, "bytes"], s: QuantState
) -> Tensor:
    """``grad_y @ W``."""
    if not _has_few_rows(grad_y):
        return _fast.matmul_transposed(grad_y, packed, s, dequantized_panels)
    # Each thread sums its rows of W.
    sums = grad_y.new_zeros(torch.get_num_threads(), grad_y.shape[0], s.shape[1])
    _multiply_few_rows(grad_y, packed, s, sums, transposed=True)
    return sums.sum(0)


def dequantized_panels(
    packed: UInt8[Tensor, "bytes"], s: QuantState, dtype: torch.dtype
) -> Iterator[tuple[slice, Float[Tensor, "rows in"]]]:
    """``lora_edu.methods.nf4.dequantized_panels``."""
    height, width = s.shape
    rows = min(_fast.panel_rows(_fast.DEQUANTIZE_CHUNK, s, packed.device), height)
    W = torch.empty(rows, width, dtype=torch.float32, device=packed.device)
    arrays = packed.numpy(), _constants(s), W.view(-1).numpy()
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        _run(_dequantize, _dequantize_range, start * width, stop * width, s.blocksize, *arrays)
        yield slice(start, stop), W[: stop - start].to(dtype)


def check_blocksize(name: str, blocksize: int) -> None:
    """Raise unless the loops work with such blocks."""
    _validate.integer(name, blocksize, 1)


def _has_few_rows(x: Tensor) -> bool:
    return x.dtype == torch.float32 and len(x) <= FEW_ROWS


def _multiply_few_rows(x: Tensor, packed: Tensor, s: QuantState, out: Tensor, transposed: bool) -> None:
    strip = _fast.panel_rows(STRIP, s, packed.device) * s.shape[1]  # a small panel
    arrays = packed.numpy(), _constants(s), x.detach().contiguous().numpy(), out.numpy()
    _run(_multiply, _multiply_range, 0, math.prod(s.shape), s.blocksize, strip, transposed, *arrays)


def _constants(s: QuantState) -> tuple[Any, ...]:
    """The scales; under double quantization their codes and what ``methods.double_quant.scales`` does with them."""
    if s.nested_absmax is None or s.nested_code is None or s.offset is None:
        return (s.absmax.numpy(),)
    constants = s.nested_absmax.numpy(), s.nested_code.numpy(), s.offset.numpy()[()]
    return s.absmax.numpy(), *constants, s.nested_blocksize


def _run(
    parallel: Any, serial: Callable[..., None], begin: int, end: int, blocksize: int, *arrays: Any
) -> None:
    """A loop from ``begin`` to ``end``, on as many threads as PyTorch has; both libraries keep their numbers.

    On one thread, numba's are left alone: a process that was forked from one where they work must not touch them.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return serial(begin, end, blocksize, *arrays)
    with ONE_AT_A_TIME:
        most = numba.get_num_threads()  # for the first time, it starts them and changes the number of PyTorch
        numba.set_num_threads(min(threads, most))
        try:
            parallel(begin, end, threads, blocksize, *arrays)
        finally:
            numba.set_num_threads(most)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)


@numba.njit(nogil=True, cache=True)
def _share(begin: int, end: int, threads: int, unit: int) -> int:
    """How many weights a thread works on: whole units."""
    return unit * -(-(end - begin) // (unit * threads))


@numba.njit(nogil=True, cache=True, parallel=True)
def _quantize(
    begin: int, end: int, threads: int, blocksize: int, weights: Any, packed: Any, absmax: Any
) -> None:
    share = _share(begin, end, threads, 2 * blocksize)  # a range begins with a byte
    for k in numba.prange(threads):
        first = begin + k * share
        _quantize_range(first, min(first + share, end), blocksize, weights, packed, absmax)


@numba.njit(nogil=True, cache=True, parallel=True)
def _dequantize(
    begin: int, end: int, threads: int, blocksize: int, packed: Any, constants: Any, out: Any
) -> None:
    """Write the weights from ``begin`` to ``end`` to ``out``, from its beginning."""
    share = _share(begin, end, threads, 2 * blocksize)  # a range begins with a byte
    for k in numba.prange(threads):
        first = k * share
        last = min(first + share, end - begin)
        _dequantize_range(begin + first, begin + last, blocksize, packed, constants, out[first:last])


@numba.njit(nogil=True, cache=True)
def _quantize_range(begin: int, end: int, blocksize: int, weights: Any, packed: Any, absmax: Any) -> None:
    for start in range(begin, end, BLOCKS * blocksize):
        stop = min(start + BLOCKS * blocksize, end)
        codes = np.full(stop - start + (stop - start) % 2, CODE_OF_ZERO, np.int32)
        for first in range(start, stop, blocksize):
            last, number = min(first + blocksize, stop), first // blocksize
            block = weights[first:last]
            absmax.view(np.int32)[number] = _largest(block.view(np.int32))
            here = codes[first - start : last - start]
            if len(block) == blocksize:
                _nearest_levels(block, ONE / max(absmax[number], TINY), here)
            else:
                absmax[number] = max(absmax[number], TINY)
                _nearest_levels(block / absmax[number], ONE, here)
        _pack(codes, packed[start // 2 :])


@numba.njit(nogil=True, cache=True)
def _dequantize_range(begin: int, end: int, blocksize: int, packed: Any, constants: Any, out: Any) -> None:
    for start in range(begin, end, BLOCKS * blocksize):
        stop = min(start + BLOCKS * blocksize, end)
        pairs = np.empty((stop - start + 1) // 2, np.uint64)
        _look_up(packed[start // 2 :], pairs)
        levels = pairs.view(np.float32)
        for first in range(start, stop, blocksize):
            last = min(first + blocksize, stop)
            _scale(
                levels[first - start :],
                _absmax(first // blocksize, constants),
                out[first - begin : last - begin],
            )


@numba.njit(cache=True)
def _absmax(block: int, constants: Any) -> Any:
    if len(constants) == 1:
        return constants[0][block]
    codes, nested_absmax, nested_code, offset, nested_blocksize = constants
    return nested_code[codes[block]] * nested_absmax[block // nested_blocksize] + offset


@numba.njit(cache=True)
def _look_up(packed: Any, pairs: Any) -> None:
    # Eight bytes are read at once and looked up one by one: a vector instruction, the compiler's choice otherwise, is
    # slower here.
    whole = len(pairs) // 8
    words = packed[: 8 * whole].view(np.uint64)
    for i in range(whole):
        word = words[i]
        for k in range(8):
            pairs[8 * i + k] = PAIRS[word & BYTE]
            word >>= EIGHT
    for i in range(8 * whole, len(pairs)):
        pairs[i] = PAIRS[packed[i]]


@numba.njit(nogil=True, cache=True, parallel=True)
def _multiply(
    begin: int,
    end: int,
    threads: int,
    blocksize: int,
    strip: int,
    transposed: bool,
    packed: Any,
    constants: Any,
    x: Any,
    out: Any,
) -> None:
    share = _share(begin, end, threads, strip)
    for k in numba.prange(threads):
        first = begin + k * share
        mine = out[k : k + 1] if transposed else out[:1]
        _multiply_range(
            first, min(first + share, end), blocksize, strip, transposed, packed, constants, x, mine
        )


@numba.njit(nogil=True, cache=True)
def _multiply_range(
    begin: int,
    end: int,
    blocksize: int,
    strip: int,
    transposed: bool,
    packed: Any,
    constants: Any,
    x: Any,
    out: Any,
) -> None:
    """For the rows of ``W`` whose weights lie from ``begin`` to ``end``: ``x W^T``, or ``x W`` added to ``out[0]``."""
    width = out.shape[2] if transposed else x.shape[1]
    W = np.empty(max(0, min(strip, end - begin)), np.float32)
    for start in range(begin, end, strip):
        stop = min(start + strip, end)
        _dequantize_range(start, stop, blocksize, packed, constants, W)
        for first in range(start, stop, width):
            row, number = W[first - start : first - start + width], first // width
            for t in range(len(x)):
                if transposed:
                    _add_multiple(x[t, number], row, out[0, t])
                else:
                    out[0, t, number] = _dot(x[t], row)


# Loops so small that the compiler turns them into vector instructions.


@numba.njit(cache=True)
def _largest(bits: Any) -> Any:
    """The largest magnitude: without their sign the bits of floating-point numbers ascend, up to infinity and NaN."""
    largest = np.int32(0)
    for k in range(len(bits)):
        largest = max(largest, bits[k] & np.int32(0x7FFFFFFF))
    return largest


@numba.njit(cache=True)
def _nearest_levels(values: Any, factor: Any, codes: Any) -> None:
    for k in range(len(values)):
        x = values[k] * factor
        code = np.int32(0)
        for j in range(len(MIDPOINTS)):
            code += np.int32(x > MIDPOINTS[j])
        codes[k] = code


@numba.njit(cache=True)
def _pack(codes: Any, packed: Any) -> None:
    for i in range(len(codes) // 2):
        packed[i] = codes[2 * i] * 16 + codes[2 * i + 1]


@numba.njit(cache=True)
def _scale(levels: Any, scale: Any, out: Any) -> None:
    for k in range(len(out)):
        out[k] = levels[k] * scale


@numba.njit(cache=True, fastmath={"reassoc", "contract"})
def _dot(a: Any, b: Any) -> Any:
    total = np.float32(0)
    for k in range(len(a)):
        total += a[k] * b[k]
    return total


@numba.njit(cache=True, fastmath={"contract"})
def _add_multiple(factor: Any, row: Any, out: Any) -> None:
    for k in range(len(out)):
        out[k] += factor * row[k]


def _check_cpu(name: str, tensor: Tensor) -> None:
    _validate.require(tensor.device.type == "cpu", name, "on the CPU", tensor.device)
