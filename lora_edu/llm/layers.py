"""What stands outside a model's linear layers, so that "all linear layers" never leaves out most of it in silence.

A mixture of experts keeps the weights of its experts in two tensors with three dimensions; GPT-2 keeps its matrices in
layers of its own kind, ``Conv1D``. Neither is an ``nn.Linear``: what quantizes or adapts linear layers passes both by.
"""

import re
from typing import Any, cast

from torch import nn
from torch.nn.modules.conv import _ConvNd

from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.prefix import PrefixEncoder
from lora_edu.methods.qlora import NF4Linear

# What holds matrices that are quantized and adapted, or that every method leaves as they are; and our adapters.
_KNOWN = (nn.Linear, nn.Embedding, _ConvNd, LoRALinear, PrefixEncoder)


def weights_outside_linear_layers(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights with two or more dimensions that no linear layer, embedding or convolution holds, by name."""
    return {
        f"{path}.{name}" if path else name: parameter
        for path, module in model.named_modules()
        if not isinstance(module, _KNOWN)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim > 1
    }


def require_all_in_linear_layers(model: nn.Module, setting: str) -> None:
    """Raise ValueError, naming what would be left out, unless the linear layers hold all that is to be changed.

    Parameters
    ----------
    setting
        What was asked for; the message begins with it.
    """
    outside = weights_outside_linear_layers(model)
    if not outside:
        return
    packed = sum(m.in_features * m.out_features for m in model.modules() if isinstance(m, NF4Linear))
    share = sum(p.numel() for p in outside.values()) / (sum(p.numel() for p in model.parameters()) + packed)
    names = dict.fromkeys(re.sub(r"\d+", "*", name) for name in outside)
    kind = getattr(cast(Any, model).config, "model_type", None) if hasattr(model, "config") else None
    raise ValueError(
        f"{setting} must find the model's matrices in linear layers, got {kind or type(model).__name__}, where "
        f"{', '.join(names)} are outside of them, {share:.0%} of the model's parameters. Choose a model without them "
        "(a dense one), or add LoRA to layers that you name"
    )
