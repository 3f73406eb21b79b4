"""The 4-bit formats that notebook 08 compares, each with the constants that it is stored with there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_edu.methods.blockwise import (
    dequantize_blockwise,
    dequantize_minmax,
    quantize_blockwise,
    quantize_minmax,
)
from lora_edu.methods.codebook import fp4_code, symmetric_int_code, uniform_code
from lora_edu.methods.nf4 import dequantize_nf4, quantize_nf4


@dataclass(frozen=True)
class Format:
    """A way to store a weight in 4 bits and a share of its block's constants.

    Attributes
    ----------
    round_trip
        ``round_trip(W, blocksize)``: the weights, one-dimensional, as they are read back.
    constant_bits
        Bits of constants that each block keeps.
    """

    round_trip: Callable[[Tensor, int], Tensor]
    constant_bits: float

    def bits(self, blocksize: int) -> float:
        """Bits for each weight, whole blocks assumed; code tables are left out."""
        return 4 + self.constant_bits / blocksize


def _half(constants: Tensor) -> Tensor:
    return constants.half().float()


def _scaled(code: Tensor, W: Tensor, blocksize: int, keep: Callable[[Tensor], Tensor]) -> Tensor:
    indices, absmax = quantize_blockwise(W, code, blocksize)
    return dequantize_blockwise(indices, keep(absmax), code, blocksize)


def _nf4(W: Tensor, blocksize: int, double_quant: bool) -> Tensor:
    return dequantize_nf4(*quantize_nf4(W, blocksize, double_quant))


def _signed_max(W: Tensor, blocksize: int) -> Tensor:
    """The largest weight of a block, sign and all, becomes -8. No block may be all zeros."""
    blocks = W.view(-1, blocksize)
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    step = _half(largest / -8)
    return ((blocks / step).round().clamp(-8, 7) * step).flatten()


def _minmax(W: Tensor, blocksize: int) -> Tensor:
    indices, low, step = quantize_minmax(W, blocksize)
    return dequantize_minmax(indices, _half(low), _half(step), blocksize)


def normal_code(offset: float) -> Tensor:
    """Sixteen levels in [-1, 1] from the quantiles of N(0, 1), float64, in the way of ``derive_nf4_code``.

    Parameters
    ----------
    offset
        Probability at which the outermost levels stand, above 0.5 and below 1; NF4's is (1 - 1/30 + 1 - 1/32) / 2.

    Raises
    ------
    ValueError
        If `offset` lies outside.
    """
    if not 0.5 < offset < 1:
        raise ValueError(f"offset must be above 0.5 and below 1, got {offset}")
    positive, negative = (
        torch.special.ndtri(torch.linspace(offset, 0.5, n + 1, dtype=torch.float64)[:-1]) for n in (8, 7)
    )
    levels = torch.cat([-negative, torch.zeros(1), positive]).sort().values
    return levels / levels[-1]


_EIGHTHS = torch.arange(-8, 8) / 8

FORMATS = {
    "NF4": Format(lambda W, b: _nf4(W, b, False), 32),
    "NF4, double quantization": Format(lambda W, b: _nf4(W, b, True), 8 + 32 / 256),
    "fp4": Format(lambda W, b: _scaled(fp4_code(), W, b, lambda absmax: absmax), 32),
    "int4 symmetric": Format(lambda W, b: _scaled(symmetric_int_code(), W, b, _half), 16),
    "int4 even": Format(lambda W, b: _scaled(uniform_code(), W, b, _half), 16),
    "int4 eighths": Format(lambda W, b: _scaled(_EIGHTHS, W, b, _half), 16),
    "int4 signed max": Format(_signed_max, 16),
    "int4 min-max": Format(_minmax, 32),
}


def mean_absolute(W: Tensor, W_hat: Tensor) -> float:
    """Mean of ``|W - W_hat|``."""
    return (W - W_hat).abs().double().mean().item()


def root_mean_square(W: Tensor, W_hat: Tensor) -> float:
    """Root of the mean of ``(W - W_hat)**2``."""
    return (W - W_hat).double().square().mean().sqrt().item()
