"""A QLoRA model whose steps make few copies between dtypes: adapters, norms, rotation and SwiGLU fused.

``fuse(model)`` takes a model in 4 bits on a GPU, from ``add_qlora`` or ``quantize_linear_layers`` of
``lora_edu.llm.surgery``, and gives it other forwards, in place. Weights and adapters stay where they are, and the
residual stream is float32. A layer's sum of base and update is rounded to 16 bits, once; a bias (Qwen2's) is added
after that. ``LoRALinear`` leaves the sum in the dtype of its input, which is float32 behind a norm. What backward needs
of a norm's or a SwiGLU's output is made again from their inputs, which are kept anyway (`shared`). Needs PyTorch 2.8 or
newer.

Rotation and SwiGLU are liger-kernel's, where that is installed (``pip install -e ".[fused]"``). Its norm is not used:
it returns the dtype that it gets, which would make the residual stream 16 bits. Without liger-kernel a fused model is
called under autocast alone: transformers' rotation gives float32 then, and attention takes no two dtypes.
"""

import importlib
import importlib.util
from collections.abc import Callable
from types import FunctionType
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lora_edu.accel.fused_linear import FusedLayer, FusedLoRALinear, FusedNF4Linear
from lora_edu.accel.layer import CompiledNF4Linear, triton_module, use_kernels
from lora_edu.accel.shared import share
from lora_edu.methods import _validate
from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.nf4 import QuantState
from lora_edu.methods.qlora import NF4Linear

FAMILIES = ("llama", "mistral", "qwen2")
"""The ``model_type`` of models whose norms, rotation and SwiGLU are known."""
ROTATION = "apply_rotary_pos_emb"
"""What transformers' attentions call."""


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
        made = product(gate, up)
        return self.down_proj(share(made, lambda: product(*kept)) if torch.is_grad_enabled() else made)


def fuse(model: nn.Module) -> nn.Module:
    """Give a model of the Llama family, its linear layers in 4 bits, fused forwards, in place.

    Adapters with dropout keep their forward: what is dropped must be drawn for each layer. Neither copy, move nor
    pickle a fused model: its 16-bit adapters belong to the layers that were fused. Gradient checkpointing saves less
    with it: what a norm's or a SwiGLU's output is made of again stays until the layer's backward.

    Returns
    -------
    nn.Module
        ``model``.

    Raises
    ------
    ValueError
        The model is of another family, fused already, not on a GPU, holds no 4-bit layers, or computes in float32; or
        transformers rotates in another way (`rotated_by`). It is as it was then.
    """
    config: Any = model.config
    _validate.require(config.model_type in FAMILIES, "model", f"one of {FAMILIES}", config.model_type)
    bases = [m for m in model.modules() if isinstance(m, NF4Linear) and m.packed.is_cuda]
    _validate.require(bool(bases), "model", "one with 4-bit layers on a GPU", "one without")
    dtype = bases[0].compute_dtype or bases[0].quant_state.dtype
    narrow = dtype in (torch.bfloat16, torch.float16)
    _validate.require(narrow, "compute_dtype of the model", "bfloat16 or float16", dtype)
    fused = any(isinstance(module, triton_module("norm").FusedRMSNorm) for module in model.modules())
    _validate.require(not fused, "model", "one that is not fused yet", "a fused one")
    _liger_classes(model)  # refuses before anything is changed
    use_kernels(model)
    layers = [m for m in model.modules() if isinstance(m, LoRALinear) and _can_fuse(m)]
    if layers:
        _fuse_adapters(model, layers, dtype)
    _fuse_bases(model)
    _introduce(model, dtype)
    fuse_around(model, dtype, max((len(layer.lora_A) for layer in layers), default=0))
    return model


def fuse_around(model: nn.Module, dtype: torch.dtype, room: int = 0) -> None:
    """Fuse what stands around the linear layers, in place: norms, and liger-kernel's rotation and SwiGLU.

    Parameters
    ----------
    model
        Of one of `FAMILIES`.
    dtype
        Of the linear layers' inputs.
    room
        Columns that the norms leave behind each row of what they give to the linear layers: the largest rank.

    Raises
    ------
    ValueError
        transformers rotates in another way (`rotated_by`), or accelerate's hooks have their own forwards in the layers.
    """
    for module, fused in _liger_classes(model).items():
        module.__class__ = fused
    _fuse_norms(model, dtype, room)


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


def _fuse_bases(model: nn.Module) -> None:
    """One-row products for layers without an adapter."""
    adapted = {id(m.base_layer) for m in model.modules() if isinstance(m, LoRALinear)}
    for module in model.modules():
        if type(module) is CompiledNF4Linear and id(module) not in adapted:
            module.__class__ = FusedNF4Linear


