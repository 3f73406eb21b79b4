"""Each code by a route other than the one that built it."""

import re
from itertools import pairwise

import pytest
import torch

from lora_edu.methods.codebook import (
    derive_nf4_code,
    dynamic_code,
    fp4_code,
    nf4_code,
    symmetric_int_code,
    uniform_code,
)

CODES = {
    "uniform": (uniform_code, 16),
    "symmetric_int": (symmetric_int_code, 15),
    "nf4": (nf4_code, 16),
    "derived_nf4": (derive_nf4_code, 16),
    "fp4": (fp4_code, 15),
    "dynamic": (dynamic_code, 256),
}


@pytest.mark.parametrize(("make", "levels"), CODES.values(), ids=CODES)
def test_a_code_is_strictly_ascending_float32_up_to_one(make, levels):
    code = make()
    assert code.dtype == torch.float32 and code.shape == (levels,)
    assert (code.diff() > 0).all()
    assert code.abs().max() == 1 and code[-1] == 1


@pytest.mark.parametrize("bits", range(1, 9))
def test_uniform_levels_are_evenly_spaced(bits):
    code = uniform_code(bits).double()
    torch.testing.assert_close(
        code.diff(), torch.full((2**bits - 1,), 2 / (2**bits - 1)).double(), rtol=0, atol=2e-7
    )
    assert 0 not in code


@pytest.mark.parametrize("bits", range(2, 9))
def test_symmetric_levels_are_integers_over_the_largest(bits):
    largest = 2 ** (bits - 1) - 1
    integers = symmetric_int_code(bits).double() * largest
    torch.testing.assert_close(integers, torch.arange(-largest, largest + 1).double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [symmetric_int_code, fp4_code])
def test_symmetric_codes_equal_their_mirror_image(make):
    assert torch.equal(make(), -make().flip(0))


def test_nf4_has_seven_negative_levels_zero_and_eight_positive():
    code = nf4_code()
    assert [(code < 0).sum(), (code == 0).sum(), (code > 0).sum()] == [7, 1, 8]


def test_derived_nf4_agrees_with_the_published_table():
    assert (derive_nf4_code() - nf4_code()).abs().max() <= 2e-7


def test_nf4_levels_cut_each_side_of_the_normal_distribution_into_equal_probabilities():
    offset = torch.tensor((1 - 1 / 30 + 1 - 1 / 32) / 2, dtype=torch.float64)
    probability = torch.special.ndtr(nf4_code().double() * torch.special.ndtri(offset))
    negative, positive = probability[:8].diff(), probability[7:].diff()
    torch.testing.assert_close(negative, negative.mean().expand(7), rtol=0, atol=1e-6)
    torch.testing.assert_close(positive, positive.mean().expand(8), rtol=0, atol=1e-6)


def test_dynamic_code_spends_a_bit_more_on_the_fraction_with_each_decade():
    code = dynamic_code()
    edges = torch.tensor([10.0**e for e in range(-7, 1)])
    in_decade = [int(((code > low) & (code < high)).sum()) for low, high in pairwise(edges)]
    assert in_decade == [1, 2, 4, 8, 16, 32, 64]
    without_one = code[:-1]
    assert torch.equal(without_one, -without_one.flip(0))


@pytest.mark.parametrize("make", [uniform_code, symmetric_int_code])
@pytest.mark.parametrize(
    ("bits", "error"), [(0, ValueError), (9, ValueError), (4.0, TypeError), (True, TypeError)]
)
def test_bits_out_of_range_are_refused(make, bits, error):
    with pytest.raises(error, match=rf"^bits must be an integer in \d … 8, got {re.escape(str(bits))}$"):
        make(bits)
