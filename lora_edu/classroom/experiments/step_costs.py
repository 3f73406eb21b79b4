"""What a training step of a layer costs: operations and numbers, counted and not timed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


class StepCosts(NamedTuple):
    """What `step_costs` counts; operations are multiplications and additions."""

    trained: int  # numbers that receive a gradient
    forward: int  # operations of a forward pass
    step: int  # operations of forward and backward
    kept: int  # numbers kept from forward for backward, weights left out


def step_costs(layer: nn.Module, x: Tensor) -> StepCosts:
    """Count what one forward and backward pass costs; the optimizer's own work is left out.

    Parameters
    ----------
    layer : nn.Module
        May lie on PyTorch's meta device, which knows shapes and keeps no numbers.
    x : Tensor
        The layer's input. With ``requires_grad`` the gradient is passed on, as inside a network.

    Returns
    -------
    StepCosts
        Matrix products are counted as two operations for each pair of numbers multiplied (one multiplication,
        one addition), all else as none: that is `torch.utils.flop_counter`'s rule.
    """
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        whole = tensor if tensor._base is None else tensor._base  # a transposed weight is a view of it
        kept[id(whole)] = whole
        return tensor

    with FlopCounterMode(display=False) as step:
        with (
            FlopCounterMode(display=False) as forward,
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            y = layer(x)
        y.sum().backward()
    return StepCosts(
        trained=sum(p.numel() for p in layer.parameters() if p.requires_grad),
        forward=forward.get_total_flops(),
        step=step.get_total_flops(),
        kept=sum(t.numel() for t in kept.values() if not isinstance(t, nn.Parameter)),
    )
