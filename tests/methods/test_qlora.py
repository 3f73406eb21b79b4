"""NF4Linear against a dense layer with the dequantized weight, and what it keeps in memory."""

import copy
import gc
import re

import accelerate
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lora_edu.methods import _fast
from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.nf4 import dequantize_nf4, quantize_nf4
from lora_edu.methods.qlora import NF4Linear


def dense(layer):
    """The same layer with a wide weight."""
    linear = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
    linear.weight.data = layer.dequantize(torch.float32)
    if layer.bias is not None:
        linear.bias.data = layer.bias.float()
    return linear


def result_and_gradient(layer, x, grad_y):
    x = x.detach().clone().requires_grad_()
    y = layer(x)
    return y.detach(), torch.autograd.grad(y, x, grad_y)[0]


@pytest.fixture(params=[None, 128], ids=["one panel", "many panels"])
def panels(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(_fast, "DEQUANTIZE_CHUNK", request.param)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 130), st.booleans(), st.booleans(), st.data())
def test_it_computes_what_the_dequantized_layer_computes(
    inputs, outputs, blocksize, double_quant, bias, data
):
    layer = NF4Linear.from_linear(nn.Linear(inputs, outputs, bias), blocksize, double_quant)
    batch = data.draw(st.lists(st.integers(0, 4), max_size=3))
    x, grad_y = torch.randn(*batch, inputs), torch.randn(*batch, outputs)
    for ours, theirs in zip(
        result_and_gradient(layer, x, grad_y), result_and_gradient(dense(layer), x, grad_y), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("panels")
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)]
)
def test_it_computes_in_the_dtype_of_the_input(dtype, tolerance):
    layer = NF4Linear.from_linear(nn.Linear(96, 200))
    x, grad_y = torch.randn(7, 96, dtype=dtype), torch.randn(7, 200, dtype=dtype)
    y, grad_x = result_and_gradient(layer, x, grad_y)
    assert y.dtype == grad_x.dtype == dtype
    for ours, theirs in zip(
        (y, grad_x), result_and_gradient(dense(layer), x.float(), grad_y.float()), strict=True
    ):
        torch.testing.assert_close(
            ours.float(), theirs, rtol=tolerance, atol=tolerance * theirs.abs().max().item()
        )


@pytest.mark.usefixtures("panels")
def test_the_gradient_of_the_input_agrees_with_finite_differences():
    layer = NF4Linear.from_linear(nn.Linear(10, 30, dtype=torch.float64), blocksize=4)
    assert torch.autograd.gradcheck(layer, torch.randn(3, 10, dtype=torch.float64, requires_grad=True))


def test_compute_dtype_rules_over_the_input():
    linear = nn.Linear(64, 32)
    x = torch.randn(5, 64)
    y = NF4Linear.from_linear(linear, compute_dtype=torch.bfloat16)(x)
    assert y.dtype == torch.float32
    assert torch.equal(y, NF4Linear.from_linear(linear)(x.bfloat16()).float())


def test_qlora_is_lora_over_the_dequantized_weight():
    base = NF4Linear.from_linear(nn.Linear(96, 64))
    qlora = LoRALinear(base, r=8, lora_alpha=16)
    lora = LoRALinear(dense(base), r=8, lora_alpha=16)
    nn.init.normal_(qlora.lora_B)
    lora.lora_A.data, lora.lora_B.data = qlora.lora_A.data.clone(), qlora.lora_B.data.clone()
    x, grad_y = torch.randn(3, 5, 96), torch.randn(3, 5, 64)
    for layer in (qlora, lora):
        layer(x).backward(grad_y)
    torch.testing.assert_close(qlora(x), lora(x))
    torch.testing.assert_close(qlora.lora_A.grad, lora.lora_A.grad)
    torch.testing.assert_close(qlora.lora_B.grad, lora.lora_B.grad)


@pytest.mark.parametrize("bias", [True, False])
def test_nothing_as_large_as_the_weight_outlives_a_forward(bias):
    """256 x 256 weights, 3 inputs: every tensor that autograd saves, or that Python can reach, is smaller."""
    layer = LoRALinear(NF4Linear.from_linear(nn.Linear(256, 256, bias)), r=4, lora_alpha=8)
    x = torch.randn(3, 256, requires_grad=True)
    saved = []
    before = {id(o) for o in gc.get_objects() if issubclass(type(o), torch.Tensor)}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = layer(x)
    assert any(t.dtype == torch.uint8 and t.numel() == 256 * 256 // 2 for t in saved)
    alive = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor) and id(o) not in before]
    assert y.grad_fn is not None
    assert max(t.numel() for t in saved + alive) < 256 * 256
    y.sum().backward()
    assert x.grad is not None


