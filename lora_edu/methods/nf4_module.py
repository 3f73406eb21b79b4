"""How a module holds a frozen NF4 weight: in buffers, which are saved and move with the model but never train."""

from collections.abc import Callable
from typing import Self

from torch import Tensor, nn

from lora_edu.methods.bitsandbytes_format import write_linear4bit
from lora_edu.methods.nf4 import QuantState, check_stored

CONSTANTS = ("absmax", "nested_absmax", "nested_code", "offset")
"""The tensors of a ``QuantState``, which become buffers."""

LAYOUT = ("shape", "dtype", "blocksize", "nested_blocksize")
"""What else it holds."""


class NF4Module(nn.Module):
    """A module with an NF4 weight, and a bias or None."""

    packed: Tensor
    bias: Tensor | None

    @property
    def quant_state(self) -> QuantState:
        """What ``dequantize_nf4(self.packed, self.quant_state)`` wants."""
        return QuantState(**self._layout, **{name: getattr(self, name) for name in CONSTANTS})

    def to_bitsandbytes(self) -> dict[str, Tensor]:
        """What ``bitsandbytes.nn.Linear4bit.state_dict()`` would be, bit for bit."""
        return write_linear4bit(self.packed, self.quant_state, self.bias)

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
