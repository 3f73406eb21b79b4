"""The loss of a part by one kernel is that of ``scored_loss``, gradient included."""

import pytest
import torch

from lora_edu.llm.finetune.scored_loss import IGNORED, part, scored_loss

if torch.cuda.is_available():  # elsewhere there is no Triton
    from lora_edu.accel.loss import fused_part

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def sides(tokens, vocabulary, dtype, ignored=(), size=4.0):
    """Losses and gradients of both ways."""
    draw = torch.Generator("cuda").manual_seed(tokens)
    hidden = torch.randn(tokens, 64, generator=draw, device="cuda").to(dtype)
    weight = (size * torch.randn(vocabulary, 64, generator=draw, device="cuda") / 8).to(dtype)
    targets = torch.randint(vocabulary, (tokens,), generator=draw, device="cuda")
    targets[list(ignored)] = IGNORED
    found = []
    for way in part, fused_part:
        gradient = torch.full_like(hidden, torch.nan)
        found.append((way(hidden, weight, targets, gradient).item(), gradient))
    return found


@pytest.mark.parametrize("vocabulary", [7, 4096, 4097, 49152])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_loss_and_gradient(dtype, vocabulary):
    (loss, gradient), (ours, our_gradient) = sides(33, vocabulary, dtype, ignored=[0, 5, 32])
    assert ours == pytest.approx(loss, rel=1e-5)
    assert (our_gradient[[0, 5, 32]] == 0).all()
    rounding = max(torch.finfo(dtype).eps, 1e-4)
    assert (our_gradient - gradient).float().norm() <= rounding * gradient.float().norm()


def test_large_logits_neither_overflow_nor_vanish():
    (loss, gradient), (ours, our_gradient) = sides(9, 999, torch.bfloat16, size=400.0)
    assert ours == pytest.approx(loss, rel=1e-5) and loss > 100
    assert (our_gradient - gradient).float().norm() <= 0.01 * gradient.float().norm()


def test_a_logit_that_is_no_number_shows_in_the_loss():
    hidden, targets = torch.ones(2, 64, device="cuda"), torch.zeros(2, dtype=torch.long, device="cuda")
    weight = torch.ones(99, 64, device="cuda")
    weight[7] = torch.nan
    assert fused_part(hidden, weight, targets, torch.empty_like(hidden)).isnan()


def test_scored_loss_takes_it():
    draw = torch.Generator("cuda").manual_seed(1)
    hidden = torch.randn(3, 50, 64, generator=draw, device="cuda", requires_grad=True)
    weight = torch.randn(321, 64, generator=draw, device="cuda").bfloat16()
    labels = torch.randint(321, (3, 50), generator=draw, device="cuda")
    labels[:, :20] = IGNORED
    found = []
    for way in part, fused_part:
        loss = scored_loss(hidden, weight, labels, torch.tensor(90.0, device="cuda"), 90, 32, way)
        found.append((loss.item(), torch.autograd.grad(loss, hidden)[0]))
    (loss, gradient), (ours, our_gradient) = found
    assert ours == pytest.approx(loss, rel=1e-5)
    assert (our_gradient - gradient).norm() <= 0.01 * gradient.norm()
