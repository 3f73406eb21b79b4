"""A merged model on disk: base and adapter in one weight each, in 16 bits, that transformers loads alone."""

import copy
import errno
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from lora_edu.llm.files import PARTIAL, explain_full_disk, write_json

NOTE = "merged.json"
"""The file by which a folder that `save_merged` wrote is known."""

SHARD_BYTES = 2 * 10**9
_DTYPES = (torch.bfloat16, torch.float16)


@torch.no_grad()
def save_merged(
    model: Any,
    tokenizer: Any,
    folder: str | Path,
    dtype: torch.dtype = torch.bfloat16,
    overwrite: bool = False,
) -> Path:
    r"""Write base and adapter as one model, :math:`W + \frac{\alpha}{r} B A` in 16 bits, and return its folder.

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
        bfloat16 or float16, of all weights.
    overwrite
        Whether a folder that this function wrote before may be replaced.

    Raises
    ------
    TypeError, ValueError
        `model` is not peft's, or its adapter is more than LoRA's B and A; `dtype` is another.
    FileExistsError
        `folder` holds something else.
    OSError
        The disk is full. Nothing is left then.
    """
    adapter = _require_plain_lora(model)
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be torch.bfloat16 or torch.float16, got {dtype}")
    target, base = Path(folder), model.get_base_model()
    _require_free(target, overwrite)
    plan = _shards(base, dtype.itemsize)
    with _whole_folder(target, 2 * _numbers(base)) as partial:
        index = {}
        for number, keys in enumerate(plan, start=1):
            name = "model.safetensors"
            if len(plan) > 1:
                name = f"model-{number:05d}-of-{len(plan):05d}.safetensors"
            tensors = {key: _merged(base, path, adapter).to(dtype).cpu().contiguous() for key, path in keys}
            save_file(tensors, partial / name, metadata={"format": "pt"})
            index |= dict.fromkeys(tensors, name)
            del tensors
        if len(plan) > 1:
            total = {"total_size": dtype.itemsize * _numbers(base)}
            write_json(partial / "model.safetensors.index.json", {"metadata": total, "weight_map": index})
        _plain_config(base, dtype).save_pretrained(partial)
        base.generation_config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        write_json(partial / NOTE, {"merged into": "the base as the adapter knew it", "dtype": str(dtype)})
    return target


def _require_plain_lora(model: Any) -> str:
    """Return the name of the adapter, if nothing but B and A makes the difference to the base."""
    if not hasattr(model, "peft_config"):
        raise TypeError(f"model must be peft's, got {type(model).__name__}")
    names = model.active_adapters
    if len(names) != 1:
        raise ValueError(f"model must have one active adapter, got {names}")
    config = model.peft_config[names[0]]
    kind = getattr(config.peft_type, "value", config.peft_type)
    if kind != "LORA" or config.use_dora or config.modules_to_save or config.bias != "none":
        raise ValueError(
            "model must have a LoRA adapter of B and A alone: no DoRA, modules_to_save or bias, got "
            f"peft_type={kind}, use_dora={getattr(config, 'use_dora', False)}, "
            f"modules_to_save={config.modules_to_save}, bias={getattr(config, 'bias', None)!r}"
        )
    return names[0]


def _require_free(target: Path, overwrite: bool) -> None:
    if target.is_dir() and (not any(target.iterdir()) or (overwrite and (target / NOTE).is_file())):
        return
    if target.exists():
        raise FileExistsError(
            f"folder must be new or empty, or with overwrite=True one of a merged model, got {target}"
        )


def _parameters(base: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    """The base's parameters: the key that transformers knows, the path here, the parameter; tied ones once."""
    for path, parameter in base.named_parameters():
        if ".lora_" not in path:
            yield path.replace(".base_layer.", "."), path, parameter


def _numel(parameter: nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


def _numbers(base: nn.Module) -> int:
    return sum(_numel(parameter) for _, _, parameter in _parameters(base))


def _shards(base: nn.Module, itemsize: int) -> list[list[tuple[str, str]]]:
    """Keys and paths, a list for each file."""
    shards: list[list[tuple[str, str]]] = [[]]
    filled = 0
    for key, path, parameter in _parameters(base):
        size = itemsize * _numel(parameter)
        if shards[-1] and filled + size > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append((key, path))
        filled += size
    return shards


def _merged(base: nn.Module, path: str, adapter: str) -> Tensor:
    """One parameter of the base, made wide, with the update that belongs to it."""
    weight: Any = base.get_parameter(path)
    state = getattr(weight, "quant_state", None)
    W = weight.data if state is None else dequantize_4bit(weight.data, state)
    owner, _, name = path.rpartition(".base_layer.")
    layer: Any = base.get_submodule(owner) if owner else None
    if name == "weight" and isinstance(layer, LoraLayer) and adapter in layer.lora_A:
        return W.float() + layer.get_delta_weight(adapter).float()  # pyright: ignore[reportAttributeAccessIssue]
    return W


def _plain_config(base: Any, dtype: torch.dtype) -> Any:
    """The configuration of a model that nobody quantized."""
    config = copy.deepcopy(base.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype, config.use_cache, config.architectures = dtype, True, [type(base).__name__]
    return config


@contextmanager
def _whole_folder(target: Path, needed: int) -> Iterator[Path]:
    """Yield a folder beside `target` that takes its name when the block ends without error, and vanishes else."""
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"the merged model takes {needed / 1e9:.1f} GB, the disk of {target.parent} has {free / 1e9:.1f}",
        )
    partial = target.with_name(f".{target.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir()
    try:
        with explain_full_disk(target.parent, target.name):
            yield partial
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
