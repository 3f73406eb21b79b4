"""Lloyd's levels: each step against a slow second route, and where they settle."""

import pytest
import torch

from lora_edu.classroom.experiments.four_bit_formats import mean_absolute, normal_code, root_mean_square
from lora_edu.classroom.experiments.lloyd import (
    POWERS,
    Quotients,
    even_start,
    excess,
    excess_by_offset,
    settle,
)
from lora_edu.methods.blockwise import dequantize_blockwise, normalize_blocks, quantize_blockwise
from lora_edu.methods.codebook import nf4_code

BY_LOOKING = {"mean absolute": mean_absolute, "root mean square": root_mean_square}
both = pytest.mark.parametrize("error", POWERS)


@pytest.fixture
def W():
    return torch.randn(2**14, generator=torch.Generator().manual_seed(0))


@both
@pytest.mark.parametrize("code", [nf4_code(), even_start()])
def test_the_error_is_that_of_the_weights_read_back(error, code, W):
    W_hat = dequantize_blockwise(*quantize_blockwise(W, code.float(), 64), code.float(), 64)
    assert Quotients.of(W, 64, error).error_of(code.double()) == pytest.approx(
        BY_LOOKING[error](W, W_hat), rel=1e-5
    )


@both
def test_a_step_moves_each_level_to_the_best_of_many_places_in_its_cell(error, W):
    code = even_start()
    moved = Quotients.of(W, 64, error).step(code)
    x, absmax = normalize_blocks(W, 64)
    weight = absmax.double().repeat_interleave(64) ** POWERS[error]
    indices = quantize_blockwise(W, code.float(), 64)[0].long()
    for level in (1, 5, 9, 14):
        inside = indices == level
        places = torch.linspace(x[inside].min(), x[inside].max(), 401, dtype=torch.float64)
        gaps = (x[inside].double() - places[:, None]).abs() ** POWERS[error]
        best = places[(weight[inside] * gaps).sum(1).argmin()]
        assert moved[level].item() == pytest.approx(best.item(), abs=2 * (places[1] - places[0]).item())


@both
def test_no_step_raises_the_error_and_the_ends_and_zero_stay(error, W):
    quotients = Quotients.of(W, 64, error)
    codes = settle(quotients, even_start(), 40)
    errors = torch.tensor([quotients.error_of(code) for code in codes], dtype=torch.float64)
    assert (errors.diff() < 1e-12).all() and errors[-1] < 0.9 * errors[0]
    assert torch.equal(codes[:, [0, 7, 15]], torch.tensor([[-1.0, 0, 1]]).double().expand(41, 3))
    assert (codes.diff(dim=1) > 0).all()


def test_they_settle_on_nf4_at_blocks_of_64_and_elsewhere_at_others():
    found = {size: excess(nf4_code(), size, "mean absolute", seed=3) for size in (16, 64, 256)}
    assert abs(found[64]) < 0.002 < min(found[16], found[256])
    settled = settle(Quotients.of(torch.randn(2**17), 64), even_start(), 100)[-1]
    assert (settled - nf4_code()).abs().max() < 0.03


def test_an_empty_cell_keeps_its_level():
    quotients = Quotients.of(torch.tensor([1.0, 0.5, 0.5, 0.5]), 4)
    code = torch.tensor([-1.0, -0.4, 0, 0.3, 1]).double()
    assert quotients.step(code).tolist() == pytest.approx([-1, -0.4, 0, 0.5, 1])


def test_one_offset_is_the_best_of_them():
    offsets = [0.92, 0.9677083, 0.99]
    W = torch.randn(2**17, generator=torch.Generator().manual_seed(1))
    errors = [Quotients.of(W, 64).error_of(normal_code(offset)) for offset in offsets]
    found = excess_by_offset(offsets, 64, seed=1)
    assert found == pytest.approx([error / errors[1] - 1 for error in errors]) and found[1] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocksize": 64, "error": "largest"}, "error must be one of .* got 'largest'"),
        ({"blocksize": 60}, "W must hold whole blocks of 60, got 128"),
    ],
)
def test_what_cannot_be_sorted_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        Quotients.of(torch.randn(128), **options)
