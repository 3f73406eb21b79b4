"""A QLoRA model whose steps make few copies between dtypes: adapters, norms, rotation and SwiGLU fused.

``fuse(model)`` takes a model in 4 bits on a GPU, from ``add_qlora`` or ``quantize_linear_layers`` of
``lora_edu.llm.surgery``, and gives it other forwards, in place. Weights and adapters stay where they are, and the
residual stream is float32. A layer's sum of base and update is rounded to 16 bits, once; a bias (Qwen2's) is added
after that. ``LoRALinear`` leaves the sum in the dtype of its input, which is float32 behind a norm. What backward needs
of a norm's or a SwiGLU's output is made again from their inputs, which are kept anyway (`remade`). Needs PyTorch 2.8 or
newer.

Rotation and SwiGLU are liger-kernel's, where that is installed (``pip install -e ".[fused]"``). Its norm is not used:
it returns the dtype that it gets, which would make the residual stream 16 bits.
"""

import importlib
import importlib.util
from types import ModuleType
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lora_edu.accel.layer import use_kernels
from lora_edu.accel.remade import Remade, again, remade
from lora_edu.methods import _validate
from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.nf4 import QuantState
from lora_edu.methods.qlora import NF4Linear

FAMILIES = ("llama", "mistral", "qwen2")
"""The ``model_type`` of models whose norms, rotation and SwiGLU are known."""


class LoRAOverNF4(torch.autograd.Function):
    """``x W^T + s (x A^T) B^T`` with ``W`` in 4 bits, all of it in the dtype of ``x``.

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
        x_again: Remade | None = None,
    ) -> Float[Tensor, "batch out"]:
        A, B = narrow
        inputs, hidden = _with_columns(x, len(A))
        torch.mm(x, A.T, out=hidden)
        if scaling != 1:
            hidden.mul_(scaling)
        ctx.save_for_backward(None if x_again else x, hidden.clone(), packed)
        ctx.x_again = x_again.awaited() if x_again else None
        ctx.narrow, ctx.scaling, ctx.state = narrow, scaling, state
        return inputs @ _weights_and_columns(packed, state, B).T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, hidden, packed = ctx.saved_tensors
        if x is None:
            if ctx.x_again is None:  # SwiGLU's backward has written over what it would be made of
                raise RuntimeError("a fused model goes back once for each forward: retain_graph is of no use")
            x, ctx.x_again = again(ctx.x_again, hidden), None
        A, B = ctx.narrow
        grads, grad_hidden = _with_columns(grad_y, len(A))
        torch.mm(grad_y, B, out=grad_hidden)
        if ctx.scaling != 1:
            grad_hidden.mul_(ctx.scaling)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grads @ _weights_and_rows(packed, ctx.state, A)
        return grad_x, _wide_product(grad_hidden.T, x), _wide_product(grad_y.T, hidden), *(None,) * 5


class FusedLoRALinear(LoRALinear):
    """A ``LoRALinear`` over 4 bits whose base and update are one function; its output has the compute dtype."""

    narrow: tuple[Tensor, Tensor]
    """``lora_A`` and ``lora_B`` in the compute dtype, as they were when the model's forward began."""

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """As ``LoRALinear``, rounded once; one token without gradients by one kernel for base and ``lora_B``."""
        base = cast(NF4Linear, self.base_layer)
        rows = x.reshape(-1, self.in_features).to(self.narrow[0].dtype)
        if not torch.is_grad_enabled() and _triton("decode").fits(rows, base.quant_state):
            y = self._of_one_row(rows, base)
        else:
            y = LoRAOverNF4.apply(
                rows,
                self.lora_A,
                self.lora_B,
                self.narrow,
                self.scaling,
                base.packed,
                base.quant_state,
                remade(x),
            )  # type: ignore[assignment]
        if base.bias is not None:
            y = y + base.bias.to(y.dtype)
        return y.view(*x.shape[:-1], self.out_features)

    def _of_one_row(self, row: Float[Tensor, "1 in"], base: NF4Linear) -> Float[Tensor, "1 out"]:
        A, B = self.narrow
        hidden = _wide_product(row, A.T) * self.scaling
        return _triton("decode").product(row, base.packed, base.quant_state, (hidden, B))


