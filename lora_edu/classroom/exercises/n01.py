"""Exercises of notebook 01."""

import torch
from torch import Tensor

from lora_edu.classroom.checks import Exercise, WrongAnswer


def _whole(generator, *shape):
    """Small whole numbers, which can be read and tried again."""
    return torch.randint(-4, 5, shape, generator=generator).float()


# ---------------------------------------------------------------- 01.1 apply_layer(W, X)


def apply_layer(W: Tensor, X: Tensor) -> Tensor:
    """Outputs (batch, out) of a layer with weight W (out, in) for inputs X (batch, in)."""
    return X @ W.T


def _without_transpose(W, X):
    return X @ W


def _weight_first(W, X):
    return W @ X


def _outputs_in_columns(W, X):
    return W @ X.T


def _entry_by_entry(W, X):
    return X * W


def _layers():
    generator = torch.Generator().manual_seed(0)
    for out_features, in_features, batch in ((2, 3, 2), (4, 5, 3), (3, 3, 2), (3, 3, 3)):
        yield _whole(generator, out_features, in_features), _whole(generator, batch, in_features)


# ---------------------------------------------------------------- 01.2 numbers_in_rank_r(m, n, r)


def numbers_in_rank_r(m: int, n: int, r: int) -> int:
    """Numbers in B (m, r) and A (r, n) together."""
    return r * (m + n)


def _all_entries(m, n, r):
    return m * n


def _rank_is_min_shape(m, n, r):
    return min(m, n) * (m + n)


def _factors_multiplied(m, n, r):
    return (m * r) * (r * n)


def _one_column_one_row(m, n, r):
    return m + n


def _with_singular_values(m, n, r):
    return r * (m + n + 1)


def _degrees_of_freedom(m, n, r):
    return r * (m + n - r)


def _never_more_than_W(m, n, r):
    return min(m * n, r * (m + n))


def _sizes():
    return [(4, 5, 2), (4, 5, 3), (100, 100, 3), (8192, 8192, 8), (1536, 576, 16), (3, 7, 1)]


# ---------------------------------------------------------------- 01.3 best_rank_r(W, r)


def best_rank_r(W: Tensor, r: int) -> Tensor:
    """The matrix of rank r that is nearest to W."""
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:, :r] * S[:r] @ Vh[:r]


def _without_singular_values(W, r):
    U, _, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:, :r] @ Vh[:r]


def _transposed_again(W, r):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:, :r] * S[:r] @ Vh.T[:r]


def _transposed_after_slicing(W, r):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:, :r] * S[:r] @ Vh[:r].T


def _scales_columns_of_Vh(W, r):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:, :r] @ (S[:r] * Vh[:r])


def _rows_of_U(W, r):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:r] * S @ Vh


def _rows_of_U_cut(W, r):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:r] * S[:r] @ Vh[:r]


def _rows_of_U_with_diag(W, r):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:r] @ torch.diag(S[:r]) @ Vh[:r]


def _corner_of_U(W, r):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:r, :r] * S[:r] @ Vh[:r]


def _S_uncut(W, r):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:, :r] * S @ Vh[:r]


def _S_uncut_with_diag(W, r):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:, :r] @ torch.diag(S) @ Vh[:r]


def _columns_of_Vh_cut(W, r):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:, :r] * S[:r] @ Vh[:, :r]


def _smallest(W, r):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:, -r:] * S[-r:] @ Vh[-r:]


def _one_too_many(W, r):
    return best_rank_r(W, r + 1)


def _drops_r(W, r):
    return best_rank_r(W, len(torch.linalg.svdvals(W)) - r)


def _first_columns_of_W(W, r):
    kept = torch.zeros_like(W)
    kept[:, :r] = W[:, :r]
    return kept


def _matrices():
    generator = torch.Generator().manual_seed(0)
    for m, n, r in ((6, 4, 1), (4, 7, 2), (5, 5, 3), (5, 5, 5)):
        yield torch.randn(m, n, generator=generator, dtype=torch.float64), r


