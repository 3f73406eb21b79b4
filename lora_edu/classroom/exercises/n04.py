"""Exercises of notebook 04. 04.3 has a file of its own. Inputs stand in rows: x (batch, in)."""

import math

import torch
from torch import Tensor

from lora_edu.classroom.checks import Exercise, WrongAnswer
from lora_edu.classroom.exercises import n04_gradients
from lora_edu.classroom.exercises.n04_gradients import inputs, layer

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


def _A_not_transposed(x, W, lora_A, lora_B, lora_alpha):
    return x @ W.T + lora_alpha / lora_A.shape[0] * (x @ lora_A) @ lora_B.T


def _B_not_transposed(x, W, lora_A, lora_B, lora_alpha):
    return x @ W.T + lora_alpha / lora_A.shape[0] * (x @ lora_A.T) @ lora_B


def _neither_transposed(x, W, lora_A, lora_B, lora_alpha):
    return x @ W.T + lora_alpha / lora_A.shape[0] * (x @ lora_A) @ lora_B


def _nothing_transposed(x, W, lora_A, lora_B, lora_alpha):
    return x @ W + lora_alpha / lora_A.shape[0] * x @ lora_A @ lora_B


def _inputs_in_columns(x, W, lora_A, lora_B, lora_alpha):
    return W @ x + lora_alpha / lora_A.shape[0] * lora_B @ (lora_A @ x)


def _r_taken_from_B(x, W, lora_A, lora_B, lora_alpha):
    return x @ W.T + lora_alpha / len(lora_B) * _update(x, lora_A, lora_B)


def _forward_cases():
    sizes = (5, 4, 2, 3, 8), (6, 6, 3, 6, 1.5), (3, 7, 1, 2, 4), (3, 3, 3, 3, 6), (2, 2, 1, 1, 3)
    for in_features, out_features, r, batch, alpha in sizes:
        yield inputs(batch, in_features), *layer(in_features, out_features, r), alpha
    yield inputs(2, 3, 5), *layer(5, 4, 2), 8


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


def _merged_r_taken_from_B(W, lora_A, lora_B, lora_alpha):
    return merge(W, lora_A, lora_B, lora_alpha * lora_A.shape[0] / len(lora_B))


def _multiplied(W, lora_A, lora_B, lora_alpha):
    return W * merge(torch.zeros_like(W), lora_A, lora_B, lora_alpha)


def _merge_cases():
    sizes = (5, 4, 2, 8), (6, 6, 3, 1.5), (3, 7, 1, 4), (3, 3, 3, 6), (3, 2, 1, 4)
    for in_features, out_features, r, alpha in sizes:
        yield *layer(in_features, out_features, r), alpha


# ---------------------------------------- 04.4 first_step(grad_W, lora_A, scaling, learning_rate)


def first_step(grad_W: Tensor, lora_A: Tensor, scaling: float, learning_rate: float) -> Tensor:
    """Change of the effective weight (out, in) by one step of gradient descent from B = 0."""
    lora_B = -learning_rate * scaling * grad_W @ lora_A.T
    return scaling * lora_B @ lora_A


def _step_cases():
    for in_features, out_features, r, scaling, rate in ((5, 4, 2, 2.0, 0.1), (6, 6, 3, 0.5, 0.3)):
        _, lora_A, _ = layer(in_features, out_features, r)
        yield inputs(out_features, in_features), lora_A, scaling, rate


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
    for in_features, out_features, r, p in ((5, 4, 2, 0.2), (6, 6, 3, 0.6), (3, 2, 1, 0.75)):
        keep = (inputs(3, in_features) > -0.5).double()
        yield inputs(3, in_features), keep, p, *layer(in_features, out_features, r), 2.0


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
                _r_taken_from_B,
                "You divide alpha by the number of outputs: B is (out, r), so `len(lora_B)` is out. "
                "`len(lora_A)` is r.",
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
            WrongAnswer(
                _A_not_transposed,
                "A's transpose is missing. A is (r, in) and inputs stand in rows: (batch, in) @ (r, in) does not "
                "chain.",
            ),
            WrongAnswer(
                _B_not_transposed,
                "B's transpose is missing. B is (out, r): (batch, r) @ (out, r) does not chain.",
            ),
            WrongAnswer(
                _neither_transposed,
                "The transposes of A and B are missing. With inputs in rows every matrix is transposed, as W is.",
            ),
            WrongAnswer(
                _nothing_transposed,
                "The transposes are missing. The formula has x as a column; here inputs are rows: x @ W.T, and so on.",
            ),
            WrongAnswer(
                _inputs_in_columns,
                "You write it as the formula does, W @ x, with x as a column. Here inputs are the rows of x.",
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
                _merged_r_taken_from_B,
                "You divide alpha by the number of outputs: `len(lora_B)` is out. r is how many columns B has.",
            ),
            WrongAnswer(
                _multiplied, "You multiply W by the update, entry by entry. The two paths are added."
            ),
        ),
    ),
    "04.3": n04_gradients.EXERCISE,
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
