r"""NF4 as bitsandbytes stores it: two codes a byte, one scale a block.

.. math:: i_k = \arg\min_j \left| \frac{w_k}{a} - c_j \right|, \qquad \hat w_k = c_{i_k}\, a, \qquad
          a = \max_{l \,\in\, \text{block}} |w_l|

``c`` are the 16 NF4 levels, ``a`` is the absmax of each block of 64 weights. A code takes 4 bits and a scale
32/64 of a bit: 4.5 bits a weight, or 4.127 when the scales are quantized in their turn (``double_quant``).

Both directions stand here twice. The ``plain`` ones say what is done; the others give the same bytes, several
times faster and with little memory (``_fast``).

References
----------
Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", arXiv 2305.14314, section 3.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from lora_edu.methods import _fast, _validate
from lora_edu.methods._fast import dequantized_panels, nearest_nf4_level
from lora_edu.methods.blockwise import dequantize_blockwise, quantize_blockwise
from lora_edu.methods.codebook import nf4_code
from lora_edu.methods.double_quant import double_quantize, scales
from lora_edu.methods.packing import pack_4bit, unpack_4bit
from lora_edu.methods.quant_state import (
    QuantState,
    bits_per_parameter,
    block_count,
    check_out,
    check_stored,
    packed_bytes,
)

__all__ = [
    "QuantState",
    "bits_per_parameter",
    "check_out",
    "check_stored",
    "dequantize_nf4",
    "dequantized_panels",
    "empty_nf4",
    "nearest_nf4_level",
    "plain_dequantize_nf4",
    "plain_quantize_nf4",
    "quantize_nf4",
    "scales",
]

CODE_OF_ZERO = 7
"""The index of the level 0, which pads an odd tail."""


def plain_quantize_nf4(
    W: Float[Tensor, "*shape"], blocksize: int = 64, double_quant: bool = False
) -> tuple[UInt8[Tensor, "bytes"], QuantState]:
    """``quantize_nf4`` in plain words: the nearest level of each weight over its absmax, two to a byte."""
    indices, absmax = quantize_blockwise(W, nf4_code(), blocksize)
    packed = pack_4bit(F.pad(indices.flatten(), (0, W.numel() % 2), value=CODE_OF_ZERO))
    state = QuantState(W.shape, W.dtype, blocksize, absmax)
    return packed, double_quantize(state) if double_quant else state


def plain_dequantize_nf4(packed: UInt8[Tensor, "bytes"], quant_state: QuantState) -> Float[Tensor, "*shape"]:
    """``dequantize_nf4`` in plain words: the level of each code times the absmax of its block."""
    s = quant_state
    indices = unpack_4bit(packed, math.prod(s.shape))
    return dequantize_blockwise(indices, scales(s), nf4_code(), s.blocksize).view(s.shape).to(s.dtype)


def quantize_nf4(
    W: Float[Tensor, "*shape"], blocksize: int = 64, double_quant: bool = False
) -> tuple[UInt8[Tensor, "bytes"], QuantState]:
    """Quantize weights to NF4, byte for byte as bitsandbytes does on a CPU.

    Parameters
    ----------
    W
        Weights: floating-point, finite, any shape.
    blocksize
        Weights a block, at least 1.
    double_quant
        Quantize the scales too.

    Returns
    -------
    packed
        uint8, one-dimensional, ``ceil(W.numel() / 2)`` bytes; an odd tail is padded with a weight of zero.
    quant_state
        The scales and what else ``dequantize_nf4`` needs.

    Raises
    ------
    TypeError, ValueError
        ``W`` is no floating-point tensor, is empty or not finite; ``blocksize`` is no integer above 0.
    """
    _validate.tensor("W", W)
    blocksize = _validate.integer("blocksize", blocksize, 1)
    packed, absmax = _fast.quantize(W.detach().flatten(), blocksize)
    state = QuantState(W.shape, W.dtype, blocksize, absmax)
    return packed, double_quantize(state) if double_quant else state


def dequantize_nf4(
    packed: UInt8[Tensor, "bytes"], quant_state: QuantState, out: Float[Tensor, "*shape"] | None = None
) -> Float[Tensor, "*shape"]:
    """The weights that ``packed`` stands for, in the shape and dtype of the original.

    Parameters
    ----------
    packed, quant_state
        As ``quantize_nf4`` returned them.
    out
        Where to write: contiguous, of that shape and dtype. Filling memory that is already in use is several
        times faster than asking the system for fresh memory.

    Raises
    ------
    TypeError, ValueError
        ``packed``, ``quant_state`` and ``out`` do not belong together.
    """
    s = quant_state
    check_stored(packed, s)
    if out is None:
        out = torch.empty(s.shape, dtype=s.dtype, device=packed.device)
    check_out(out, s)
    _fast.dequantize(packed, s, out.view(-1))
    return out


def empty_nf4(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    blocksize: int,
    double_quant: bool,
    device: torch.device | str | None = None,
) -> tuple[UInt8[Tensor, "bytes"], QuantState]:
    """Room for what ``quantize_nf4`` returns for weights of this shape, every scale zero."""
    blocksize = _validate.integer("blocksize", blocksize, 1)
    numel = math.prod(shape)
    packed = torch.zeros(packed_bytes(numel), dtype=torch.uint8, device=device)
    absmax = torch.zeros(block_count(numel, blocksize), device=device)
    state = QuantState(torch.Size(shape), dtype, blocksize, absmax)
    return packed, double_quantize(state) if double_quant else state
