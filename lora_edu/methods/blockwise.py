r"""One scale for each block of weights, so that an outlier spoils its own block and no other.

.. math:: i_k = \arg\min_j \left| \frac{w_k}{a} - c_j \right|, \qquad \hat w_k = c_{i_k}\, a, \qquad
          a = \max_{l \,\in\, \text{block}} |w_l|

Blocks run over the weights in row-major order; the last one may be shorter. The scale ``a`` is called
``absmax``. Min-max quantization keeps two constants a block instead, its smallest value and its step.

References
----------
Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization", arXiv 2110.02861, section 2.1.
"""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from lora_edu.methods import _validate

# bitsandbytes' smallest divisor: with it an all-zero block becomes zeros instead of NaN.
_TINY = 1e-38


def quantize_blockwise(
    W: Float[Tensor, "*shape"], code: Float[Tensor, "levels"], blocksize: int = 64
) -> tuple[UInt8[Tensor, "*shape"], Float[Tensor, "blocks"]]:
    """The level nearest to each weight over its block's absmax, and the absmax of each block.

    Parameters
    ----------
    W
        Weights: floating-point, finite, any shape.
    code
        Levels in [-1, 1], strictly ascending, at most 256 of them.
    blocksize
        Weights a block, at least 1.

    Returns
    -------
    indices
        uint8, the shape of ``W``.
    absmax
        float32, ``ceil(W.numel() / blocksize)`` scales.

    Raises
    ------
    TypeError, ValueError
        An argument outside these bounds.
    """
    _validate.ascending("code", code)
    _validate.require(bool((code.abs() <= 1).all()), "code", "levels in [-1, 1]", code.tolist())
    x, absmax = normalize_blocks(W, blocksize)
    return nearest_level(x, code.float()).to(torch.uint8).view(W.shape), absmax


def dequantize_blockwise(
    indices: UInt8[Tensor, "*shape"],
    absmax: Float[Tensor, "blocks"],
    code: Float[Tensor, "levels"],
    blocksize: int = 64,
) -> Float[Tensor, "*shape"]:
    """``code[indices]`` times the absmax of each block, float32, in the shape of ``indices``.

    Raises
    ------
    TypeError, ValueError
        ``indices`` is no uint8 tensor or points outside ``code``, ``absmax`` does not have one scale a block,
        ``code`` is not ascending, or ``blocksize`` is below 1.
    """
    _validate.ascending("code", code)
    _check_indices(indices, code.numel())
    _validate.tensor("absmax", absmax)
    levels = code.float()[indices.flatten().int()]
    return (levels * _spread("absmax", absmax, levels, blocksize)).view(indices.shape)


def quantize_minmax(
    W: Float[Tensor, "*shape"], blocksize: int = 64
) -> tuple[UInt8[Tensor, "*shape"], Float[Tensor, "blocks"], Float[Tensor, "blocks"]]:
    """4-bit min-max quantization: sixteen even levels from the smallest to the largest weight of each block.

    Parameters
    ----------
    W
        Weights: floating-point, finite, any shape.
    blocksize
        Weights a block, at least 1.

    Returns
    -------
    indices
        uint8 in 0 … 15, the shape of ``W``.
    low, step
        float32, one a block: ``W`` is about ``low + step * indices``.

    Raises
    ------
    TypeError, ValueError
        An argument outside these bounds.
    """
    flat = _check_weights(W, blocksize)
    # Padding with the last weight leaves the minimum and the maximum of the last block as they are.
    padding = -flat.numel() % blocksize
    blocks = torch.cat([flat, flat[-1:].expand(padding)]).view(-1, blocksize)
    low, high = blocks.amin(1), blocks.amax(1)
    _validate.finite("W", high - low)
    step = (high - low) / 15
    indices = (blocks - low[:, None]) / step.clamp(min=_TINY)[:, None]
    return indices.round().clamp(0, 15).to(torch.uint8).flatten()[: W.numel()].view(W.shape), low, step


def dequantize_minmax(
    indices: UInt8[Tensor, "*shape"],
    low: Float[Tensor, "blocks"],
    step: Float[Tensor, "blocks"],
    blocksize: int = 64,
) -> Float[Tensor, "*shape"]:
    """``low + step * indices``, float32, in the shape of ``indices``.

    Raises
    ------
    TypeError, ValueError
        ``indices`` is no uint8 tensor or holds a value above 15, ``low`` or ``step`` does not have one
        constant a block, or ``blocksize`` is below 1.
    """
    _check_indices(indices, 16)
    _validate.tensor("low", low)
    _validate.tensor("step", step)
    flat = indices.flatten().float()
    W = _spread("low", low, flat, blocksize) + _spread("step", step, flat, blocksize) * flat
    return W.view(indices.shape)


def nearest_level(x: Float[Tensor, "*shape"], code: Float[Tensor, "levels"]) -> Int[Tensor, "*shape"]:
    """Index of the level nearest to each ``x``; a value midway between two takes the lower one.

    Counting the midpoints below ``x`` is enough, because ``code`` ascends.
    """
    return torch.bucketize(x, (code[:-1] + code[1:]) / 2, out_int32=True)


def normalize_blocks(
    W: Float[Tensor, "*shape"], blocksize: int
) -> tuple[Float[Tensor, "numel"], Float[Tensor, "blocks"]]:
    """The weights over the absmax of their block, in [-1, 1], and each absmax; rounded as bitsandbytes does.

    Whole blocks are multiplied by the reciprocal of their absmax, a shorter last block is divided by it: the
    last bit may differ, and with it the nearest level.
    """
    flat = _check_weights(W, blocksize)
    whole = flat.numel() - flat.numel() % blocksize
    blocks, tail = flat[:whole].view(-1, blocksize), flat[whole:]
    absmax = blocks.abs().amax(1)
    x = (blocks * (1 / absmax.clamp(min=_TINY))[:, None]).flatten()
    if tail.numel():
        largest = tail.abs().amax(0, keepdim=True).clamp(min=_TINY)
        absmax, x = torch.cat([absmax, largest]), torch.cat([x, tail / largest])
    _validate.finite("W", absmax)
    return x.clamp_(-1, 1), absmax


def _check_weights(W: Tensor, blocksize: int) -> Tensor:
    _validate.tensor("W", W)
    _validate.integer("blocksize", blocksize, 1)
    return W.detach().flatten().float()


def _check_indices(indices: Tensor, levels: int) -> None:
    _validate.tensor("indices", indices, torch.uint8)
    largest = int(indices.max())
    _validate.require(largest < levels, "indices", f"below {levels}, the number of levels", largest)


def _spread(name: str, constants: Tensor, flat: Tensor, blocksize: int) -> Tensor:
    """One constant a block -> one a weight."""
    _validate.integer("blocksize", blocksize, 1)
    _validate.shape(name, constants, (-(-flat.numel() // blocksize),))
    return constants.float().repeat_interleave(blocksize)[: flat.numel()]
