"""How a layer holds a frozen NF4 weight: in buffers, which are saved and move with the model but never train."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from lora_edu.methods.bitsandbytes_format import read_linear4bit, write_linear4bit
from lora_edu.methods.nf4 import QuantState, check_stored

CONSTANTS = ("absmax", "nested_absmax", "nested_code", "offset")
"""The tensors of a ``QuantState``, which become buffers."""

LAYOUT = ("shape", "dtype", "blocksize", "nested_blocksize")
"""What else it holds."""


class NF4Module(nn.Module):
    """What ``NF4Linear`` holds, an NF4 weight of (out, in) and a bias or None, and in what formats."""

    packed: Tensor
    bias: Tensor | None

    @property
    def quant_state(self) -> QuantState:
        """What ``dequantize_nf4(self.packed, self.quant_state)`` wants."""
        return QuantState(**self._layout, **{name: getattr(self, name) for name in CONSTANTS})

    def to_bitsandbytes(self) -> dict[str, Tensor]:
        """What ``bitsandbytes.nn.Linear4bit.state_dict()`` would be, bit for bit."""
        return write_linear4bit(self.packed, self.quant_state, self.bias)

    @classmethod
    def from_bitsandbytes(
        cls, state_dict: dict[str, Tensor], compute_dtype: torch.dtype | None = None
    ) -> Self:
        """The layer whose ``bitsandbytes.nn.Linear4bit.state_dict()`` this is, bit for bit.

        Raises
        ------
        TypeError, ValueError
            An entry is missing or does not fit the others, or the weight is not NF4.
        """
        return cls._holding(*read_linear4bit(state_dict), compute_dtype)

    @classmethod
    def _holding(
        cls, packed: Tensor, s: QuantState, bias: Tensor | None, compute_dtype: torch.dtype | None
    ) -> Self:
        out_features, in_features = s.shape
        nested = s.nested_absmax is not None
        layer = cls(in_features, out_features, False, s.blocksize, nested, compute_dtype, "meta", s.dtype)
        layer._store(packed, s, bias)
        return layer

    def _store(self, packed: Tensor, quant_state: QuantState, bias: Tensor | None) -> None:
        check_stored(packed, quant_state)
        self._layout = {name: getattr(quant_state, name) for name in LAYOUT}
        self.register_buffer("packed", packed)
        for name in CONSTANTS:
            self.register_buffer(name, getattr(quant_state, name))
        self.register_buffer("bias", bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move with the model but keep every dtype: ``model.half()`` must not round the float32 constants."""

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, recurse)
