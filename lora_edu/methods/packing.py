"""Two 4-bit indices in one byte, as bitsandbytes lays them out: ``[i0, i1] -> 16 * i0 + i1``."""

import torch
from jaxtyping import UInt8
from torch import Tensor

from lora_edu.methods import _validate


def pack_4bit(indices: UInt8[Tensor, "*shape"]) -> UInt8[Tensor, "bytes"]:
    """Pack indices 0 … 15, in row-major order, two to a byte.

    Parameters
    ----------
    indices
        uint8, any shape, at least one element, each 0 … 15.

    Returns
    -------
    Tensor
        ``ceil(numel / 2)`` bytes: the even element in the high half, an odd tail padded with 0.

    Raises
    ------
    TypeError, ValueError
        ``indices`` is no uint8 tensor, is empty, or holds a value above 15.
    """
    _validate.tensor("indices", indices, torch.uint8)
    largest = int(indices.max())
    _validate.require(largest <= 15, "indices", "at most 15", largest)
    flat = indices.flatten()
    even, odd = flat[::2], flat[1::2]
    if even.numel() > odd.numel():
        odd = torch.cat([odd, odd.new_zeros(1)])
    return torch.add(odd, even, alpha=16)


def unpack_4bit(packed: UInt8[Tensor, "bytes"], numel: int) -> UInt8[Tensor, "numel"]:
    """The first ``numel`` indices of ``packed``: the inverse of ``pack_4bit``.

    Parameters
    ----------
    packed
        uint8, one-dimensional.
    numel
        Number of indices: ``2 * packed.numel()`` or one fewer.

    Raises
    ------
    TypeError, ValueError
        ``packed`` is no one-dimensional uint8 tensor or is empty, or ``numel`` does not belong to it.
    """
    _validate.tensor("packed", packed, torch.uint8, ndim=1)
    _validate.integer("numel", numel, 2 * packed.numel() - 1, 2 * packed.numel())
    return torch.stack([packed >> 4, packed & 15], dim=1).flatten()[:numel]
