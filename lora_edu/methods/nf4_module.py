"""How a layer holds a frozen NF4 weight: in buffers, which are saved and move with the model but never train."""

import json
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from lora_edu.methods.bitsandbytes_format import read_linear4bit, write_linear4bit
from lora_edu.methods.nf4 import QuantState, check_stored

CONSTANTS = ("absmax", "nested_absmax", "nested_code", "offset")
"""The tensors of a ``QuantState``, which become buffers."""

LAYOUT = ("shape", "dtype", "blocksize", "nested_blocksize")
"""What else it holds."""


class NF4Module(nn.Module):
    """What ``NF4Linear`` holds, an NF4 weight of (out, in) and a bias or None, and in what formats.

    The same codes mean other weights in another shape or with another block size. So the layout is part of
    ``state_dict()``, as a tensor of bytes (``_extra_state``), and ``load_state_dict`` compares it. A dict of before it
    was kept lacks that entry: ``strict=True`` refuses it as incomplete, and ``strict=False`` takes the codes at their
    word.
    """

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

    def get_extra_state(self) -> Tensor:
        """The layout as JSON, whose bytes are a tensor: what safetensors can hold."""
        layout = self._layout | {"shape": list(self._layout["shape"]), "dtype": str(self._layout["dtype"])}
        return torch.tensor(list(json.dumps(layout, sort_keys=True).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Nothing to set: a layout that differs has been refused."""

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """PyTorch's own, unless the layout differs: then nothing of this layer changes and the error says how."""
        stored, here = state_dict.get(f"{prefix}_extra_state"), self.get_extra_state()
        if isinstance(stored, Tensor) and not torch.equal(stored.cpu(), here):
            error_msgs.append(f"layout of {prefix}packed must be {_text(here)}, got {_text(stored)}")
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move with the model but keep every dtype: ``model.half()`` must not round the float32 constants."""

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, recurse)


def _text(layout: Tensor) -> str:
    return bytes(layout.tolist()).decode(errors="replace")
