r"""How much of a matrix is really there: the singular value decomposition, whole or only its largest part.

.. math:: W = U \Sigma V^\top, \qquad W_r = \sum_{i=1}^{r} \sigma_i u_i v_i^\top, \qquad
          \|W - W_r\|_F = \sqrt{\sum_{i>r} \sigma_i^2}

No matrix of rank ``r`` is closer to ``W`` than ``W_r`` (Eckart and Young 1936).
"""

from collections.abc import Iterator
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from lora_edu.methods import _validate

# Columns beyond r: they let the r wanted directions converge, and are dropped at the end.
OVERSAMPLING = 16
# Multiplications by W W^T after the first sketch of its range.
POWER_STEPS = 2
KRYLOV_STEPS = 4


def truncated_svd(
    W: Float[Tensor, "m n"], r: int, method: str = "exact", generator: torch.Generator | None = None
) -> tuple[Float[Tensor, "m r"], Float[Tensor, "r"], Float[Tensor, "r n"]]:
    """The ``r`` largest singular values of ``W`` and their vectors.

    Parameters
    ----------
    W
        A finite floating-point matrix. A 16-bit one is decomposed in float32.
    r
        How many, 1 … min(m, n).
    method
        ``"exact"``: the whole decomposition, cut off. ``"randomized"``: subspace iteration from a random start,
        far faster on a large matrix. Its error lies up to about 2 % above the least possible, the more the less the
        singular values fall and the larger ``r``; on noise, even the directions depend on the start.
        ``"krylov"``: the same iteration, longer and with every step kept; slower than that, and practically exact
        where the singular values decay.
    generator
        Of the random start; None: torch's global one.

    Returns
    -------
    U, S, Vh
        ``U * S @ Vh`` is the approximation; ``S`` descends, columns of ``U`` and rows of ``Vh`` are orthonormal.

    Raises
    ------
    TypeError, ValueError
        ``W`` is no finite floating-point matrix, ``r`` is outside 1 … min(m, n), or ``method`` is unknown.

    References
    ----------
    Halko, Martinsson and Tropp 2011, arXiv 0909.4061, algorithms 4.4 and 5.1. Musco and Musco 2015,
    arXiv 1504.05477, algorithm 2.
    """
    W = _check_matrix("W", W)
    _validate.integer("r", r, 1, min(W.shape))
    allowed = '"exact", "randomized" or "krylov"'
    _validate.require(method in ("exact", "randomized", "krylov"), "method", allowed, repr(method))
    if method == "exact":
        U, S, Vh = torch.linalg.svd(W, full_matrices=False)
        return U[:, :r], S[:r], Vh[:r]
    blocks = _range_blocks(W, min(r + OVERSAMPLING, *W.shape), generator)
    if method == "randomized":
        *_, Q = islice(blocks, POWER_STEPS + 1)
    else:
        Q = _orthonormal(torch.cat([*islice(blocks, KRYLOV_STEPS + 1)], dim=1))
    # Of the tall W^T Q rather than the wide Q^T W: LAPACK is several times faster on it.
    V, S, Uh = torch.linalg.svd(W.T @ Q, full_matrices=False)
    return Q @ Uh[:r].T, S[:r], V[:, :r].T


def low_rank_approximation(W: Float[Tensor, "m n"], r: int) -> Float[Tensor, "m n"]:
    """The matrix of rank ``r`` that is nearest to ``W``, in the dtype of ``W``.

    Raises
    ------
    TypeError, ValueError
        As ``truncated_svd``.
    """
    U, S, Vh = truncated_svd(W, r)
    return (U * S @ Vh).to(W.dtype)


def factorize(W: Float[Tensor, "m n"], r: int) -> tuple[Float[Tensor, "m r"], Float[Tensor, "r n"]]:
    """Two thin matrices ``B, A`` whose product is the best rank-``r`` approximation of ``W``.

    The singular values are shared evenly: ``B = U sqrt(S)``, ``A = sqrt(S) Vh``. Together they are
    ``r * (m + n)`` numbers.

    Raises
    ------
    TypeError, ValueError
        As ``truncated_svd``.
    """
    U, S, Vh = truncated_svd(W, r)
    root = S.sqrt()
    return U * root, root[:, None] * Vh


def relative_error(W: Float[Tensor, "m n"], W_hat: Float[Tensor, "m n"]) -> float:
    """``|W - W_hat| / |W|`` in the Frobenius norm: 0 for a perfect copy, 1 for a copy of zeros.

    Raises
    ------
    TypeError, ValueError
        The two are no finite floating-point matrices of one shape, or ``W`` is zero.
    """
    W, W_hat = _check_matrix("W", W), _check_matrix("W_hat", W_hat)
    shapes = f"of shape {tuple(W.shape)}, as W", f"shape {tuple(W_hat.shape)}"
    _validate.require(W.shape == W_hat.shape, "W_hat", *shapes)
    norm = torch.linalg.vector_norm(W, dtype=torch.float64)
    _check_not_zero(norm)
    return (torch.linalg.vector_norm(W - W_hat, dtype=torch.float64) / norm).item()


def rank_error_curve(W: Float[Tensor, "m n"]) -> Float[Tensor, "ranks"]:
    """The least relative error that a rank-``r`` copy of ``W`` can have, for r = 0 … min(m, n).

    From the singular values alone: the square root of the share of ``sum(S**2)`` that lies beyond ``r``.

    Returns
    -------
    Tensor
        float64, ``min(m, n) + 1`` values, from 1 down to 0.

    Raises
    ------
    TypeError, ValueError
        ``W`` is no finite floating-point matrix, or is zero.

    References
    ----------
    Eckart and Young 1936, "The approximation of one matrix by another of lower rank", Psychometrika 1.
    """
    energy = torch.linalg.svdvals(_check_matrix("W", W)).double().square()
    beyond = torch.cat([energy.flip(0).cumsum(0).flip(0), energy.new_zeros(1)])
    _check_not_zero(beyond[0])
    return (beyond / beyond[0]).sqrt()


def _range_blocks(
    W: Float[Tensor, "m n"], width: int, generator: torch.Generator | None
) -> Iterator[Float[Tensor, "m width"]]:
    """Orthonormal bases of ``W X``, ``(W W^T) W X``, ``(W W^T)^2 W X``, … for a random ``X``.

    Each power turns the block further towards the largest singular vectors. The basis is made orthonormal after
    every product, or in float32 the small directions would drown in the rounding of the large ones.
    """
    X = torch.randn(W.shape[1], width, dtype=W.dtype, device=W.device, generator=generator)
    Q = _orthonormal(W @ X)
    while True:
        yield Q
        Q = _orthonormal(W @ _orthonormal(W.T @ Q))


def _orthonormal(Y: Float[Tensor, "m k"]) -> Float[Tensor, "m k"]:
    return torch.linalg.qr(Y).Q


def _check_matrix(name: str, W: Tensor) -> Tensor:
    """``W`` in at least float32."""
    _validate.tensor(name, W, ndim=2)
    _validate.finite(name, torch.stack(W.aminmax()))
    return W.detach().to(torch.promote_types(W.dtype, torch.float32))


def _check_not_zero(size: Tensor) -> None:
    _validate.require(size.item() > 0, "W", "a matrix with a non-zero entry", "zeros")
