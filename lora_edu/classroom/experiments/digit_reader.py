"""The patient of notebook 12: the network of notebook 05, which reads upright digits, and its training."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from lora_edu.classroom.experiments import digits
from lora_edu.methods.lora import LoRALinear

HIDDEN = (0, 2)
"""Where the two hidden layers stand in the network."""

Watch = Callable[[nn.Module], object]


def base_network() -> nn.Sequential:
    """A frozen float64 network of three layers, (n, 64) to (n, 10), trained on 700 upright digits; always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)]
        base = nn.Sequential(*layers).double()
    train(base, digits.load()["pretrain"], learning_rate=0.003, steps=100)
    return base.requires_grad_(False)


def with_lora(
    base: nn.Sequential, r: int, lora_alpha: float, lora_dropout: float = 0.0, use_rslora: bool = False
) -> nn.Sequential:
    """A copy of the network with a `LoRALinear` over each hidden layer; parameters as there."""
    model = copy.deepcopy(base)
    for layer in HIDDEN:
        model[layer] = LoRALinear(model[layer], r, lora_alpha, lora_dropout, use_rslora)
    return model.double()


def without_lora(model: nn.Sequential) -> nn.Sequential:
    """The network of the layers below the adapters, which it shares with `model`."""
    return nn.Sequential(*(layer.base_layer if isinstance(layer, LoRALinear) else layer for layer in model))


def train(
    model: nn.Module,
    data: digits.Data,
    learning_rate: float,
    steps: int = 60,
    watch: Watch | None = None,
) -> list[float]:
    """Train with Adam whatever may train, on all of `data` at each step.

    Parameters
    ----------
    model, data
        A classifier; its inputs (n, features) and labels (n,).
    learning_rate
        Of Adam.
    steps
        How often the weights change.
    watch
        Called with the model after each tenth step.

    Returns
    -------
    list of float
        The loss of each step, before it: mean of -log(probability of the right class), in nats.
    """
    X, y = data
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=learning_rate)
    losses = []
    for step in range(1, steps + 1):
        loss = F.cross_entropy(model(X), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if watch is not None and step % 10 == 0:
            watch(model)
    return losses


@torch.no_grad()
def accuracy(model: nn.Module, data: digits.Data) -> float:
    """The share, 0 to 1, of `data` that the model reads right, in the mode that it is in."""
    X, y = data
    return (model(X).argmax(dim=1) == y).double().mean().item()


def flowing_back(model: nn.Sequential, data: digits.Data) -> torch.Tensor:
    """The gradients of the loss by the input of the second hidden layer that are not zero, shape (n,)."""
    hidden = model[:2](data[0]).detach().requires_grad_()
    F.cross_entropy(model[2:](hidden), data[1]).backward()
    assert hidden.grad is not None
    return hidden.grad[hidden.grad != 0]