# ---------------------------------------------------------------- 01.4 relative_error(W, W_hat)


def relative_error(W: Tensor, W_hat: Tensor) -> float:
    """Norm of what is missing over the norm of W."""
    return ((W - W_hat).norm() / W.norm()).item()


def _as_tensor(W, W_hat):
    return (W - W_hat).norm() / W.norm()


def _squared(W, W_hat):
    return relative_error(W, W_hat) ** 2


def _energy_kept(W, W_hat):
    return 1 - relative_error(W, W_hat) ** 2


def _one_minus_error(W, W_hat):
    return 1 - relative_error(W, W_hat)


def _absolute(W, W_hat):
    return (W - W_hat).norm().item()


def _over_the_copy(W, W_hat):
    return ((W - W_hat).norm() / W_hat.norm()).item()


def _difference_of_norms(W, W_hat):
    return ((W.norm() - W_hat.norm()) / W.norm()).item()


def _difference_of_norms_alone(W, W_hat):
    return (W.norm() - W_hat.norm()).item()


def _distance_of_norms(W, W_hat):
    return abs(_difference_of_norms(W, W_hat))


def _distance_of_norms_alone(W, W_hat):
    return abs(_difference_of_norms_alone(W, W_hat))


def _largest_error(W, W_hat):
    return (W - W_hat).abs().max().item()


def _largest_error_over_largest(W, W_hat):
    return _largest_error(W, W_hat) / W.abs().max().item()


def _spectral(W, W_hat):
    return torch.linalg.matrix_norm(W - W_hat, 2).item()


def _relative_spectral(W, W_hat):
    return _spectral(W, W_hat) / torch.linalg.matrix_norm(W, 2).item()


def _root_mean_square(W, W_hat):
    return (W - W_hat).square().mean().sqrt().item()


def _mean_square(W, W_hat):
    return (W - W_hat).square().mean().item()


def _mean_of_ratios(W, W_hat):
    return ((W - W_hat).abs() / W.abs()).mean().item()


def _as_percent(W, W_hat):
    return 100 * relative_error(W, W_hat)


def _copies():
    generator = torch.Generator().manual_seed(0)
    for m, n, r in ((6, 4, 1), (4, 7, 2), (5, 5, 3)):
        W = torch.randn(m, n, generator=generator, dtype=torch.float64)
        yield W, best_rank_r(W, r)
    yield W, 3 * W
    yield torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[0.0, 0.0], [0.0, 4.0]])


