"""What a rounded head changes: logits of the course's model, the embedding that makes them kept in 4 bits.

The hidden states before the head are computed once, at full precision; then only the last product is done again. In
SmolLM2 the head's weight is the token embedding itself. It came in 8 bits, and was never in 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lora_edu.llm.data.extraction import IGNORE

CHUNK_ROWS = 4096  # of the head at a time, which bounds the memory


@torch.no_grad()
def hidden_states(model: Any, examples: Sequence[dict], answers_only: bool = True) -> Tensor:
    """What the head reads, (tokens, hidden size) float32: where a token of the answer is to be said, or everywhere."""
    states = []
    for example in examples:
        ids = torch.tensor([example["input_ids"]], device=model.device)
        states.append(model.model(ids).last_hidden_state[0, :-1].float().cpu())
        if answers_only:
            states[-1] = states[-1][torch.tensor(example["labels"][1:]) != IGNORE]
    return torch.cat(states)


@dataclass(frozen=True)
class HeadErrors:
    """Errors of a rounded head, as shares: of the weights, and of the logits that it makes.

    Attributes
    ----------
    mean_absolute, root_mean_square
        Of the weights, over their root mean square.
    logits
        Root mean square of the logits' change over that of the logits, each place's mean taken off, which softmax
        does not see.
    changed
        Share of the places where another token is now the most probable.
    """

    mean_absolute: float
    root_mean_square: float
    logits: float
    changed: float


def head_errors(head: Tensor, states: Tensor, round_trip: Callable[[Tensor], Tensor]) -> HeadErrors:
    """Round the head (vocabulary, hidden size) by `round_trip`, and compare weights and logits with the exact ones.

    It is rounded in parts of `CHUNK_ROWS` rows, so a format with a scale a tensor, such as NVFP4, has one a part.
    """
    rounded = torch.cat([round_trip(part.flatten()).view_as(part) for part in head.split(CHUNK_ROWS)])
    old, new = states @ head.T, states @ rounded.T
    error, size = rounded.sub_(head), _root_mean_square(head)
    change, spread = (logits - logits.mean(1, keepdim=True) for logits in (new - old, old))
    return HeadErrors(
        error.abs_().mean(dtype=torch.float64).item() / size,
        _root_mean_square(error) / size,
        (change.norm() / spread.norm()).item(),
        (old.argmax(1) != new.argmax(1)).double().mean().item(),
    )


def _root_mean_square(W: Tensor) -> float:
    return (torch.linalg.vector_norm(W, dtype=torch.float64) / W.numel() ** 0.5).item()
