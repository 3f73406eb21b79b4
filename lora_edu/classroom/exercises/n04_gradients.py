"""Exercise 04.3, the gradients of A and B by hand. Inputs stand in rows: x (batch, in), grad_y (batch, out)."""

import torch
from torch import Tensor

from lora_edu.classroom.checks import Exercise, WrongAnswer


def layer(in_features, out_features, r):
    """W (out, in), A (r, in) and B (out, r), in small whole numbers, which can be read and tried again."""
    generator = torch.Generator().manual_seed(in_features)
    shapes = (out_features, in_features), (r, in_features), (out_features, r)
    return [torch.randint(-4, 5, shape, generator=generator).double() for shape in shapes]


def inputs(*shape):
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(1)).double()


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
    sizes = (5, 4, 2, 3, 2.0), (6, 6, 3, 4, 0.5), (3, 2, 1, 2, 3.0)
    for in_features, out_features, r, batch, scaling in sizes:
        _, lora_A, lora_B = layer(in_features, out_features, r)
        yield inputs(batch, in_features), inputs(batch, out_features), lora_A, lora_B, scaling


EXERCISE = Exercise(
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
        WrongAnswer(_in_the_other_order, "Both are right, in the other order. Return A's first, then B's."),
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
)
