"""Exercises of notebook 04. Inputs stand in rows: x (batch, in), grad_y (batch, out)."""

import math

import torch
from torch import Tensor

from lora_edu.classroom.checks import Exercise, Law, WrongAnswer


def _layer(in_features, out_features, r):
    """W (out, in), A (r, in) and B (out, r), none of them zero."""
    generator = torch.Generator().manual_seed(in_features)
    shapes = (out_features, in_features), (r, in_features), (out_features, r)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def _inputs(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# ---------------------------------------- 04.1 lora_forward(x, W, lora_A, lora_B, lora_alpha)


def lora_forward(x: Tensor, W: Tensor, lora_A: Tensor, lora_B: Tensor, lora_alpha: float) -> Tensor:
    """Outputs (batch, out) of the layer W with the update (lora_alpha / r) B A beside it."""
    scaling = lora_alpha / lora_A.shape[0]
    return x @ W.T + scaling * (x @ lora_A.T) @ lora_B.T


def _update(x, lora_A, lora_B):
    return (x @ lora_A.T) @ lora_B.T


def _alpha_not_divided(x, W, lora_A, lora_B, lora_alpha):
    return x @ W.T + lora_alpha * _update(x, lora_A, lora_B)


def _alpha_forgotten(x, W, lora_A, lora_B, lora_alpha):
    return x @ W.T + _update(x, lora_A, lora_B)


def _alpha_over_in(x, W, lora_A, lora_B, lora_alpha):
    return x @ W.T + lora_alpha / lora_A.shape[1] * _update(x, lora_A, lora_B)


def _alpha_over_root(x, W, lora_A, lora_B, lora_alpha):
    return x @ W.T + lora_alpha / math.sqrt(lora_A.shape[0]) * _update(x, lora_A, lora_B)


def _scaled_twice(x, W, lora_A, lora_B, lora_alpha):
    return x @ W.T + (lora_alpha / lora_A.shape[0]) ** 2 * _update(x, lora_A, lora_B)


def _base_scaled_too(x, W, lora_A, lora_B, lora_alpha):
    return lora_alpha / lora_A.shape[0] * (x @ W.T + _update(x, lora_A, lora_B))


def _W_replaced(x, W, lora_A, lora_B, lora_alpha):
    return lora_alpha / lora_A.shape[0] * _update(x, lora_A, lora_B)


def _A_and_B_swapped(x, W, lora_A, lora_B, lora_alpha):
    return x @ W.T + lora_alpha / lora_A.shape[0] * (x @ lora_B) @ lora_A


def _W_not_transposed(x, W, lora_A, lora_B, lora_alpha):
    return x @ W + lora_alpha / lora_A.shape[0] * _update(x, lora_A, lora_B)


def _one_after_the_other(x, W, lora_A, lora_B, lora_alpha):
    y = x @ W.T
    return y + lora_alpha / lora_A.shape[0] * _update(y, lora_A, lora_B)


def _forward_cases():
    for in_features, out_features, r, batch, alpha in ((5, 4, 2, 3, 8), (6, 6, 3, 6, 1.5), (3, 7, 1, 2, 4)):
        yield _inputs(batch, in_features), *_layer(in_features, out_features, r), alpha
    yield _inputs(2, 3, 5), *_layer(5, 4, 2), 8


# ---------------------------------------- 04.2 merge(W, lora_A, lora_B, lora_alpha)


def merge(W: Tensor, lora_A: Tensor, lora_B: Tensor, lora_alpha: float) -> Tensor:
    """One weight (out, in) that does what W and the update do together."""
    return W + lora_alpha / lora_A.shape[0] * lora_B @ lora_A


def _merged_without_scaling(W, lora_A, lora_B, lora_alpha):
    return W + lora_B @ lora_A


def _merged_alpha_not_divided(W, lora_A, lora_B, lora_alpha):
    return W + lora_alpha * lora_B @ lora_A


def _merged_A_first(W, lora_A, lora_B, lora_alpha):
    return W + lora_alpha / lora_A.shape[0] * lora_A @ lora_B


def _merged_transposed(W, lora_A, lora_B, lora_alpha):
    return W + lora_alpha / lora_A.shape[0] * lora_A.T @ lora_B.T


def _update_alone(W, lora_A, lora_B, lora_alpha):
    return merge(torch.zeros_like(W), lora_A, lora_B, lora_alpha)


def _both_scaled(W, lora_A, lora_B, lora_alpha):
    return lora_alpha / lora_A.shape[0] * (W + lora_B @ lora_A)


def _subtracted(W, lora_A, lora_B, lora_alpha):
    return merge(W, lora_A, lora_B, -lora_alpha)


def _merged_alpha_over_in(W, lora_A, lora_B, lora_alpha):
    return merge(W, lora_A, lora_B, lora_alpha * lora_A.shape[0] / lora_A.shape[1])


def _multiplied(W, lora_A, lora_B, lora_alpha):
    return W * merge(torch.zeros_like(W), lora_A, lora_B, lora_alpha)


def _merge_cases():
    for in_features, out_features, r, alpha in ((5, 4, 2, 8), (6, 6, 3, 1.5), (3, 7, 1, 4)):
        yield *_layer(in_features, out_features, r), alpha


def _leaves_W_alone(function):
    W, lora_A, lora_B = _layer(5, 4, 2)
    before = W.clone()
    function(W, lora_A, lora_B, 8)
    return torch.equal(W, before)


# ---------------------------------------- 04.3 lora_gradients(x, grad_y, lora_A, lora_B, scaling)


def lora_gradients(
    x: Tensor, grad_y: Tensor, lora_A: Tensor, lora_B: Tensor, scaling: float
) -> tuple[Tensor, Tensor]:
    """Gradients of the loss for A (r, in) and B (out, r), summed over the batch."""
    hidden = x @ lora_A.T
    grad_hidden = scaling * grad_y @ lora_B
    return grad_hidden.T @ x, scaling * grad_y.T @ hidden


def _unscaled(x, grad_y, lora_A, lora_B, scaling):
    return lora_gradients(x, grad_y, lora_A, lora_B, 1.0)


def _A_unscaled(x, grad_y, lora_A, lora_B, scaling):
    return lora_gradients(x, grad_y, lora_A, lora_B, 1.0)[0], lora_gradients(
        x, grad_y, lora_A, lora_B, scaling
    )[1]


def _B_unscaled(x, grad_y, lora_A, lora_B, scaling):
    return lora_gradients(x, grad_y, lora_A, lora_B, scaling)[0], lora_gradients(
        x, grad_y, lora_A, lora_B, 1.0
    )[1]


def _scaling_squared(x, grad_y, lora_A, lora_B, scaling):
    return lora_gradients(x, grad_y, lora_A, lora_B, scaling**2)


def _mean_over_batch(x, grad_y, lora_A, lora_B, scaling):
    return lora_gradients(x, grad_y / len(x), lora_A, lora_B, scaling)


def _in_the_other_order(x, grad_y, lora_A, lora_B, scaling):
    return lora_gradients(x, grad_y, lora_A, lora_B, scaling)[::-1]


def _transposed(x, grad_y, lora_A, lora_B, scaling):
    grad_A, grad_B = lora_gradients(x, grad_y, lora_A, lora_B, scaling)
    return grad_A.T, grad_B.T


def _B_transposed(x, grad_y, lora_A, lora_B, scaling):
    grad_A, grad_B = lora_gradients(x, grad_y, lora_A, lora_B, scaling)
    return grad_A, grad_B.T


def _of_the_weight(x, grad_y, lora_A, lora_B, scaling):
    return scaling * grad_y.T @ x, scaling * grad_y.T @ x


def _own_factor(x, grad_y, lora_A, lora_B, scaling):
    return scaling * (grad_y.T @ x).T @ lora_B, scaling * (grad_y.T @ x) @ lora_A.T


def _output_for_gradient(x, grad_y, lora_A, lora_B, scaling):
    y = scaling * (x @ lora_A.T) @ lora_B.T
    return lora_gradients(x, y, lora_A, lora_B, scaling)


def _gradient_cases():
    for in_features, out_features, r, batch, scaling in ((5, 4, 2, 3, 2.0), (6, 6, 3, 4, 0.5)):
        _, lora_A, lora_B = _layer(in_features, out_features, r)
        yield _inputs(batch, in_features), _inputs(batch, out_features), lora_A, lora_B, scaling


# ---------------------------------------- 04.4 first_step(grad_W, lora_A, scaling, learning_rate)


def first_step(grad_W: Tensor, lora_A: Tensor, scaling: float, learning_rate: float) -> Tensor:
    """Change of the effective weight (out, in) by one step of gradient descent from B = 0."""
    lora_B = -learning_rate * scaling * grad_W @ lora_A.T
    return scaling * lora_B @ lora_A


def _step_cases():
    for in_features, out_features, r, scaling, rate in ((5, 4, 2, 2.0, 0.1), (6, 6, 3, 0.5, 0.3)):
        _, lora_A, _ = _layer(in_features, out_features, r)
        yield _inputs(out_features, in_features), lora_A, scaling, rate


# ---------------------------------------- 04.5 forward_in_training(x, keep, p, W, lora_A, lora_B, scaling)


def forward_in_training(
    x: Tensor, keep: Tensor, p: float, W: Tensor, lora_A: Tensor, lora_B: Tensor, scaling: float
) -> Tensor:
    """Outputs with dropout: ``keep`` holds 1 for the inputs of the update that stay and 0 for the others."""
    dropped = x * keep / (1 - p)
    return x @ W.T + scaling * (dropped @ lora_A.T) @ lora_B.T


def _base_dropped_too(x, keep, p, W, lora_A, lora_B, scaling):
    dropped = x * keep / (1 - p)
    return dropped @ W.T + scaling * _update(dropped, lora_A, lora_B)


def _base_dropped_alone(x, keep, p, W, lora_A, lora_B, scaling):
    return (x * keep / (1 - p)) @ W.T + scaling * _update(x, lora_A, lora_B)


def _not_rescaled(x, keep, p, W, lora_A, lora_B, scaling):
    return x @ W.T + scaling * _update(x * keep, lora_A, lora_B)


def _rescaled_by_p(x, keep, p, W, lora_A, lora_B, scaling):
    return x @ W.T + scaling * _update(x * keep / p, lora_A, lora_B)


def _as_in_evaluation(x, keep, p, W, lora_A, lora_B, scaling):
    return x @ W.T + scaling * _update(x, lora_A, lora_B)


def _keeps_the_dropped(x, keep, p, W, lora_A, lora_B, scaling):
    return x @ W.T + scaling * _update(x * (1 - keep) / (1 - p), lora_A, lora_B)


def _dropout_cases():
    for in_features, out_features, r, p in ((5, 4, 2, 0.2), (6, 6, 3, 0.6)):
        keep = (_inputs(3, in_features) > -0.5).double()
        yield _inputs(3, in_features), keep, p, *_layer(in_features, out_features, r), 2.0


EXERCISES = {
    "04.1": Exercise(
        solution=lora_forward,
        cases=_forward_cases,
        wrong_answers=(
            WrongAnswer(
                _alpha_not_divided, "Almost: your update BAx is r times too large. Is alpha divided by r?"
            ),
            WrongAnswer(_alpha_forgotten, "Your update is BAx as it stands. The layer also scales it."),
            WrongAnswer(
                _alpha_over_in,
                "You divide alpha by the number of inputs. r is how many rows A has, not how many columns.",
            ),
            WrongAnswer(
                _alpha_over_root,
                "You divide by the root of r. That is rsLoRA (notebook 05); plain LoRA divides by r.",
            ),
            WrongAnswer(_scaled_twice, "You scale twice, perhaps once after A and once after B."),
            WrongAnswer(
                _base_scaled_too,
                "You scale Wx as well. Then the layer would not start as itself: W stays as it is.",
            ),
            WrongAnswer(_W_replaced, "W is gone. LoRA keeps W whole and adds BA to it; it replaces nothing."),
            WrongAnswer(
                _A_and_B_swapped,
                "x meets B first. B has r columns and A has in columns: which of them fits an x of in numbers?",
            ),
            WrongAnswer(
                _W_not_transposed,
                "W is (out, in) and inputs stand in rows: (batch, in) @ (out, in) does not chain. With a square W it "
                "runs, and is wrong.",
            ),
            WrongAnswer(
                _one_after_the_other,
                "You feed the output Wx into the update. Both paths read the same x, side by side.",
            ),
        ),
    ),
    "04.2": Exercise(
        solution=merge,
        cases=_merge_cases,
        wrong_answers=(
            WrongAnswer(_merged_without_scaling, "The merged weight adds BA unscaled. Where is alpha / r?"),
            WrongAnswer(
                _merged_alpha_not_divided, "Your update is r times too large. Is alpha divided by r?"
            ),
            WrongAnswer(
                _merged_A_first,
                "A @ B is (r, in) times (out, r): it does not chain, or has the wrong shape. B comes first.",
            ),
            WrongAnswer(
                _merged_transposed, "Your update is transposed: (in, out). W is (out, in), and so is B @ A."
            ),
            WrongAnswer(_update_alone, "That is the update alone. Merging adds it to W."),
            WrongAnswer(_both_scaled, "You scale W as well. Only the update is multiplied by alpha / r."),
            WrongAnswer(_subtracted, "You take the update away: that is what unmerging would do."),
            WrongAnswer(
                _merged_alpha_over_in,
                "You divide alpha by the number of inputs. r is how many rows A has, not how many columns.",
            ),
            WrongAnswer(
                _multiplied, "You multiply W by the update, entry by entry. The two paths are added."
            ),
        ),
        laws=(
            Law(
                "the merged weight is a new one and W itself stays as it was, so that there is a way back.",
                _leaves_W_alone,
            ),
        ),
    ),
    "04.3": Exercise(
        solution=lora_gradients,
        cases=_gradient_cases,
        wrong_answers=(
            WrongAnswer(
                _unscaled,
                "The scaling is missing. It multiplies the update, so it is a factor of both gradients.",
            ),
            WrongAnswer(_A_unscaled, "B's gradient is right. A's lacks the scaling."),
            WrongAnswer(_B_unscaled, "A's gradient is right. B's lacks the scaling."),
            WrongAnswer(
                _scaling_squared, "The scaling is in twice. The path from each factor to y passes it once."
            ),
            WrongAnswer(
                _mean_over_batch,
                "You take the mean over the batch. Gradients of the rows add up: if the loss is a mean, grad_y knows.",
            ),
            WrongAnswer(
                _in_the_other_order, "Both are right, in the other order. Return A's first, then B's."
            ),
            WrongAnswer(_transposed, "Both are transposed. A gradient has the shape of what it belongs to."),
            WrongAnswer(
                _B_transposed,
                "A's is right, B's is transposed. B has shape (out, r), and so has its gradient.",
            ),
            WrongAnswer(
                _of_the_weight,
                "That is the gradient for a whole weight, (out, in). LoRA never needs it: with B and A you stay small.",
            ),
            WrongAnswer(
                _own_factor,
                "B's is right, though it forms an (out, in) matrix on the way. A's has the shape (in, r).",
            ),
            WrongAnswer(
                _output_for_gradient,
                "You multiply by y. What comes back along the path is grad_y, not the output.",
            ),
        ),
    ),
    "04.4": Exercise(
        solution=first_step,
        cases=_step_cases,
        wrong_answers=(
            WrongAnswer(
                lambda G, A, s, rate: -rate * G,
                "That is full training's step. LoRA's goes through A: where is lora_A?",
            ),
            WrongAnswer(
                lambda G, A, s, rate: rate * s**2 * G @ A.T @ A,
                "The size is right and the sign is not: a step goes against the gradient.",
            ),
            WrongAnswer(
                lambda G, A, s, rate: -rate * s * G @ A.T @ A,
                "The scaling is in once. It is a factor of B's gradient, and of the update that B makes.",
            ),
            WrongAnswer(lambda G, A, s, rate: -rate * G @ A.T @ A, "The scaling is missing."),
            WrongAnswer(lambda G, A, s, rate: -(s**2) * G @ A.T @ A, "The learning rate is missing."),
            WrongAnswer(
                lambda G, A, s, rate: -rate * s * G @ A.T,
                "That is how B moves, (out, r). What does the weight, (out, in), gain by it?",
            ),
        ),
    ),
    "04.5": Exercise(
        solution=forward_in_training,
        cases=_dropout_cases,
        wrong_answers=(
            WrongAnswer(
                _base_dropped_too,
                "The base path sees the dropped input too. Wx always gets all of x: only the update gets less.",
            ),
            WrongAnswer(
                _base_dropped_alone,
                "You drop inputs of the base path and none of the update's. It is the reverse.",
            ),
            WrongAnswer(
                _not_rescaled,
                "The kept inputs are not scaled up. Then the update would be smaller in training than in use.",
            ),
            WrongAnswer(
                _rescaled_by_p,
                "p is the share that is dropped. The kept inputs stand in for all, and their share is 1 - p.",
            ),
            WrongAnswer(_as_in_evaluation, "That is the layer in use. While training, `keep` takes part."),
            WrongAnswer(
                _keeps_the_dropped, "You keep what was to be dropped: `keep` is 1 where an input stays."
            ),
        ),
    ),
}
