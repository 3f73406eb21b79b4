"""A layer with compiled products computes and trains as ``NF4Linear`` does, on a CPU."""

import copy
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from lora_edu import accel
from lora_edu.accel import cpu
from lora_edu.methods import _fast
from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.qlora import NF4Linear


def make_layer(out_features, in_features, blocksize=64, double_quant=True, dtype=torch.float32):
    torch.manual_seed(0)
    return NF4Linear.from_linear(nn.Linear(in_features, out_features, dtype=dtype), blocksize, double_quant)


def run(layer, dtype, *shape):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(*shape, layer.in_features, generator=generator).to(dtype).requires_grad_()
    y = layer(x)
    grad_y = torch.randn(y.shape, generator=generator).to(dtype)
    return y.detach(), torch.autograd.grad(y, x, grad_y)[0]


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("out_features", "in_features", "blocksize"), [(1, 1, 64), (37, 53, 7), (65, 96, 64), (300, 250, 100)]
)
@pytest.mark.parametrize("panel", [2**10, 2**20], ids=["many panels", "one panel"])
@pytest.mark.parametrize("threads", [1, 3])
def test_outputs_and_gradients_are_those_of_the_plain_layer(
    out_features, in_features, blocksize, dtype, double_quant, panel, threads, monkeypatch
):
    monkeypatch.setattr(_fast, "DEQUANTIZE_CHUNK", panel)
    monkeypatch.setattr(cpu, "STRIP", panel)
    plain = make_layer(out_features, in_features, blocksize, double_quant, dtype)
    fast = copy.deepcopy(accel.use_kernels(copy.deepcopy(plain)))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for shape in [(0,), (2, 2), (2, 5)]:
            for ours, theirs in zip(run(fast, dtype, *shape), run(plain, dtype, *shape), strict=True):
                if dtype == torch.float32 and shape == (2, 2):
                    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)  # summed in another order
                else:
                    assert torch.equal(ours, theirs)  # the same weight, in the same panels
    finally:
        torch.set_num_threads(before)


def test_a_model_keeps_its_adapters_and_trains_as_before():
    torch.manual_seed(0)
    models = [nn.Sequential(LoRALinear(make_layer(96, 64), r=2, lora_alpha=4), nn.ReLU(), make_layer(8, 96))]
    models.append(accel.use_kernels(copy.deepcopy(models[0])))
    losses = []
    for model in models:
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        x = torch.ones(4, 64)
        for _ in range(3):
            loss = model(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
        assert model[0].lora_B.any()
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert models[0].state_dict().keys() == models[1].state_dict().keys()


def test_evaluation_gives_the_output_of_training():
    layer = accel.use_kernels(make_layer(40, 64))
    x = torch.randn(3, 64, requires_grad=True)
    trained = layer(x)
    assert trained.requires_grad
    with torch.no_grad():
        assert torch.equal(layer(x), trained)


def test_nothing_as_large_as_the_weight_outlives_a_forward():
    layer = accel.use_kernels(make_layer(512, 512))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(torch.randn(4, 512, requires_grad=True))
    assert sum(t.nbytes for t in kept) <= 512 * 512 // 2


def test_asking_twice_is_asking_once():
    layer = accel.use_kernels(make_layer(8, 8))
    kind = type(layer)
    assert type(accel.use_kernels(layer)) is kind
    assert kind is not NF4Linear


BAD = [
    (
        lambda: accel.use_kernels(nn.Linear(2, 2)),
        ValueError,
        "model must be a model with NF4Linear layers, got Linear",
    ),
    (
        lambda: accel.use_kernels(make_layer(2, 2).to("meta")),
        ValueError,
        "model must be on the CPU or a GPU, got meta",
    ),
    (
        lambda: accel.use_kernels(make_layer(2, 2)).to("meta")(torch.ones(2)),
        ValueError,
        "packed must be on the CPU, got meta",
    ),
    (
        lambda: accel.use_kernels(make_layer(2, 2))(torch.ones(2, device="meta")),
        ValueError,
        "x must be on the CPU, got meta",
    ),
    (
        lambda: accel.use_kernels(make_layer(2, 2))(torch.ones(3)),
        ValueError,
        "x must be a floating-point tensor of shape (..., 2), got shape (3,)",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[message for *_, message in BAD])
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()


def test_two_threads_may_compute_at_once():
    layer = accel.use_kernels(make_layer(64, 64))
    x = torch.randn(8, 64)
    expected = layer(x)
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(4, initializer=torch.set_num_threads, initargs=(2,)) as pool:
            for y in pool.map(lambda _: layer(x), range(200)):
                torch.testing.assert_close(y, expected)
    finally:
        torch.set_num_threads(before)
