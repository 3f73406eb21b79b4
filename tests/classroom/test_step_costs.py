"""Costs of a training step, against counts on paper."""

import pytest
import torch
from torch import nn

from lora_edu.classroom.experiments.step_costs import step_costs
from lora_edu.methods.lora import LoRALinear


def inputs(tokens, features, device="meta"):
    return torch.zeros(tokens, features, device=device, requires_grad=True)


@pytest.mark.parametrize(("tokens", "d_in", "d_out"), [(3, 20, 12), (1, 7, 7)])
def test_a_trained_layer_costs_six_operations_a_weight_and_token(tokens, d_in, d_out):
    costs = step_costs(nn.Linear(d_in, d_out, bias=False, device="meta"), inputs(tokens, d_in))
    weights = d_in * d_out
    assert costs == (weights, 2 * tokens * weights, 6 * tokens * weights, tokens * d_in)


@pytest.mark.parametrize(("tokens", "d_in", "d_out", "r"), [(3, 20, 12, 2), (5, 8, 8, 8)])
def test_lora_costs_four_a_frozen_weight_and_six_an_adapter_number(tokens, d_in, d_out, r):
    layer = LoRALinear(nn.Linear(d_in, d_out, bias=False, device="meta"), r=r, lora_alpha=16)
    costs = step_costs(layer, inputs(tokens, d_in))
    weights, update = d_in * d_out, r * (d_in + d_out)
    assert costs == (
        update,
        2 * tokens * (weights + update),
        tokens * (4 * weights + 6 * update),
        tokens * (d_in + r),  # x for A's gradient, A x for B's
    )


def test_without_a_gradient_to_pass_on_a_frozen_layer_has_no_backward():
    layer = nn.Linear(6, 4, bias=False).requires_grad_(False)
    x = torch.zeros(2, 6)
    with pytest.raises(RuntimeError, match="does not require grad"):
        step_costs(layer, x)


def test_real_numbers_cost_what_their_shapes_say():
    real = step_costs(nn.Linear(6, 4), inputs(2, 6, "cpu"))
    assert real == step_costs(nn.Linear(6, 4, device="meta"), inputs(2, 6))


def test_a_frozen_layer_keeps_nothing_and_dropout_keeps_a_mask_and_a_copy():
    tokens, d_in, r = 3, 20, 2
    frozen = nn.Linear(d_in, 12, bias=False, device="meta").requires_grad_(False)
    assert step_costs(frozen, inputs(tokens, d_in)).kept == 0
    dropped = LoRALinear(frozen, r=r, lora_alpha=16, lora_dropout=0.05).train()
    assert step_costs(dropped, inputs(tokens, d_in)).kept == tokens * (2 * d_in + r)
