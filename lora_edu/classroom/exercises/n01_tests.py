"""Exercises 01.5, a test of the best copy, and 01.6, a fault in the randomized SVD."""

from collections.abc import Callable

import torch
from torch import Tensor

from lora_edu.classroom.checks import Exercise, WrongAnswer
from lora_edu.classroom.exercises.n01 import EXERCISES as OF_01
from lora_edu.classroom.exercises.n01 import best_rank_r
from lora_edu.classroom.written_tests import chosen, written_test

# ---------------------------------------------------------------- 01.5 is_best_copy(candidate)


def is_best_copy(candidate: Callable) -> bool:
    """Whether `candidate(W, r)` has rank r at most, and the least error that such a copy can have."""
    W = torch.randn(6, 4)
    S = torch.linalg.svdvals(W)
    for r in (1, 2, 3):
        W_hat = candidate(W, r)
        error, least = (W - W_hat).norm(), S[r:].norm()
        if torch.linalg.matrix_rank(W_hat, rtol=1e-3) > r or not torch.isclose(error, least, rtol=1e-3):
            return False
    return True


def _sum_of_terms(W: Tensor, r: int) -> Tensor:
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return sum((S[i] * torch.outer(U[:, i], Vh[i]) for i in range(r)), torch.zeros_like(W))


def _projected_in_float32(W: Tensor, r: int) -> Tensor:
    kept = torch.linalg.svd(W.float(), full_matrices=False).Vh[:r]
    return (W.float() @ kept.T @ kept).to(W.dtype)


def _error_alone(candidate):
    W = torch.randn(6, 4)
    W_hat = candidate(W, 2)
    return bool((W - W_hat).norm() <= 1.001 * torch.linalg.svdvals(W)[2:].norm())


def _rank_alone(candidate):
    return bool(torch.linalg.matrix_rank(candidate(torch.randn(6, 4), 2), rtol=1e-3) == 2)


def _rank_to_the_last_digit(candidate):
    W = torch.randn(6, 4, dtype=torch.float64)
    W_hat = candidate(W, 2)
    is_least = torch.isclose((W - W_hat).norm(), torch.linalg.svdvals(W)[2:].norm(), rtol=1e-3)
    return bool(torch.linalg.matrix_rank(W_hat) == 2 and is_least)


def _shape_alone(candidate):
    return candidate(torch.randn(6, 4), 2).shape == (6, 4)


def _all_terms(candidate):
    W = torch.randn(6, 4)
    return torch.allclose(candidate(W, 4), W, atol=1e-3)


def _half_of_the_terms(candidate):
    W = torch.randn(6, 4)
    return torch.allclose(candidate(W, 2), best_rank_r(W, 2), atol=1e-3)


def _diagonal(candidate):
    W = torch.diag(torch.tensor([4.0, 3, 2, 1]))
    return torch.allclose(candidate(W, 2), torch.diag(torch.tensor([4.0, 3, 0, 0])), atol=1e-3)


def _to_the_last_digit(candidate):
    W = torch.randn(6, 4)
    return all(torch.equal(candidate(W, r), best_rank_r(W, r)) for r in (1, 2, 3))


# ---------------------------------------------------------------- 01.6 copy_error(W, start, rounds)


def copy_error(W: Tensor, start: Tensor, rounds: int) -> float:
    """Error of the copy of W in the space that `rounds` multiplications by W W^T find from random columns."""
    Q = torch.linalg.qr(W @ start).Q
    for _ in range(rounds):
        Q = torch.linalg.qr(W @ (W.T @ Q)).Q
    return ((W - Q @ (Q.T @ W)).norm() / W.norm()).item()


def _planted(W: Tensor, start: Tensor, rounds: int) -> float:
    columns = W @ start
    for _ in range(rounds):
        columns = W @ (W.T @ columns)
    Q = torch.linalg.qr(columns).Q
    copy = Q @ (Q.T @ W)
    return ((W - copy).norm() / W.norm()).item()


def _error_in(W, columns):
    Q = torch.linalg.qr(columns).Q
    return ((W - Q @ (Q.T @ W)).norm() / W.norm()).item()


