r"""QLoRA's base layer: a frozen 4-bit weight, made wide for a product and forgotten again.

.. math:: y = x\, \hat W^\top + b, \qquad
          \frac{\partial L}{\partial x} = \frac{\partial L}{\partial y}\, \hat W, \qquad
          \hat W = \text{dequantize}(q)

No gradient for the weight exists, and nothing as large as the weight is kept between forward and backward.
QLoRA is ``LoRALinear(NF4Linear.from_linear(linear), r=8, lora_alpha=16)``.
"""

from dataclasses import replace
from types import ModuleType
from typing import Any, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lora_edu.methods import _fast, _validate
from lora_edu.methods.nf4 import QuantState, dequantize_nf4, empty_nf4, quantize_nf4
from lora_edu.methods.nf4_module import NF4Module


class MatMulNF4(torch.autograd.Function):
    """``x @ W.T`` with ``W = dequantize_nf4(packed, quant_state)``, of which only the 4 bits are kept.

    ``products.matmul`` and ``.matmul_transposed`` make ``W`` in forward and again in backward: ``_fast`` in panels of
    rows, each dropped after its product.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "batch in"], packed: Tensor, quant_state: QuantState, products: ModuleType
    ) -> Tensor:
        ctx.save_for_backward(packed)
        ctx.quant_state, ctx.products = quant_state, products
        return products.matmul(x, packed, quant_state)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_y: Float[Tensor, "batch out"]
    ) -> tuple[Tensor, None, None, None]:
        (packed,) = ctx.saved_tensors
        return ctx.products.matmul_transposed(grad_y, packed, ctx.quant_state), None, None, None


class NF4Linear(NF4Module):
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
        in_features = _validate.integer("in_features", in_features, 1)
        out_features = _validate.integer("out_features", out_features, 1)
        double_quant = _validate.flag("double_quant", double_quant)
        dtype = dtype or torch.get_default_dtype()
        _validate.floating_dtype("dtype", dtype)
        _validate.floating_dtype("compute_dtype", compute_dtype or dtype)
        self.in_features, self.out_features = in_features, out_features
        self.compute_dtype = compute_dtype
        zeros = torch.zeros(out_features, dtype=dtype, device=device) if bias else None
        self._store(*empty_nf4((out_features, in_features), dtype, blocksize, double_quant, device), zeros)

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
        bias = None if linear.bias is None else linear.bias.detach().clone()
        layer = cls._holding(*quantize_nf4(linear.weight, blocksize, double_quant), bias, compute_dtype)
        return layer.train(linear.training)

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
        if torch.is_grad_enabled() and rows.requires_grad:
            y = cast(Tensor, MatMulNF4.apply(rows, self.packed, self.quant_state, self._products))
        else:  # going through autograd would cost as much again
            y = self._products.matmul(rows, self.packed, self.quant_state)
        if self.bias is not None:
            y = y + self.bias.to(y.dtype)
        return y.view(*x.shape[:-1], self.out_features).to(x.dtype)

    @property
    def _products(self) -> ModuleType:
        return _fast

    def extra_repr(self) -> str:
        """What ``print(model)`` shows of this layer."""
        bias, blocksize = self.bias is not None, self.quant_state.blocksize
        return f"in_features={self.in_features}, out_features={self.out_features}, {bias=}, {blocksize=}"
