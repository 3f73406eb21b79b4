"""The 4-bit formats that notebook 08 compares: what each keeps of a block of weights, and what is read back.

A format is defined by how its bytes are read. Where gguf, llama.cpp's own package, also writes it (Q4_0, Q4_1, MXFP4),
the round trips here follow its arithmetic; `gguf_referee` compares them. NVFP4 and Q4_K it only reads.

References
----------
OCP Microscaling Formats (MX) specification 1.0: MXFP4. NVIDIA, "Introducing NVFP4", 2025: blocks of 16, E4M3 scales.
llama.cpp, pull request 1684: Q4_K. Badri and Shaji 2023, "Half-Quadratic Quantization": HQQ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_edu.methods.blockwise import (
    dequantize_blockwise,
    dequantize_minmax,
    quantize_blockwise,
    quantize_minmax,
)
from lora_edu.methods.codebook import fp4_code, nf4_code, symmetric_int_code, uniform_code
from lora_edu.methods.nf4 import dequantize_nf4, quantize_nf4

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
_TINY = 1e-30


@dataclass(frozen=True)
class Format:
    """A way to store weights in 4 bits each and some constants.

    Attributes
    ----------
    round_trip
        The weights as they are read back: one-dimensional in, whole blocks, and out.
    bits
        For each weight, constants included; code tables and what a whole tensor keeps are left out.
    blocksize
        Weights that share constants.
    """

    round_trip: Callable[[Tensor], Tensor]
    bits: float
    blocksize: int


def half(constants: Tensor) -> Tensor:
    """Constants as they are read back from 16 bits."""
    return constants.half().float()


def with_code(W: Tensor, code: Tensor, blocksize: int = 64) -> Tensor:
    """Store each weight as the nearest level of `code` times its block's absmax, which is kept in 16 bits."""
    indices, absmax = quantize_blockwise(W, code, blocksize)
    return dequantize_blockwise(indices, half(absmax), code, blocksize)


def signed_max(W: Tensor, blocksize: int) -> Tensor:
    """The levels -8 ... 7, times a step that takes the largest weight, sign and all, to -8: Q4_0's rule."""
    blocks = W.view(-1, blocksize)
    step = blocks.gather(1, blocks.abs().argmax(1, keepdim=True)) / -8
    codes = (blocks * _reciprocal(step) + 8.5).trunc().clamp(0, 15) - 8
    return (codes * half(step)).flatten()


def min_max(W: Tensor, blocksize: int) -> Tensor:
    """Sixteen even levels from the smallest weight of a block to the largest: Q4_1's rule."""
    indices, low, step = quantize_minmax(W, blocksize)
    return dequantize_minmax(indices, half(low), half(step), blocksize)


def refitted(W: Tensor, blocksize: int, rounds: int = 10) -> Tensor:
    """Min-max whose start and step are searched: nearest levels and the best line through them, in turns.

    HQQ searches the zero point alike, under a norm that forgives outliers; here the squared error is least.
    """
    blocks = W.view(-1, blocksize)
    _, low, step = (part.view(-1, 1) for part in quantize_minmax(W, blocksize))
    for _ in range(rounds):
        codes = _even_codes(blocks, low, step)
        spread = codes - codes.mean(1, keepdim=True)
        step = (spread * blocks).sum(1, keepdim=True) / spread.square().sum(1, keepdim=True).clamp(min=_TINY)
        low = blocks.mean(1, keepdim=True) - step * codes.mean(1, keepdim=True)
    low, step = half(low), half(step)
    return (low + step * _even_codes(blocks, low, step)).flatten()


def mxfp4(W: Tensor) -> Tensor:
    """E2M1 numbers; 32 share a power of two: their largest comes to lie between 4 and 8, and is cut off at 6."""
    blocks = W.view(-1, 32)
    scale = 2.0 ** (blocks.abs().amax(1, keepdim=True).clamp(min=_TINY).log2().floor() - 2)
    return (nearest_e2m1(blocks / scale) * scale).flatten()


def nvfp4_parts(W: Tensor) -> tuple[Tensor, Tensor, float]:
    """E2M1 numbers (blocks, 16), scales that E4M3 holds (blocks, 1), and the factor of the whole tensor."""
    blocks = W.view(-1, 16)
    whole = max(blocks.abs().max().item(), _TINY) / (6 * 448)
    wanted = (blocks.abs().amax(1, keepdim=True) / 6 / whole).clamp(2.0**-9, 448)
    scale = wanted.to(torch.float8_e4m3fn).float()
    return nearest_e2m1(blocks / (scale * whole)), scale, whole


def nvfp4(W: Tensor) -> Tensor:
    """E2M1 numbers; the scale of 16 is an 8-bit float, E4M3."""
    numbers, scale, whole = nvfp4_parts(W)
    return (numbers * scale * whole).flatten()


