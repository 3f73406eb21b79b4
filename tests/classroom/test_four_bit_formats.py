"""The 4-bit formats of notebook 08: what they store, by a second route, gguf's own where it has one."""

import pytest
import torch

from lora_edu.classroom.experiments.four_bit_formats import (
    CODES,
    FORMATS,
    by_bits,
    mean_absolute,
    normal_code,
    refitted,
    root_mean_square,
    with_code,
)
from lora_edu.classroom.experiments.gguf_referee import READS, WRITES, read_by_gguf
from lora_edu.methods.codebook import derive_nf4_code, nf4_code
from lora_edu.methods.nf4 import bits_per_parameter, quantize_nf4

every_format = pytest.mark.parametrize("name", FORMATS)


@pytest.fixture
def W():
    return torch.randn(2**15, generator=torch.Generator().manual_seed(0))


@every_format
def test_a_block_is_read_back_as_at_most_sixteen_numbers(name, W):
    W_hat = FORMATS[name].round_trip(W)
    assert W_hat.shape == W.shape
    assert max(len(block.unique()) for block in W_hat.view(-1, FORMATS[name].blocksize)) <= 16
    assert root_mean_square(W, W_hat) < 0.13


@every_format
def test_zeros_come_back_as_zeros(name):
    assert FORMATS[name].round_trip(torch.zeros(512)).abs().max() < 1e-20


@every_format
def test_twice_the_weights_are_read_back_as_twice_the_copy(name, W):
    scheme = FORMATS[name]
    torch.testing.assert_close(scheme.round_trip(2 * W), 2 * scheme.round_trip(W), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", WRITES + READS)
@pytest.mark.parametrize("size", [1.0, 0.02])
def test_gguf_reads_the_very_numbers_that_we_do(name, size, W):
    W[100:200] = 0
    W[512:1024] = W[512:1024].abs() + 1  # blocks without a negative weight
    assert torch.equal(FORMATS[name].round_trip(size * W), read_by_gguf(name, size * W))


def test_gguf_judges_no_other_format(W):
    with pytest.raises(ValueError, match=r"name must be one of .* got 'NF4 \+ DQ'"):
        read_by_gguf("NF4 + DQ", W)


@pytest.mark.parametrize("name", WRITES + READS)
def test_bits_are_those_of_ggufs_blocks(name):
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    weights, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    assert FORMATS[name].bits == 8 * size / weights


@pytest.mark.parametrize(("name", "double_quant"), [("NF4 (64, 32-bit)", False), ("NF4 + DQ", True)])
def test_bits_are_those_that_the_quantizer_stores(name, double_quant, W):
    _, state = quantize_nf4(W, 64, double_quant)
    offset = 32 / W.numel() if double_quant else 0
    assert FORMATS[name].bits == pytest.approx(bits_per_parameter(state) - offset)


def test_formats_of_equal_bits_stand_together():
    groups = by_bits(lambda name: [FORMATS[name].bits])
    assert list(groups) == ["4.13 bits", "4.25 bits", "4.5 bits", "5 bits"]
    assert sum(map(len, groups.values())) == len(FORMATS)
    assert all(len({bits for [bits] in rows.values()}) == 1 for rows in groups.values())


@pytest.mark.parametrize("name", CODES)
def test_codes_reach_one_and_smaller_blocks_save_error(name, W):
    code = CODES[name]
    assert (code.diff() > 0).all() and code.abs().max() == 1 and len(code) in (15, 16)
    assert mean_absolute(W, with_code(W, code, 32)) < mean_absolute(W, with_code(W, code, 128))


def test_the_search_beats_its_start_and_no_small_change_beats_it(W):
    start = FORMATS["min-max (64)"].round_trip(W)
    found = refitted(W, 64)
    assert root_mean_square(W, found) < 0.95 * root_mean_square(W, start)
    blocks = found.view(-1, 64)
    for changed in (blocks * 1.01, blocks + 0.01 * blocks.abs().amax(1, keepdim=True)):
        assert root_mean_square(W, changed.flatten()) > root_mean_square(W, found)


def test_errors_are_the_norms_they_are_named_after(W):
    W_hat = FORMATS["NF4 (64, 32-bit)"].round_trip(W)
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
