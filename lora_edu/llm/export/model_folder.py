"""A model's folder in transformers' format, written one weight at a time: no second copy of the model is in memory."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lora_edu.llm.files import save_tensors, write_json

NOTE = "merged.json"
"""The file by which a folder that this module wrote is known."""

SHARD_BYTES = 2 * 10**9
"""The most that one file of weights holds, unless a single weight is larger."""


class Weight(NamedTuple):
    """A parameter: the key under which transformers looks for it, its path in the model here, how many numbers."""

    key: str
    path: str
    numel: int


def weights_of(model: nn.Module) -> list[Weight]:
    """Return the base's parameters, with peft's adapters over them or without; what two layers share comes once."""
    return [
        Weight(path.replace(".base_layer.", "."), path, _numel(parameter))
        for path, parameter in model.named_parameters()
        if ".lora_" not in path
    ]


def write_model(
    folder: Path,
    model: Any,
    tokenizer: Any,
    dtype: torch.dtype,
    value_of: Callable[[Weight], Tensor],
    into: str,
    base: str | None,
) -> None:
    """Write weights, configuration, tokenizer and a note of what was merged.

    Parameters
    ----------
    folder
        There, and empty.
    model
        transformers', with peft's adapters in its layers or without.
    tokenizer
        Is written beside the weights.
    dtype
        Of all weights.
    value_of
        Asked for each weight when its turn comes, in whatever dtype; what it returns may be thrown away after.
    into
        What the adapter was merged into, for the note.
    base
        The `origin` of those weights, for the note; None where nobody knows it.

    Raises
    ------
    ValueError
        A weight is not finite in `dtype`.
    """
    shards = _shards(weights_of(model), dtype.itemsize)
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = "model.safetensors"
        if len(shards) > 1:
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {weight.key: _rounded(value_of(weight), dtype, weight.key) for weight in shard}
        save_tensors(tensors, folder / name)
        index |= dict.fromkeys(tensors, name)
        del tensors
    if len(shards) > 1:
        total = {"total_size": dtype.itemsize * sum(weight.numel for shard in shards for weight in shard)}
        write_json(folder / "model.safetensors.index.json", {"metadata": total, "weight_map": index})
    _plain_config(model, dtype).save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / NOTE, {"merged into": into, "base": base, "dtype": str(dtype).removeprefix("torch.")})


def _numel(parameter: nn.Parameter) -> int:
    """How many numbers; of 4-bit weights, which lie two to a byte, those that they stand for."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


def _shards(weights: list[Weight], itemsize: int) -> list[list[Weight]]:
    """The weights of each file."""
    shards: list[list[Weight]] = [[]]
    filled = 0
    for weight in weights:
        size = itemsize * weight.numel
        if shards[-1] and filled + size > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(weight)
        filled += size
    return shards


def _rounded(tensor: Tensor, dtype: torch.dtype, key: str) -> Tensor:
    rounded = tensor.to(dtype).cpu().contiguous()
    if not rounded.isfinite().all():
        raise ValueError(f"dtype must hold every weight, {dtype} does not hold {key}")
    return rounded


def _plain_config(model: Any, dtype: torch.dtype) -> Any:
    """The configuration of a model that nobody quantized."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype, config.use_cache, config.architectures = dtype, True, [type(model).__name__]
    return config
