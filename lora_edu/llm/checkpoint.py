"""Adapters on disk, in PEFT's own two files, so that PEFT loads ours and we load PEFT's.

``adapter_config.json`` says what to build (rank, alpha, which layers); ``adapter_model.safetensors`` holds the
numbers, under the keys ``base_model.model.<path of the layer>.lora_A.weight`` and ``...lora_B.weight``. The base
model is not in either file: an adapter is only as good as the base that it is laid over.
"""

import json
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lora_edu.llm.surgery import adapter_names, add_lora, base_layer, linear_layers, set_adapter, switches
from lora_edu.methods.lora import LoRALinear

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."


def save_adapter(model: nn.Module, folder: str | Path, adapter_name: str = "default") -> Path:
    """Write one adapter of the model in PEFT's format; return the folder.

    Parameters
    ----------
    model
        A model changed by `surgery.add_lora` or `surgery.add_qlora`.
    folder
        Made if it does not exist. Each file appears whole or not at all.
    adapter_name
        Which adapter; the name itself is not stored, as in PEFT.

    Raises
    ------
    ValueError
        If the model holds no adapter of that name.
    """
    adapters = _adapters(model, adapter_name)
    if not adapters:
        raise ValueError(f"adapter_name must be one of {adapter_names(model)}, got {adapter_name!r}")
    tensors = {}
    for path, adapter in adapters.items():
        tensors[f"{_PREFIX}{path}.lora_A.weight"] = adapter.lora_A.detach().cpu().contiguous()
        tensors[f"{_PREFIX}{path}.lora_B.weight"] = adapter.lora_B.detach().cpu().contiguous()
    first = next(iter(adapters.values()))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": getattr(getattr(model, "config", None), "name_or_path", None),
        "r": first.r,
        "lora_alpha": first.lora_alpha,
        "lora_dropout": first.lora_dropout.p if isinstance(first.lora_dropout, nn.Dropout) else 0.0,
        "use_rslora": first.use_rslora,
        "target_modules": _shortest_endings(list(adapters), list(linear_layers(model))),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    return write_adapter_files(folder, config, tensors)


