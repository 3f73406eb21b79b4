"""``quantize_nf4`` and ``dequantize_nf4`` as loops over blocks, compiled by numba, and QLoRA's products on top.

Here arguments are checked and work is shared among threads; the loops stand in ``_loops``. The arithmetic is
that of ``lora_edu.methods``, operation by operation, so the weights are the same to the bit.
"""

import math
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any

import numba
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lora_edu.accel import _loops
from lora_edu.methods import _fast, _validate
from lora_edu.methods.double_quant import double_quantize
from lora_edu.methods.nf4 import QuantState, check_out, check_stored
from lora_edu.methods.quant_state import block_count, packed_bytes

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
    blocksize = check_blocksize("blocksize", blocksize)
    _check_cpu("W", W)
    flat = W.detach().flatten().float()
    packed = torch.empty(packed_bytes(flat.numel()), dtype=torch.uint8, device=W.device)
    absmax = torch.empty(block_count(flat.numel(), blocksize), dtype=torch.float32, device=W.device)
    arrays = flat.numpy(), packed.numpy(), absmax.numpy()
    _run(_loops.quantize, _loops.quantize_range, 0, flat.numel(), blocksize, *arrays)
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
    _run(_loops.dequantize, _loops.dequantize_range, 0, wide.numel(), s.blocksize, *arrays)
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
        _run(_loops.dequantize, _loops.dequantize_range, start * width, stop * width, s.blocksize, *arrays)
        yield slice(start, stop), W[: stop - start].to(dtype)


def check_blocksize(name: str, blocksize: int) -> int:
    """Return the blocksize as Python's own integer; raise unless the loops work with such blocks."""
    return _validate.integer(name, blocksize, 1)


def _has_few_rows(x: Tensor) -> bool:
    return x.dtype == torch.float32 and len(x) <= FEW_ROWS


def _multiply_few_rows(x: Tensor, packed: Tensor, s: QuantState, out: Tensor, transposed: bool) -> None:
    strip = _fast.panel_rows(STRIP, s, packed.device) * s.shape[1]  # a small panel
    arrays = packed.numpy(), _constants(s), x.detach().contiguous().numpy(), out.numpy()
    _run(
        _loops.multiply, _loops.multiply_range, 0, math.prod(s.shape), s.blocksize, strip, transposed, *arrays
    )


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


def _check_cpu(name: str, tensor: Tensor) -> None:
    _validate.require(tensor.device.type == "cpu", name, "on the CPU", tensor.device)
