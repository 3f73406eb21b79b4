"""What happens around a forward of a model with adapters: an adapter for each row, a prefix before the first.

PyTorch calls one function before the model's forward and one after it (hooks), so that the model's class, and the
signature that transformers reads, stay as they are. ``generate`` refuses arguments that it does not know, so the
model gets one of its own, which takes `adapter_names` and leaves the rest to its class.
"""

import inspect
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.utils.generic import ModelOutput

from lora_edu.llm.surgery.switch import AdapterSwitch, Choice, PrefixSwitch, find_choice
from lora_edu.methods.prefix import PrefixEncoder

BASE = "__base__"
"""The name, in `adapter_names`, of a row that no adapter changes; peft's."""


def listen(model: nn.Module) -> None:
    """Make the model take ``adapter_names`` and read its prefix, in ``forward`` and in ``generate``."""
    model.register_forward_pre_hook(_before_forward, with_kwargs=True)
    model.register_forward_hook(_after_forward, with_kwargs=True, always_call=True)
    if hasattr(model, "generate"):
        cast(Any, model).generate = MethodType(_generate, model)


def _before_forward(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    choice = cast(Choice, find_choice(model))
    choice.rows = None  # an interrupted forward may have left some
    names = kwargs.pop("adapter_names", None)
    if names is not None:
        _check_rows(model, names, _batch_size(args, kwargs))
        choice.rows = list(names)
    prefix = _active_prefix(model)
    return (args, kwargs) if prefix is None else ((), _with_prefix(model, prefix, args, kwargs))


def _after_forward(model: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    cast(Choice, find_choice(model)).rows = None
    cache_is_wanted = kwargs.get("use_cache") is not False
    if cache_is_wanted or not isinstance(output, ModelOutput) or _active_prefix(model) is None:
        return output
    # The prefix made a cache that nobody asked for; generate would go on from it.
    return type(output)(**{key: value for key, value in output.items() if key != "past_key_values"})


def _generate(
    model: Any, *args: Any, adapter_names: list[str] | tuple[str, ...] | None = None, **kwargs: Any
) -> Any:
    """Generate as the model's class does, each prompt through the adapter that `adapter_names` gives it.

    All beams and samples of a prompt keep its adapter.
    """
    if adapter_names is None:
        return type(model).generate(model, *args, **kwargs)
    _check_rows(model, adapter_names, _batch_size(args, kwargs))

    def name_rows(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        copies = _batch_size(args, kwargs) // len(adapter_names)
        return args, kwargs | {"adapter_names": [name for name in adapter_names for _ in range(copies)]}

    handle = model.register_forward_pre_hook(name_rows, prepend=True, with_kwargs=True)
    try:
        return type(model).generate(model, *args, **kwargs)
    finally:
        handle.remove()


def _check_rows(model: nn.Module, names: Any, batch_size: int) -> None:
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"adapter_names must be a list of names, one a row, got {names!r}")
    if len(names) != batch_size:
        raise ValueError(f"adapter_names must be one a row of the batch, {batch_size}, got {len(names)}")
    layers = [module for module in model.modules() if isinstance(module, AdapterSwitch)]
    known = [*dict.fromkeys(name for layer in layers for name in layer.adapters), BASE]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"adapter_names must be among the adapters of the model's layers {known}, got {unknown[0]!r}"
        )
    if _recomputes(model):
        raise ValueError(
            "adapter_names must be None while gradient checkpointing is on: its second forward does not see them"
        )


def _active_prefix(model: nn.Module) -> PrefixEncoder | None:
    switch = getattr(model, "prefixes", None)
    if not isinstance(switch, PrefixSwitch) or switch.active is None:
        return None
    return cast(PrefixEncoder, switch.adapters[switch.active])


def _with_prefix(model: Any, prefix: PrefixEncoder, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a forward that has read the prefix before anything else.

    An empty cache is filled with the prefix. A cache that is not empty holds it already: generation goes on.
    """
    if _recomputes(model):
        raise ValueError(
            "gradient checkpointing must be off under a prefix: it takes away the cache that holds it"
        )
    positional = list(inspect.signature(type(model).forward).parameters)[1:]
    kwargs = dict(zip(positional, args, strict=False)) | kwargs
    batch_size, length = _batch_size((), kwargs), prefix.num_virtual_tokens
    cache = kwargs.get("past_key_values")
    if cache is None:
        cache = kwargs["past_key_values"] = DynamicCache(config=model.config)
    if cache.get_seq_length() == 0:
        for layer, (keys, values) in enumerate(prefix(batch_size)):
            cache.update(keys.to(model.dtype), values.to(model.dtype), layer)
    mask: Tensor | None = kwargs.get("attention_mask")
    if mask is not None:
        if mask.ndim != 2:
            raise ValueError(
                f"attention_mask must be (batch, tokens) under a prefix, got shape {tuple(mask.shape)}"
            )
        kwargs["attention_mask"] = torch.cat((mask.new_ones(batch_size, length), mask), dim=1)
    if kwargs.get("position_ids") is not None:
        kwargs["position_ids"] = kwargs["position_ids"] + length
    return kwargs


def _batch_size(args: tuple, kwargs: dict[str, Any]) -> int:
    """Rows of the first input given; generate needs none, and then makes one row."""
    inputs = (*args[:1], *(kwargs.get(name) for name in ("input_ids", "inputs_embeds", "inputs")))
    return next((len(tensor) for tensor in inputs if tensor is not None), 1)


def _recomputes(model: nn.Module) -> bool:
    return model.training and any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
