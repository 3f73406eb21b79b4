"""Adapters on disk, in PEFT's own two files, so that PEFT loads ours and we load PEFT's.

``adapter_config.json`` says what to build (rank, alpha, which layers); ``adapter_model.safetensors`` holds the
numbers, under the keys ``base_model.model.<path of the layer>.lora_A.weight`` and ``...lora_B.weight``, or, of a
prefix, ``prompt_embeddings``. The base model is not in either file: an adapter is only as good as the base that it
is laid over. PEFT has no bottleneck adapters: their files look the same, but only we load them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lora_edu.llm.surgery import (
    Switch,
    adapter_names,
    add_bottleneck,
    add_lora,
    add_prefix,
    base_layer,
    key_shape,
    linear_layers,
    set_adapter,
)
from lora_edu.methods.bottleneck import BottleneckAdapter
from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.prefix import PrefixEncoder

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PROMPT = "prompt_embeddings"
_LORA_PARTS = ("lora_A.weight", "lora_B.weight")
_BOTTLENECK_PARTS = ("down.weight", "down.bias", "up.weight", "up.bias")
# The ways to start A and B, beside PEFT's default, that leave the base as it is.
_INITS = ("eva", "gaussian", "mica", "orthogonal")

_Files = tuple[dict[str, Any], dict[str, Tensor]]


def save_adapter(model: nn.Module, folder: str | Path, adapter_name: str = "default") -> Path:
    """Write one adapter of the model in PEFT's format; return the folder.

    Parameters
    ----------
    model
        A model changed by one of the ``add_`` functions of `surgery`.
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
    describe = {LoRALinear: _lora_files, PrefixEncoder: _prefix_files, BottleneckAdapter: _bottleneck_files}
    config, tensors = describe[type(next(iter(adapters.values())))](model, adapters)
    config |= {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": getattr(getattr(model, "config", None), "name_or_path", None),
        "inference_mode": True,
    }
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
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

    A bare base is wrapped first. An adapter of that name that is already there receives the new numbers, if kind,
    sizes, scaling rule and layers are the same. The loaded adapter becomes the active one.

    Raises
    ------
    FileNotFoundError
        If one of the two files is missing.
    ValueError
        If the files are damaged, not those of a plain LoRA, a prefix or a bottleneck, or do not fit the model:
        missing or unknown layers, other shapes, numbers that are not finite.
    """
    folder = Path(folder)
    config, tensors = _read(folder)
    load = {"LORA": _load_lora, "PREFIX_TUNING": _load_prefix, "BOTTLENECK": _load_bottleneck}
    with torch.no_grad():
        load[config["peft_type"]](model, config, tensors, folder, adapter_name)
    set_adapter(model, adapter_name)
    return model


# To files


def _lora_files(model: nn.Module, adapters: dict[str, Any]) -> _Files:
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
        tensors[f"{_PREFIX}{path}.lora_A.weight"] = adapter.lora_A
        tensors[f"{_PREFIX}{path}.lora_B.weight"] = adapter.lora_B
    return config, tensors


def _bottleneck_files(model: nn.Module, adapters: dict[str, Any]) -> _Files:
    first = next(iter(adapters.values()))
    config = {
        "peft_type": "BOTTLENECK",
        "bottleneck": first.bottleneck,
        "activation": first.activation,
        "target_modules": _shortest_endings(list(adapters), list(linear_layers(model))),
    }
    return config, {
        f"{_PREFIX}{path}.{part}": tensor
        for path, adapter in adapters.items()
        for part, tensor in adapter.state_dict().items()
    }


def _prefix_files(model: nn.Module, adapters: dict[str, Any]) -> _Files:
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
    return config, {_PROMPT: per_layer.permute(3, 0, 1, 2, 4).flatten(1)}


def _shortest_endings(adapted: list[str], every: list[str]) -> list[str]:
    """Return the last parts of the names if they choose exactly the adapted layers, else the full names."""
    endings = {path.rpartition(".")[2] for path in adapted}
    chosen = [path for path in every if path.rpartition(".")[2] in endings]
    return sorted(endings) if set(chosen) == set(adapted) else sorted(adapted)


# From files


def _load_lora(
    model: nn.Module, config: dict[str, Any], tensors: dict[str, Tensor], folder: Path, name: str
) -> None:
    _check_plain_lora(config, folder / CONFIG_FILE)
    r, use_rslora = config["r"], bool(config.get("use_rslora"))

    def shapes(base: Any) -> tuple[tuple[int, ...], ...]:
        return (r, base.in_features), (base.out_features, r)

    wanted = _by_layer(model, tensors, _LORA_PARTS, shapes, folder)
    settings = {"r": r, "lora_alpha": config["lora_alpha"], "use_rslora": use_rslora}
    if _is_new(model, name, settings, folder):
        dropout = config.get("lora_dropout") or 0.0
        add_lora(model, sorted(wanted), **settings, lora_dropout=dropout, adapter_name=name)
    for path, adapter in _same_layers(model, name, wanted, folder).items():
        adapter.lora_A.copy_(wanted[path]["lora_A.weight"])
        adapter.lora_B.copy_(wanted[path]["lora_B.weight"])


def _load_bottleneck(
    model: nn.Module, config: dict[str, Any], tensors: dict[str, Tensor], folder: Path, name: str
) -> None:
    settings = {key: config.get(key) for key in ("bottleneck", "activation")}
    width = cast(int, settings["bottleneck"])

    def shapes(base: Any) -> tuple[tuple[int, ...], ...]:
        return (width, base.out_features), (width,), (base.out_features, width), (base.out_features,)

    wanted = _by_layer(model, tensors, _BOTTLENECK_PARTS, shapes, folder)
    if _is_new(model, name, settings, folder):
        add_bottleneck(model, **cast(Any, settings), target_modules=sorted(wanted), adapter_name=name)
    for path, adapter in _same_layers(model, name, wanted, folder).items():
        adapter.load_state_dict(wanted[path])


def _load_prefix(
    model: nn.Module, config: dict[str, Any], tensors: dict[str, Tensor], folder: Path, name: str
) -> None:
    num_virtual_tokens = cast(int, config.get("num_virtual_tokens"))  # the shape of the numbers will tell
    num_layers, num_kv_heads, head_dim = key_shape(model)
    allowed = (num_virtual_tokens, num_layers * 2 * num_kv_heads * head_dim)
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if found != {_PROMPT: allowed}:
        raise ValueError(f"{folder / WEIGHTS_FILE} must hold {_PROMPT} of shape {allowed}, got {found}")
    if _is_new(model, name, {"num_virtual_tokens": num_virtual_tokens}, folder):
        add_prefix(model, num_virtual_tokens, adapter_name=name)
    (prefix,) = _adapters(model, name).values()
    per_layer = (
        tensors[_PROMPT]
        .reshape(num_virtual_tokens, num_layers, 2, num_kv_heads, head_dim)
        .permute(2, 1, 3, 0, 4)
    )
    prefix.keys.copy_(per_layer[0])
    prefix.values.copy_(per_layer[1])


def _adapters(model: nn.Module, name: str) -> dict[str, Any]:
    """Return the parts of one adapter by the paths of their switches; a prefix has one part alone."""
    return {
        path: switch.adapters[name]
        for path, switch in model.named_modules()
        if isinstance(switch, Switch) and name in switch.adapters
    }


def _is_new(model: nn.Module, name: str, settings: dict[str, Any], folder: Path) -> bool:
    """Whether the model has no adapter of that name; one that it has must be built with the same settings."""
    if name not in adapter_names(model):
        return True
    adapter = next(iter(_adapters(model, name).values()))
    here = {key: getattr(adapter, key, None) for key in settings}
    if here != settings:
        raise ValueError(
            f"{folder / CONFIG_FILE} must fit adapter {name!r}, a {type(adapter).__name__} that has {here}, "
            f"got {settings}"
        )
    return False


def _same_layers(model: nn.Module, name: str, wanted: dict[str, Any], folder: Path) -> dict[str, Any]:
    adapters = _adapters(model, name)
    if set(adapters) != set(wanted):
        raise ValueError(
            f"{folder / WEIGHTS_FILE} must hold the layers of adapter {name!r}, "
            f"they differ in {sorted(set(adapters) ^ set(wanted))[0]}"
        )
    return adapters


def _read(folder: Path) -> _Files:
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / file).is_file():
            raise FileNotFoundError(
                f"folder must hold {CONFIG_FILE} and {WEIGHTS_FILE}; {folder} has no {file}"
            )
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG_FILE} must be JSON, got a damaged file ({error})") from None
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind not in ("LORA", "PREFIX_TUNING", "BOTTLENECK"):
        raise ValueError(
            f"{folder / CONFIG_FILE} must describe a LoRA adapter, a prefix or a bottleneck "
            f"(peft_type LORA, PREFIX_TUNING or BOTTLENECK), got {kind!r}"
        )
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
    except SafetensorError as error:
        raise ValueError(
            f"{folder / WEIGHTS_FILE} must be safetensors, got a damaged file ({error})"
        ) from None
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{folder / WEIGHTS_FILE} must hold finite numbers, got others in {key}")
    return config, tensors


def _check_plain_lora(config: dict[str, Any], file: Path) -> None:
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
        "alora_invocation_tokens",
        "layer_replication",
    ):
        if config.get(key):
            raise ValueError(f"{file} must describe plain LoRA: {key} = {config[key]!r} is not supported")
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower() not in _INITS:
        # Such as PiSSA, which takes the start of B A away from the base's weights.
        raise ValueError(
            f"{file} must have init_lora_weights true, false or one of {', '.join(_INITS)}, which leave the base as "
            f"it is, got {init!r}"
        )
    if config.get("bias", "none") != "none":
        raise ValueError(f"{file} must have bias 'none', got {config['bias']!r}")


def _by_layer(
    model: nn.Module,
    tensors: dict[str, Tensor],
    parts: tuple[str, ...],
    shapes: Callable[[Any], tuple[tuple[int, ...], ...]],
    folder: Path,
) -> dict[str, dict[str, Tensor]]:
    """Sort ``base_model.model.<path>.<part>`` by path.

    The model must have each layer, and the file every part of it in the shape that `shapes` derives from the layer.
    """
    file, layers = folder / WEIGHTS_FILE, linear_layers(model)
    wanted: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part = next((part for part in parts if key.endswith("." + part)), None)
        if part is None:
            raise ValueError(f"{file} must hold {' and '.join(parts)} only, got {key}")
        wanted.setdefault(key.removeprefix(_PREFIX).removesuffix("." + part), {})[part] = tensor
    for path, found in wanted.items():
        if len(found) != len(parts):
            raise ValueError(f"{file} must hold {' and '.join(parts)} of {path}, got {sorted(found)} alone")
        if path not in layers:
            raise ValueError(f"{file} must fit the model, which has no linear layer {path}")
        for part, shape in zip(parts, shapes(base_layer(layers[path])), strict=True):
            if tuple(found[part].shape) != shape:
                raise ValueError(
                    f"{file} must hold {part} of shape {shape} for {path}, got {tuple(found[part].shape)}"
                )
    return wanted
