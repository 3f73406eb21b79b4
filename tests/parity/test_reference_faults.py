"""Where a reference library is wrong, and what the course does there instead.

bitsandbytes 0.50.2 on a CPU with AVX512-BF16, peft 0.21.2, scikit-learn 1.9. Each test states what is right by a second
route. Where it also says that the reference is wrong, and one day that fails, the fault is mended: then mend what the
course says of it.
"""

import copy
import warnings

import bitsandbytes as bnb
import numpy as np
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, has_avx512bf16, quantize_4bit
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from sklearn.utils.extmath import randomized_svd
from torch import nn

from lora_edu.methods.blockwise import dequantize_blockwise, quantize_blockwise
from lora_edu.methods.codebook import nf4_code
from lora_edu.methods.lora import LoRALinear, merged_linear
from lora_edu.methods.lowrank import truncated_svd
from lora_edu.methods.nf4 import dequantize_nf4, quantize_nf4
from lora_edu.methods.qlora import NF4Linear

FAULTY_CPU = bool(has_avx512bf16())


def relative(difference, to):
    return (difference.norm() / to.norm()).item()


# ---------------------------------------------------------------- rows that a block spans


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 40),
    st.integers(1, 20).map(lambda sixteens: 16 * sixteens),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.sampled_from([64, 128]),
    st.integers(0, 2**31),
)
def test_rows_of_any_length_are_dequantized_with_their_own_scales(rows, columns, dtype, blocksize, seed):
    """bitsandbytes counts its blocks row by row, which goes wrong unless the block size divides the row."""
    W = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(dtype)
    truth = dequantize_blockwise(*quantize_blockwise(W, nf4_code(), blocksize), nf4_code(), blocksize).to(
        dtype
    )
    assert torch.equal(dequantize_nf4(*quantize_nf4(W, blocksize)), truth)
    theirs = dequantize_4bit(*quantize_4bit(W, quant_type="nf4", blocksize=blocksize))
    if columns % blocksize == 0 or not FAULTY_CPU:
        torch.testing.assert_close(theirs, truth, rtol=2e-2, atol=0)


def test_rows_of_96():
    W = torch.randn(256, 96, generator=torch.Generator().manual_seed(0))
    error = relative(dequantize_nf4(*quantize_nf4(W)) - W, W)
    assert error < 0.1
    if FAULTY_CPU:
        assert relative(dequantize_4bit(*quantize_4bit(W, quant_type="nf4", blocksize=64)) - W, W) > 2 * error


# ---------------------------------------------------------------- evaluation that changes training


def bnb_layer(linear, repacking):
    layer = bnb.nn.Linear4bit(
        linear.in_features, linear.out_features, False, compute_dtype=torch.float32, quant_type="nf4"
    )
    layer.weight = bnb.nn.Params4bit(linear.weight.detach().clone(), requires_grad=False, quant_type="nf4")
    if not repacking:
        layer.support_avx512bf16_for_cpu = False
    return layer.to("cpu")


def evaluate_then_train(layer):
    """The gradient of the input in a training step that follows an evaluation."""
    x = torch.randn(4, layer.in_features, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        layer.eval()(x)
    x.requires_grad_()
    layer.train()(x).sum().backward()
    return x.grad


def test_an_evaluation_leaves_the_gradient_of_the_input():
    linear = nn.Linear(128, 128, bias=False)
    ours = NF4Linear.from_linear(linear)
    before = copy.deepcopy(ours.state_dict())
    grad = evaluate_then_train(ours)
    torch.testing.assert_close(grad, ours.dequantize().sum(0).expand(4, -1))
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())
    torch.testing.assert_close(evaluate_then_train(bnb_layer(linear, repacking=False)), grad)
    if FAULTY_CPU:
        assert evaluate_then_train(bnb_layer(linear, repacking=True)) is None


def test_training_with_evaluations_in_between_is_training_without():
    """Two layers, so that the lower one learns through the upper one's input gradient."""
    linears = [nn.Linear(64, 64, bias=False) for _ in range(2)]
    x, target = torch.randn(2, 32, 64, generator=torch.Generator().manual_seed(0))

    def losses(make_base, evaluate):
        bases = [make_base(linear) for linear in linears]
        torch.manual_seed(0)
        model = nn.Sequential(*(LoRALinear(base, r=4, lora_alpha=8) for base in bases))
        optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
        course = []
        for _ in range(10):
            if evaluate:
                with torch.no_grad():
                    model.eval()(x)
            loss = (model.train()(x) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            course.append(loss.item())
        return course

    ours = losses(NF4Linear.from_linear, evaluate=True)
    assert ours == losses(NF4Linear.from_linear, evaluate=False)
    assert ours == pytest.approx(losses(lambda linear: bnb_layer(linear, False), evaluate=True), rel=1e-4)
    if FAULTY_CPU:
        assert losses(lambda linear: bnb_layer(linear, True), evaluate=True)[-1] > 1.001 * ours[-1]


# ---------------------------------------------------------------- merging into 4 bits


def adapted(linear, size, repacking=False):
    """Ours and peft's layer over the same 4-bit weight, with the same adapter of that size (standard deviation)."""
    ours = LoRALinear(NF4Linear.from_linear(linear), r=4, lora_alpha=4)
    for factor in (ours.lora_A, ours.lora_B):
        nn.init.normal_(factor, std=size)
    model = nn.Sequential(bnb_layer(linear, repacking))
    model.is_loaded_in_4bit = True  # how peft is told
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["0"])
    theirs = get_peft_model(model, config).base_model.model[0]
    theirs.lora_A["default"].weight.data.copy_(ours.lora_A)
    theirs.lora_B["default"].weight.data.copy_(ours.lora_B)
    return ours, theirs


