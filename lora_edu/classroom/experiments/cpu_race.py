"""One layer in four formats on a CPU, and the time each takes (notebook 07)."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from lora_edu.methods.qlora import NF4Linear

Layer = Callable[[Tensor], Tensor]


def layers(wide: nn.Linear) -> dict[str, Layer]:
    """The layer itself and three copies, from float32 inputs (batch, in) to float32 outputs (batch, out).

    Parameters
    ----------
    wide
        A float32 layer without a bias.

    Raises
    ------
    ValueError
        If it has a bias.
    """
    if wide.bias is not None:
        raise ValueError("wide must have no bias, got one")
    W = wide.weight.detach()
    W_bf16 = W.bfloat16()
    return {
        "fp32": wide,
        "bf16": lambda x: (x.bfloat16() @ W_bf16.T).float(),
        "int8": int8_layer(W),
        "NF4": NF4Linear.from_linear(wide),
    }


def int8_layer(W: Tensor) -> Layer:
    """A layer that multiplies whole numbers: weights have one absmax an output, inputs one a row."""
    W_scale = W.abs().amax(1) / 127
    W_int8 = (W / W_scale[:, None]).round().to(torch.int8)

    def forward(x: Tensor) -> Tensor:
        x_scale = x.abs().amax(1, keepdim=True) / 127
        x_int8 = (x / x_scale).round().to(torch.int8)
        # Its name says that it may change.
        whole = torch._int_mm(x_int8, W_int8.T)  # pyright: ignore[reportPrivateImportUsage]
        return whole * x_scale * W_scale

    return forward


@torch.no_grad()
def seconds(layer: Layer, x: Tensor) -> float:
    """The least time of a forward pass on this thread, which leaves out the time of other programs."""
    timer = Timer("layer(x)", globals={"layer": layer, "x": x}, timer=time.thread_time)
    return min(timer.blocked_autorange(min_run_time=0.3).times)
