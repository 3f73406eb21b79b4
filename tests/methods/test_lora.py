"""The laws of LoRA: identity at the start, gradients by hand, merging."""

import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lora_edu.methods.lora import LoRALinear, merged_linear
from lora_edu.methods.qlora import NF4Linear

BASES = {
    "float32": lambda: nn.Linear(24, 16),
    "no bias": lambda: nn.Linear(24, 16, bias=False),
    "bfloat16": lambda: nn.Linear(24, 16, dtype=torch.bfloat16),
    "subclass": lambda: nn.modules.linear.NonDynamicallyQuantizableLinear(24, 16),
    "nf4": lambda: NF4Linear.from_linear(nn.Linear(24, 16)),
    "nf4 of bfloat16": lambda: NF4Linear.from_linear(nn.Linear(24, 16, dtype=torch.bfloat16)),
}


def trained(base_layer, r=4, lora_alpha=8, **options):
    """A layer whose B has left zero."""
    lora = LoRALinear(base_layer, r, lora_alpha, **options)
    nn.init.normal_(lora.lora_B)
    return lora


@pytest.fixture(params=BASES.values(), ids=BASES)
def base_layer(request):
    torch.manual_seed(0)
    return request.param()


def input_for(base_layer, *shape):
    dtype = base_layer.weight.dtype if isinstance(base_layer, nn.Linear) else torch.float32
    return torch.randn(*shape, 24, dtype=dtype)


def test_it_starts_as_the_base_layer(base_layer):
    x = input_for(base_layer, 2, 5)
    expected = base_layer(x)
    assert torch.equal(LoRALinear(base_layer, r=4, lora_alpha=8)(x), expected)


def test_A_is_uniform_with_variance_one_over_3_in_and_B_is_zero():
    lora = LoRALinear(nn.Linear(400, 300, dtype=torch.bfloat16), r=64, lora_alpha=1)
    assert lora.lora_A.shape == (64, 400) and lora.lora_B.shape == (300, 64)
    assert lora.lora_A.dtype == lora.lora_B.dtype == torch.float32
    assert lora.lora_A.abs().max() <= 1 / math.sqrt(400)
    assert lora.lora_A.std().item() == pytest.approx(1 / math.sqrt(3 * 400), rel=0.02)
    assert not lora.lora_B.any()


@pytest.mark.parametrize(("use_rslora", "scaling"), [(False, 12 / 4), (True, 12 / 2)])
def test_the_update_is_scaling_times_B_A(use_rslora, scaling):
    lora = trained(nn.Linear(24, 16), r=4, lora_alpha=12, use_rslora=use_rslora)
    assert lora.scaling == scaling
    A, B = lora.lora_A.tolist(), lora.lora_B.tolist()
    by_hand = [[scaling * sum(b[k] * A[k][j] for k in range(4)) for j in range(24)] for b in B]
    torch.testing.assert_close(lora.delta_weight(), torch.tensor(by_hand))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_merged_equals_forward_for_every_shape(in_features, out_features, data):
    r = data.draw(st.integers(1, min(in_features, out_features)))
    lora = trained(nn.Linear(in_features, out_features), r, lora_alpha=3)
    x = torch.randn(*data.draw(st.lists(st.integers(0, 3), max_size=2)), in_features)
    torch.testing.assert_close(merged_linear(lora)(x), lora(x), rtol=1e-4, atol=1e-5)


def test_over_a_float64_base_nothing_is_rounded_to_float32():
    lora = trained(nn.Linear(24, 16, dtype=torch.float64)).double()
    x = torch.randn(5, 24, dtype=torch.float64)
    torch.testing.assert_close(merged_linear(lora)(x), lora(x), rtol=1e-12, atol=1e-12)


def test_merging_adds_in_float32_and_rounds_once(base_layer):
    lora = trained(base_layer)
    before = {name: tensor.clone() for name, tensor in lora.state_dict().items()}
    weight = base_layer.weight if isinstance(base_layer, nn.Linear) else base_layer.dequantize()
    merged = merged_linear(lora)
    assert type(merged) is nn.Linear
    assert torch.equal(merged.weight, (weight.float() + lora.delta_weight()).to(weight.dtype))
    x = input_for(base_layer, 7)
    tolerance = 1e-5 if weight.dtype == torch.float32 else 0.1
    torch.testing.assert_close(
        merged(x.to(weight.dtype)), lora(x).to(weight.dtype), rtol=tolerance, atol=tolerance
    )
    # A new layer: changing it changes nothing in the old one.
    for parameter in merged.parameters():
        parameter.data.fill_(9)
    assert all(torch.equal(before[name], tensor) for name, tensor in lora.state_dict().items())