def write_adapter_files(folder: str | Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    """Write the two files of an adapter; each is complete before it takes its name."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (WEIGHTS_FILE + ".partial")
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(folder / WEIGHTS_FILE)
    partial = folder / (CONFIG_FILE + ".partial")
    partial.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(folder / CONFIG_FILE)
    return folder


def load_adapter(model: nn.Module, folder: str | Path, adapter_name: str = "default") -> nn.Module:
    """Read an adapter in PEFT's format into the model, under a name; return the model.

    A bare base is wrapped first. An adapter of that name that is already there receives the new numbers, if rank,
    alpha, scaling rule and layers are the same. The loaded adapter becomes the active one.

    Raises
    ------
    FileNotFoundError
        If one of the two files is missing.
    ValueError
        If the files are damaged, not those of a plain LoRA, or do not fit the model: missing or unknown layers,
        other shapes, numbers that are not finite.
    """
    folder = Path(folder)
    config, tensors = _read(folder)
    wanted = _by_layer(tensors, folder)
    layers = linear_layers(model)
    unknown = sorted(set(wanted) - set(layers))
    if unknown:
        raise ValueError(
            f"{folder / WEIGHTS_FILE} must fit the model, which has no linear layer {unknown[0]}"
        )
    _check_shapes(wanted, layers, config["r"], folder)
    if adapter_name in adapter_names(model):
        _check_same_kind(model, adapter_name, config, folder)
    else:
        add_lora(
            model,
            sorted(wanted),
            r=config["r"],
            lora_alpha=config["lora_alpha"],
            lora_dropout=config.get("lora_dropout") or 0.0,
            use_rslora=bool(config.get("use_rslora")),
            adapter_name=adapter_name,
        )
    adapters = _adapters(model, adapter_name)
    if set(adapters) != set(wanted):
        raise ValueError(
            f"{folder / WEIGHTS_FILE} must hold the layers of adapter {adapter_name!r}, "
            f"they differ in {sorted(set(adapters) ^ set(wanted))[0]}"
        )
    with torch.no_grad():
        for path, adapter in adapters.items():
            adapter.lora_A.copy_(wanted[path]["lora_A"])
            adapter.lora_B.copy_(wanted[path]["lora_B"])
    set_adapter(model, adapter_name)
    return model


def _adapters(model: nn.Module, adapter_name: str) -> dict[str, LoRALinear]:
    return {
        path: cast(LoRALinear, switch.adapters[adapter_name])
        for path, switch in switches(model).items()
        if adapter_name in switch.adapters
    }


def _shortest_endings(adapted: list[str], every: list[str]) -> list[str]:
    """Return the last parts of the names if they choose exactly the adapted layers, else the full names."""
    endings = {path.rpartition(".")[2] for path in adapted}
    chosen = [path for path in every if path.rpartition(".")[2] in endings]
    return sorted(endings) if set(chosen) == set(adapted) else sorted(adapted)


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / file).is_file():
            raise FileNotFoundError(
                f"folder must hold {CONFIG_FILE} and {WEIGHTS_FILE}; {folder} has no {file}"
            )
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG_FILE} must be JSON, got a damaged file ({error})") from None
    _check_plain_lora(config, folder / CONFIG_FILE)
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
    except SafetensorError as error:
        raise ValueError(
            f"{folder / WEIGHTS_FILE} must be safetensors, got a damaged file ({error})"
        ) from None
    return config, tensors


def _check_plain_lora(config: Any, file: Path) -> None:
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ValueError(f"{file} must describe a LoRA adapter (peft_type LORA)")
    for key in ("r", "lora_alpha"):
        if not isinstance(config.get(key), (int, float)):
            raise ValueError(f"{file} must give {key} as a number, got {config.get(key)!r}")
    # What would change the numbers if it were passed over in silence.
    for key in (
        "use_dora",
        "rank_pattern",
        "alpha_pattern",
        "modules_to_save",
        "fan_in_fan_out",
        "lora_bias",
    ):
        if config.get(key):
            raise ValueError(f"{file} must describe plain LoRA: {key} = {config[key]!r} is not supported")
    if config.get("bias", "none") != "none":
        raise ValueError(f"{file} must have bias 'none', got {config['bias']!r}")


def _by_layer(tensors: dict[str, Tensor], folder: Path) -> dict[str, dict[str, Tensor]]:
    """Sort ``base_model.model.<path>.lora_A.weight`` by path; each layer must have both matrices."""
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        path, _, matrix = key.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".")
        if matrix not in ("lora_A", "lora_B"):
            raise ValueError(f"{folder / WEIGHTS_FILE} must hold lora_A and lora_B only, got {key}")
        if not tensor.isfinite().all():
            raise ValueError(f"{folder / WEIGHTS_FILE} must hold finite numbers, got others in {key}")
        layers.setdefault(path, {})[matrix] = tensor
    for path, pair in layers.items():
        if len(pair) != 2:
            raise ValueError(
                f"{folder / WEIGHTS_FILE} must hold lora_A and lora_B of {path}, got {sorted(pair)} alone"
            )
    return layers


def _check_shapes(
    wanted: dict[str, dict[str, Tensor]], layers: dict[str, nn.Module], r: int, folder: Path
) -> None:
    for path, pair in wanted.items():
        base = cast(Any, base_layer(layers[path]))
        allowed = {"lora_A": (r, base.in_features), "lora_B": (base.out_features, r)}
        for matrix, shape in allowed.items():
            if tuple(pair[matrix].shape) != shape:
                raise ValueError(
                    f"{folder / WEIGHTS_FILE} must hold {matrix} of shape {shape} for {path}, "
                    f"got {tuple(pair[matrix].shape)}"
                )


def _check_same_kind(model: nn.Module, adapter_name: str, config: dict[str, Any], folder: Path) -> None:
    adapter = next(iter(_adapters(model, adapter_name).values()))
    here = {"r": adapter.r, "lora_alpha": adapter.lora_alpha, "use_rslora": adapter.use_rslora}
    there = {
        "r": config["r"],
        "lora_alpha": config["lora_alpha"],
        "use_rslora": bool(config.get("use_rslora")),
    }
    if here != there:
        raise ValueError(
            f"{folder / CONFIG_FILE} must fit adapter {adapter_name!r}, which has {here}, got {there}"
        )