def _rescaled(W, start, rounds):
    columns = W @ start
    for _ in range(rounds):
        columns = W @ (W.T @ columns)
        columns = columns / columns.norm()
    return _error_in(W, columns)


def _each_rescaled(W, start, rounds):
    columns = W @ start
    for _ in range(rounds):
        columns = W @ (W.T @ columns)
        columns = columns / columns.norm(dim=0)
    return _error_in(W, columns)


def _in_float64(W, start, rounds):
    return _planted(W.double(), start.double(), rounds)


def _one_round(W, start, rounds):
    return copy_error(W, start, min(rounds, 1))


def _no_round(W, start, rounds):
    return copy_error(W, start, 0)


def _as_many_as_wanted(W, start, rounds):
    U, _, _ = torch.linalg.svd(W, full_matrices=False)
    Q = U[:, : min(2 * start.shape[1], *W.shape)]
    return ((W - Q @ (Q.T @ W)).norm() / W.norm()).item()


def _decaying(m, n, share, largest=1.0):
    """A matrix (m, n) in float32 whose singular values fall by one factor from each to the next; and columns."""
    generator = torch.Generator().manual_seed(m)
    U, V = (torch.linalg.qr(torch.randn(k, min(m, n), generator=generator).double()).Q for k in (m, n))
    S = largest * share ** torch.arange(min(m, n), dtype=torch.float64)
    return (U * S @ V.T).float(), torch.randn(n, 6, generator=generator)


def _spectra():
    for rounds in (0, 1, 4, 12):
        yield *_decaying(30, 20, 0.6), rounds
    yield *_decaying(20, 24, 0.7, largest=1e3), 30


EXERCISES = {
    "01.5": written_test(
        solution=is_best_copy,
        right=(best_rank_r, _sum_of_terms, _projected_in_float32),
        wrong=chosen(
            OF_01["01.3"],
            "_without_singular_values",
            "_transposed_again",
            "_scales_columns_of_Vh",
            "_rows_of_U",
            "_smallest",
            "_one_too_many",
            "_drops_r",
            "_first_columns_of_W",
        ),
        weak=(
            WrongAnswer(
                _error_alone,
                "You ask for a small error alone. One term more makes it smaller still: ask for the rank too.",
            ),
            WrongAnswer(
                _rank_alone,
                "You ask for the rank alone. Many copies have it, and most are far from W: ask for the error too.",
            ),
            WrongAnswer(
                _rank_to_the_last_digit,
                "A right function may compute in float32. `matrix_rank` then counts the rounding: give it `rtol=1e-3`.",
            ),
            WrongAnswer(_shape_alone, "Every matrix of that shape passes. What makes a copy the best one?"),
            WrongAnswer(
                _all_terms,
                "With all terms the copy is W, whichever terms come first. Try a rank below the largest.",
            ),
            WrongAnswer(
                _half_of_the_terms,
                "You try half of the terms alone. Then as many are kept as dropped: try other ranks too.",
            ),
            WrongAnswer(
                _diagonal,
                "In a diagonal W the largest terms are its first rows and columns. Try random numbers.",
            ),
            WrongAnswer(
                _to_the_last_digit,
                "Two right ways round differently, so `==` and `torch.equal` fail one of them. Allow for 1e-3.",
            ),
        ),
    ),
    "01.6": Exercise(
        solution=copy_error,
        cases=_spectra,
        planted=_planted,
        symptom="with more rounds the error rises.",
        wrong_answers=(
            WrongAnswer(
                _rescaled,
                "You keep the numbers small. Yet the columns still lean towards the largest term, all of them.",
                (_each_rescaled,),
            ),
            WrongAnswer(
                _in_float64,
                "float64 has more digits to lose. The loss comes later: try 30 rounds.",
            ),
            WrongAnswer(
                _one_round,
                "You stop after one round, before the fault shows. More rounds should help, not hurt.",
            ),
            WrongAnswer(_no_round, "You left the rounds out, and with them what they gain."),
            WrongAnswer(
                _as_many_as_wanted,
                "You keep more columns than `start` has. A larger copy has a smaller error, whatever is wrong.",
            ),
        ),
    ),
}
