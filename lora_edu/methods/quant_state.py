"""What is stored beside packed NF4 codes, how many bits that is, and whether it belongs together."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from lora_edu.methods import _validate


@dataclass(frozen=True, eq=False)
class QuantState:
    """What is needed beside the packed codes to get the weights back.

    Attributes
    ----------
    shape, dtype
        Of the weights that were quantized.
    blocksize
        Weights a block.
    absmax
        One scale a block: float32, or uint8 codes under double quantization.
    nested_absmax
        float32, one scale for each ``nested_blocksize`` of the codes in ``absmax``.
    nested_blocksize
        Codes of ``absmax`` a block.
    nested_code
        float32, the 256 levels that the codes in ``absmax`` name.
    offset
        float32, the mean that was taken from the scales before they were quantized.
    """

    shape: torch.Size
    dtype: torch.dtype
    blocksize: int
    absmax: Tensor
    nested_absmax: Tensor | None = None
    nested_blocksize: int | None = None
    nested_code: Tensor | None = None
    offset: Tensor | None = None


def bits_per_parameter(quant_state: QuantState) -> float:
    """Bits stored for each weight: packed codes, scales and offset; the two code tables are left out.

    Returns
    -------
    float
        Bits: 4.5 at block 64; 4.127 with double quantization, on a large matrix.

    Raises
    ------
    TypeError
        ``quant_state`` is no ``QuantState``.
    """
    s = quant_state
    _check_type(s)
    numel = math.prod(s.shape)
    constants = [t for t in (s.absmax, s.nested_absmax, s.offset) if t is not None]
    return 8 * (packed_bytes(numel) + sum(t.nbytes for t in constants)) / numel


def check_stored(packed: UInt8[Tensor, "bytes"], quant_state: QuantState) -> None:
    """Raise unless the two belong together: the right number of codes, of scales, and of scales of scales.

    Raises
    ------
    TypeError, ValueError
        Naming the tensor that does not fit.
    """
    s = quant_state
    _check_type(s)
    _validate.tensor("packed", packed, torch.uint8)
    numel = math.prod(s.shape)
    blocks = block_count(numel, s.blocksize)
    _validate.shape("packed", packed, (packed_bytes(numel),))
    _validate.shape("quant_state.absmax", s.absmax, (blocks,))
    if s.absmax.dtype == torch.float32:
        return
    _validate.tensor("quant_state.absmax", s.absmax, torch.uint8)
    _validate.integer("quant_state.nested_blocksize", s.nested_blocksize, 1)
    shapes = {
        "nested_absmax": (block_count(blocks, s.nested_blocksize or 1),),
        "nested_code": (256,),
        "offset": (),
    }
    for name, shape in shapes.items():
        constant = getattr(s, name)
        _validate.tensor(f"quant_state.{name}", constant, torch.float32)
        _validate.shape(f"quant_state.{name}", constant, shape)


def check_out(out: Tensor, quant_state: QuantState) -> None:
    """Raise ValueError unless the weights can be written to ``out``: contiguous, of their shape and dtype."""
    s = quant_state
    fits = isinstance(out, Tensor) and (out.shape, out.dtype, out.is_contiguous()) == (s.shape, s.dtype, True)
    given = f"{tuple(out.shape)}, {out.dtype}" if isinstance(out, Tensor) else type(out).__name__
    _validate.require(fits, "out", f"a contiguous tensor, {tuple(s.shape)}, {s.dtype}", given)


def packed_bytes(numel: int) -> int:
    """Bytes that hold ``numel`` 4-bit codes."""
    return -(-numel // 2)


def block_count(numel: int, blocksize: int) -> int:
    """Blocks in ``numel`` values; the last one may be shorter."""
    return -(-numel // blocksize)


def _check_type(s: QuantState) -> None:
    _validate.require(isinstance(s, QuantState), "quant_state", "a QuantState", type(s).__name__, TypeError)