class FusedSwiGLU(nn.Module):
    """The MLP of the Llama family with liger-kernel's product of gate and input, which is not kept for backward."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """``down(silu(gate(x)) * up(x))``."""
        gate, up = self.gate_proj(x), self.up_proj(x)
        product = importlib.import_module("liger_kernel.ops").LigerSiLUMulFunction.apply
        kept = gate.detach(), up.detach()
        return self.down_proj(Remade.of(product(gate, up), lambda: product(*kept)))


def fuse(model: nn.Module) -> nn.Module:
    """Give a model of the Llama family, its linear layers in 4 bits, fused forwards, in place.

    Adapters with dropout keep their forward: what is dropped must be drawn for each layer. Neither copy nor move a
    fused model: its 16-bit adapters belong to the layers that were fused. Gradient checkpointing saves less with it:
    what a norm's or a SwiGLU's output is made of again stays until the layer's backward.

    Returns
    -------
    nn.Module
        ``model``.

    Raises
    ------
    ValueError
        The model is of another family, fused already, not on a GPU, holds no 4-bit layers, or computes in float32.
    """
    config: Any = model.config
    _validate.require(config.model_type in FAMILIES, "model", f"one of {FAMILIES}", config.model_type)
    bases = [m for m in model.modules() if isinstance(m, NF4Linear) and m.packed.is_cuda]
    _validate.require(bool(bases), "model", "one with 4-bit layers on a GPU", "one without")
    dtype = bases[0].compute_dtype or bases[0].quant_state.dtype
    narrow = dtype in (torch.bfloat16, torch.float16)
    _validate.require(narrow, "compute_dtype of the model", "bfloat16 or float16", dtype)
    fused = any(isinstance(module, _triton("norm").FusedRMSNorm) for module in model.modules())
    _validate.require(not fused, "model", "one that is not fused yet", "a fused one")
    use_kernels(model)
    layers = [m for m in model.modules() if isinstance(m, LoRALinear) and _can_fuse(m)]
    if layers:
        _fuse_adapters(model, layers, dtype)
    fuse_around(model, dtype)
    return model


def fuse_around(model: nn.Module, dtype: torch.dtype) -> None:
    """Fuse what stands around the linear layers, in place: norms, and liger-kernel's rotation and SwiGLU."""
    _fuse_norms(model, dtype)
    if importlib.util.find_spec("liger_kernel"):
        _use_liger(model)


def _can_fuse(lora: LoRALinear) -> bool:
    base = lora.base_layer
    return isinstance(base, NF4Linear) and base.packed.is_cuda and isinstance(lora.lora_dropout, nn.Identity)


def _fuse_adapters(model: nn.Module, layers: list[LoRALinear], dtype: torch.dtype) -> None:
    """Fused forwards, and one copy of all adapters to 16 bits before each forward of the model, not one a layer."""
    wide: list[Tensor] = [p for layer in layers for p in (layer.lora_A, layer.lora_B)]
    copies = [torch.empty_like(p, dtype=dtype) for p in wide]
    for layer, A, B in zip(layers, copies[::2], copies[1::2], strict=True):
        layer.__class__ = FusedLoRALinear
        cast(FusedLoRALinear, layer).narrow = (A, B)

    def narrow(*_: Any) -> None:
        with torch.no_grad():
            torch._foreach_copy_(copies, wide)  # pyright: ignore[reportPrivateImportUsage]

    decoder: nn.Module = getattr(model, cast(Any, model).base_model_prefix)
    decoder.register_forward_pre_hook(narrow)
    narrow()  # for whoever calls a layer alone


def _fuse_norms(model: nn.Module, dtype: torch.dtype) -> None:
    """Norms that read float32 and write 16 bits, and embeddings that begin the stream in float32."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            module.__class__ = _triton("norm").FusedRMSNorm
            cast(Any, module).dtype = dtype
    embedding = cast(Any, model).get_input_embeddings()
    embedding.register_forward_hook(lambda module, inputs, output: output.float())


def _use_liger(model: nn.Module) -> None:
    """liger-kernel's SwiGLU for this model, and its rotation: for every model of this family in the process."""
    library: Any = importlib.import_module("liger_kernel.transformers")
    config: Any = model.config
    apply = getattr(library, f"apply_liger_kernel_to_{config.model_type}")
    parts = dict.fromkeys(("rms_norm", "swiglu", "cross_entropy", "fused_linear_cross_entropy"), False)
    apply(rope=True, **parts)
    if config.hidden_act in ("silu", "swish"):
        for module in model.modules():
            if type(module).__name__.endswith("MLP") and hasattr(module, "gate_proj"):
                module.__class__ = FusedSwiGLU


def _with_columns(x: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """A copy of ``x`` with more columns behind it, and those, unwritten, as a view of it."""
    rows, width = x.shape
    both = _pitched(rows, width + columns, x)
    both[:, :width] = x
    return both, both[:, width:]


def _weights_and_columns(packed: Tensor, state: QuantState, B: Float[Tensor, "out r"]) -> Tensor:
    """``[W, B]``, of shape (out, in + r)."""
    out_features, in_features = state.shape
    both = _pitched(out_features, in_features + B.shape[1], B)
    both[:, in_features:] = B
    _write_weights(packed, state, both[:, :in_features])
    return both


def _weights_and_rows(packed: Tensor, state: QuantState, A: Float[Tensor, "r in"]) -> Tensor:
    """``[W; A]``, of shape (out + r, in)."""
    out_features, in_features = state.shape
    both = A.new_empty(out_features + len(A), in_features)
    both[out_features:] = A
    _write_weights(packed, state, both[:out_features])
    return both


def _pitched(rows: int, columns: int, like: Tensor) -> Tensor:
    """An empty matrix whose rows begin at multiples of 16 numbers, as the GPU's products and stores like it."""
    return like.new_empty(rows, -(-columns // 16) * 16)[:, :columns]


def _write_weights(packed: Tensor, state: QuantState, out: Tensor) -> None:
    _triton("cuda").write_weights(packed, state, out)


def _triton(name: str) -> ModuleType:
    """A module of this folder that needs Triton, which is optional: not before it is needed."""
    return importlib.import_module(f"lora_edu.accel.{name}")


def _wide_product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of 16 bits, summed and returned in float32."""
    return cast(Any, torch.mm)(a, b, out_dtype=torch.float32)