def test_training_and_evaluation_give_the_same_and_do_not_disturb_each_other():
    layer = NF4Linear.from_linear(nn.Linear(128, 64))
    x, grad_y = torch.randn(9, 128), torch.randn(9, 64)
    before = {name: t.clone() for name, t in layer.state_dict().items()}
    trained = result_and_gradient(layer.train(), x, grad_y)
    with torch.no_grad():
        assert torch.equal(layer.eval()(x), trained[0])
    again = result_and_gradient(layer.train(), x, grad_y)
    assert all(torch.equal(a, b) for a, b in zip(trained, again, strict=True))
    assert all(torch.equal(before[name], t) for name, t in layer.state_dict().items())


def test_it_holds_the_bytes_of_quantize_nf4():
    linear = nn.Linear(96, 40)
    for double_quant in (False, True):
        layer = NF4Linear.from_linear(linear, 32, double_quant)
        packed, state = quantize_nf4(linear.weight, 32, double_quant)
        assert torch.equal(layer.packed, packed)
        assert torch.equal(layer.dequantize(), dequantize_nf4(packed, state))
        assert torch.equal(dequantize_nf4(layer.packed, layer.quant_state), dequantize_nf4(packed, state))


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_state_dict_restores_it(double_quant, bias):
    layer = NF4Linear.from_linear(nn.Linear(70, 50, bias), 16, double_quant)
    copied = NF4Linear(70, 50, bias, 16, double_quant)
    copied.load_state_dict(layer.state_dict())
    x = torch.randn(4, 70)
    assert torch.equal(copied(x), layer(x))
    assert not list(layer.parameters())


# In each pair every tensor has the same shape and dtype: the layout alone tells them apart.
LAYOUTS = [
    (dict(in_features=128, out_features=64), dict(in_features=64, out_features=128)),
    (dict(in_features=10, out_features=10), dict(in_features=10, out_features=10, blocksize=50)),
    (dict(in_features=70, out_features=50), dict(in_features=70, out_features=50, dtype=torch.bfloat16)),
    (dict(in_features=9, out_features=7), dict(in_features=8, out_features=8)),
]


@pytest.mark.parametrize("layouts", [*LAYOUTS, *((b, a) for a, b in LAYOUTS)])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("assign", [True, False])
def test_a_state_dict_of_another_layout_is_refused(layouts, strict, assign):
    here, there = (nn.Sequential(NF4Linear(bias=False, **layout)) for layout in layouts)
    there[0].packed.fill_(17)
    before = {name: tensor.clone() for name, tensor in here.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"layout of 0.packed must be \{.*\}, got \{.*\}"):
        here.load_state_dict(there.state_dict(), strict=strict, assign=assign)
    assert all(torch.equal(before[name], tensor) for name, tensor in here.state_dict().items())


@pytest.mark.parametrize("other", [dict(blocksize=32), dict(double_quant=False)])
def test_so_are_scales_of_another_layout(other):
    with pytest.raises(RuntimeError, match="layout of packed must be"):
        NF4Linear(70, 50, **other).load_state_dict(NF4Linear(70, 50).state_dict())


def test_a_state_dict_from_before_the_layout_was_kept():
    layer, copied = NF4Linear.from_linear(nn.Linear(70, 50)), NF4Linear(70, 50)
    old = {name: tensor for name, tensor in layer.state_dict().items() if name != "_extra_state"}
    with pytest.raises(RuntimeError, match="_extra_state"):
        copied.load_state_dict(old)
    copied.load_state_dict(old, strict=False)
    assert torch.equal(copied.dequantize(), layer.dequantize())