def _introduce(model: nn.Module, dtype: torch.dtype) -> None:
    """Tell each fused layer what it returns, and which others read its input."""
    for module in model.modules():
        if isinstance(module, FusedLayer):
            module.output, module.neighbours = dtype, (module,)
    for module in model.modules():
        for names in ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"):
            found = [_fused_in(module, name) for name in names]
            for adapter in {adapter for layers in found for adapter in layers}:
                layers = tuple(by_adapter[adapter] for by_adapter in found if adapter in by_adapter)
                if len({_blocks(layer) for layer in layers}) == 1:
                    for layer in layers:
                        layer.neighbours = layers
        for name in "o_proj", "down_proj":
            for layer in _fused_in(module, name).values():
                layer.output = torch.float32


def _fused_in(parent: nn.Module, name: str) -> dict[str, FusedLayer]:
    """The fused layers of that name, by adapter (`lora_edu.llm.surgery.switch` holds several over one layer)."""
    layer: Any = getattr(parent, name, None)
    inside = layer.adapters if hasattr(layer, "adapters") else {"": layer}
    return {adapter: each for adapter, each in inside.items() if isinstance(each, FusedLayer)}


def _blocks(layer: FusedLayer) -> tuple:
    """What neighbours must have in common."""
    base: Any = layer.base_layer if isinstance(layer, FusedLoRALinear) else layer
    state: QuantState = base.quant_state
    return layer.in_features, state.blocksize, state.nested_blocksize, base.compute_dtype


def _fuse_norms(model: nn.Module, dtype: torch.dtype, room: int) -> None:
    """Norms that read float32 and write 16 bits, and embeddings that begin the stream in float32."""
    for name, module in model.named_modules():
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            module.__class__ = triton_module("norm").FusedRMSNorm
            norm = cast(Any, module)
            norm.dtype, norm.room = (
                dtype,
                room if ".layers." in name else 0,
            )  # behind the last one is the head
    embedding = cast(Any, model).get_input_embeddings()
    embedding.register_forward_hook(lambda module, inputs, output: output.float())


def _liger_classes(model: nn.Module) -> dict[nn.Module, type[nn.Module]]:
    """What attentions and MLPs become with liger-kernel's rotation and SwiGLU; nothing where it is not installed."""
    if not importlib.util.find_spec("liger_kernel"):
        return {}
    rotation = importlib.import_module("liger_kernel.transformers").liger_rotary_pos_emb
    named = [(type(module).__name__, module) for module in model.modules()]
    attentions = [m for name, m in named if name.endswith("Attention") and hasattr(m, "q_proj")]
    _validate.require(bool(attentions), "model", "one whose attentions have a q_proj", "one without")
    rotated = {kind: rotated_by(rotation, kind) for kind in set(map(type, attentions))}
    classes: dict[nn.Module, type[nn.Module]] = {module: rotated[type(module)] for module in attentions}
    if cast(Any, model).config.hidden_act in ("silu", "swish"):
        mlps = [m for name, m in named if name.endswith("MLP") and hasattr(m, "gate_proj")]
        classes |= dict.fromkeys(mlps, FusedSwiGLU)
    hooked = any("forward" in vars(module) for module in classes)
    _validate.require(not hooked, "model", "one whose layers have no forward of their own", "one with hooks")
    return classes


def rotated_by(rotation: Callable, attention: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass of transformers' attention that calls another rotation.

    Its forward is the same code, which finds another function under the name ``apply_rotary_pos_emb``. liger-kernel's
    own way is to replace that function in transformers' module, for all models of the process. What is put into that
    module later does not reach the subclass: it has the names as they were.

    Raises
    ------
    ValueError
        The forward is not transformers', or calls no such function.
    """
    plain: Any = attention.forward
    calls = ROTATION in getattr(getattr(plain, "__code__", None), "co_names", ())
    known = calls and plain.__module__.startswith("transformers.models.")
    allowed = f"a class of transformers whose forward calls {ROTATION}"
    _validate.require(known, "attention", allowed, attention.__name__)
    scope = plain.__globals__ | {ROTATION: rotation}
    scope.pop("__name__", None)  # torch.compile would look for the rotation in the module of that name
    forward = FunctionType(plain.__code__, scope, plain.__name__, plain.__defaults__, plain.__closure__)
    forward.__kwdefaults__, forward.__module__ = plain.__kwdefaults__, plain.__module__
    return type(attention.__name__, (attention,), {"forward": forward, "__module__": attention.__module__})
