"""Put an adapter into a model: LoRA beside its linear layers, a bottleneck behind its sublayers, or a prefix."""

from collections.abc import Callable
from itertools import chain
from typing import Any, cast

import torch
from torch import nn

from lora_edu.llm.layers import require_all_in_linear_layers
from lora_edu.llm.surgery.choose import adapter_names, set_adapter
from lora_edu.llm.surgery.forward import BASE, listen
from lora_edu.llm.surgery.switch import (
    AdapterSwitch,
    Choice,
    PrefixSwitch,
    base_layer,
    choose_layers,
    find_choice,
    linear_layers,
    named_layers,
)
from lora_edu.methods.bottleneck import BottleneckAdapter
from lora_edu.methods.lora import LoRALinear, checked_settings
from lora_edu.methods.prefix import PrefixEncoder
from lora_edu.methods.qlora import NF4Linear

SUBLAYER_OUTPUTS = ["o_proj", "down_proj"]
"""The last linear layers of attention and of the MLP in the Llama family, the base model among it."""


def add_lora(
    model: nn.Module,
    target_modules: list[str] | str,
    r: int,
    lora_alpha: float,
    lora_dropout: float = 0.0,
    use_rslora: bool = False,
    adapter_name: str = "default",
) -> nn.Module:
    """Add a LoRA adapter to the chosen linear layers, make it the active one, and freeze everything else.

    Parameters
    ----------
    model
        Changed in place.
    target_modules
        Endings of layer names, such as ``["q_proj", "v_proj"]``, or ``"all-linear"``, as in peft. Each name must fit.
    r
        Rank, 1 to the smaller side of each chosen layer.
    lora_alpha
        The update is scaled by ``lora_alpha / r``, or ``lora_alpha / sqrt(r)`` with `use_rslora`.
    lora_dropout
        Probability that an input of the adapter is dropped in training.
    use_rslora
        Rank-stabilized scaling (arXiv 2312.03732).
    adapter_name
        A name that this model does not hold yet, without dots.

    Returns
    -------
    The same model.

    Raises
    ------
    TypeError, ValueError
        If a name of `target_modules` fits no layer, the model keeps matrices outside its linear layers and all of them
        are asked for, the adapter's name is taken, or a number is outside its bounds. The model is then unchanged, or
        at most frozen.
    """
    chosen = choose_layers(model, target_modules, r)

    def lora(base: nn.Module) -> LoRALinear:
        return LoRALinear(base, r, lora_alpha, lora_dropout=lora_dropout, use_rslora=use_rslora)

    return _add_to_layers(model, chosen, adapter_name, lora)


def add_qlora(
    model: nn.Module,
    target_modules: list[str] | str,
    r: int,
    lora_alpha: float,
    lora_dropout: float = 0.0,
    use_rslora: bool = False,
    adapter_name: str = "default",
    blocksize: int = 64,
    double_quant: bool = True,
    compute_dtype: torch.dtype | None = None,
) -> nn.Module:
    """Quantize every linear layer but the output head to NF4, then add a LoRA adapter to the chosen ones.

    The parameters are those of `add_lora` and of `NF4Linear.from_linear`. Layers are quantized one by one, so the
    extra memory at any moment is that of one layer.

    Reference: Dettmers et al. 2023, QLoRA (arXiv 2305.14314), section 3.
    """
    choose_layers(model, target_modules, r)  # refuse before anything is changed
    checked_settings(lora_alpha, lora_dropout, use_rslora)
    _check_new_name(model, adapter_name)
    quantize_linear_layers(model, blocksize=blocksize, double_quant=double_quant, compute_dtype=compute_dtype)
    return add_lora(model, target_modules, r, lora_alpha, lora_dropout, use_rslora, adapter_name)


def quantize_linear_layers(
    model: nn.Module, blocksize: int = 64, double_quant: bool = True, compute_dtype: torch.dtype | None = None
) -> nn.Module:
    """Replace every ``nn.Linear`` but the output head by an `NF4Linear`, in place; return the model.

    Raises
    ------
    ValueError
        If the model carries adapters, keeps matrices outside its linear layers, such as a mixture's experts, or has a
        weight that is not finite. The model is then as it was.
    """
    require_all_in_linear_layers(model, "quantization to NF4")
    layers = linear_layers(model)
    for path, layer in layers.items():
        if isinstance(layer, AdapterSwitch):
            raise ValueError(f"model must not carry adapters before it is quantized, got one at {path}")
        if isinstance(layer, nn.Linear) and not layer.weight.isfinite().all():
            raise ValueError(f"model must have finite weights to be quantized, got NaN or infinity at {path}")
    for path, layer in layers.items():
        if isinstance(layer, nn.Linear):
            quantized = NF4Linear.from_linear(
                layer, blocksize=blocksize, double_quant=double_quant, compute_dtype=compute_dtype
            )
            model.set_submodule(path, quantized.train(layer.training))
    return model


