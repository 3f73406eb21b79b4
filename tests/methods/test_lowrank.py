"""Eckart-Young by second routes, and the approximate decompositions against planted spectra."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_edu.methods.lowrank import (
    factorize,
    low_rank_approximation,
    rank_error_curve,
    relative_error,
    truncated_svd,
)

METHODS = ["exact", "randomized", "krylov"]
SIDES = st.integers(1, 40)


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def planted(spectrum, m, n, dtype=torch.float32):
    """A matrix with these singular values and random singular vectors."""
    k = spectrum.numel()
    U, V = (torch.linalg.qr(gaussian(side, k, seed=side)).Q for side in (m, n))
    return (U * spectrum @ V.T).to(dtype)


@settings(deadline=None)
@given(SIDES, SIDES, st.sampled_from(METHODS), st.data())
def test_the_factors_are_orthonormal_and_ordered(m, n, method, data):
    W, r = gaussian(m, n), data.draw(st.integers(1, min(m, n)))
    U, S, Vh = truncated_svd(W, r, method, torch.Generator().manual_seed(0))
    assert U.shape == (m, r) and S.shape == (r,) and Vh.shape == (r, n)
    eye = torch.eye(r, dtype=torch.float64)
    torch.testing.assert_close(U.T @ U, eye)
    torch.testing.assert_close(Vh @ Vh.T, eye)
    assert (S.diff() <= 0).all() and (S >= 0).all()
    # The projection of W on the factors: what truncating loses, they do not invent.
    torch.testing.assert_close(
        U.T @ W @ Vh.T, torch.diag(S), rtol=1e-6, atol=0.05 if method == "randomized" else 1e-6
    )


@settings(deadline=None)
@given(SIDES, SIDES, st.data())
def test_singular_values_are_roots_of_the_eigenvalues_of_the_gram_matrix(m, n, data):
    W, r = gaussian(m, n), data.draw(st.integers(1, min(m, n)))
    eigenvalues = torch.linalg.eigvalsh(W @ W.T).flip(0)[:r]
    torch.testing.assert_close(truncated_svd(W, r)[1].square(), eigenvalues, rtol=1e-8, atol=1e-8)


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(2, 30), st.data())
def test_no_other_matrix_of_that_rank_is_closer(m, n, data):
    """Eckart-Young, against a thousand random pairs near the optimum and far from it."""
    W, r = gaussian(m, n), data.draw(st.integers(1, min(m, n)))
    B, A = factorize(W, r)
    best = (W - B @ A).norm()
    for distance in (1e-3, 0.1, 1.0):
        others = (B + distance * gaussian(300, m, r, seed=1)) @ (A + distance * gaussian(300, r, n, seed=2))
        assert (W - others).flatten(1).norm(dim=1).min() >= best


@settings(deadline=None)
@given(SIDES, SIDES, st.data())
def test_the_curve_tells_the_error_of_each_rank(m, n, data):
    W, r = gaussian(m, n), data.draw(st.integers(1, min(m, n)))
    curve = rank_error_curve(W)
    assert curve.shape == (min(m, n) + 1,)
    assert curve[0] == 1 and curve[-1] == 0 and (curve.diff() < 0).all()
    error = relative_error(W, low_rank_approximation(W, r))
    assert error == pytest.approx(curve[r].item(), abs=1e-10)
    B, A = factorize(W, r)
    assert B.shape == (m, r) and A.shape == (r, n)
    assert relative_error(W, B @ A) == pytest.approx(error, abs=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_a_matrix_of_low_rank_is_found_whole(method):
    W = gaussian(300, 5) @ gaussian(5, 200, seed=1)
    U, S, Vh = truncated_svd(W, 5, method)
    torch.testing.assert_close(U * S @ Vh, W, rtol=1e-9, atol=1e-9)
    assert truncated_svd(W, 6, method)[1][5] < 1e-10 * S[0]
    assert (rank_error_curve(W)[5:] < 1e-12).all()


def test_two_independent_columns_of_five():
    columns = torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.0, 1.0], [3.0, 2.0]])
    W = columns @ torch.tensor([[1.0, 0.0, 2.0, 1.0, 3.0], [0.0, 1.0, 1.0, 2.0, 1.0]])
    B, A = factorize(W, 2)
    assert B.numel() + A.numel() == 8 + 10
    torch.testing.assert_close(B @ A, W)


@pytest.mark.parametrize(("method", "excess"), [("randomized", 1e-2), ("krylov", 1e-5)])
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_the_error_is_close_to_the_least_possible(method, excess, power):
    spectrum = torch.arange(1, 1025, dtype=torch.float64) ** -power
    W = planted(spectrum, 1024, 1100)
    U, S, Vh = truncated_svd(W, 64, method, torch.Generator().manual_seed(0))
    least = (spectrum[64:].square().sum() / spectrum.square().sum()).sqrt().item()
    assert relative_error(W, U * S @ Vh) <= least * (1 + excess)


def test_on_noise_the_methods_are_ordered_and_ahead_of_torch():
    """Where nothing decays they have the most to lose: subspaces of torch.svd_lowrank's size lose more."""
    W = gaussian(512, 512, dtype=torch.float32)
    least = rank_error_curve(W)[64].item()

    def error(method):
        U, S, Vh = truncated_svd(W, 64, method, torch.Generator().manual_seed(0))
        return relative_error(W, U * S @ Vh)

    torch.manual_seed(0)
    U, S, V = torch.svd_lowrank(W, q=74, niter=2)
    theirs = relative_error(W, U[:, :64] * S[:64] @ V[:, :64].T)
    assert error("exact") == pytest.approx(least, abs=1e-6)
    assert least < error("krylov") < error("randomized") < theirs


