"""The 4-bit formats of notebook 08: what they store, by a second route."""

import pytest
import torch

from lora_edu.classroom.experiments.four_bit_formats import (
    FORMATS,
    mean_absolute,
    normal_code,
    root_mean_square,
)
from lora_edu.methods.codebook import derive_nf4_code, nf4_code
from lora_edu.methods.nf4 import bits_per_parameter, quantize_nf4

BLOCKSIZE = 64


@pytest.fixture
def W():
    return torch.randn(2**15, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", FORMATS)
def test_a_block_is_read_back_as_at_most_sixteen_numbers(name, W):
    W_hat = FORMATS[name].round_trip(W, BLOCKSIZE)
    assert W_hat.shape == W.shape
    assert max(len(block.unique()) for block in W_hat.view(-1, BLOCKSIZE)) <= 16
    assert root_mean_square(W, W_hat) < 0.15


@pytest.mark.parametrize("name", FORMATS)
def test_small_blocks_cost_bits_and_save_error(name, W):
    scheme = FORMATS[name]
    assert scheme.bits(32) > scheme.bits(128)
    copies = [scheme.round_trip(W, size) for size in (32, 128)]
    for error in (mean_absolute, root_mean_square):
        assert error(W, copies[0]) < error(W, copies[1])


@pytest.mark.parametrize(("name", "double_quant"), [("NF4", False), ("NF4, double quantization", True)])
def test_bits_are_those_that_the_quantizer_stores(name, double_quant, W):
    _, state = quantize_nf4(W, BLOCKSIZE, double_quant)
    offset = 32 / W.numel() if double_quant else 0
    assert FORMATS[name].bits(BLOCKSIZE) == pytest.approx(bits_per_parameter(state) - offset)


def test_signed_max_and_min_max_keep_the_ends_they_are_named_after(W):
    blocks = W.view(-1, BLOCKSIZE)
    largest = blocks.abs().argmax(1, keepdim=True)
    signed = FORMATS["int4 signed max"].round_trip(W, BLOCKSIZE).view_as(blocks)
    minmax = FORMATS["int4 min-max"].round_trip(W, BLOCKSIZE).view_as(blocks)
    half = {"rtol": 2**-10, "atol": 0.01}  # constants are stored in 16 bits
    torch.testing.assert_close(signed.gather(1, largest), blocks.gather(1, largest), **half)
    torch.testing.assert_close(minmax.amin(1), blocks.amin(1), **half)
    torch.testing.assert_close(minmax.amax(1), blocks.amax(1), **half)


def test_errors_are_the_norms_they_are_named_after(W):
    W_hat = FORMATS["NF4"].round_trip(W, BLOCKSIZE)
    n = W.numel()
    assert mean_absolute(W, W_hat) == pytest.approx(torch.dist(W, W_hat, p=1).item() / n, rel=1e-4)
    assert root_mean_square(W, W_hat) == pytest.approx(torch.dist(W, W_hat).item() / n**0.5, rel=1e-4)


def test_the_levels_are_nf4_at_its_offset():
    offset = (1 - 1 / 30 + 1 - 1 / 32) / 2
    torch.testing.assert_close(normal_code(offset).float(), derive_nf4_code(), rtol=0, atol=1e-7)
    torch.testing.assert_close(normal_code(offset).float(), nf4_code(), rtol=0, atol=2e-7)


@pytest.mark.parametrize("offset", [0.51, 0.9, 0.999])
def test_any_offset_gives_seven_levels_zero_and_eight_more(offset):
    code = normal_code(offset)
    assert (code.diff() > 0).all() and code[0] == -1 and code[-1] == 1
    assert ((code < 0).sum(), (code == 0).sum(), (code > 0).sum()) == (7, 1, 8)


@pytest.mark.parametrize("offset", [0.5, 1, float("nan")])
def test_an_impossible_offset_is_named(offset):
    with pytest.raises(ValueError, match=r"offset must be above 0\.5 and below 1, got"):
        normal_code(offset)
