"""The linear layers of a fused model: base in 4 bits and adapter as one product."""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from lora_edu.accel.layer import CompiledNF4Linear, triton_module
from lora_edu.accel.shared import Shared, pitch, shared
from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.nf4 import QuantState
from lora_edu.methods.qlora import NF4Linear


class LoRAOverNF4(torch.autograd.Function):
    """``x W^T + s (x A^T) B^T`` with ``W`` in 4 bits, all of it in the dtype of ``x``; the sum in ``dtype``.

    Both parts are one product, ``[x, s x A^T] [W, B]^T``: their sum is rounded to 16 bits once. Rounded one after the
    other, an update below half a step of the base's 16 bits would be lost, and the first ones are (docs/speed.md).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "batch in"],
        lora_A: Float[Tensor, "r in"],
        lora_B: Float[Tensor, "out r"],
        narrow: tuple[Tensor, Tensor],
        scaling: float,
        packed: Tensor,
        state: QuantState,
        dtype: torch.dtype,
        notes: Shared | None = None,
    ) -> Float[Tensor, "batch out"]:
        A, B = narrow
        hidden = _scaled(x @ A.T, scaling)
        remade = notes.remade if notes else None
        ctx.save_for_backward(None if remade else x, hidden, packed)
        ctx.remade = remade.awaited() if remade else None
        ctx.narrow, ctx.scaling, ctx.state = narrow, scaling, state
        inputs = _beside(x, hidden, notes.wide if notes else None)
        weights = _weights_and_columns(packed, state, B)
        return inputs @ weights.T if dtype == x.dtype else _wide_product(inputs, weights.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, hidden, packed = ctx.saved_tensors
        if x is None:
            if ctx.remade is None:  # SwiGLU's backward has written over what it would be made of
                raise RuntimeError("a fused model goes back once for each forward: retain_graph is of no use")
            x, ctx.remade = ctx.remade().reshape(len(hidden), -1).to(hidden.dtype), None
        A, B = ctx.narrow
        grads = _with_room(grad_y, len(A), B)
        narrow_grad, grad_hidden = grads[:, : len(B)], grads[:, len(B) :]
        torch.mm(narrow_grad, B, out=grad_hidden)
        _scaled(grad_hidden, ctx.scaling)
        grad_A, grad_B = _wide_product(grad_hidden.T, x), _wide_product(narrow_grad.T, hidden)
        x = None  # before the weights are made: this is where a step takes most memory
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grads @ _weights_and_rows(packed, ctx.state, A)
        return grad_x, grad_A, grad_B, *(None,) * 6


class FusedLoRALinear(LoRALinear):
    """A ``LoRALinear`` over 4 bits whose base and update are one function."""

    narrow: tuple[Tensor, Tensor]
    """``lora_A`` and ``lora_B`` in the compute dtype, as they were when the model's forward began."""
    output: torch.dtype
    """float32 where the residual stream reads the output, else the compute dtype."""
    neighbours: tuple["FusedLayer", ...]
    """The fused layers that read the same tensor, this one among them."""

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """As ``LoRALinear``, rounded once; one token without gradients by one kernel for base and ``lora_B``."""
        base = cast(NF4Linear, self.base_layer)
        rows = x.reshape(-1, self.in_features).to(self.narrow[0].dtype)
        if not torch.is_grad_enabled() and triton_module("decode").fits(rows, base.quant_state):
            y = _of_one_row(self, rows, x)
        else:
            settings = self.narrow, self.scaling, base.packed, base.quant_state, self.output, shared(x)
            y = LoRAOverNF4.apply(rows, self.lora_A, self.lora_B, *settings)  # type: ignore[assignment]
        if base.bias is not None:
            y = y + base.bias.to(y.dtype)
        return y.view(*x.shape[:-1], self.out_features)

    def weight_for(self, row: Float[Tensor, "1 in"]) -> Any:
        """What the kernel for one row multiplies with."""
        A, B = self.narrow
        base = cast(NF4Linear, self.base_layer)
        hidden = _scaled(_wide_product(row, A.T), self.scaling)
        return triton_module("decode").Weight(base.packed, base.quant_state, (hidden, B))