def add_bottleneck(
    model: nn.Module,
    bottleneck: int,
    activation: str = "gelu",
    target_modules: list[str] | None = None,
    adapter_name: str = "default",
) -> nn.Module:
    """Add a bottleneck adapter behind each sublayer, make it the active one, and freeze everything else.

    A sublayer of width d gets ``2 * d * bottleneck + d + bottleneck`` parameters.

    Parameters
    ----------
    model
        Changed in place.
    bottleneck, activation
        As in `methods.bottleneck.BottleneckAdapter`.
    target_modules
        Endings of the names of the sublayers' last linear layers; None is ``["o_proj", "down_proj"]``.
    adapter_name
        A name that this model does not hold yet, without dots.

    Returns
    -------
    The same model.

    Raises
    ------
    TypeError, ValueError
        If a name of `target_modules` fits no layer, the name is taken, or `bottleneck` or `activation` is outside its
        bounds. The model is then unchanged.

    Reference: Houlsby et al. 2019 (arXiv 1902.00751), section 2.1.
    """
    chosen = named_layers(model, SUBLAYER_OUTPUTS if target_modules is None else target_modules)

    def behind(base: nn.Module) -> BottleneckAdapter:
        adapter = BottleneckAdapter(cast(Any, base).out_features, bottleneck, activation)
        return adapter.to(next(chain(base.parameters(), base.buffers())).device)

    return _add_to_layers(model, chosen, adapter_name, behind)


def add_prefix(model: nn.Module, num_virtual_tokens: int, adapter_name: str = "default") -> nn.Module:
    """Put trainable keys and values before the first token, make them active, and freeze everything else.

    The prefix enters through the key-value cache, in training as in ``generate``; `attention_mask`, `position_ids` and
    `labels` speak of the tokens alone, as without a prefix. Gradient checkpointing and static caches are refused.

    Parameters
    ----------
    model
        A causal language model of transformers with one shape of keys in all layers. Changed in place.
    num_virtual_tokens
        Length of the prefix, at least 0. With 0 the model is its base.
    adapter_name
        A name that this model does not hold yet, without dots. It cannot be named in ``adapter_names``.

    Returns
    -------
    The same model.

    Raises
    ------
    TypeError, ValueError
        If the name is taken, `num_virtual_tokens` is outside its bounds or the model has no such configuration.

    Reference: Li and Liang 2021 (arXiv 2101.00190), section 4.2.
    """
    _check_new_name(model, adapter_name)
    prefix = PrefixEncoder(num_virtual_tokens, *key_shape(model)).to(cast(Any, model).device)
    model.requires_grad_(False)
    choice = _choice(model)
    if not hasattr(model, "prefixes"):
        model.add_module("prefixes", PrefixSwitch(choice))
    cast(PrefixSwitch, model.prefixes).adapters[adapter_name] = prefix
    return _introduce(model, choice, adapter_name)


def _add_to_layers(
    model: nn.Module,
    chosen: dict[str, nn.Module],
    adapter_name: str,
    make: Callable[[nn.Module], nn.Module],
) -> nn.Module:
    _check_new_name(model, adapter_name)
    made = {
        path: make(base_layer(layer)) for path, layer in chosen.items()
    }  # refuse before anything is changed
    model.requires_grad_(False)
    choice = _choice(model)
    for path, layer in chosen.items():
        switch = layer if isinstance(layer, AdapterSwitch) else AdapterSwitch(layer, choice)
        switch.adapters[adapter_name] = made[path]
        model.set_submodule(path, switch.train(model.training))
    return _introduce(model, choice, adapter_name)


def _choice(model: nn.Module) -> Choice:
    """Return what the switches of the model share; with its first adapter a model learns to listen."""
    choice = find_choice(model)
    if choice is None:
        choice = Choice()
        listen(model)
    return choice


def _introduce(model: nn.Module, choice: Choice, adapter_name: str) -> nn.Module:
    choice.names.append(adapter_name)
    set_adapter(model, adapter_name)
    return model


def _check_new_name(model: nn.Module, name: str) -> None:
    taken = adapter_names(model)
    if not isinstance(name, str):
        raise TypeError(f"adapter_name must be a str, got {name!r}")
    if not name or "." in name:
        raise ValueError(f"adapter_name must be a non-empty name without dots, got {name!r}")
    if name == BASE or hasattr(
        nn.ModuleDict(), name
    ):  # a live one: "training" is an attribute of the object alone
        raise ValueError(
            f"adapter_name must be neither {BASE!r} nor a name that nn.ModuleDict uses, got {name!r}"
        )
    if name in taken:
        raise ValueError(f"adapter_name must be new, the model already holds {taken}, got {name!r}")


def key_shape(model: nn.Module) -> tuple[int, int, int]:
    """Return the number of layers, of heads with keys of their own, and of numbers in a key.

    Raises
    ------
    ValueError
        If the model has no configuration that says so.
    """
    config: Any = getattr(model, "config", None)
    text: Any = config.get_text_config() if hasattr(config, "get_text_config") else None
    if not hasattr(text, "num_key_value_heads"):
        raise ValueError(
            "model must be a causal language model of transformers whose config gives num_key_value_heads, "
            f"got {type(model).__name__}"
        )
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return text.num_hidden_layers, text.num_key_value_heads, head_dim
