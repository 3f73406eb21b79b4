"""Do the two files of an adapter agree with each other and with a model? Compared both ways, tensor by tensor."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lora_edu.llm.checkpoint.disk import CONFIG_FILE, PREFIX, WEIGHTS_FILE
from lora_edu.llm.surgery import ALL_LINEAR, Switch, adapter_names, base_layer, linear_layers, module_paths

# The ways to start A and B, beside PEFT's default, that leave the base as it is.
_INITS = ("eva", "gaussian", "mica", "orthogonal")


def adapter_parts(model: nn.Module, name: str) -> dict[str, Any]:
    """Return the parts of one adapter by the paths of their switches; a prefix has one part alone."""
    return {
        path: switch.adapters[name]
        for path, switch in model.named_modules()
        if isinstance(switch, Switch) and name in switch.adapters
    }


def is_new(model: nn.Module, name: str, settings: dict[str, Any], folder: Path) -> bool:
    """Whether the model has no adapter of that name; one that it has must be built with the same settings."""
    if name not in adapter_names(model):
        return True
    adapter = next(iter(adapter_parts(model, name).values()))
    here = {key: getattr(adapter, key, None) for key in settings}
    if here != settings:
        raise ValueError(
            f"{folder / CONFIG_FILE} must fit adapter {name!r}, a {type(adapter).__name__} that has {here}, "
            f"got {settings}"
        )
    return False


def same_layers(model: nn.Module, name: str, wanted: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the parts of the named adapter, if the file holds the same layers."""
    adapters = adapter_parts(model, name)
    if set(adapters) != set(wanted):
        raise ValueError(
            f"{folder / WEIGHTS_FILE} must hold the layers of adapter {name!r}, "
            f"they differ in {sorted(set(adapters) ^ set(wanted))[0]}"
        )
    return adapters


def starts_neutral(init: Any) -> bool:
    """Whether a start of A and B, ``init_lora_weights``, leaves the base as it is; PEFT reads names in any case."""
    return not isinstance(init, str) or init.lower() in _INITS


def check_plain_lora(config: dict[str, Any], file: Path) -> None:
    """Raise ValueError unless rank and alpha are numbers and nothing in the config changes what the tensors mean."""
    for key, kinds in (("r", int), ("lora_alpha", (int, float))):
        value = config.get(key)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise ValueError(f"{file} must give {key} as a number, got {value!r}")
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
        "target_parameters",
    ):
        if config.get(key):
            raise ValueError(f"{file} must describe plain LoRA: {key} = {config[key]!r} is not supported")
    init = config.get("init_lora_weights")
    if not starts_neutral(init):
        # Such as PiSSA, which takes the start of B A away from the base's weights.
        raise ValueError(
            f"{file} must have init_lora_weights true, false or one of {', '.join(_INITS)}, which leave the base as "
            f"it is, got {init!r}"
        )
    if config.get("bias", "none") != "none":
        raise ValueError(f"{file} must have bias 'none', got {config['bias']!r}")


def check_prefix(
    config: dict[str, Any], file: Path, num_layers: int, num_kv_heads: int, head_dim: int
) -> None:
    """Raise ValueError if the config speaks of other layers or heads: the same tensor would mean other keys."""
    here = {
        "num_layers": num_layers,
        "num_attention_heads": num_kv_heads,
        "token_dim": num_kv_heads * head_dim,
        "num_transformer_submodules": 1,
    }
    for key, value in here.items():
        if config.get(key) not in (None, value):
            raise ValueError(f"{file} must fit the model, whose {key} is {value}, got {config[key]!r}")


def by_layer(
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
        wanted.setdefault(key.removeprefix(PREFIX).removesuffix("." + part), {})[part] = tensor
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


def require_asked_layers(
    model: nn.Module, config: dict[str, Any], wanted: dict[str, Any], folder: Path
) -> None:
    """Raise ValueError unless the file holds the layers that the config asks of this model, all and no other."""
    all_linear = config.get("target_modules") == ALL_LINEAR
    every = list(linear_layers(model)) if all_linear else module_paths(model)
    asked = {path for path in every if asks_for(config, path, folder / CONFIG_FILE)}
    if missing := sorted(asked - wanted.keys()):
        raise ValueError(
            f"{folder / WEIGHTS_FILE} must hold every layer that {CONFIG_FILE} asks of this model, "
            f"{len(asked)}, got {len(asked) - len(missing)}, without {', '.join(missing[:3])}"
        )
    if extra := sorted(wanted.keys() - asked):
        raise ValueError(
            f"{folder / WEIGHTS_FILE} must hold the layers that {CONFIG_FILE} asks of this model alone, "
            f"got also {', '.join(extra[:3])}"
        )


def asks_for(config: dict[str, Any], path: str, file: Path) -> bool:
    """Return whether an adapter's config asks for the layer, by PEFT's rules.

    ``target_modules`` and ``exclude_modules``: name endings, or one regular expression for the whole path.
    ``layers_to_transform``: the numbers of the layers, after ``layers_pattern`` or any name; with endings alone.

    Raises
    ------
    ValueError
        One of them is none of these.
    """
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    if excluded and _named(excluded, path, "exclude_modules", file):
        return False
    if targets == ALL_LINEAR:
        return True
    if not targets or not _named(targets, path, "target_modules", file):
        if not targets:
            raise ValueError(f"{file} must give target_modules, got {targets!r}")
        return False
    numbers = config.get("layers_to_transform")
    if isinstance(targets, str) or numbers is None or numbers == []:
        return True
    numbers = numbers if isinstance(numbers, list) else [numbers]
    if not all(type(number) is int for number in numbers):
        raise ValueError(f"{file} must give layers_to_transform as whole numbers, got {numbers!r}")
    patterns = config.get("layers_pattern") or r"[^.]*"
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if found := _match(re.match, rf".*\.(?:{pattern})\.(\d+)\.", path, "layers_pattern", file):
            return int(found.groups()[-1]) in numbers
    return False


def _named(names: Any, path: str, key: str, file: Path) -> bool:
    if isinstance(names, str):
        return bool(_match(re.fullmatch, names, path, key, file))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{file} must give {key} as a list of names or one expression, got {names!r}")
    return any(path == name or path.endswith("." + name) for name in names)


def _match(
    how: Callable[..., re.Match | None], pattern: str, path: str, key: str, file: Path
) -> re.Match | None:
    try:
        return how(pattern, path)
    except (re.error, TypeError) as error:
        raise ValueError(
            f"{file} must give {key} as regular expressions, got {pattern!r} ({error})"
        ) from None
