r"""The loss of the scored tokens alone, without the logits of a whole batch ever in memory.

.. math:: L = \sum_i \log \sum_v e^{z_{iv}} - z_{i y_i}, \qquad \frac{\partial L}{\partial z_{iv}} = p_{iv} - [v = y_i]

A vocabulary of 49,152 in float32 takes 192 KiB a token: logits of a batch are often the largest tensor of a step. Here
they are made for a few hundred tokens at a time, and forgotten. The output head is frozen, so the gradient of its input
is known as soon as the probabilities are, and forward computes it; backward only scales it.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lora_edu.llm.budget import ARCHITECTURES, TOKENS_AT_ONCE

IGNORED = -100
FLOAT16_GRAIN = 1024.0
"""Probabilities are raised by this factor in float16, which has no numbers below 6e-8."""

Part = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""`part`, or another way to compute the same."""


def grain(dtype: torch.dtype) -> float:
    """What probabilities are raised by in a dtype."""
    return FLOAT16_GRAIN if dtype == torch.float16 else 1.0


def part(hidden: Tensor, weight: Tensor, targets: Tensor, gradient: Tensor) -> Tensor:
    """Return the loss of a few tokens, and write the gradient of their `hidden`."""
    logits = (hidden @ weight.T).float()
    ignored = targets == IGNORED
    chosen = targets.clamp(min=0)[:, None]
    norm = logits.logsumexp(-1)
    loss = (norm - logits.gather(1, chosen)[:, 0]).masked_fill(ignored, 0).sum()
    # exp(z - infinity) = 0: what is not scored has no gradient.
    slope = logits.sub_(norm.masked_fill(ignored, torch.inf)[:, None]).exp_()
    slope.scatter_add_(1, chosen, (ignored.to(slope.dtype) - 1)[:, None])
    raised = grain(weight.dtype)
    torch.mm((slope.mul_(raised) if raised != 1 else slope).to(weight.dtype), weight, out=gradient)
    return loss


class SummedCrossEntropy(torch.autograd.Function):
    """``cross_entropy(hidden @ weight.T, targets, reduction="sum")`` by parts, ``weight`` frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "tokens width"],
        weight: Float[Tensor, "vocabulary width"],
        targets: Int[Tensor, "tokens"],
        at_once: int,
        part: Part,
    ) -> Float[Tensor, ""]:
        narrow = hidden.to(weight.dtype)
        gradient = torch.empty_like(narrow)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(targets), at_once):
            these = slice(start, start + at_once)
            total += part(narrow[these], weight, targets[these], gradient[these])
        ctx.save_for_backward(gradient)
        ctx.dtype = hidden.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = ctx.saved_tensors
        scaled = gradient.float() * (grad_total / grain(gradient.dtype))
        return scaled.to(ctx.dtype), *(None,) * 4


def has_plain_head(model: Any) -> bool:
    """Return whether a model's logits are its last hidden states times a frozen matrix, and nothing else."""
    head = model.get_output_embeddings()
    known = model.config.model_type in ARCHITECTURES and isinstance(head, nn.Linear)
    return known and head.bias is None and not head.weight.requires_grad


def scored_loss(
    hidden: Float[Tensor, "rows tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    labels: Int[Tensor, "rows tokens"],
    count: Tensor,
    scored: int,
    at_once: int = TOKENS_AT_ONCE,
    part: Part = part,
) -> Float[Tensor, ""]:
    """Return the mean loss (nats) of the next tokens that are scored, as transformers computes it.

    Parameters
    ----------
    hidden
        What the output head gets.
    weight
        The head's, frozen.
    labels
        The tokens themselves, -100 where nothing is scored.
    count
        What the sum is divided by: the scored tokens of the optimizer step.
    scored
        No batch has more scored tokens. So the shapes are fixed, whatever the labels.
    at_once
        Tokens whose logits are in memory at a time.
    part
        What computes the loss of those.
    """
    targets = F.pad(labels, (0, 1), value=IGNORED)[:, 1:].flatten()
    flat = hidden.flatten(0, 1)
    if scored < len(targets):
        # The scored ones first, in their order; the rest of the places hold tokens that count nothing.
        places = torch.argsort((targets == IGNORED).to(torch.uint8), stable=True)[:scored]
        flat, targets = flat.index_select(0, places), targets.index_select(0, places)
    total: Any = SummedCrossEntropy.apply(flat, weight, targets, at_once, part)
    return total / count
