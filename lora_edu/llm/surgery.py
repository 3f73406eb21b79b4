"""Put adapters into a model, choose between them, and take them out of the way.

Surgery replaces linear layers in place, so that the rest of the model does not know::

    (q_proj): Linear        ->   (q_proj): AdapterSwitch
                                     (base_layer): Linear           frozen
                                     (adapters): {"default": LoRALinear}

A layer's weights are never copied: every adapter of a switch stands over the one base layer.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.qlora import NF4Linear

ALL_LINEAR = "all-linear"
"""Every linear layer but the output head, the choice of QLoRA (arXiv 2305.14314, section 4)."""


class AdapterSwitch(nn.Module):
    """One frozen linear layer and several named LoRA adapters over it, of which at most one is active.

    Parameters
    ----------
    base_layer
        A linear layer: ``nn.Linear``, ``NF4Linear``, or a subclass.
    """

    def __init__(self, base_layer: nn.Module):
        super().__init__()
        self.base_layer = base_layer
        self.adapters = nn.ModuleDict()
        self.active: str | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) if self.active is None else self.adapters[self.active](x)

    def extra_repr(self) -> str:
        return f"active={self.active!r}"


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return every linear layer that can carry an adapter, by its path: all but the output head.

    A layer that already carries one is given as its `AdapterSwitch`.
    """
    head = cast(Any, model).get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return {
        name: layer for name, layer in _walk(model) if layer is not head and not _ends_with(name, "lm_head")
    }


def base_layer(layer: nn.Module) -> nn.Module:
    """Return the layer under the adapters, or the layer itself if it carries none."""
    return layer.base_layer if isinstance(layer, AdapterSwitch) else layer


def choose_layers(model: nn.Module, target_modules: list[str] | str, r: int) -> dict[str, nn.Module]:
    """Return the linear layers that `target_modules` names, by their paths.

    Raises
    ------
    ValueError
        If it names none, or rank `r` does not fit between 1 and the smaller side of one of them.
    TypeError
        If it is a single name other than ``"all-linear"``.
    """
    layers = linear_layers(model)
    if target_modules == ALL_LINEAR:
        chosen = layers
    elif isinstance(target_modules, str):
        raise TypeError(
            f"target_modules must be a list of name endings or {ALL_LINEAR!r}, got {target_modules!r}"
        )
    else:
        chosen = {
            path: layer for path, layer in layers.items() if any(_ends_with(path, t) for t in target_modules)
        }
    if not chosen:
        endings = sorted({path.rpartition(".")[2] for path in layers})
        raise ValueError(
            f"target_modules must name linear layers of the model, such as {endings}, got {target_modules}"
        )
    for path, layer in chosen.items():
        base = cast(Any, base_layer(layer))
        limit = min(base.in_features, base.out_features)
        if not 1 <= r <= limit:
            raise ValueError(f"r must be between 1 and {limit}, the smaller side of {path}, got {r}")
    return chosen


def add_lora(
    model: nn.Module,
    target_modules: list[str] | str,
    r: int,
    lora_alpha: float,
    lora_dropout: float = 0.0,
    use_rslora: bool = False,
    adapter_name: str = "default",
) -> nn.Module:
    """Add a LoRA adapter to the chosen linear layers, make it the active one, and freeze everything else.

    Parameters
    ----------
    model
        Changed in place.
    target_modules
        Endings of layer names, such as ``["q_proj", "v_proj"]``, or ``"all-linear"``, as in peft.
    r
        Rank, 1 to the smaller side of each chosen layer.
    lora_alpha
        The update is scaled by ``lora_alpha / r``, or ``lora_alpha / sqrt(r)`` with `use_rslora`.
    lora_dropout
        Probability that an input of the adapter is dropped in training.
    use_rslora
        Rank-stabilized scaling (arXiv 2312.03732).
    adapter_name
        A name that this model does not hold yet, without dots.

    Returns
    -------
    The same model.

    Raises
    ------
    ValueError
        If no layer's name fits `target_modules`, the name is taken, or `r` does not fit a layer. The model is
        then unchanged, or at most frozen.
    """
    chosen = choose_layers(model, target_modules, r)
    _check_new_name(model, adapter_name)
    model.requires_grad_(False)
    for path, layer in chosen.items():
        switch = layer if isinstance(layer, AdapterSwitch) else AdapterSwitch(layer)
        adapter = LoRALinear(
            switch.base_layer, r, lora_alpha, lora_dropout=lora_dropout, use_rslora=use_rslora
        )
        switch.adapters[adapter_name] = adapter.train(model.training)
        model.set_submodule(path, switch.train(model.training))
    set_adapter(model, adapter_name)
    return model