def q4_k_parts(W: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Codes (superblocks, 8, 32), 6-bit steps and starts (superblocks, 8, 1), and their scales (superblocks, 1, 1).

    A plain encoder: min-max for each 32, both constants rounded. llama.cpp's searches them.
    """
    blocks = W.view(-1, 8, 32)
    below = -blocks.amin(2, keepdim=True).clamp(max=0)
    step = (blocks.amax(2, keepdim=True) + below).clamp(min=0) / 15
    of_step, of_below = (half(part.amax(1, keepdim=True) / 63) for part in (step, below))
    steps, belows = (
        (part * _reciprocal(scale)).round().clamp(0, 63)
        for part, scale in ((step, of_step), (below, of_below))
    )
    codes = _even_codes(blocks, -of_below * belows, of_step * steps)
    return codes, steps, belows, of_step, of_below


def q4_k(W: Tensor) -> Tensor:
    """Min-max for each 32 weights, with 6-bit constants that share two 16-bit scales in 256 weights."""
    codes, steps, belows, of_step, of_below = q4_k_parts(W)
    return (of_step * steps * codes - of_below * belows).flatten()


def nearest_e2m1(x: Tensor) -> Tensor:
    """The nearest 4-bit float; midway the smaller one."""
    return torch.sign(x) * E2M1[torch.bucketize(x.abs(), (E2M1[:-1] + E2M1[1:]) / 2)]


def _even_codes(blocks: Tensor, low: Tensor, step: Tensor) -> Tensor:
    return ((blocks - low) * _reciprocal(step)).round().clamp(0, 15)


def _reciprocal(x: Tensor) -> Tensor:
    return torch.where(x == 0, 0.0, 1 / x)


def _nf4(W: Tensor, double_quant: bool) -> Tensor:
    return dequantize_nf4(*quantize_nf4(W, 64, double_quant))


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


# Codes that can all be given one scale, the absmax of a block.
CODES = {
    "NF4": nf4_code(),
    "float, E2M1": torch.cat([-E2M1[1:].flip(0), E2M1]) / 6,
    "float, bitsandbytes": fp4_code(),
    "even, -1 … 1": uniform_code(),
    "integers, -7 … 7": symmetric_int_code(),
    "integers, -8 … 7": torch.arange(-8, 8) / 8,
}

# By the bits that they cost. In brackets: weights that share a scale, and its bits, where the name does not say them.
FORMATS = {
    "NF4 + DQ": Format(lambda W: _nf4(W, True), 4 + 8 / 64 + 32 / (64 * 256), 64),
    "NF4 (64, 16-bit)": Format(lambda W: with_code(W, nf4_code(), 64), 4 + 16 / 64, 64),
    "MXFP4": Format(mxfp4, 4 + 8 / 32, 32),
    "NF4 (64, 32-bit)": Format(lambda W: _nf4(W, False), 4 + 32 / 64, 64),
    "NF4 (32, 16-bit)": Format(lambda W: with_code(W, nf4_code(), 32), 4 + 16 / 32, 32),
    "NVFP4": Format(nvfp4, 4 + 8 / 16, 16),
    "Q4_0": Format(lambda W: signed_max(W, 32), 4 + 16 / 32, 32),
    "Q4_K": Format(q4_k, 4 + 12 / 32 + 32 / 256, 32),
    "min-max (64)": Format(lambda W: min_max(W, 64), 4 + 32 / 64, 64),
    "searched (64)": Format(lambda W: refitted(W, 64), 4 + 32 / 64, 64),
    "NF4 (16, 16-bit)": Format(lambda W: with_code(W, nf4_code(), 16), 4 + 16 / 16, 16),
    "Q4_1": Format(lambda W: min_max(W, 32), 4 + 32 / 32, 32),
    "searched (32)": Format(lambda W: refitted(W, 32), 4 + 32 / 32, 32),
}


def by_bits(row_of: Callable[[str], Sequence[float]]) -> dict[str, dict[str, Sequence[float]]]:
    """What `row_of` finds for each format by its name, those of equal bits together."""
    groups: dict[str, dict[str, Sequence[float]]] = {}
    for name, scheme in FORMATS.items():
        groups.setdefault(f"{scheme.bits:.3g} bits", {})[name] = row_of(name)
    return groups


def mean_absolute(W: Tensor, W_hat: Tensor) -> float:
    """Mean of ``|W - W_hat|``."""
    return (W - W_hat).abs().double().mean().item()


def root_mean_square(W: Tensor, W_hat: Tensor) -> float:
    """Root of the mean of ``(W - W_hat)**2``."""
    return (W - W_hat).double().square().mean().sqrt().item()
