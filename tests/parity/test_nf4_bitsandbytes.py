"""NF4 and NF4Linear against bitsandbytes, byte for byte."""

import logging
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from lora_edu.methods.blockwise import dequantize_blockwise
from lora_edu.methods.codebook import dynamic_code, fp4_code, nf4_code
from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.nf4 import dequantize_nf4, quantize_nf4
from lora_edu.methods.packing import unpack_4bit
from lora_edu.methods.qlora import NF4Linear

# Without the optional `kernels` package the import logs a line that does not concern us.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
bnb = pytest.importorskip("bitsandbytes")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def bnb_quantize(W, blocksize=64, double_quant=False):
    return bnb.functional.quantize_4bit(
        W, quant_type="nf4", blocksize=blocksize, compress_statistics=double_quant
    )


def bnb_dequantize(packed, state):
    """bitsandbytes' own, over the flat weights: in rows it is wrong when a block spans two of them."""
    shape, state.shape = state.shape, torch.Size([math.prod(state.shape)])
    flat = bnb.functional.dequantize_4bit(packed, state)
    state.shape = shape
    return flat.view(shape)


def assert_same_bytes(W, blocksize, double_quant):
    theirs, their_state = bnb_quantize(W, blocksize, double_quant)
    ours, our_state = quantize_nf4(W, blocksize, double_quant)
    assert torch.equal(ours, theirs.flatten())
    assert torch.equal(our_state.absmax, their_state.absmax)
    if double_quant:
        assert torch.equal(our_state.nested_absmax, their_state.state2.absmax)
        assert torch.equal(our_state.nested_code, their_state.state2.code)
        assert torch.equal(our_state.offset, their_state.offset)
    restored = dequantize_nf4(ours, our_state)
    assert restored.dtype == W.dtype
    assert torch.equal(restored, bnb_dequantize(theirs, their_state))


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.integers(1, 130), min_size=1, max_size=3),
    st.sampled_from(DTYPES),
    st.sampled_from([32, 64, 128, 256, 512, 1024]),
    st.booleans(),
    st.sampled_from([1e-30, 1e-3, 1.0, 1e3]),
    st.integers(0, 2**31),
)
@example([256, 96], torch.float32, 64, True, 1.0, 0)
@example([4096], torch.float32, 64, True, 1.0, 0)
@example([37, 53], torch.bfloat16, 64, True, 1.0, 0)
def test_random_weights(shape, dtype, blocksize, double_quant, size, seed):
    W = (size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype)
    assert_same_bytes(W, blocksize, double_quant)


