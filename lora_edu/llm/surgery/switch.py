"""The layer that lets one adapter through, and the layers of a model that can become one."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from numbers import Integral
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.llm.layers import require_all_in_linear_layers
from lora_edu.methods import _validate
from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.qlora import NF4Linear

ALL_LINEAR = "all-linear"
"""Every linear layer but the output head, the choice of QLoRA (arXiv 2305.14314, section 4)."""


@dataclass
class Choice:
    """Which adapters a model lets through. All switches of the model hold the same object."""

    names: list[str] = field(default_factory=list)
    """Every adapter, in the order in which they were added."""
    active: str | None = None
    """The adapter of a batch whose rows name none."""
    rows: list[str] | None = None
    """The adapter of each row, while a forward with ``adapter_names`` runs."""
    enabled: bool = True
    """False within `disable_adapter`."""


class Switch(nn.Module):
    """Several named adapters, of which at most one is active."""

    adapters: nn.ModuleDict

    def __init__(self, choice: Choice):
        super().__init__()
        self.choice = choice

    @property
    def active(self) -> str | None:
        """The adapter that every row passes through, if it is one of this switch."""
        choice = self.choice
        chosen = choice.active if choice.enabled and choice.rows is None else None
        return chosen if chosen is not None and chosen in self.adapters else None

    def extra_repr(self) -> str:
        return f"active={self.active!r}"


class AdapterSwitch(Switch):
    """One frozen linear layer and the adapters over it, each a LoRA or a bottleneck.

    Parameters
    ----------
    base_layer
        A linear layer: ``nn.Linear``, ``NF4Linear``, or a subclass.
    choice
        The one of the model.
    """

    def __init__(self, base_layer: nn.Module, choice: Choice):
        super().__init__(choice)
        self.base_layer = (
            base_layer  # first: what walks the model meets the layer here, not inside an adapter
        )
        self.adapters = nn.ModuleDict()

    def forward(self, x: Tensor) -> Tensor:
        if self.choice.enabled and self.choice.rows is not None:
            return self._forward_rows(x, self.choice.rows)
        if self.active is None:
            return self.base_layer(x)
        adapter = self.adapters[self.active]
        return adapter(x) if isinstance(adapter, LoRALinear) else adapter(self.base_layer(x))

    def _forward_rows(self, x: Tensor, names: list[str]) -> Tensor:
        """The base layer once for the whole batch, each adapter for its own rows."""
        if len(x) != len(names):
            raise ValueError(
                f"adapter_names must meet one row each in every layer, got {len(names)} names and an input of "
                f"shape {tuple(x.shape)}"
            )
        y = self.base_layer(x).clone()  # autograd may need the base layer's own output as it was
        for name, adapter in self.adapters.items():
            rows = [i for i, row in enumerate(names) if row == name]
            if rows:
                y[rows] = _adapted(adapter, x[rows], y[rows])
        return y


class PrefixSwitch(Switch):
    """The prefixes of a model. It is never called: the hook before the model's forward asks which one is active."""

    def __init__(self, choice: Choice):
        super().__init__(choice)
        self.adapters = nn.ModuleDict()


