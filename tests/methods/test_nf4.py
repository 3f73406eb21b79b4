"""The fast NF4 against the plain composition of its parts, and the laws of double quantization."""

import math
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_edu.methods import _fast, double_quant
from lora_edu.methods.blockwise import dequantize_blockwise, nearest_level, quantize_blockwise
from lora_edu.methods.codebook import nf4_code
from lora_edu.methods.nf4 import (
    bits_per_parameter,
    dequantize_nf4,
    dequantized_panels,
    nearest_nf4_level,
    plain_dequantize_nf4,
    plain_quantize_nf4,
    quantize_nf4,
    scales,
)
from lora_edu.methods.packing import unpack_4bit

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = st.lists(st.integers(1, 40), min_size=1, max_size=3)


def weights(shape, seed, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture(params=[None, 128], ids=["one chunk", "many chunks"])
def chunk(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(_fast, "QUANTIZE_CHUNK", request.param)
        monkeypatch.setattr(_fast, "DEQUANTIZE_CHUNK", request.param)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request):
    """The fast path looks levels up in another way when PyTorch has more than one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("chunk", "threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("blocksize", [64, 1, 7, 100])
@pytest.mark.parametrize("shape", [(64, 64), (37, 53), (1,), (2, 3, 129)])
@pytest.mark.parametrize("double_quant", [False, True])
def test_the_fast_path_agrees_with_the_plain_one(shape, blocksize, dtype, double_quant):
    W = weights(shape, 0, dtype)
    packed, state = quantize_nf4(W, blocksize, double_quant)
    plain, plain_state = plain_quantize_nf4(W, blocksize, double_quant)
    assert packed.shape == (math.ceil(W.numel() / 2),) and packed.dtype == torch.uint8
    assert torch.equal(packed, plain)
    assert torch.equal(scales(state), scales(plain_state))
    restored = dequantize_nf4(packed, state)
    assert (restored.shape, restored.dtype) == (W.shape, dtype)
    assert torch.equal(restored, plain_dequantize_nf4(packed, state))


@pytest.mark.parametrize("blocksize", [64, 7])
def test_the_plain_path_keeps_the_codes_and_scales_of_its_parts(blocksize):
    W = weights((37, 53), 0)
    packed, state = plain_quantize_nf4(W, blocksize)
    indices, absmax = quantize_blockwise(W, nf4_code(), blocksize)
    assert torch.equal(unpack_4bit(packed, W.numel()), indices.flatten())
    assert torch.equal(state.absmax, absmax)
    restored = dequantize_blockwise(indices, absmax, nf4_code(), blocksize)
    assert torch.equal(plain_dequantize_nf4(packed, state), restored)


def test_the_table_agrees_with_the_search_on_both_sides_of_every_midpoint():
    midpoints = (nf4_code()[:-1] + nf4_code()[1:]) / 2
    up, down = (midpoints.nextafter(torch.tensor(end)) for end in (2.0, -2.0))
    one = torch.tensor([1.0, -1.0, 0.0, -0.0, 1e-38])
    x = torch.cat([midpoints, up, down, one, torch.linspace(-1, 1, 100_001)])
    assert torch.equal(nearest_nf4_level(x).long(), nearest_level(x, nf4_code()).long())


@settings(deadline=None)
@given(SHAPES, st.integers(1, 300), st.sampled_from(DTYPES), st.integers(0, 2**31))
def test_quantizing_twice_gives_the_same_bytes(shape, blocksize, dtype, seed):
    packed, state = quantize_nf4(weights(shape, seed, dtype), blocksize)
    again, state_again = quantize_nf4(dequantize_nf4(packed, state), blocksize)
    assert torch.equal(packed, again)
    assert torch.equal(state.absmax, state_again.absmax)


@settings(deadline=None)
@given(SHAPES, st.integers(1, 300), st.integers(0, 2**31))
def test_double_quantization_changes_the_scales_only_and_by_little(shape, blocksize, seed):
    W = weights(shape, seed)
    packed, state = quantize_nf4(W, blocksize)
    same, nested = quantize_nf4(W, blocksize, double_quant=True)
    assert torch.equal(packed, same)
    assert nested.absmax.dtype == torch.uint8
    assert nested.nested_absmax.shape == (math.ceil(state.absmax.numel() / 256),)
    centred = state.absmax - state.absmax.mean()
    largest = torch.cat([b.abs().max().expand(b.numel()) for b in centred.split(256)])
    # Half the widest gap of the 8-bit code, half a step of its grid of 65,536, and rounding.
    bound = (0.0141 / 2 + 1 / 65535) * largest + 1e-6 * state.absmax.max()
    error = (scales(nested) - state.absmax).abs()
    assert (error <= bound).all()
    spread = error.repeat_interleave(blocksize)[: W.numel()].view(W.shape)
    difference = (dequantize_nf4(same, nested) - dequantize_nf4(packed, state)).abs()
    assert (difference <= spread + 1e-6 * state.absmax.max()).all()


@pytest.mark.parametrize("numel", [256, 512, 1875])
def test_scales_are_quantized_in_chunks_as_in_one_piece(numel, monkeypatch):
    state = quantize_nf4(weights((16 * numel,), 0), blocksize=16)[1]
    whole = double_quant.double_quantize(state)
    monkeypatch.setattr(double_quant, "CHUNK", 2 * double_quant.NESTED_BLOCKSIZE)
    parts = double_quant.double_quantize(state)
    assert torch.equal(parts.absmax, whole.absmax) and torch.equal(parts.nested_absmax, whole.nested_absmax)
    assert torch.equal(scales(parts), scales(whole))


@pytest.mark.parametrize(("double_quant", "bits"), [(False, 4.5), (True, 4.127)])
def test_bits_per_parameter(double_quant, bits):
    packed, state = quantize_nf4(torch.randn(1024, 1024), double_quant=double_quant)
    stored = [packed, state.absmax, state.nested_absmax, state.offset]
    assert bits_per_parameter(state) == 8 * sum(t.nbytes for t in stored if t is not None) / 1024**2
    assert bits_per_parameter(state) == pytest.approx(bits, abs=5e-4)


def test_mean_absolute_error_on_gaussian_weights():
    """The threshold is that of bitsandbytes' own tests."""
    W = weights((1024, 1024), 0)
    assert (dequantize_nf4(*quantize_nf4(W)) - W).abs().mean() < 0.07332


def test_the_order_of_elements_is_that_of_the_shape_and_the_weight_stays_as_it_is():
    W = torch.nn.Parameter(weights((96, 50), 1))
    before = W.detach().clone()
    packed, state = quantize_nf4(W.T)
    assert torch.equal(packed, quantize_nf4(W.T.contiguous())[0])
    assert not dequantize_nf4(packed, state).requires_grad
    assert torch.equal(W, before)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("start", [0, 1])
def test_out_receives_the_weights_wherever_it_lies(dtype, start):
    packed, state = quantize_nf4(weights((9, 57), 2, dtype))
    memory = torch.full((9 * 57 + 2,), 7.0, dtype=dtype)
    out = memory[start : start + 9 * 57].view(9, 57)
    assert dequantize_nf4(packed, state, out=out) is out
    assert torch.equal(out, dequantize_nf4(packed, state))
    outside = torch.ones_like(memory, dtype=torch.bool)
    outside[start : start + 9 * 57] = False
    assert (memory[outside] == 7).all()


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("shape", [(64, 128), (37, 53), (1, 1), (300, 96), (5, 1)])
def test_panels_are_the_rows_of_the_matrix_in_one_memory(shape, double_quant):
    packed, state = quantize_nf4(weights(shape, 3), double_quant=double_quant)
    seen, places = [], set()
    for rows, panel in dequantized_panels(packed, state, torch.float32):
        seen.append((rows, panel.clone()))
        places.add(panel.data_ptr())
    assert [rows.start for rows, _ in seen] == [0] + [rows.stop for rows, _ in seen[:-1]]
    assert torch.equal(torch.cat([panel for _, panel in seen]), dequantize_nf4(packed, state))
    assert len(places) == 1


W = torch.ones(6, 8)
PACKED, STATE = quantize_nf4(W)
NESTED = quantize_nf4(W, double_quant=True)[1]
HALF = torch.empty(6, 8, dtype=torch.float16)
BAD = [
    (quantize_nf4, ("W",), TypeError, "W must be a floating-point tensor, got str"),
    (quantize_nf4, (W.long(),), TypeError, "W must be a floating-point tensor, got torch.int64"),
    (quantize_nf4, (W[:0],), ValueError, "W must be a tensor with at least one element, got shape (0, 8)"),
    (quantize_nf4, (W / 0,), ValueError, "W must be finite, got NaN or infinity"),
    (quantize_nf4, (W, 0), ValueError, "blocksize must be an integer of at least 1, got 0"),
    (quantize_nf4, (W, None), TypeError, "blocksize must be an integer of at least 1, got None"),
    (dequantize_nf4, (W, STATE), TypeError, "packed must be a uint8 tensor, got torch.float32"),
    (dequantize_nf4, (PACKED[:-1], STATE), ValueError, "packed must be of shape (24,), got shape (23,)"),
    (dequantize_nf4, (PACKED, None), TypeError, "quant_state must be a QuantState, got NoneType"),
    (
        dequantize_nf4,
        (PACKED, replace(STATE, absmax=torch.ones(2))),
        ValueError,
        "quant_state.absmax must be of shape (1,), got shape (2,)",
    ),
    (
        dequantize_nf4,
        (PACKED, replace(NESTED, absmax=torch.ones(1).half())),
        TypeError,
        "quant_state.absmax must be a uint8 tensor, got torch.float16",
    ),
    (
        dequantize_nf4,
        (PACKED, replace(NESTED, nested_blocksize=None)),
        TypeError,
        "quant_state.nested_blocksize must be an integer of at least 1, got None",
    ),
    (
        dequantize_nf4,
        (PACKED, replace(NESTED, nested_absmax=None)),
        TypeError,
        "quant_state.nested_absmax must be a float32 tensor, got NoneType",
    ),
    (
        dequantize_nf4,
        (PACKED, replace(NESTED, nested_code=torch.ones(16))),
        ValueError,
        "quant_state.nested_code must be of shape (256,), got shape (16,)",
    ),
    (
        dequantize_nf4,
        (PACKED, replace(NESTED, offset=torch.ones(1))),
        ValueError,
        "quant_state.offset must be of shape (), got shape (1,)",
    ),
    (
        dequantize_nf4,
        (PACKED, STATE, HALF),
        ValueError,
        "out must be a contiguous tensor, (6, 8), torch.float32, got (6, 8), torch.float16",
    ),
    (
        dequantize_nf4,
        (PACKED, STATE, W.T),
        ValueError,
        "out must be a contiguous tensor, (6, 8), torch.float32, got (8, 6), torch.float32",
    ),
    (
        dequantize_nf4,
        (PACKED, STATE, 1),
        ValueError,
        "out must be a contiguous tensor, (6, 8), torch.float32, got int",
    ),
    (bits_per_parameter, (PACKED,), TypeError, "quant_state must be a QuantState, got Tensor"),
]


@pytest.mark.parametrize(("function", "arguments", "error", "message"), BAD)
def test_bad_input_is_refused_by_name(function, arguments, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        function(*arguments)
