"""Exercises of notebook 02."""

import torch
from torch import Tensor

from lora_edu.classroom.checks import Exercise, Law, WrongAnswer

# ---------------------------------------------------------------- 02.1 weight_gradient(X, E)


def weight_gradient(X: Tensor, E: Tensor) -> Tensor:
    """Gradient (out, in) of a layer's weight from inputs X (batch, in) and output gradients E (batch, out)."""
    return E.T @ X


def _transposed(X, E):
    return X.T @ E


def _mean_over_batch(X, E):
    return E.T @ X / len(X)


def _first_example(X, E):
    return torch.outer(E[0], X[0])


def _summed_first(X, E):
    return torch.outer(E.sum(0), X.sum(0))


def _gradient_of_inputs(X, E):
    return E @ X.T


def _downhill(X, E):
    return -E.T @ X


def _outer_of_all(X, E):
    return torch.outer(E, X)


def _not_summed(X, E):
    return E[:, :, None] * X[:, None, :]


def _list_of_products(X, E):
    return [torch.outer(e, x) for e, x in zip(E, X, strict=True)]


def _batches():
    generator = torch.Generator().manual_seed(0)
    for batch, in_features, out_features in ((2, 3, 2), (6, 5, 4), (3, 3, 2), (4, 3, 3)):
        shapes = (batch, in_features), (batch, out_features)
        X, E = (torch.randint(-4, 5, shape, generator=generator).double() for shape in shapes)
        yield X, E


def _agrees_with_autograd(function, X, E) -> bool:
    W = torch.zeros(E.shape[1], X.shape[1], dtype=X.dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(((X @ W.T) * E).sum(), W)
    return torch.allclose(function(X, E).double(), gradient)


# ---------------------------------------------------------------- 02.2 rank_for_energy(S, share)


def rank_for_energy(S: Tensor, share: float) -> int:
    """The smallest rank whose terms keep at least a share of the sum of squared singular values."""
    kept = S.square().cumsum(0) / S.square().sum()
    return min(int((kept < share).sum()) + 1, len(S))  # rounding may leave the last of kept below share


def _not_squared(S, share):
    return int((S.cumsum(0) / S.sum() < share).sum()) + 1


def _one_too_few(S, share):
    return rank_for_energy(S, share) - 1


def _ranks_that_are_enough(S, share):
    return len(S) - rank_for_energy(S, share) + 1


def _smallest_first(S, share):
    kept = S.flip(0).square().cumsum(0) / S.square().sum()
    return int((kept < share).sum()) + 1


def _relative_to_largest(S, share):
    return int((share * S[0] <= S).sum())


def _error_in_place_of_energy(S, share):
    error = (1 - S.square().cumsum(0) / S.square().sum()).clamp(min=0).sqrt()
    return int((error > 1 - share).sum()) + 1


def _more_than_the_share(S, share):
    kept = S.square().cumsum(0) / S.square().sum()
    return min(int((kept <= share).sum()) + 1, len(S))


def _spectra():
    generator = torch.Generator().manual_seed(0)
    steps = torch.arange(1, 51, dtype=torch.float64)
    noise = torch.linalg.svdvals(torch.randn(30, 40, generator=generator, dtype=torch.float64))
    spectra = [(S, share) for S in (1 / steps, steps.rsqrt(), noise) for share in (0.5, 0.9, 0.97)]
    level = torch.full((4,), 2.0, dtype=torch.float64)  # its norm, 4, and all shares are exact in any order
    return [(level, 0.5), (level, 0.25), *spectra]


# ---------------------------------------------------------------- 02.3 cut_update(W, W_tuned, r)


def cut_update(W: Tensor, W_tuned: Tensor, r: int) -> Tensor:
    """W plus the best rank-r copy of W_tuned - W."""
    return W + _best(W_tuned - W, r)


def _best(matrix, r):
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return U[:, :r] * S[:r] @ Vh[:r]


def _tuned_weight_cut(W, W_tuned, r):
    return _best(W_tuned, r)


def _base_cut_too(W, W_tuned, r):
    return _best(W, r) + _best(W_tuned - W, r)


def _without_the_base(W, W_tuned, r):
    return _best(W_tuned - W, r)


def _wrong_sign(W, W_tuned, r):
    return W + _best(W - W_tuned, r)


def _added_to_tuned(W, W_tuned, r):
    return W_tuned + _best(W_tuned - W, r)


def _whole_update(W, W_tuned, r):
    return W_tuned


def _without_singular_values(W, W_tuned, r):
    U, _, Vh = torch.linalg.svd(W_tuned - W, full_matrices=False)
    return W + U[:, :r] @ Vh[:r]


def _columns_of_Vh(W, W_tuned, r):
    U, S, Vh = torch.linalg.svd(W_tuned - W)
    return W + U[:, :r] * S[:r] @ Vh[:, :r].T


def _tuned_pairs():
    generator = torch.Generator().manual_seed(0)
    for shape, r in (((6, 5), 2), ((4, 4), 1), ((3, 7), 2)):
        W = torch.randn(shape, generator=generator, dtype=torch.float64)
        yield W, W + 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64), r