def _adapted(adapter: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """What `adapter` makes of a base layer's input `x` and output `y`."""
    if not isinstance(adapter, LoRALinear):
        return adapter(y)
    # The sum of LoRALinear.forward; the base's part of it has been computed already.
    hidden = F.linear(adapter.lora_dropout(x.to(adapter.lora_A.dtype)), adapter.lora_A)
    return (y + F.linear(adapter.scaling * hidden, adapter.lora_B)).to(y.dtype)


_LAYERS = (nn.Linear, NF4Linear, AdapterSwitch)


def find_choice(model: nn.Module) -> Choice | None:
    """Return what the model's switches share; None for a model without adapters."""
    return next((module.choice for module in model.modules() if isinstance(module, Switch)), None)


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return every linear layer that can carry an adapter, by its path: all but the output head.

    A layer that already carries one is given as its `AdapterSwitch`.
    """
    head = cast(Any, model).get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return {
        name: layer
        for name, layer in _walk(model)
        if isinstance(layer, _LAYERS) and layer is not head and not _ends_with(name, "lm_head")
    }


def module_paths(model: nn.Module) -> list[str]:
    """Return the path of every module that the model has without adapters, a linear layer or not."""
    return [path for path, module in _walk(model) if not isinstance(module, PrefixSwitch)]


def base_layer(layer: nn.Module) -> nn.Module:
    """Return the layer under the adapters, or the layer itself if it carries none."""
    return layer.base_layer if isinstance(layer, AdapterSwitch) else layer


def named_layers(model: nn.Module, target_modules: Iterable[str]) -> dict[str, nn.Module]:
    """Return the linear layers that `target_modules` names, by their paths.

    Raises
    ------
    ValueError
        If it is empty, or one of its names fits no layer, or fits what is none, such as the output head or an
        embedding; or it is ``"all-linear"`` and the model has matrices outside its linear layers.
    TypeError
        If it is a single name other than ``"all-linear"``, or holds what is no name.
    """
    layers = linear_layers(model)
    if isinstance(target_modules, str) and target_modules != ALL_LINEAR:
        raise TypeError(
            f"target_modules must be a list of name endings or {ALL_LINEAR!r}, got {target_modules!r}"
        )
    names = [ALL_LINEAR] if target_modules == ALL_LINEAR else list(target_modules)
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise TypeError(f"target_modules must be names of layers, got {wrong[0]!r}")
    if names == [ALL_LINEAR]:
        require_all_in_linear_layers(model, f"target_modules {ALL_LINEAR!r}")
        return layers
    refused = [reason for name in names if (reason := _why_not(model, layers, name))]
    if refused or not names:
        raise ValueError(
            f"target_modules must name linear layers of the model, such as {_endings(layers, 1)}, "
            f"got {names}{': ' if refused else ''}{'; '.join(refused)}"
        )
    return {path: layer for path, layer in layers.items() if any(_ends_with(path, name) for name in names)}


def _why_not(model: nn.Module, layers: dict[str, nn.Module], name: str) -> str | None:
    """Return why no adapter goes where `name` points; None if one does, in our layers and in peft alike."""
    if name == ALL_LINEAR:
        return f"{name!r} must stand alone"
    named = {path: module for path, module in _walk(model) if _ends_with(path, name)}
    if not named:
        near = get_close_matches(name, _endings(layers, 1 + name.count(".")))
        return f"{name!r} names none" + (f" (did you mean {' or '.join(near)}?)" if near else "")
    other = next((path for path in named if path not in layers), None)
    return (
        None
        if other is None
        else f"{name!r} names {other}, {type(named[other]).__name__}, which is none here"
    )


def _endings(layers: dict[str, nn.Module], parts: int) -> list[str]:
    return sorted({".".join(path.split(".")[-parts:]) for path in layers})


def choose_layers(model: nn.Module, target_modules: Iterable[str], r: int) -> dict[str, nn.Module]:
    """Return the linear layers that `target_modules` names, by their paths, if a LoRA of rank `r` fits them.

    What it refuses is refused whatever the backend: where it returns, peft adapts the same layers.

    Raises
    ------
    TypeError, ValueError
        What `named_layers` raises; or rank `r` is no whole number, or does not fit between 1 and the smaller side of
        one of the layers.
    """
    chosen = named_layers(model, target_modules)
    for path, layer in chosen.items():
        base = cast(Any, base_layer(layer))
        limit = min(base.in_features, base.out_features)
        _validate.require(
            isinstance(r, Integral) and not isinstance(r, bool), "r", "an integer", repr(r), TypeError
        )
        if not 1 <= r <= limit:
            raise ValueError(f"r must be between 1 and {limit}, the smaller side of {path}, got {r}")
    return chosen


def switches(model: nn.Module) -> dict[str, AdapterSwitch]:
    """Return the layers that carry adapters, by their paths."""
    return {path: layer for path, layer in _walk(model) if isinstance(layer, AdapterSwitch)}


def _walk(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Every module of the model as it was before adapters: nothing within a layer or a switch."""
    for name, child in module.named_children():
        child_path = f"{path}.{name}" if path else name
        yield child_path, child
        if not isinstance(child, (*_LAYERS, Switch)):
            yield from _walk(child, child_path)


def _ends_with(path: str, ending: str) -> bool:
    return path == ending or path.endswith("." + ending)