@pytest.mark.parametrize("method", ["randomized", "krylov"])
def test_float32_resolves_small_singular_values_beside_large_ones(method):
    """Without orthonormalizing after each product their directions are lost."""
    spectrum = 10.0 ** -torch.linspace(0, 5, 20, dtype=torch.float64)
    S = truncated_svd(planted(spectrum, 200, 150), 18, method)[1]
    torch.testing.assert_close(S.double(), spectrum[:18], rtol=1e-1, atol=0)


@pytest.mark.parametrize("method", ["randomized", "krylov"])
def test_the_generator_decides_the_result(method):
    W = gaussian(60, 50)
    first, again = (truncated_svd(W, 4, method, torch.Generator().manual_seed(7)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_16_bit_matrix_is_decomposed_in_float32(dtype):
    W = gaussian(30, 20).to(dtype)
    assert [t.dtype for t in truncated_svd(W, 3)] == 3 * [torch.float32]
    approximation = low_rank_approximation(W, 3)
    assert approximation.dtype == dtype
    assert torch.equal(approximation, low_rank_approximation(W.float(), 3).to(dtype))


W = torch.ones(4, 6)
RANK = "r must be an integer in 1 … 4, got"
BAD = [
    (truncated_svd, ([[1.0]], 1), TypeError, "W must be a floating-point tensor, got list"),
    (truncated_svd, (W.int(), 1), TypeError, "W must be a floating-point tensor, got torch.int32"),
    (truncated_svd, (W[0], 1), ValueError, "W must be 2-dimensional, got shape (6,)"),
    (truncated_svd, (W[:0], 1), ValueError, "W must be a tensor with at least one element, got shape (0, 6)"),
    (truncated_svd, (W / 0, 1), ValueError, "W must be finite, got NaN or infinity"),
    (truncated_svd, (W, 0), ValueError, f"{RANK} 0"),
    (truncated_svd, (W, 5), ValueError, f"{RANK} 5"),
    (truncated_svd, (W, 2.0), TypeError, f"{RANK} 2.0"),
    (
        truncated_svd,
        (W, 2, "fast"),
        ValueError,
        'method must be "exact", "randomized" or "krylov", got \'fast\'',
    ),
    (low_rank_approximation, (W, 5), ValueError, f"{RANK} 5"),
    (low_rank_approximation, (W * math.nan, 1), ValueError, "W must be finite, got NaN or infinity"),
    (factorize, (W, 0), ValueError, f"{RANK} 0"),
    (factorize, (W[None], 1), ValueError, "W must be 2-dimensional, got shape (1, 4, 6)"),
    (relative_error, (W, W.T), ValueError, "W_hat must be of shape (4, 6), as W, got shape (6, 4)"),
    (relative_error, (W, W / 0), ValueError, "W_hat must be finite, got NaN or infinity"),
    (relative_error, (W, W.long()), TypeError, "W_hat must be a floating-point tensor, got torch.int64"),
    (relative_error, (0 * W, W), ValueError, "W must be a matrix with a non-zero entry, got zeros"),
    (rank_error_curve, (0 * W,), ValueError, "W must be a matrix with a non-zero entry, got zeros"),
    (rank_error_curve, (W[0],), ValueError, "W must be 2-dimensional, got shape (6,)"),
    (rank_error_curve, (None,), TypeError, "W must be a floating-point tensor, got NoneType"),
]


@pytest.mark.parametrize(("function", "arguments", "error", "message"), BAD)
def test_bad_input_is_refused_by_name(function, arguments, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        function(*arguments)