def test_only_A_and_B_train(base_layer):
    lora = trained(base_layer)
    assert [name for name, p in lora.named_parameters() if p.requires_grad] == ["lora_A", "lora_B"]
    frozen = {name: t.clone() for name, t in base_layer.state_dict().items()}
    optimizer = torch.optim.AdamW(p for p in lora.parameters() if p.requires_grad)
    A, B = lora.lora_A.detach().clone(), lora.lora_B.detach().clone()
    for _ in range(3):
        lora(input_for(base_layer, 5)).float().square().mean().backward()
        optimizer.step()
    assert all(p.grad is None for p in base_layer.parameters())
    assert all(torch.equal(frozen[name], t) for name, t in base_layer.state_dict().items())
    assert not torch.equal(A, lora.lora_A) and not torch.equal(B, lora.lora_B)


def test_B_stays_stored_by_columns():
    layer = LoRALinear(nn.Linear(24, 16), r=4, lora_alpha=8)
    other = copy.deepcopy(layer).to(torch.float64)
    saved = trained(nn.Linear(24, 16)).state_dict()
    other.load_state_dict({name: tensor.contiguous() for name, tensor in saved.items()})
    other(torch.randn(3, 24, dtype=torch.float64)).sum().backward()
    torch.optim.AdamW(other.parameters()).step()
    columns = [layer.lora_B, other.lora_B, other.lora_B.grad]
    assert all(B.shape == (16, 4) and B.T.is_contiguous() for B in columns)


def test_gradients_by_the_chain_rule():
    lora = trained(nn.Linear(24, 16))
    x, grad_y = torch.randn(5, 24, requires_grad=True), torch.randn(5, 16)
    lora(x).backward(grad_y)
    A, B, s = lora.lora_A, lora.lora_B, lora.scaling
    torch.testing.assert_close(B.grad, s * grad_y.T @ (x @ A.T))
    torch.testing.assert_close(A.grad, s * (grad_y @ B).T @ x)
    torch.testing.assert_close(x.grad, grad_y @ (lora.base_layer.weight + s * B @ A))


def test_at_the_first_step_only_B_has_a_gradient():
    lora = LoRALinear(nn.Linear(24, 16), r=4, lora_alpha=8)
    lora(torch.randn(5, 24)).sum().backward()
    assert not lora.lora_A.grad.any()
    assert lora.lora_B.grad.any()


def test_dropout_touches_the_update_alone_and_only_in_training():
    lora = trained(nn.Linear(24, 16), lora_dropout=0.5)
    x = torch.randn(5, 24)
    torch.manual_seed(1)
    y = lora.train()(x)
    torch.manual_seed(1)
    expected = lora.base_layer(x) + F.dropout(x, 0.5) @ lora.delta_weight().T
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(lora.eval()(x), merged_linear(lora)(x))


def test_a_wide_result_keeps_the_dtype_of_the_base():
    lora = trained(nn.Linear(24, 16, dtype=torch.bfloat16))
    x = torch.randn(5, 24, dtype=torch.bfloat16)
    update = x.float() @ lora.delta_weight().T
    torch.testing.assert_close(lora(x), (lora.base_layer(x) + update).bfloat16())


LINEAR = nn.Linear(8, 6)
BAD = [
    ((nn.ReLU(), 2, 4), TypeError, "base_layer must be a module with in_features and out_features, got ReLU"),
    (
        (torch.ones(8, 6), 2, 4),
        TypeError,
        "base_layer must be a module with in_features and out_features, got Tensor",
    ),
    ((LINEAR, 0, 4), ValueError, "r must be an integer in 1 … 6, got 0"),
    ((LINEAR, 7, 4), ValueError, "r must be an integer in 1 … 6, got 7"),
    ((LINEAR, 2.0, 4), TypeError, "r must be an integer in 1 … 6, got 2.0"),
    ((LINEAR, 2, math.nan), ValueError, "lora_alpha must be a finite number, got nan"),
    ((LINEAR, 2, "16"), TypeError, "lora_alpha must be a finite number, got '16'"),
    ((LINEAR, 2, 4, 1.0), ValueError, "lora_dropout must be a number in [0, 1), got 1.0"),
    ((LINEAR, 2, 4, -0.1), ValueError, "lora_dropout must be a number in [0, 1), got -0.1"),
    ((LINEAR, 2, 4, None), TypeError, "lora_dropout must be a number in [0, 1), got None"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=[message for _, _, message in BAD])
def test_bad_input_is_refused_by_name(arguments, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        LoRALinear(*arguments)


def test_merging_wants_a_lora_layer():
    with pytest.raises(TypeError, match=r"^lora must be a LoRALinear, got Linear$"):
        merged_linear(LINEAR)  # pyright: ignore