@pytest.mark.parametrize("dtype", DTYPES)
def test_four_million_weights(dtype):
    W = torch.randn(2048, 2048, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert_same_bytes(W, 64, double_quant=True)


def test_midpoints_and_their_neighbours():
    midpoints = (nf4_code()[:-1] + nf4_code()[1:]) / 2
    up, down = (midpoints.nextafter(torch.tensor(end)) for end in (2.0, -2.0))
    W = torch.ones(15, 64)
    W[:, 1], W[:, 2], W[:, 3] = midpoints, up, down
    assert_same_bytes(W, 64, double_quant=False)


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("numel", [64, 128, 100, 1, 64 * 256, 64 * 300 + 5])
def test_blocks_of_zeros(numel, double_quant):
    W = torch.randn(numel)
    W[:64] = 0
    W[-10:] = 0
    assert_same_bytes(W, 64, double_quant)
    assert_same_bytes(torch.zeros(numel), 64, double_quant)
    assert not dequantize_nf4(*quantize_nf4(torch.zeros(numel), 64, double_quant)).any()


@pytest.mark.parametrize("shape", [(256, 96), (100, 16), (4096,), (48,)])
def test_rows_that_a_block_spans_are_right(shape):
    """bitsandbytes on AVX-512 takes a wrong scale for rows of 96 at block 64."""
    W = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    packed, state = quantize_nf4(W)
    indices = unpack_4bit(packed, W.numel()).view(shape)
    assert torch.equal(dequantize_nf4(packed, state), dequantize_blockwise(indices, state.absmax, nf4_code()))
    assert (dequantize_nf4(packed, state) - W).abs().mean() < 0.09


def test_the_codes():
    assert torch.equal(nf4_code(), bnb.functional.get_4bit_type("nf4", device="cpu"))
    assert torch.equal(dynamic_code(), bnb.functional.create_dynamic_map())
    fp4 = bnb.functional.get_4bit_type("fp4", device="cpu").unique()
    torch.testing.assert_close(fp4_code(), fp4, rtol=0, atol=1e-7)


def bnb_layer(linear, dtype=torch.float32):
    """``linear`` as a bitsandbytes layer, with the path on that repacks the weight in eval() turned off."""
    layer = bnb.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        linear.bias is not None,
        compute_dtype=dtype,
        quant_type="nf4",
    )
    layer.weight = bnb.nn.Params4bit(linear.weight.detach().clone(), requires_grad=False, quant_type="nf4")
    if linear.bias is not None:
        layer.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
    layer.support_avx512bf16_for_cpu = False
    return layer.to("cpu")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_a_layer_gives_the_same_result_and_gradient(dtype, tolerance, bias):
    linear = nn.Linear(128, 192, bias, dtype=dtype)
    grad_y = torch.randn(5, 192, dtype=dtype)
    results = []
    for layer in (NF4Linear.from_linear(linear), bnb_layer(linear, dtype)):
        x = torch.randn(5, 128, dtype=dtype, generator=torch.Generator().manual_seed(0)).requires_grad_()
        y = layer(x)
        y.backward(grad_y)
        results.append((y, x.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_qlora_training_takes_the_same_course_with_an_evaluation_in_between():
    """The repacking fault of bitsandbytes would drop the gradient of the lower layer after the evaluation."""

    linears = nn.Linear(64, 128), nn.Linear(128, 64)

    def losses(make_base):
        bases = [make_base(linear) for linear in linears]
        torch.manual_seed(0)
        lower, upper = (LoRALinear(base, r=4, lora_alpha=8) for base in bases)
        model = nn.Sequential(lower, nn.GELU(), upper)
        optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
        x, target = torch.randn(32, 64), torch.randn(32, 64)
        course = []
        for step in range(12):
            if step == 5:
                with torch.no_grad():
                    model.eval()(x)
                model.train()
            loss = (model(x) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            course.append(loss.item())
        return course

    ours = losses(NF4Linear.from_linear)
    assert ours == pytest.approx(losses(bnb_layer), rel=1e-4)
    assert ours[-1] < ours[0]


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("shape", [(96, 64), (33, 35)])
def test_a_state_dict_goes_both_ways(shape, double_quant):
    out_features, in_features = shape
    linear = nn.Linear(in_features, out_features)
    theirs = bnb_layer(linear)
    theirs.weight = bnb.nn.Params4bit(
        linear.weight.detach(), requires_grad=False, quant_type="nf4", compress_statistics=double_quant
    ).to("cpu")
    state_dict = theirs.state_dict()

    ours = NF4Linear.from_bitsandbytes(state_dict)
    expected = NF4Linear.from_linear(linear, double_quant=double_quant).state_dict()
    assert ours.state_dict().keys() == expected.keys()
    assert all(torch.equal(t, expected[name]) for name, t in ours.state_dict().items())

    back = ours.to_bitsandbytes()
    assert back.keys() == state_dict.keys()
    facts = "weight.quant_state.bitsandbytes__nf4"
    unpack = bnb.utils.unpack_tensor_to_dict
    assert unpack(back.pop(facts)) == unpack(state_dict.pop(facts))
    assert all(torch.equal(t, state_dict[name]) for name, t in back.items())


def test_what_we_write_bitsandbytes_loads():
    linear = nn.Linear(64, 96)
    ours = NF4Linear.from_linear(linear)
    written = ours.to_bitsandbytes()
    weight = bnb.nn.Params4bit.from_prequantized(
        data=written["weight"],
        quantized_stats={name: t for name, t in written.items() if name.startswith("weight.")},
        device="cpu",
    )
    restored = bnb.functional.dequantize_4bit(weight.data, weight.quant_state)
    assert torch.equal(restored, ours.dequantize())
