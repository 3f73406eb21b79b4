"""How many parameters a model and its adapters have, from a configuration alone."""

from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from lora_edu.llm.base_model.catalog import SHAPES
from lora_edu.methods import _validate
from lora_edu.methods.qlora import NF4Linear

KINDS: tuple[str, ...] = ("embeddings", "attention", "mlp", "norms", "head")


def resolve_config(config: PretrainedConfig | str) -> PretrainedConfig:
    """Return the configuration itself, or the one of `SHAPES` that it names (upper or lower case).

    Raises
    ------
    TypeError
        `config` is neither a transformers configuration nor a name.
    ValueError
        No recorded shape has that name.
    """
    if isinstance(config, PretrainedConfig):
        return config
    allowed = f"a transformers configuration or one of {', '.join(SHAPES)}"
    _validate.require(isinstance(config, str), "config", allowed, type(config).__name__, TypeError)
    shape = {name.casefold(): shape for name, shape in SHAPES.items()}.get(config.casefold())
    if shape is None:
        raise ValueError(f"config must be {allowed}, got {config!r}")
    return AutoConfig.for_model(**shape)


def count_parameters(config_or_model: PretrainedConfig | nn.Module | str) -> int:
    """Return how many parameters a model has, whether they exist yet or not.

    Parameters
    ----------
    config_or_model
        A transformers configuration or the name of one of `SHAPES` (the model is then built without memory, on
        PyTorch's meta device), or a model. 4-bit weights, which lie two to a byte, count as what they stand for.
        A weight that two layers share counts once.

    Raises
    ------
    TypeError, ValueError
        It is none of these, or the configuration is not a language model's.
    """
    return sum(parameters_by_kind(config_or_model).values())


def parameters_by_kind(config_or_model: PretrainedConfig | nn.Module | str) -> dict[str, int]:
    """Return the parameters of a model by what they belong to: `KINDS`; the parameters are `count_parameters`'.

    A head that shares the embedding's weight counts 0. Biases count where their layer does.
    """
    model = config_or_model if isinstance(config_or_model, nn.Module) else meta_model(config_or_model)
    head = cast(Any, model).get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    counts = dict.fromkeys(KINDS, 0)
    seen: set[int] = set()
    for path, module in model.named_modules():
        kind = "head" if module is head else _kind(path, module)
        if isinstance(module, NF4Linear):  # its weight is a buffer
            counts[kind] += module.in_features * module.out_features
            counts[kind] += 0 if module.bias is None else module.bias.numel()
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                counts[kind] += _numel(parameter)
    return counts


def lora_parameter_count(d_in: int, d_out: int, r: int) -> int:
    """Return the parameters of a LoRA adapter of one linear layer: r (d_in + d_out), of A and B together.

    Parameters
    ----------
    d_in, d_out
        Features that go into the layer and come out, at least 1.
    r
        Rank, 1 … min(d_in, d_out).

    Raises
    ------
    TypeError, ValueError
        An argument outside these bounds.

    References
    ----------
    Hu et al. 2021, arXiv 2106.09685, section 4.1: B is (d_out, r), A is (r, d_in).
    """
    d_in, d_out = _validate.integer("d_in", d_in, 1), _validate.integer("d_out", d_out, 1)
    r = _validate.integer("r", r, 1, min(d_in, d_out))
    return r * (d_in + d_out)


def meta_model(config: PretrainedConfig | str) -> PreTrainedModel:
    """A model without memory: its tensors have shapes and no values."""
    config = resolve_config(config)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        raise ValueError(f"config must be a causal language model's, got {type(config).__name__}") from error


def _kind(path: str, module: nn.Module) -> str:
    if isinstance(module, nn.Embedding):
        return "embeddings"
    if "norm" in type(module).__name__.lower():
        return "norms"
    # What is neither is the MLP, whatever an architecture calls it: mlp, feed_forward, experts, fc1.
    return "attention" if "attn" in path or "attention" in path else "mlp"


def _numel(parameter: nn.Parameter) -> int:
    """bitsandbytes packs a 4-bit weight two to a byte and remembers the shape that it stands for."""
    quant_state = getattr(parameter, "quant_state", None)
    return parameter.numel() if quant_state is None else torch.Size(quant_state.shape).numel()