EXERCISES = {
    "02.1": Exercise(
        solution=weight_gradient,
        cases=_batches,
        wrong_answers=(
            WrongAnswer(_transposed, "That is the gradient transposed. The weight has shape (out, in)."),
            WrongAnswer(
                _mean_over_batch,
                "You average over the batch. If the loss is a mean, E carries the 1 / batch already.",
            ),
            WrongAnswer(_first_example, "Only the first example counts. Every example adds its own product."),
            WrongAnswer(
                _downhill,
                "That is minus the gradient, the direction of a step. The gradient itself points uphill.",
            ),
            WrongAnswer(
                _outer_of_all,
                "`torch.outer` takes two vectors: one example. Do it for each row and add, or find the one product.",
            ),
            WrongAnswer(
                _not_summed,
                "You have one matrix for each example. The gradient is their sum.",
                (_list_of_products,),
            ),
            WrongAnswer(
                _summed_first,
                "You sum over the batch before you multiply: each error must meet the input it came from.",
            ),
            WrongAnswer(
                _gradient_of_inputs, "That is (batch, batch). The batch is what the product sums over."
            ),
        ),
        laws=(Law("it equals what autograd finds", _agrees_with_autograd),),
    ),
    "02.2": Exercise(
        solution=rank_for_energy,
        cases=_spectra,
        wrong_answers=(
            WrongAnswer(_not_squared, "You add up the singular values. Energy is the sum of their squares."),
            WrongAnswer(_one_too_few, "One term short: at this rank the share is not reached yet."),
            WrongAnswer(
                _more_than_the_share,
                "You ask for more than the share. At least the share is enough: mind the case where both are equal.",
            ),
            WrongAnswer(
                _ranks_that_are_enough, "You count the ranks that are enough. The smallest of them is wanted."
            ),
            WrongAnswer(
                _smallest_first, "You count from the smallest. S is sorted, largest first: keep its start."
            ),
            WrongAnswer(
                _relative_to_largest,
                "You compare single values with the largest. The question is what the first ones keep together.",
            ),
            WrongAnswer(
                _error_in_place_of_energy,
                "You ask the error to be small, not the energy to be large. 90 % energy is an error of 32 %.",
            ),
        ),
    ),
    "02.3": Exercise(
        solution=cut_update,
        cases=_tuned_pairs,
        wrong_answers=(
            WrongAnswer(
                _tuned_weight_cut, "You cut the tuned weight itself. W stays whole; only the change is cut."
            ),
            WrongAnswer(_base_cut_too, "You cut the base as well. W stays whole; only the change is cut."),
            WrongAnswer(_without_the_base, "That is the cut update alone. It is added to W."),
            WrongAnswer(
                _wrong_sign, "The update is what was added: tuned minus base, not the other way round."
            ),
            WrongAnswer(_added_to_tuned, "You add the update to the weight that has it already."),
            WrongAnswer(
                _without_singular_values,
                "The singular values are missing: U and Vh say where a term points, S how long it is.",
            ),
            WrongAnswer(
                _columns_of_Vh,
                "You take columns of Vh. The h says that it is transposed: a right singular vector is a row.",
            ),
            WrongAnswer(_whole_update, "Nothing was cut: that is the tuned weight."),
        ),
    ),
}
