"""Block-wise quantization against a plain search in float64, and its laws."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_edu.methods.blockwise import (
    dequantize_blockwise,
    dequantize_minmax,
    nearest_level,
    quantize_blockwise,
    quantize_minmax,
)
from lora_edu.methods.codebook import dynamic_code, fp4_code, nf4_code, symmetric_int_code, uniform_code

CODES = {c.__name__: c() for c in (uniform_code, symmetric_int_code, nf4_code, fp4_code, dynamic_code)}
SHAPES = st.lists(st.integers(1, 40), min_size=1, max_size=3)


def weights(shape, seed):
    """Gaussian weights with a few outliers and a few exact zeros."""
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(shape, generator=generator)
    chance = torch.rand(shape, generator=generator)
    return W.where(chance > 0.02, 0).where(chance < 0.98, 50 * W)


def blocks(values, blocksize):
    """The blocks as a list: no padding, no reshaping."""
    return values.flatten().split(blocksize)


@settings(deadline=None)
@given(SHAPES, st.integers(1, 100), st.sampled_from(sorted(CODES)), st.integers(0, 2**31))
def test_the_level_chosen_is_the_nearest(shape, blocksize, name, seed):
    W, code = weights(shape, seed), CODES[name]
    indices, absmax = quantize_blockwise(W, code, blocksize)
    assert indices.dtype == torch.uint8 and indices.shape == W.shape
    assert absmax.dtype == torch.float32 and absmax.shape == (math.ceil(W.numel() / blocksize),)
    for w, i, a in zip(blocks(W, blocksize), blocks(indices, blocksize), absmax, strict=True):
        assert a == w.abs().max() or a == torch.tensor(1e-38)
        distance = (w.double() / a.double().clamp(min=1e-38) - code.double()[:, None]).abs()
        chosen = distance.gather(0, i.long()[None])[0]
        assert (chosen <= distance.amin(0) + 1e-6).all()


@settings(deadline=None)
@given(SHAPES, st.integers(1, 100), st.sampled_from(sorted(CODES)), st.integers(0, 2**31))
def test_the_error_is_at_most_half_the_widest_gap_times_absmax(shape, blocksize, name, seed):
    W, code = weights(shape, seed), CODES[name]
    restored = dequantize_blockwise(*quantize_blockwise(W, code, blocksize), code, blocksize)
    half_gap = max(code.diff().max() / 2, 1 + code[0])
    for w, v in zip(blocks(W, blocksize), blocks(restored, blocksize), strict=True):
        assert (w - v).abs().max() <= (half_gap + 1e-6) * w.abs().max()


@pytest.mark.parametrize("name", CODES)
def test_a_value_midway_takes_the_lower_level(name):
    code = CODES[name]
    midpoints = (code[:-1] + code[1:]) / 2
    expected = torch.arange(code.numel() - 1)
    assert torch.equal(nearest_level(midpoints, code).long(), expected)
    assert torch.equal(nearest_level(midpoints.nextafter(torch.tensor(2.0)), code).long(), expected + 1)


@settings(deadline=None)
@given(SHAPES, st.integers(1, 100), st.integers(0, 2**31))
def test_quantizing_twice_changes_nothing(shape, blocksize, seed):
    code = nf4_code()
    first = quantize_blockwise(weights(shape, seed), code, blocksize)
    second = quantize_blockwise(dequantize_blockwise(*first, code, blocksize), code, blocksize)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_an_outlier_spoils_its_own_block_and_no_other():
    W = torch.randn(4, 64)
    spoiled = W.clone()
    spoiled[2, 5] = 1000.0
    before, after = (
        dequantize_blockwise(*quantize_blockwise(M, nf4_code()), nf4_code()) for M in (W, spoiled)
    )
    assert torch.equal(before[[0, 1, 3]], after[[0, 1, 3]])
    assert after[2].count_nonzero() == 1


@pytest.mark.parametrize("power", [-20, 3])
def test_a_scale_of_a_power_of_two_changes_absmax_only(power):
    W = torch.randn(100)
    indices, absmax = quantize_blockwise(W, nf4_code())
    scaled_indices, scaled_absmax = quantize_blockwise(W * 2.0**power, nf4_code())
    assert torch.equal(indices, scaled_indices)
    assert torch.equal(absmax * 2.0**power, scaled_absmax)


@pytest.mark.parametrize("numel", [64, 65, 1])
def test_zeros_stay_zeros(numel):
    W = torch.zeros(numel)
    assert torch.equal(dequantize_blockwise(*quantize_blockwise(W, nf4_code()), nf4_code()), W)
    assert torch.equal(dequantize_minmax(*quantize_minmax(W)), W)


@settings(deadline=None)
@given(SHAPES, st.integers(1, 100), st.integers(0, 2**31))
def test_minmax_errs_by_at_most_half_a_step(shape, blocksize, seed):
    W = weights(shape, seed)
    indices, low, step = quantize_minmax(W, blocksize)
    assert indices.dtype == torch.uint8 and indices.shape == W.shape and indices.max() <= 15
    restored = dequantize_minmax(indices, low, step, blocksize)
    for w, v, a, s in zip(blocks(W, blocksize), blocks(restored, blocksize), low, step, strict=True):
        assert a == w.min()
        torch.testing.assert_close(s, (w.max() - w.min()) / 15)
        assert (w - v).abs().max() <= s / 2 + 1e-5 * w.abs().max()


def test_which_format_wins_depends_on_the_measure():
    """On Gaussian weights NF4 has the least mean absolute error, min-max int4 the least mean square."""
    W = torch.randn(2**18, generator=torch.Generator().manual_seed(0))
    error = {
        name: dequantize_blockwise(*quantize_blockwise(W, code), code) - W
        for name, code in CODES.items()
        if code.numel() <= 16
    }
    error["minmax"] = dequantize_minmax(*quantize_minmax(W)) - W
    absolute = {name: e.abs().mean().item() for name, e in error.items()}
    square = {name: e.square().mean().item() for name, e in error.items()}
    assert sorted(absolute, key=absolute.__getitem__)[:2] == ["nf4_code", "minmax"]
    assert min(square, key=square.__getitem__) == "minmax"


W, CODE = torch.ones(8), nf4_code()
INDICES, ABSMAX = torch.zeros(8, dtype=torch.uint8), torch.ones(1)
FLOATS = ("a floating-point tensor", "a tensor with at least one element")
BAD = [
    (quantize_blockwise, ([1.0], CODE, 64), TypeError, "W must be a floating-point tensor, got list"),
    (
        quantize_blockwise,
        (W.int(), CODE, 64),
        TypeError,
        "W must be a floating-point tensor, got torch.int32",
    ),
    (quantize_blockwise, (W[:0], CODE, 64), ValueError, f"W must be {FLOATS[1]}, got shape (0,)"),
    (quantize_blockwise, (W / 0, CODE, 64), ValueError, "W must be finite, got NaN or infinity"),
    (quantize_blockwise, (W * math.nan, CODE, 3), ValueError, "W must be finite, got NaN or infinity"),
    (
        quantize_blockwise,
        (W, CODE.flip(0)[:2], 64),
        ValueError,
        "code must be strictly ascending, got [1.0, ",
    ),
    (quantize_blockwise, (W, CODE[:1], 64), ValueError, "code must be 2 … 256 levels, got 1 levels"),
    (quantize_blockwise, (W, CODE[None], 64), ValueError, "code must be 1-dimensional, got shape (1, 16)"),
    (quantize_blockwise, (W, CODE * math.nan, 64), ValueError, "code must be finite, got NaN or infinity"),
    (quantize_blockwise, (W, 2 * CODE, 64), ValueError, "code must be levels in [-1, 1], got [-2.0, "),
    (quantize_blockwise, (W, CODE, 0), ValueError, "blocksize must be an integer of at least 1, got 0"),
    (quantize_blockwise, (W, CODE, 6.4), TypeError, "blocksize must be an integer of at least 1, got 6.4"),
    (
        dequantize_blockwise,
        (W, ABSMAX, CODE, 64),
        TypeError,
        "indices must be a uint8 tensor, got torch.float32",
    ),
    (
        dequantize_blockwise,
        (INDICES[:0], ABSMAX, CODE, 64),
        ValueError,
        f"indices must be {FLOATS[1]}, got shape",
    ),
    (
        dequantize_blockwise,
        (INDICES + 16, ABSMAX, CODE, 64),
        ValueError,
        "indices must be below 16, the number of",
    ),
    (
        dequantize_blockwise,
        (INDICES, ABSMAX.int(), CODE, 64),
        TypeError,
        f"absmax must be {FLOATS[0]}, got torch",
    ),
    (
        dequantize_blockwise,
        (INDICES, ABSMAX, CODE, 4),
        ValueError,
        "absmax must be of shape (2,), got shape (1,)",
    ),
    (
        dequantize_blockwise,
        (INDICES, ABSMAX, -CODE, 64),
        ValueError,
        "code must be strictly ascending, got [",
    ),
    (
        dequantize_blockwise,
        (INDICES, ABSMAX, CODE, 0),
        ValueError,
        "blocksize must be an integer of at least 1, got",
    ),
    (quantize_minmax, (None, 64), TypeError, "W must be a floating-point tensor, got NoneType"),
    (quantize_minmax, (W[:0], 64), ValueError, f"W must be {FLOATS[1]}, got shape (0,)"),
    (quantize_minmax, (W / 0, 64), ValueError, "W must be finite, got NaN or infinity"),
    (quantize_minmax, (W, -1), ValueError, "blocksize must be an integer of at least 1, got -1"),
    (
        dequantize_minmax,
        (W, W[:1], W[:1], 64),
        TypeError,
        "indices must be a uint8 tensor, got torch.float32",
    ),
    (
        dequantize_minmax,
        (INDICES + 16, W[:1], W[:1], 64),
        ValueError,
        "indices must be below 16, the number of levels",
    ),
    (dequantize_minmax, (INDICES, W[:2], W[:1], 64), ValueError, "low must be of shape (1,), got shape (2,)"),
    (
        dequantize_minmax,
        (INDICES, W[:1], W[:2], 64),
        ValueError,
        "step must be of shape (1,), got shape (2,)",
    ),
    (
        dequantize_minmax,
        (INDICES, W[:1], INDICES[:1], 64),
        TypeError,
        "step must be a floating-point tensor, got",
    ),
    (
        dequantize_minmax,
        (INDICES, W[:1], W[:1], True),
        TypeError,
        "blocksize must be an integer of at least 1, got",
    ),
]


@pytest.mark.parametrize(("function", "arguments", "error", "message"), BAD)
def test_bad_input_is_refused_by_name(function, arguments, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        function(*arguments)