def test_the_layout_travels_through_files(tmp_path):
    """safetensors and torch's own format, read and refused like the dict itself."""
    layer = nn.Sequential(NF4Linear.from_linear(nn.Linear(10, 10)))
    safetensors.torch.save_file(layer.state_dict(), tmp_path / "a.safetensors")
    torch.save(layer.state_dict(), tmp_path / "a.pt")
    read = [
        safetensors.torch.load_file(tmp_path / "a.safetensors"),
        torch.load(tmp_path / "a.pt", weights_only=True),
    ]
    for state in read:
        copied = nn.Sequential(NF4Linear(10, 10))
        copied.load_state_dict(state)
        assert torch.equal(copied[0].dequantize(), layer[0].dequantize())
        with pytest.raises(RuntimeError, match=r"layout of 0\.packed"):
            nn.Sequential(NF4Linear(10, 10, blocksize=50)).load_state_dict(state)


def test_accelerate_saves_a_model_with_the_layer(tmp_path):
    layer = nn.Sequential(NF4Linear.from_linear(nn.Linear(70, 50)))
    accelerate.Accelerator(cpu=True).save_model(layer, tmp_path)
    copied = nn.Sequential(NF4Linear(70, 50))
    copied.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    assert torch.equal(copied[0].dequantize(), layer[0].dequantize())


@pytest.mark.parametrize("whole", [int, np.int64, np.uint8])
def test_whole_numbers_of_numpy_become_pythons(whole):
    layer = NF4Linear(whole(70), whole(50), blocksize=whole(32))
    kept = [layer.in_features, layer.out_features, layer.quant_state.blocksize]
    assert [type(number) for number in kept] == [int, int, int]
    assert type(quantize_nf4(torch.randn(8), blocksize=whole(4))[1].blocksize) is int
    assert NF4Linear.from_bitsandbytes(layer.to_bitsandbytes()).quant_state.blocksize == 32


@pytest.mark.parametrize("change", [nn.Module.half, nn.Module.bfloat16, nn.Module.double, copy.deepcopy])
def test_casting_or_copying_the_model_leaves_the_constants(change):
    layer = NF4Linear.from_linear(nn.Linear(96, 40))
    before = {name: t.clone() for name, t in layer.state_dict().items()}
    changed = change(nn.Sequential(layer))[0]
    assert all(torch.equal(before[name], t) for name, t in changed.state_dict().items())


def test_from_linear_leaves_the_layer_as_it_is_and_shares_nothing():
    linear = nn.Linear(8, 8)
    before = copy.deepcopy(linear.state_dict())
    layer = NF4Linear.from_linear(linear)
    layer.bias.fill_(7)
    assert all(torch.equal(before[name], t) for name, t in linear.state_dict().items())
    assert all(p.requires_grad for p in linear.parameters())


LINEAR = nn.Linear(8, 6)
LAYER = NF4Linear.from_linear(LINEAR)
POISONED = nn.Linear(8, 6)
POISONED.weight.data[0, 0] = float("nan")
BAD = [
    (NF4Linear.from_linear, (nn.ReLU(),), TypeError, "linear must be an nn.Linear, got ReLU"),
    (NF4Linear.from_linear, (POISONED,), ValueError, "W must be finite, got NaN or infinity"),
    (NF4Linear.from_linear, (LINEAR, 0), ValueError, "blocksize must be an integer of at least 1, got 0"),
    (
        NF4Linear.from_linear,
        (LINEAR, 64, True, torch.int8),
        TypeError,
        "compute_dtype must be a floating-point torch.dtype, got torch.int8",
    ),
    (NF4Linear, (0, 6), ValueError, "in_features must be an integer of at least 1, got 0"),
    (NF4Linear, (8, 6.0), TypeError, "out_features must be an integer of at least 1, got 6.0"),
    (NF4Linear, (8, 6, True, 0), ValueError, "blocksize must be an integer of at least 1, got 0"),
    (
        LAYER,
        (torch.ones(2, 6),),
        ValueError,
        "x must be a floating-point tensor of shape (..., 8), got shape (2, 6)",
    ),
    (
        LAYER,
        (torch.ones(()),),
        ValueError,
        "x must be a floating-point tensor of shape (..., 8), got shape ()",
    ),
    (
        LAYER,
        (torch.ones(2, 8, dtype=torch.int64),),
        TypeError,
        "x must be a floating-point tensor of shape (..., 8), got torch.int64",
    ),
]


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"), BAD, ids=[message for *_, message in BAD]
)
def test_bad_input_is_refused_by_name(function, arguments, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        function(*arguments)