EXERCISES = {
    "01.1": Exercise(
        solution=apply_layer,
        cases=_layers,
        wrong_answers=(
            WrongAnswer(
                _without_transpose,
                "You multiply by W. Inputs stand in rows here: multiply by its transpose. With a square W your "
                "line runs without an error, and is wrong.",
            ),
            WrongAnswer(
                _weight_first,
                "W @ X takes the columns of X for inputs. They are its rows: X comes first, W transposed.",
            ),
            WrongAnswer(
                _outputs_in_columns,
                "The numbers are right, one output a column. Return one output a row: (batch, out).",
            ),
            WrongAnswer(_entry_by_entry, "`*` multiplies entry by entry. A matrix product is `@`."),
        ),
    ),
    "01.2": Exercise(
        solution=numbers_in_rank_r,
        cases=_sizes,
        wrong_answers=(
            WrongAnswer(
                _all_entries, "Those are the entries of the whole matrix. Count those of B and A instead."
            ),
            WrongAnswer(
                _rank_is_min_shape, "min(m, n) is the largest rank that fits the shape. The rank here is r."
            ),
            WrongAnswer(
                _factors_multiplied, "You multiply the two counts. B and A are stored side by side: add them."
            ),
            WrongAnswer(_one_column_one_row, "One column and one row are rank 1. There are r of each."),
            WrongAnswer(
                _with_singular_values,
                "You count the r singular values too. They can be multiplied into B or A: count those two.",
            ),
            WrongAnswer(
                _degrees_of_freedom,
                "r (m + n - r) is how many numbers can vary freely. Count what B and A store, which is more.",
            ),
            WrongAnswer(
                _never_more_than_W,
                "You stop at m n. B and A can cost more than W: at rank 3 a 4 x 5 matrix takes 27.",
            ),
        ),
    ),
    "01.3": Exercise(
        solution=best_rank_r,
        cases=_matrices,
        wrong_answers=(
            WrongAnswer(
                _without_singular_values,
                "The singular values are missing: without S each direction counts the same.",
            ),
            WrongAnswer(_transposed_again, "Vh is transposed already: its rows are what you need, Vh[:r]."),
            WrongAnswer(
                _transposed_after_slicing,
                "The shapes do not chain: (m, r) times (n, r). Vh[:r] is (r, n) as it stands, so drop the `.T`.",
            ),
            WrongAnswer(
                _scales_columns_of_Vh,
                "S * Vh scales the columns of Vh. Scale its rows, S[:, None] * Vh, or the columns of U, U * S.",
            ),
            WrongAnswer(
                _rows_of_U,
                "You keep r rows of U. The singular vectors are its columns: U[:, :r].",
                (_rows_of_U_cut, _rows_of_U_with_diag, _corner_of_U),
            ),
            WrongAnswer(
                _S_uncut,
                "You keep r columns of U and all numbers of S. Each term has its own: S[:r].",
                (_S_uncut_with_diag,),
            ),
            WrongAnswer(
                _columns_of_Vh_cut,
                "You keep r columns of Vh. It is transposed: the singular vectors are its rows, Vh[:r].",
            ),
            WrongAnswer(_smallest, "You keep the smallest singular values. S is sorted, largest first."),
            WrongAnswer(_one_too_many, "You keep r + 1 terms. The slice [:r] holds r of them."),
            WrongAnswer(_drops_r, "You drop r terms. Keep r and drop all others."),
            WrongAnswer(
                _first_columns_of_W,
                "You keep r columns of W itself. The best r directions are mixes of columns: take them from the SVD.",
            ),
        ),
    ),
    "01.4": Exercise(
        solution=relative_error,
        cases=_copies,
        wrong_answers=(
            WrongAnswer(_as_tensor, "The number is right, but still a tensor. Add `.item()`."),
            WrongAnswer(_squared, "That is the squared error, the share of energy lost. Take its root."),
            WrongAnswer(
                _energy_kept,
                "That is the share of energy kept, 1 - error². It sounds better than it is: 0.9 is an error of 0.32.",
            ),
            WrongAnswer(_one_minus_error, "That is 1 - error. A perfect copy has error 0."),
            WrongAnswer(_absolute, "That grows with W. Divide by the norm of W."),
            WrongAnswer(_over_the_copy, "You divide by the norm of the copy. Divide by that of W."),
            WrongAnswer(
                _difference_of_norms,
                "You subtract norms. Two matrices of equal norm can be far apart: subtract the matrices first.",
                (_difference_of_norms_alone, _distance_of_norms, _distance_of_norms_alone),
            ),
            WrongAnswer(
                _largest_error,
                "That is the largest error of one entry. The Frobenius norm takes all entries together.",
                (_largest_error_over_largest,),
            ),
            WrongAnswer(
                _spectral,
                "You take the spectral norm, which is the largest singular value. `W.norm()` is the Frobenius norm.",
                (_relative_spectral,),
            ),
            WrongAnswer(
                _root_mean_square,
                "That is a mean over entries, in units of W. Take the norm of the difference, over that of W.",
                (_mean_square,),
            ),
            WrongAnswer(
                _mean_of_ratios,
                "You average over entries, so tiny entries of W weigh most. Take the norms of whole matrices.",
            ),
            WrongAnswer(_as_percent, "That is in percent. Return the fraction."),
        ),
    ),
}