class FusedNF4Linear(CompiledNF4Linear):
    """An ``NF4Linear`` of a fused model without an adapter: for one token one kernel, for its neighbours, too."""

    output: torch.dtype
    neighbours: tuple["FusedLayer", ...]

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """As ``NF4Linear``."""
        rows = x.reshape(-1, self.in_features).to(self.compute_dtype or x.dtype)
        if torch.is_grad_enabled() or not triton_module("decode").fits(rows, self.quant_state):
            return super().forward(x)
        y = _of_one_row(self, rows, x)
        if self.bias is not None:
            y = y + self.bias.to(y.dtype)
        return y.view(*x.shape[:-1], self.out_features)

    def weight_for(self, row: Float[Tensor, "1 in"]) -> Any:
        """What the kernel for one row multiplies with."""
        return triton_module("decode").Weight(self.packed, self.quant_state)


FusedLayer = FusedLoRALinear | FusedNF4Linear


def _of_one_row(layer: FusedLayer, row: Float[Tensor, "1 in"], x: Tensor) -> Float[Tensor, "1 out"]:
    """A layer's product; where ``x`` is what a norm has just given to several layers, theirs by the same kernel."""
    notes = shared(x)
    products = notes.products if notes else {}
    if layer not in products:
        layers = layer.neighbours if notes else (layer,)
        weights = [each.weight_for(row) for each in layers]
        products.update(
            zip(layers, triton_module("decode").products(row, weights, layer.output), strict=True)
        )
    return products.pop(layer)


def _scaled(x: Tensor, scaling: float) -> Tensor:
    """``x``, scaled in place."""
    return x if scaling == 1 else x.mul_(scaling)


def _beside(x: Float[Tensor, "rows in"], hidden: Float[Tensor, "rows r"], wide: Tensor | None) -> Tensor:
    """``[x, hidden]``, where ``x`` stands already if there is room behind it."""
    width, columns = x.shape[1], x.shape[1] + hidden.shape[1]
    if wide is None or wide.shape[1] < columns or wide.dtype != x.dtype:
        return triton_module("cuda").join(x, hidden, _pitched(len(x), columns, hidden))
    wide[:, width:columns] = hidden
    return wide[:, :columns]


def _with_room(x: Tensor, columns: int, like: Tensor) -> Tensor:
    """A copy of ``x`` in the dtype of another, with more columns behind it that are unwritten."""
    return triton_module("cuda").join(x, None, _pitched(len(x), x.shape[1] + columns, like))


def _weights_and_columns(packed: Tensor, state: QuantState, B: Float[Tensor, "out r"]) -> Tensor:
    """``[W, B]``, of shape (out, in + r)."""
    out_features, in_features = state.shape
    both = _pitched(out_features, in_features + B.shape[1], B)
    _write_weights(packed, state, both[:, :in_features], (B, both[:, in_features:]))
    return both


def _weights_and_rows(packed: Tensor, state: QuantState, A: Float[Tensor, "r in"]) -> Tensor:
    """``[W; A]``, of shape (out + r, in)."""
    out_features, in_features = state.shape
    both = A.new_empty(out_features + len(A), in_features)
    _write_weights(packed, state, both[:out_features], (A, both[out_features:]))
    return both


def _pitched(rows: int, columns: int, like: Tensor) -> Tensor:
    """An empty matrix whose rows begin where the GPU likes it."""
    return like.new_empty(rows, pitch(columns))[:, :columns]


def _write_weights(packed: Tensor, state: QuantState, out: Tensor, beside: tuple[Tensor, Tensor]) -> None:
    triton_module("cuda").write_weights(packed, state, out, beside)


def _wide_product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of 16 bits, summed and returned in float32."""
    return cast(Any, torch.mm)(a, b, out_dtype=torch.float32)