def add_qlora(
    model: nn.Module,
    target_modules: list[str] | str,
    r: int,
    lora_alpha: float,
    lora_dropout: float = 0.0,
    use_rslora: bool = False,
    adapter_name: str = "default",
    blocksize: int = 64,
    double_quant: bool = True,
    compute_dtype: torch.dtype | None = None,
) -> nn.Module:
    """Quantize every linear layer but the output head to NF4, then add a LoRA adapter to the chosen ones.

    The parameters are those of `add_lora` and of `NF4Linear.from_linear`. Layers are quantized one by one, so the
    extra memory at any moment is that of one layer.

    Reference: Dettmers et al. 2023, QLoRA (arXiv 2305.14314), section 3.
    """
    choose_layers(model, target_modules, r)  # refuse before anything is changed
    _check_new_name(model, adapter_name)
    quantize_linear_layers(model, blocksize=blocksize, double_quant=double_quant, compute_dtype=compute_dtype)
    return add_lora(model, target_modules, r, lora_alpha, lora_dropout, use_rslora, adapter_name)


def quantize_linear_layers(
    model: nn.Module, blocksize: int = 64, double_quant: bool = True, compute_dtype: torch.dtype | None = None
) -> nn.Module:
    """Replace every ``nn.Linear`` but the output head by an `NF4Linear`, in place; return the model."""
    for path, layer in linear_layers(model).items():
        if isinstance(layer, AdapterSwitch):
            raise ValueError(f"model must not carry adapters before it is quantized, got one at {path}")
        if isinstance(layer, nn.Linear):
            quantized = NF4Linear.from_linear(
                layer, blocksize=blocksize, double_quant=double_quant, compute_dtype=compute_dtype
            )
            model.set_submodule(path, quantized.train(layer.training))
    return model


def lora_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """Iterate over ``lora_A`` and ``lora_B`` of every adapter in the model."""
    for module in model.modules():
        if isinstance(module, LoRALinear):
            yield module.lora_A
            yield module.lora_B


def adapter_names(model: nn.Module) -> list[str]:
    """Return the names of the adapters in the model, in the order in which they were added."""
    return list(dict.fromkeys(name for switch in switches(model).values() for name in switch.adapters))


def set_adapter(model: nn.Module, name: str) -> None:
    """Make the named adapter the active and trainable one; the others stay as they are, frozen.

    Raises
    ------
    ValueError
        If the model holds no adapter of that name.
    """
    names = adapter_names(model)
    if name not in names:
        raise ValueError(f"name must be one of the model's adapters {names}, got {name!r}")
    for switch in switches(model).values():
        switch.active = name if name in switch.adapters else None
        for other, adapter in switch.adapters.items():
            lora = cast(LoRALinear, adapter)
            lora.lora_A.requires_grad_(other == name)
            lora.lora_B.requires_grad_(other == name)


@contextmanager
def disable_adapter(model: nn.Module) -> Iterator[None]:
    """Within the block the model is its base again: every adapter is passed by."""
    active = [(switch, switch.active) for switch in switches(model).values()]
    try:
        for switch, _ in active:
            switch.active = None
        yield
    finally:
        for switch, name in active:
            switch.active = name


def switches(model: nn.Module) -> dict[str, AdapterSwitch]:
    """Return the layers that carry adapters, by their paths."""
    return {path: layer for path, layer in _walk(model) if isinstance(layer, AdapterSwitch)}


def base_weights_hash(model: nn.Module) -> str:
    """Return the sha256 of every weight that is not an adapter's, in the model's order.

    Works for our layers and for a ``PeftModel``, full-precision or bitsandbytes' 4-bit (whose constants are
    counted in). It does not depend on names, which wrapping changes, so it can be taken before and after.
    """
    digest = hashlib.sha256()
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        if any(part.startswith("lora_") for part in name.split(".")):
            continue
        digest.update(_bytes(tensor))
        quant_state = getattr(tensor, "quant_state", None)
        if quant_state is not None:
            digest.update(_bytes(quant_state.absmax))
    return digest.hexdigest()


def _walk(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        child_path = f"{path}.{name}" if path else name
        if isinstance(child, (nn.Linear, NF4Linear, AdapterSwitch)):
            yield child_path, child
        else:
            yield from _walk(child, child_path)


def _ends_with(path: str, ending: str) -> bool:
    return path == ending or path.endswith("." + ending)


def _check_new_name(model: nn.Module, name: str) -> None:
    taken = adapter_names(model)
    if not name or "." in name:
        raise ValueError(f"adapter_name must be a non-empty name without dots, got {name!r}")
    if name in taken:
        raise ValueError(f"adapter_name must be new, the model already holds {taken}, got {name!r}")


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy()