def weight_of(peft_layer):
    weight = peft_layer.get_base_layer().weight
    return dequantize_4bit(weight.data, weight.quant_state)


@pytest.fixture
def quiet():
    """peft warns that such a merge rounds; that is what these tests measure."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_a_merged_adapter_is_whole_and_unmerging_gives_the_base_back(quiet):
    """peft merges into the 4-bit weight and rounds it again, both ways."""
    ours, theirs = adapted(nn.Linear(128, 128, bias=False), size=0.02)
    base, delta = ours.base_layer.dequantize(), ours.delta_weight().detach()
    assert torch.equal(base, weight_of(theirs))
    assert relative(delta, base) < 0.03

    merged = merged_linear(ours)
    assert relative(merged.weight - base - delta, delta) < 1e-4
    assert torch.equal(ours.base_layer.dequantize(), base)  # nothing to unmerge

    theirs.merge()
    kept = ((weight_of(theirs) - base) * delta).sum() / delta.square().sum()
    assert kept < 0.05
    theirs.unmerge()
    assert relative(weight_of(theirs) - base, base) > 1e-3


def test_merging_after_an_evaluation_is_merging(quiet):
    ours, theirs = adapted(nn.Linear(128, 128, bias=False), size=0.1, repacking=True)
    x = torch.randn(2, 128)
    with torch.no_grad():
        expected = ours.eval()(x)
        theirs.eval()(x)
        torch.testing.assert_close(merged_linear(ours)(x), expected)
    theirs.merge()
    if FAULTY_CPU:
        base = ours.base_layer.dequantize()
        assert relative(weight_of(theirs) - base - ours.delta_weight(), base) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_a_dense_layer_leaves_it_as_it_was(dtype):
    """peft adds and subtracts in place: rounding keeps some weights from coming back."""
    linear = nn.Linear(128, 128, bias=False, dtype=dtype)
    ours = LoRALinear(copy.deepcopy(linear), r=4, lora_alpha=4)
    theirs = get_peft_model(
        nn.Sequential(copy.deepcopy(linear)), LoraConfig(r=4, lora_alpha=4, target_modules=["0"])
    )
    layer = theirs.base_model.model[0]
    for factor in (ours.lora_A, ours.lora_B):
        nn.init.normal_(factor, std=0.1)
    layer.lora_A["default"].weight.data.copy_(ours.lora_A)
    layer.lora_B["default"].weight.data.copy_(ours.lora_B)
    merged_linear(ours)
    assert torch.equal(ours.base_layer.weight, linear.weight)
    layer.merge()
    layer.unmerge()
    changed = (layer.get_base_layer().weight != linear.weight).float().mean()
    assert 0.005 < changed < 0.9


# ---------------------------------------------------------------- not a number


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_no_number_is_refused(bad):
    """bitsandbytes takes it, and its whole block is lost."""
    W = torch.randn(4, 64)
    W[1, 3] = bad
    with pytest.raises(ValueError, match="W must be finite"):
        quantize_nf4(W)
    linear = nn.Linear(64, 4)
    linear.weight.data.copy_(W)
    with pytest.raises(ValueError, match="W must be finite"):
        NF4Linear.from_linear(linear)
    theirs = dequantize_4bit(*quantize_4bit(W, quant_type="nf4"))
    assert not theirs[1].isfinite().any() and theirs[[0, 2, 3]].isfinite().all()


# ---------------------------------------------------------------- the tail of a randomized SVD


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**31))
def test_small_singular_values_survive_float32(seed):
    """With two steps scikit-learn does not make the basis orthonormal in between, and the tail drowns in rounding."""
    size, r = 256, 24
    generator = torch.Generator().manual_seed(seed)
    U, V = (
        torch.linalg.qr(t).Q for t in torch.randn(2, size, size, dtype=torch.float64, generator=generator)
    )
    S = torch.arange(1, size + 1, dtype=torch.float64) ** -2
    W = (U * S @ V.T).float()
    least = S[r:].norm().item()

    def excess(U, S, Vh):
        return (W.double() - U.double() * S @ Vh.double()).norm().item() / least - 1

    assert excess(*truncated_svd(W, r, "randomized", generator)) < 5e-3
    assert excess(*truncated_svd(W, r, "krylov", generator)) < 1e-4
    theirs = (
        torch.from_numpy(np.array(factor))
        for factor in randomized_svd(W.numpy(), r, n_iter=2, random_state=seed)
    )
    assert excess(*theirs) > 0.2
