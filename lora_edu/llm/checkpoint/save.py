"""From a model to the two files of an adapter."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from lora_edu.llm.base_model import known_as
from lora_edu.llm.checkpoint.disk import PREFIX, PROMPT, Files, write_adapter_files
from lora_edu.llm.checkpoint.fit import adapter_parts
from lora_edu.llm.surgery import adapter_names, linear_layers
from lora_edu.methods.bottleneck import BottleneckAdapter
from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.prefix import PrefixEncoder


def save_adapter(model: nn.Module, folder: str | Path, adapter_name: str = "default") -> Path:
    """Write one adapter of the model in PEFT's format; return the folder.

    It names its base as `load_base_model` takes it: the course's model by its name, a hub's by its id, and a folder of
    one's own by the path that was given, since nothing else would find it again.

    Parameters
    ----------
    model
        A model changed by one of the ``add_`` functions of `surgery`.
    folder
        Made if it does not exist. Both files appear whole, or neither.
    adapter_name
        Which adapter; the name itself is not stored, as in PEFT.

    Raises
    ------
    ValueError
        If the model holds no adapter of that name.
    """
    adapters = adapter_parts(model, adapter_name)
    if not adapters:
        raise ValueError(f"adapter_name must be one of {adapter_names(model)}, got {adapter_name!r}")
    describe = {LoRALinear: _lora_files, PrefixEncoder: _prefix_files, BottleneckAdapter: _bottleneck_files}
    first = next(iter(adapters.values()))
    files = next(files for kind, files in describe.items() if isinstance(first, kind))  # or a subclass, fused
    config, tensors = files(model, adapters)
    name = getattr(getattr(model, "config", None), "name_or_path", None)
    config |= {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": known_as(name) if name else None,
        "inference_mode": True,
    }
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    return write_adapter_files(folder, config, tensors)


def _lora_files(model: nn.Module, adapters: dict[str, Any]) -> Files:
    first = next(iter(adapters.values()))
    config = {
        "peft_type": "LORA",
        "r": first.r,
        "lora_alpha": first.lora_alpha,
        "lora_dropout": first.lora_dropout.p if isinstance(first.lora_dropout, nn.Dropout) else 0.0,
        "use_rslora": first.use_rslora,
        "target_modules": _shortest_endings(list(adapters), list(linear_layers(model))),
        "bias": "none",
        "fan_in_fan_out": False,
    }
    tensors = {}
    for path, adapter in adapters.items():
        tensors[f"{PREFIX}{path}.lora_A.weight"] = adapter.lora_A
        tensors[f"{PREFIX}{path}.lora_B.weight"] = adapter.lora_B
    return config, tensors


def _bottleneck_files(model: nn.Module, adapters: dict[str, Any]) -> Files:
    first = next(iter(adapters.values()))
    config = {
        "peft_type": "BOTTLENECK",
        "bottleneck": first.bottleneck,
        "activation": first.activation,
        "target_modules": _shortest_endings(list(adapters), list(linear_layers(model))),
    }
    return config, {
        f"{PREFIX}{path}.{part}": tensor
        for path, adapter in adapters.items()
        for part, tensor in adapter.state_dict().items()
    }


def _prefix_files(model: nn.Module, adapters: dict[str, Any]) -> Files:
    (prefix,) = adapters.values()
    num_layers, num_kv_heads, num_virtual_tokens, head_dim = prefix.keys.shape
    config = {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": num_virtual_tokens,
        "num_layers": num_layers,
        "num_attention_heads": num_kv_heads,  # peft's name for the heads that have keys
        "token_dim": num_kv_heads * head_dim,
        "num_transformer_submodules": 1,
        "prefix_projection": False,
    }
    # peft keeps a row a virtual token: keys, then values, of the first layer, then of the next.
    per_layer = torch.stack((prefix.keys, prefix.values), dim=1)
    return config, {PROMPT: per_layer.permute(3, 0, 1, 2, 4).flatten(1)}


def _shortest_endings(adapted: list[str], every: list[str]) -> list[str]:
    """Return the last parts of the names if they choose exactly the adapted layers, else the full names."""
    endings = {path.rpartition(".")[2] for path in adapted}
    chosen = [path for path in every if path.rpartition(".")[2] in endings]
    return sorted(endings) if set(chosen) == set(adapted) else sorted(adapted)
