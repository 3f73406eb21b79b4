"""GPTQ: rounding to nearest where inputs are alike, the least squares choice where they are not."""

import itertools

import pytest
import torch

from lora_edu.classroom.experiments.four_bit_formats import with_code
from lora_edu.classroom.experiments.gptq import gptq, output_error
from lora_edu.methods.codebook import nf4_code

CODE = nf4_code()


@pytest.fixture
def layer():
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(24, 128, generator=generator)
    mix = torch.randn(128, 128, generator=generator) / 8
    seen, unseen = (torch.randn(600, 128, generator=generator) @ mix for _ in range(2))
    return W, seen, unseen


def test_without_correlation_it_is_rounding_to_nearest(layer):
    W, *_ = layer
    assert torch.equal(gptq(W, 7 * torch.eye(128), CODE), with_code(W.flatten(), CODE).view_as(W))


def test_outputs_err_less_on_new_inputs_and_weights_more(layer):
    W, seen, unseen = layer
    nearest, calibrated = with_code(W.flatten(), CODE).view_as(W), gptq(W, seen.T @ seen, CODE)
    assert output_error(W, calibrated, unseen) < 0.8 * output_error(W, nearest, unseen)
    assert (calibrated - W).norm() > 1.1 * (nearest - W).norm()


def test_the_last_column_makes_up_for_the_others_as_least_squares_does():
    generator = torch.Generator().manual_seed(1)
    W, X = torch.randn(8, 2, generator=generator), torch.randn(50, 2, generator=generator)
    X[:, 1] += X[:, 0]
    fine = torch.linspace(-1, 1, 255)  # so fine that the second column is where it should be
    W_hat = gptq(W, X.T @ X, torch.tensor([-1.0, 0, 1]), blocksize=1)
    first = W[:, :1] - W_hat[:, :1]
    wanted = W[:, 1] + (torch.linalg.lstsq(X[:, 1:], X[:, :1]).solution * first.T).squeeze(0)
    rounded = gptq(W, X.T @ X, fine, blocksize=1)
    assert rounded[:, 1].tolist() == pytest.approx((W[:, 1]).tolist(), abs=0.02)
    assert (W_hat[:, 1] - wanted).abs().max() < 0.05


def test_the_error_is_that_of_the_outputs():
    W, W_hat, X = torch.eye(2), torch.tensor([[1.0, 0], [0, 0.5]]), torch.tensor([[3.0, 4.0]])
    assert output_error(W, W_hat, X) == pytest.approx(2 / 5)


@pytest.mark.parametrize(("size", "blocksize"), list(itertools.product([3, 4], [3])))
def test_what_does_not_fit_is_named(size, blocksize):
    with pytest.raises(ValueError, match=r"H must be \(4, 4\) and blocksize divide 4, got 3"):
        gptq(torch.ones(2, 4), torch.eye(size), CODE, blocksize)
