r"""QLoRA's base layer: a frozen 4-bit weight, made wide for a product and forgotten again.

.. math:: y = \text{dequantize}(q)\, x + b, \qquad
          \frac{\partial L}{\partial x} = \text{dequantize}(q)^\top \frac{\partial L}{\partial y}

No gradient for the weight exists, and nothing as large as the weight is kept between forward and backward.
QLoRA is ``LoRALinear(NF4Linear.from_linear(linear), r=8, lora_alpha=16)``.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lora_edu.methods import _validate
from lora_edu.methods.codebook import nf4_code
from lora_edu.methods.nf4 import (
    QuantState,
    check_stored,
    dequantize_nf4,
    dequantized_panels,
    empty_nf4,
    quantize_nf4,
)

CONSTANTS = ("absmax", "nested_absmax", "nested_code", "offset")
"""The tensors of a ``QuantState``, which become buffers."""

LAYOUT = ("shape", "dtype", "blocksize", "nested_blocksize")
"""What else it holds."""

BITSANDBYTES_FACTS = "weight.quant_state.bitsandbytes__nf4"
"""Where a bitsandbytes state dict keeps what is no tensor: JSON, as bytes."""


class NF4Linear(nn.Module):
    """A frozen linear layer with its weight in NF4.

    ``NF4Linear.from_linear`` quantizes a layer; the constructor makes one of zeros, for ``load_state_dict``.
    All it holds are buffers: they are saved, they move with the model, and no optimizer finds them.

    Parameters
    ----------
    in_features, out_features
        Sizes of an input and of an output, at least 1.
    bias
        Whether a (frozen) bias is added.
    blocksize
        Weights that share a scale.
    double_quant
        Whether the scales are quantized too.
    compute_dtype
        Of the product; None: the dtype of the input.
    device, dtype
        Where the layer lies, and the dtype of the weight that it stands for.

    Raises
    ------
    TypeError, ValueError
        An argument outside these bounds.

    References
    ----------
    Dettmers et al. 2023, arXiv 2305.14314, section 3, equations 5 and 6.
    """

    packed: Tensor
    absmax: Tensor
    nested_absmax: Tensor | None
    nested_code: Tensor | None
    offset: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        blocksize: int = 64,
        double_quant: bool = True,
        compute_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _validate.integer("in_features", in_features, 1)
        _validate.integer("out_features", out_features, 1)
        dtype = dtype or torch.get_default_dtype()
        _validate.floating_dtype("dtype", dtype)
        _validate.floating_dtype("compute_dtype", compute_dtype or dtype)
        self.in_features, self.out_features = in_features, out_features
        self.compute_dtype = compute_dtype
        self._store(*empty_nf4((out_features, in_features), dtype, blocksize, double_quant, device))
        self.register_buffer("bias", torch.zeros(out_features, dtype=dtype, device=device) if bias else None)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        blocksize: int = 64,
        double_quant: bool = True,
        compute_dtype: torch.dtype | None = None,
    ) -> Self:
        """Quantize ``linear``, which stays as it is; its bias is copied.

        Raises
        ------
        TypeError, ValueError
            ``linear`` is no ``nn.Linear`` or its weight is not finite; ``blocksize`` is below 1.
        """
        given = type(linear).__name__
        _validate.require(isinstance(linear, nn.Linear), "linear", "an nn.Linear", given, TypeError)
        packed, quant_state = quantize_nf4(linear.weight, blocksize, double_quant)
        bias = None if linear.bias is None else linear.bias.detach().clone()
        return cls._holding(packed, quant_state, bias, compute_dtype).train(linear.training)

    @property
    def quant_state(self) -> QuantState:
        """What ``dequantize_nf4(self.packed, self.quant_state)`` wants."""
        return QuantState(**self._layout, **{name: getattr(self, name) for name in CONSTANTS})

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
        missing = {"weight", "weight.absmax", BITSANDBYTES_FACTS} - state_dict.keys()
        allowed = f"an NF4 layer's, with {sorted(missing)}"
        _validate.require(not missing, "state_dict", allowed, sorted(state_dict))
        facts = json.loads(bytes(state_dict[BITSANDBYTES_FACTS].tolist()))
        dtype: Any = getattr(torch, facts["dtype"], None)
        offset = facts.get("nested_offset")
        _validate.floating_dtype("state_dict's dtype", dtype)
        packed = state_dict["weight"].flatten()
        quant_state = QuantState(
            torch.Size(facts["shape"]),
            dtype,
            facts["blocksize"],
            state_dict["weight.absmax"],
            state_dict.get("weight.nested_absmax"),
            facts.get("nested_blocksize"),
            state_dict.get("weight.nested_quant_map"),
            None if offset is None else torch.tensor(offset, dtype=torch.float32, device=packed.device),
        )
        return cls._holding(packed, quant_state, state_dict.get("bias"), compute_dtype)

    def to_bitsandbytes(self) -> dict[str, Tensor]:
        """What ``bitsandbytes.nn.Linear4bit.state_dict()`` would be: ``from_bitsandbytes`` reversed."""
        s = self.quant_state
        facts = {
            "quant_type": "nf4",
            "blocksize": s.blocksize,
            "dtype": str(s.dtype).removeprefix("torch."),
            "shape": list(s.shape),
        }
        tensors = {
            "weight": self.packed[:, None],
            "bias": self.bias,
            "weight.absmax": s.absmax,
            "weight.quant_map": nf4_code().to(s.absmax.device),
            "weight.nested_absmax": s.nested_absmax,
            "weight.nested_quant_map": s.nested_code,
        }
        if s.offset is not None:
            facts |= {
                "nested_blocksize": s.nested_blocksize,
                "nested_dtype": "float32",
                "nested_offset": s.offset.item(),
            }
        tensors[BITSANDBYTES_FACTS] = torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8)
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def dequantize(self, dtype: torch.dtype | None = None) -> Float[Tensor, "out in"]:
        """The weight, in ``dtype``, else ``compute_dtype``, else the dtype that was quantized."""
        state = self.quant_state
        return dequantize_nf4(self.packed, replace(state, dtype=dtype or self.compute_dtype or state.dtype))

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """``x W^T + bias``, computed in ``compute_dtype``, returned in the dtype of ``x``.

        Raises
        ------
        TypeError, ValueError
            ``x`` is no floating-point tensor, or its last dimension is not ``in_features``.
        """
        allowed = f"a floating-point tensor of shape (..., {self.in_features})"
        _validate.require(x.is_floating_point(), "x", allowed, x.dtype, TypeError)
        _validate.require(x.shape[-1:] == (self.in_features,), "x", allowed, f"shape {tuple(x.shape)}")
        rows = x.to(self.compute_dtype or x.dtype).reshape(-1, self.in_features)
        # Without a gradient to compute, the product alone: going through autograd would cost as much again.
        product = _MatMulNF4.apply if torch.is_grad_enabled() and x.requires_grad else _matmul_nf4
        y: Tensor = product(rows, self.packed, self.quant_state)  # pyright: ignore[reportAssignmentType]
        if self.bias is not None:
            y = y + self.bias.to(y.dtype)
        return y.view(*x.shape[:-1], self.out_features).to(x.dtype)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows of this layer."""
        bias, blocksize = self.bias is not None, self._layout["blocksize"]
        return f"in_features={self.in_features}, out_features={self.out_features}, {bias=}, {blocksize=}"

    @classmethod
    def _holding(
        cls, packed: Tensor, quant_state: QuantState, bias: Tensor | None, compute_dtype: torch.dtype | None
    ) -> Self:
        s = quant_state
        out_features, in_features = s.shape
        nested = s.nested_absmax is not None
        layer = cls(
            in_features,
            out_features,
            bias is not None,
            s.blocksize,
            nested,
            compute_dtype,
            packed.device,
            s.dtype,
        )
        layer._store(packed, s)
        layer.bias = bias
        return layer

    def _store(self, packed: Tensor, quant_state: QuantState) -> None:
        check_stored(packed, quant_state)
        self._layout = {name: getattr(quant_state, name) for name in LAYOUT}
        self.register_buffer("packed", packed)
        for name in CONSTANTS:
            self.register_buffer(name, getattr(quant_state, name))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move with the model but keep every dtype: ``model.half()`` must not round the float32 constants."""

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, recurse)


def _matmul_nf4(x: Float[Tensor, "batch in"], packed: Tensor, quant_state: QuantState) -> Tensor:
    y = x.new_empty(x.shape[0], quant_state.shape[0])
    for rows, W in dequantized_panels(packed, quant_state, x.dtype):
        torch.mm(x, W.T, out=y[:, rows])
    return y


class _MatMulNF4(torch.autograd.Function):
    """``x W^T``, where backward finds the 4-bit weight and nothing else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, quant_state: QuantState) -> Tensor:
        ctx.save_for_backward(packed)
        ctx.quant_state = quant_state
        return _matmul_nf4(x, packed, quant_state)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_y: Tensor
    ) -> tuple[Tensor, None, None]:
        (packed,) = ctx.saved_tensors
        # The panels' shares are summed in at least float32, as a product with the whole matrix would be.
        sum_dtype = torch.promote_types(grad_y.dtype, torch.float32)
        grad_x = grad_y.new_zeros(grad_y.shape[0], ctx.quant_state.shape[1], dtype=sum_dtype)
        for rows, W in dequantized_panels(packed, ctx.quant_state, grad_y.dtype):
            if W.dtype == grad_x.dtype:
                grad_x.addmm_(grad_y[:, rows], W)
            else:
                grad_x += grad_y[:, rows] @ W
        return grad_x.to(grad_y.dtype), None, None
