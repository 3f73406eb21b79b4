"""Base and adapter as one model: a folder that transformers, and what reads its folders, loads alone."""

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lora_edu.llm.base_model import known_as, load_base_model, resolve_dtype
from lora_edu.llm.budget import count_parameters
from lora_edu.llm.export.card import merged_card, merged_into
from lora_edu.llm.export.model_folder import NOTE, Weight, weights_of, write_model
from lora_edu.llm.export.source import Adapter, Base, read_adapter
from lora_edu.llm.files import whole_folder
from lora_edu.llm.surgery import linear_layers
from lora_edu.methods.nf4 import dequantize_nf4, quantize_nf4

# What a configuration of peft's may ask for beside B and A.
_MORE = (
    "use_dora",
    "modules_to_save",
    "bias",
    "lora_bias",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
)


@torch.no_grad()
def export_merged(
    folder: str | Path,
    out: str | Path,
    dtype: torch.dtype | str = "bfloat16",
    base: str | None = None,
    quantization: Literal["nf4"] | None = None,
) -> Path:
    r"""Write base and adapter as one model in transformers' format, with its tokenizer and a model card.

    .. math:: W' = W + s\, B A

    The sum is formed in float32 and rounded once, to `dtype`. What is merged cannot be switched off any more: keep the
    adapter.

    Parameters
    ----------
    folder
        An adapter in PEFT's format, or the folder of a fine-tune.
    out
        The model's folder: new or empty. It appears whole, or not at all.
    dtype
        Of the weights: bfloat16, float16 or float32, as a ``torch.dtype`` or its name.
    base
        As `load_base_model` takes it. None: what the adapter names.
    quantization
        Which W is merged into, and the card says it. None: the base's weights as they come. ``"nf4"``: first every
        linear layer is rounded to NF4 with double quantization, which is what an adapter of QLoRA has seen in training.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    FileExistsError
        ``out`` holds something.
    OSError
        The disk is full; nothing is left then.
    FileNotFoundError, TypeError, ValueError
        What `read_adapter` and `load_base_model` raise; another ``quantization``; or a sum that is not finite in
        `dtype`, with the weight's name.

    References
    ----------
    Hu et al. 2021, arXiv 2106.09685, section 4.1, "No Additional Inference Latency". Dettmers et al. 2023, arXiv
    2305.14314, section 3, for NF4.
    """
    if quantization not in (None, "nf4"):
        raise ValueError(f"quantization must be None or 'nf4', got {quantization!r}")
    adapter, dtype = read_adapter(folder, base), resolve_dtype(dtype)
    with whole_folder(out, count_parameters(adapter.base.config) * dtype.itemsize) as partial:
        model, tokenizer = load_base_model(adapter.base.name, dtype=dtype)
        rounded = linear_layers(model).keys() if quantization else ()

        def value_of(weight: Weight) -> Tensor:
            W, layer = model.get_parameter(weight.path), weight.path.removesuffix(".weight")
            if layer in rounded:
                W = dequantize_nf4(*quantize_nf4(W, double_quant=True))
            return W if layer not in adapter.layers else W.float() + _update(adapter, layer, W.device)

        words = merged_into(adapter.base, dtype, quantization)
        write_model(partial, model, tokenizer, dtype, value_of, words, adapter.base.origin)
        text = merged_card(adapter, Path(out).resolve(), dtype, quantization)
        (partial / "README.md").write_text(text, encoding="utf-8")
    return Path(out)


@torch.no_grad()
def save_merged(
    model: Any,
    tokenizer: Any,
    folder: str | Path,
    dtype: torch.dtype | str = torch.bfloat16,
    overwrite: bool = False,
) -> Path:
    r"""Write a model that peft has just trained as one model, :math:`W + s\, B A`, and return its folder.

    Where the base lies in 4 bits, its weight is made wide: the adapter was trained over that, not over the weight
    that it was quantized from. One weight at a time is in memory, and a file of at most 2 GB. The model stays as it is.

    Parameters
    ----------
    model
        peft's, with one active LoRA adapter; over a base in 4 bits or not.
    tokenizer
        Is written beside the weights.
    folder
        New, or empty. It appears in one step, when all is written.
    dtype
        As in `export_merged`.
    overwrite
        Whether a folder that this function or `export_merged` wrote before may be replaced.

    Raises
    ------
    TypeError, ValueError
        `model` is not peft's, or its adapter is more than B and A over weights of their own; `dtype` is another, or
        does not hold a weight.
    FileExistsError
        `folder` holds something else.
    OSError
        The disk is full. Nothing is left then.
    """
    layers, dtype = _adapted_layers(model), resolve_dtype(dtype)
    base = model.get_base_model()
    name = base.config.name_or_path
    origin = Base(known_as(name), base.config).origin if name else None
    needed = dtype.itemsize * sum(weight.numel for weight in weights_of(base))

    def value_of(weight: Weight) -> Tensor:
        W, path = _made_wide(base.get_parameter(weight.path)), weight.path.removesuffix(".base_layer.weight")
        if path not in layers:
            return W
        return W.float() + layers[path].get_delta_weight(model.active_adapters[0]).float()

    with whole_folder(folder, needed, known_by=NOTE if overwrite else None) as partial:
        write_model(partial, base, tokenizer, dtype, value_of, "the base as the adapter knew it", origin)
    return Path(folder)


def _update(adapter: Adapter, layer: str, device: torch.device) -> Tensor:
    """Return what an adapter adds to a layer, (out, in), in float32."""
    A, B = (factor.to(device, torch.float32) for factor in adapter.layers[layer])
    return adapter.scaling * (B @ A)


def _adapted_layers(model: Any) -> dict[str, Any]:
    """Return peft's layers with the adapter, by their paths, if it is B and A alone over weights of their own."""
    if not hasattr(model, "peft_config"):
        raise TypeError(f"model must be peft's, got {type(model).__name__}")
    names = model.active_adapters
    if len(names) != 1:
        raise ValueError(f"model must have one active adapter, got {names}")
    config = model.peft_config[names[0]]
    kind = getattr(config.peft_type, "value", config.peft_type)
    more = {
        key: value for key in _MORE if (value := getattr(config, key, None)) not in (None, False, "none", [])
    }
    if kind != "LORA" or more:
        raise ValueError(f"model must have a LoRA adapter of B and A alone, got {kind} with {more}")
    base = model.get_base_model()
    users = Counter(id(parameter) for _, parameter in base.named_parameters(remove_duplicate=False))
    layers = {
        path: layer
        for path, layer in base.named_modules()
        if names[0] in getattr(layer, "lora_A", ()) or names[0] in getattr(layer, "lora_embedding_A", ())
    }
    for path, layer in layers.items():
        if users[id(layer.get_base_layer().weight)] > 1:
            raise ValueError(f"model must have adapters over weights of their own, {path} shares its weight")
    return layers


def _made_wide(weight: Any) -> Tensor:
    """Return a parameter's numbers; of one in 4 bits, what it computes with."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight.data
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, state)
