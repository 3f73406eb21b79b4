"""Which adapter acts and trains, and what belongs to the base."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lora_edu.llm.surgery.switch import Switch, find_choice
from lora_edu.methods.lora import LoRALinear


def adapter_names(model: nn.Module) -> list[str]:
    """Return the names of the adapters in the model, in the order in which they were added."""
    choice = find_choice(model)
    return [] if choice is None else list(choice.names)


def set_adapter(model: nn.Module, name: str) -> None:
    """Make the named adapter the active and trainable one; the others stay as they are, frozen.

    Raises
    ------
    ValueError
        If the model holds no adapter of that name.
    """
    choice = find_choice(model)
    if choice is None or name not in choice.names:
        raise ValueError(f"name must be one of the model's adapters {adapter_names(model)}, got {name!r}")
    choice.active = name
    for other in choice.names:
        for parameter in adapter_parameters(model, other):
            parameter.requires_grad_(other == name)


@contextmanager
def disable_adapter(model: nn.Module) -> Iterator[None]:
    """Within the block the model is its base again: every adapter is passed by, whatever a row names."""
    choice = find_choice(model)
    if choice is None:
        yield
        return
    before = choice.enabled
    choice.enabled = False
    try:
        yield
    finally:
        choice.enabled = before


def lora_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """Iterate over ``lora_A`` and ``lora_B`` of every LoRA adapter in the model."""
    for module in model.modules():
        if isinstance(module, LoRALinear):
            yield module.lora_A
            yield module.lora_B


def adapter_parameters(model: nn.Module, adapter_name: str | None = None) -> Iterator[nn.Parameter]:
    """Iterate over the parameters of one adapter of any kind, or of all of them; never over the base's."""
    for switch in model.modules():
        if isinstance(switch, Switch):
            for name, adapter in switch.adapters.items():
                if adapter_name in (None, name):
                    # A LoRALinear holds the base layer too.
                    yield from (
                        lora_parameters(adapter) if isinstance(adapter, LoRALinear) else adapter.parameters()
                    )


def base_weights_hash(model: nn.Module) -> str:
    """Return the sha256 of every weight that is not an adapter's, in the model's order.

    Works for our layers and for a ``PeftModel`` with LoRA, full-precision or bitsandbytes' 4-bit (whose constants
    are counted in). It does not depend on names, which wrapping changes, so it can be taken before and after.
    """
    ours = {id(parameter) for parameter in adapter_parameters(model)}
    digest = hashlib.sha256()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if id(tensor) in ours or any(part.startswith("lora_") for part in name.split(".")):
            continue
        digest.update(_bytes(tensor))
        quant_state = getattr(tensor, "quant_state", None)
        if quant_state is not None:
            for constant in quant_state.as_dict(packed=True).values():
                digest.update(_bytes(constant))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy()
