"""Cross-entropy of a few hundred tokens and the gradient of their logits in one kernel, which writes it over them.

``lora_edu.llm.finetune.scored_loss`` computes the loss by parts, in plain PyTorch: each part's logits are copied to
float32 and pass through memory some ten times. Here they stay in 16 bits, and are read twice and written once. What is
computed of a logit is computed in float32.

References
----------
Milakov and Gimelshein 2018, "Online normalizer calculation for softmax", arXiv 1805.02867, algorithm 3.
"""

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from jaxtyping import Float, Int
from torch import Tensor

from lora_edu.llm.finetune.scored_loss import IGNORED, grain

LOGITS_AT_ONCE = 4096
WARPS = 16


def fused_part(
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    targets: Int[Tensor, "tokens"],
    gradient: Float[Tensor, "tokens width"],
) -> Float[Tensor, ""]:
    """Return the loss of a few tokens, and write the gradient of their `hidden`, as `scored_loss.part` does."""
    logits = hidden @ weight.T
    losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    kernel: Any = _cross_entropy
    with torch.cuda.device_of(logits):
        kernel[(len(logits),)](
            logits,
            targets,
            losses,
            logits.shape[1],
            IGNORED,
            grain(weight.dtype),
            LOGITS_AT_ONCE,
            num_warps=WARPS,
        )
    torch.mm(logits, weight, out=gradient)
    return losses.sum()


@triton.jit
def _cross_entropy(logits, targets, losses, vocabulary, ignored, grain, AT_ONCE: tl.constexpr):
    """One token: loss = log sum exp z - z_target, and each logit z becomes (softmax(z) - [z is the target's]) grain."""
    token = tl.program_id(0).to(tl.int64)
    row = logits + token * vocabulary
    target = tl.load(targets + token)
    scored = target != ignored
    chosen = tl.load(row + tl.where(scored, target, 0)).to(tl.float32)
    column = tl.arange(0, AT_ONCE)
    # Of each of AT_ONCE columns its own maximum and sum: they meet once, at the end.
    most = tl.full((AT_ONCE,), -float("inf"), tl.float32)
    total = tl.zeros((AT_ONCE,), tl.float32)
    for start in range(0, vocabulary, AT_ONCE):
        z = tl.load(row + start + column, mask=start + column < vocabulary, other=-float("inf")).to(
            tl.float32
        )
        larger = tl.maximum(most, z)
        # exp(-inf + inf) would be NaN where a column has seen nothing yet; a NaN of the logits must stay one.
        seen = (larger > -float("inf")) | (z != z)
        total = tl.where(seen, total * tl.exp(most - larger) + tl.exp(z - larger), 0.0)
        most = larger
    peak = tl.max(most, 0)
    norm = peak + tl.log(tl.sum(total * tl.exp(most - peak), 0))
    tl.store(losses + token, tl.where(scored, norm - chosen, 0.0))
    grain = tl.where(scored, grain, 0.0)
    for start in range(0, vocabulary, AT_ONCE):
        inside = start + column < vocabulary
        z = tl.load(row + start + column, mask=inside, other=0).to(tl.float32)
        slope = (tl.exp(z - norm) - (start + column == target).to(tl.float32)) * grain
        tl.store(row + start + column, slope.to(logits.dtype.element_ty), mask=inside)
