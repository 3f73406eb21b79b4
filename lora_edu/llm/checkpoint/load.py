"""From the two files of an adapter to a model."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lora_edu.llm.checkpoint.disk import CONFIG_FILE, PROMPT, WEIGHTS_FILE, read_adapter_files
from lora_edu.llm.checkpoint.fit import (
    adapter_parts,
    by_layer,
    check_plain_lora,
    check_prefix,
    is_new,
    require_asked_layers,
    same_layers,
)
from lora_edu.llm.surgery import add_bottleneck, add_lora, add_prefix, key_shape, set_adapter

_LORA_PARTS = ("lora_A.weight", "lora_B.weight")
_BOTTLENECK_PARTS = ("down.weight", "down.bias", "up.weight", "up.bias")


def load_adapter(model: nn.Module, folder: str | Path, adapter_name: str = "default") -> nn.Module:
    """Read an adapter in PEFT's format into the model, under a name; return the model.

    A bare base is wrapped first. An adapter of that name that is already there receives the new numbers, if kind,
    sizes, scaling rule and layers are the same. The loaded adapter becomes the active one.

    Raises
    ------
    FileNotFoundError
        If one of the two files is missing.
    ValueError
        If the files are damaged, not those of a plain LoRA, a prefix or a bottleneck, or do not fit the model:
        missing or unknown layers, other shapes, numbers that are not finite; or if the file does not hold exactly the
        layers that the config asks of this model.
    """
    folder = Path(folder)
    config, tensors = read_adapter_files(folder)
    load = {"LORA": _load_lora, "PREFIX_TUNING": _load_prefix, "BOTTLENECK": _load_bottleneck}
    with torch.no_grad():
        load[config["peft_type"]](model, config, tensors, folder, adapter_name)
    set_adapter(model, adapter_name)
    return model


def read_lora(model: nn.Module, folder: str | Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Return what a LoRA in PEFT's format holds, compared with a model that is not changed.

    Parameters
    ----------
    model
        The base; on the meta device too, since its shapes alone are looked at.

    Returns
    -------
    config, layers
        The configuration; and for each path of a layer its ``lora_A.weight`` (r, in) and ``lora_B.weight`` (out, r).

    Raises
    ------
    FileNotFoundError, ValueError
        What `load_adapter` raises; or the adapter is no LoRA.
    """
    folder = Path(folder)
    config, tensors = read_adapter_files(folder)
    if config["peft_type"] != "LORA":
        raise ValueError(f"{folder / CONFIG_FILE} must describe a LoRA, got {config['peft_type']}")
    return config, _lora_layers(model, config, tensors, folder)


def _lora_layers(
    model: nn.Module, config: dict[str, Any], tensors: dict[str, Tensor], folder: Path
) -> dict[str, dict[str, Tensor]]:
    check_plain_lora(config, folder / CONFIG_FILE)
    r = config["r"]

    def shapes(base: Any) -> tuple[tuple[int, ...], ...]:
        return (r, base.in_features), (base.out_features, r)

    wanted = by_layer(model, tensors, _LORA_PARTS, shapes, folder)
    require_asked_layers(model, config, wanted, folder)
    return wanted


def _load_lora(
    model: nn.Module, config: dict[str, Any], tensors: dict[str, Tensor], folder: Path, name: str
) -> None:
    wanted = _lora_layers(model, config, tensors, folder)
    use_rslora = bool(config.get("use_rslora"))
    settings = {"r": config["r"], "lora_alpha": config["lora_alpha"], "use_rslora": use_rslora}
    if is_new(model, name, settings, folder):
        dropout = config.get("lora_dropout") or 0.0
        add_lora(model, sorted(wanted), **settings, lora_dropout=dropout, adapter_name=name)
    for path, adapter in same_layers(model, name, wanted, folder).items():
        adapter.lora_A.copy_(wanted[path]["lora_A.weight"])
        adapter.lora_B.copy_(wanted[path]["lora_B.weight"])


def _load_bottleneck(
    model: nn.Module, config: dict[str, Any], tensors: dict[str, Tensor], folder: Path, name: str
) -> None:
    settings = {key: config.get(key) for key in ("bottleneck", "activation")}
    width = cast(int, settings["bottleneck"])

    def shapes(base: Any) -> tuple[tuple[int, ...], ...]:
        return (width, base.out_features), (width,), (base.out_features, width), (base.out_features,)

    wanted = by_layer(model, tensors, _BOTTLENECK_PARTS, shapes, folder)
    require_asked_layers(model, config, wanted, folder)
    if is_new(model, name, settings, folder):
        add_bottleneck(model, **cast(Any, settings), target_modules=sorted(wanted), adapter_name=name)
    for path, adapter in same_layers(model, name, wanted, folder).items():
        adapter.load_state_dict(wanted[path])


def _load_prefix(
    model: nn.Module, config: dict[str, Any], tensors: dict[str, Tensor], folder: Path, name: str
) -> None:
    num_virtual_tokens = cast(int, config.get("num_virtual_tokens"))  # the shape of the numbers will tell
    num_layers, num_kv_heads, head_dim = key_shape(model)
    check_prefix(config, folder / CONFIG_FILE, num_layers, num_kv_heads, head_dim)
    allowed = (num_virtual_tokens, num_layers * 2 * num_kv_heads * head_dim)
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if found != {PROMPT: allowed}:
        raise ValueError(f"{folder / WEIGHTS_FILE} must hold {PROMPT} of shape {allowed}, got {found}")
    if is_new(model, name, {"num_virtual_tokens": num_virtual_tokens}, folder):
        add_prefix(model, num_virtual_tokens, adapter_name=name)
    (prefix,) = adapter_parts(model, name).values()
    per_layer = (
        tensors[PROMPT]
        .reshape(num_virtual_tokens, num_layers, 2, num_kv_heads, head_dim)
        .permute(2, 1, 3, 0, 4)
    )
    prefix.keys.copy_(per_layer[0])
    prefix.values.copy_(per_layer[1])
