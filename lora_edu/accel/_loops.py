"""The loops of ``cpu``, compiled by numba: over ranges of weights, on one thread or on several.

Each works on NumPy arrays of one range. Arguments are checked by the callers.
"""

from typing import Any

import numba
import numpy as np
import torch

from lora_edu.methods.codebook import nf4_code
from lora_edu.methods.nf4 import CODE_OF_ZERO

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


@numba.njit(nogil=True, cache=True)
def _share(begin: int, end: int, threads: int, unit: int) -> int:
    """How many weights a thread works on: whole units."""
    return unit * -(-(end - begin) // (unit * threads))


@numba.njit(nogil=True, cache=True, parallel=True)
def quantize(
    begin: int, end: int, threads: int, blocksize: int, weights: Any, packed: Any, absmax: Any
) -> None:
    share = _share(begin, end, threads, 2 * blocksize)  # a range begins with a byte
    for k in numba.prange(threads):
        first = begin + k * share
        quantize_range(first, min(first + share, end), blocksize, weights, packed, absmax)


@numba.njit(nogil=True, cache=True, parallel=True)
def dequantize(
    begin: int, end: int, threads: int, blocksize: int, packed: Any, constants: Any, out: Any
) -> None:
    """Write the weights from ``begin`` to ``end`` to ``out``, from its beginning."""
    share = _share(begin, end, threads, 2 * blocksize)  # a range begins with a byte
    for k in numba.prange(threads):
        first = k * share
        last = min(first + share, end - begin)
        dequantize_range(begin + first, begin + last, blocksize, packed, constants, out[first:last])


@numba.njit(nogil=True, cache=True)
def quantize_range(begin: int, end: int, blocksize: int, weights: Any, packed: Any, absmax: Any) -> None:
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
def dequantize_range(begin: int, end: int, blocksize: int, packed: Any, constants: Any, out: Any) -> None:
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
def multiply(
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
        multiply_range(
            first, min(first + share, end), blocksize, strip, transposed, packed, constants, x, mine
        )


@numba.njit(nogil=True, cache=True)
def multiply_range(
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
        dequantize_range(start, stop, blocksize, packed, constants, W)
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
