"""Exercises 09.4 and 09.5: a test of QLoRA's law, and a gradient that is right for one layer and wrong for two."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_edu.classroom.checks import Exercise, Law, WrongAnswer
from lora_edu.classroom.exercises.n09 import EXERCISES as EARLIER
from lora_edu.classroom.exercises.n09 import qlora_forward
from lora_edu.classroom.live_tensors import LiveTensors
from lora_edu.classroom.written_tests import chosen, written_test
from lora_edu.methods import nf4
from lora_edu.methods.lowrank import relative_error

# ---------------------------------------------------------------- 09.4 is_lora_over_4_bits(layer)


def _inputs(
    batch: int = 5, d_in: int = 64, d_out: int = 48, r: int = 3
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, W, lora_A and lora_B."""
    return torch.randn(batch, d_in), torch.randn(d_out, d_in), torch.randn(r, d_in), torch.randn(d_out, r)


def _read_back(W: Tensor) -> Tensor:
    return nf4.dequantize_nf4(*nf4.quantize_nf4(W))


def _merged(x, W, lora_A, lora_B, lora_alpha):
    return x @ (W + lora_alpha / len(lora_A) * lora_B @ lora_A).T


def _keeps(layer, x, W, lora_A, lora_B, lora_alpha) -> bool:
    expected = _merged(x, _read_back(W), lora_A, lora_B, lora_alpha)
    return torch.allclose(layer(x, W, lora_A, lora_B, lora_alpha), expected, rtol=1e-3, atol=1e-3)


def is_lora_over_4_bits(layer: Callable) -> bool:
    """Whether a layer computes what LoRA computes over the weight as NF4 gives it back."""
    return _keeps(layer, *_inputs(), 2.0)


def _quantizing(forward: Callable) -> Callable:
    """A layer of a wide W: NF4, then an answer to 09.1."""

    def layer(x, W, lora_A, lora_B, lora_alpha):
        return forward(x, *nf4.quantize_nf4(W), lora_A, lora_B, lora_alpha)

    return layer


def _over_the_merged(x, W, lora_A, lora_B, lora_alpha):
    return _merged(x, _read_back(W), lora_A, lora_B, lora_alpha)


def _in_float64(x, W, lora_A, lora_B, lora_alpha):
    base, update = F.linear(x.double(), _read_back(W).double()), x.double() @ lora_A.double().T
    return (base + update @ lora_B.double().T * lora_alpha / lora_B.shape[1]).to(x.dtype)


def _never_rounded(x, W, lora_A, lora_B, lora_alpha):
    return x @ W.T + lora_alpha / len(lora_A) * (x @ lora_A.T) @ lora_B.T


def _break_the_law() -> tuple[WrongAnswer, ...]:
    answers = chosen(
        EARLIER["09.1"],
        "_alpha_alone",
        "_not_scaled",
        "_upside_down",
        "_divided_by_alpha",
        "_r_taken_from_B",
        "_inputs_in_columns",
        "_all_scaled",
        "_W_not_transposed",
        "_without_scales",
        "_codes_as_numbers",
        "_update_alone",
        "_base_alone",
    )
    told = "That is LoRA over W as it was. Your layer has no 4 bits in it."
    return *(WrongAnswer(_quantizing(a.function), a.hint) for a in answers), WrongAnswer(_never_rounded, told)


def _shape_alone(layer):
    x, W, *adapter = _inputs()
    return layer(x, W, *adapter, 2.0).shape == (len(x), len(W))


def _B_is_zero(layer):
    x, W, lora_A, lora_B = _inputs()
    return _keeps(layer, x, W, lora_A, torch.zeros_like(lora_B), 2.0)


def _alpha_is_r(layer):
    return _keeps(layer, *_inputs(r=3), 3.0)


def _r_is_one(layer):
    return _keeps(layer, *_inputs(r=1), 2.0)


def _r_as_large_as_W(layer):
    return _keeps(layer, *_inputs(16, 16, 16, 16), 2.0)


def _symmetric_W(layer):
    x, _, lora_A, lora_B = _inputs(5, 16, 16, 3)
    return _keeps(layer, x, torch.eye(16), lora_A, lora_B, 2.0)


def _to_the_last_bit(layer):
    inputs = _inputs()
    packed, quant_state = nf4.quantize_nf4(inputs[1])
    return torch.equal(layer(*inputs, 2.0), qlora_forward(inputs[0], packed, quant_state, *inputs[2:], 2.0))


def _to_the_last_bit_merged(layer):
    inputs = _inputs()
    return torch.equal(layer(*inputs, 2.0), _over_the_merged(*inputs, 2.0))


def _too_little_room(layer):
    inputs = _inputs()
    return torch.allclose(layer(*inputs, 2.0), _quantizing(qlora_forward)(*inputs, 2.0))


def _too_little_room_merged(layer):
    inputs = _inputs()
    return torch.allclose(layer(*inputs, 2.0), _over_the_merged(*inputs, 2.0))


def _against_W(layer):
    inputs = _inputs()
    return torch.allclose(layer(*inputs, 2.0), _merged(*inputs, 2.0), rtol=1e-3, atol=1e-3)


def _nearly_W(layer):
    inputs = _inputs()
    return relative_error(_merged(*inputs, 2.0), layer(*inputs, 2.0)) < 0.15


# ---------------------------------------------------------------- 09.5 input_gradient(x, layers)


def planted_gradient(x: Tensor, layers: list) -> Tensor:
    """The gradient of half the sum of squares of the last output, for x, with a fault."""
    room, kept = torch.empty(layers[0][1].shape), []
    for packed, quant_state in layers:
        W = nf4.dequantize_nf4(packed, quant_state, out=room)
        kept.append(W)
        x = x @ W.T
    grad = x
    for W in reversed(kept):
        grad = grad @ W
    return grad


def input_gradient(x: Tensor, layers: list) -> Tensor:
    """The gradient of half the sum of squares of the last output, for x."""
    room = torch.empty(layers[0][1].shape)
    for packed, quant_state in layers:
        x = x @ nf4.dequantize_nf4(packed, quant_state, out=room).T
    grad = x
    for packed, quant_state in reversed(layers):
        grad = grad @ nf4.dequantize_nf4(packed, quant_state, out=room)
    return grad


def _back(x, layers, weights_of):
    """Forward as it should be, and back through what `weights_of` makes of the weights."""
    weights = [nf4.dequantize_nf4(*layer) for layer in layers]
    for W in weights:
        x = x @ W.T
    for W in weights_of(weights):
        x = x @ W
    return x


def _two_rooms(x, layers):
    return _back(x, layers, lambda weights: [weights[-1 - i % 2] for i in range(len(weights))])


def _in_forward_order(x, layers):
    return _back(x, layers, lambda weights: weights)


def _transposed(x, layers):
    return _back(x, layers, lambda weights: [W.T for W in reversed(weights)])


def _first_alone(x, layers):
    return _back(x, layers, lambda weights: [weights[0]] * len(weights))


def _one_step_back(x, layers):
    return _back(x, layers, lambda weights: weights[-1:])


def _chains():
    for count, size in ((1, 16), (2, 32), (6, 64)):
        generator = torch.Generator().manual_seed(count)
        weights = [torch.randn(size, size, generator=generator) / size**0.5 for _ in range(count)]
        yield (
            torch.randn(3, size, generator=generator),
            [nf4.quantize_nf4(W, double_quant=True) for W in weights],
        )


def _one_wide_at_a_time(function, x, layers) -> bool:
    with LiveTensors() as live:
        function(x, layers)
    return live.peak < 5 * 4 * layers[0][1].shape.numel()  # dequantizing takes two or three for a moment


EXERCISES = {
    "09.4": written_test(
        solution=is_lora_over_4_bits,
        right=(_quantizing(qlora_forward), _over_the_merged, _in_float64),
        wrong=_break_the_law(),
        weak=(
            WrongAnswer(_shape_alone, "You look at the shape alone. What do the numbers have to be?"),
            WrongAnswer(_B_is_zero, "Your B is zero, so that A, alpha and r play no part."),
            WrongAnswer(
                _alpha_is_r, "Your alpha equals r. Then the scaling is 1, and whoever forgets it is right."
            ),
            WrongAnswer(_r_is_one, "Your r is 1, so that nobody has to divide by it."),
            WrongAnswer(
                _r_as_large_as_W, "Your r equals the number of outputs. Who takes one for the other is right."
            ),
            WrongAnswer(
                _symmetric_W,
                "Your W is the identity. It is its own transpose, and NF4 gives it back without loss.",
            ),
            WrongAnswer(
                _to_the_last_bit,
                "You leave too little room: sums in another order round differently. Try `rtol=1e-3, atol=1e-3`.",
                (_to_the_last_bit_merged, _too_little_room, _too_little_room_merged),
            ),
            WrongAnswer(
                _against_W, "You compare with LoRA over W. What does the law say the product is made with?"
            ),
            WrongAnswer(
                _nearly_W,
                "You allow as much as 4 bits lose, so a layer that never rounds passes. Allow 0.1 %.",
            ),
        ),
    ),
    "09.5": Exercise(
        solution=input_gradient,
        cases=_chains,
        wrong_answers=(
            WrongAnswer(
                _two_rooms,
                "Two rooms serve two layers. With a third layer a weight that is still needed is written over.",
            ),
            WrongAnswer(
                _in_forward_order,
                "You go back in the order of forward. The gradient meets the last layer first.",
            ),
            WrongAnswer(
                _transposed, "Forward multiplies by the transpose of W. Back it is W itself: grad_y @ W."
            ),
            WrongAnswer(_first_alone, "Now all steps back go through the first layer's weight."),
            WrongAnswer(_one_step_back, "You stop behind the last layer. The gradient goes on to x."),
        ),
        laws=(
            Law(
                "one weight at a time is wide, however many layers there are. A copy for each gives up the 4 bits.",
                _one_wide_at_a_time,
                of_process=True,
            ),
        ),
        planted=planted_gradient,
        symptom="with one layer the gradient is right, with two it is another one.",
    ),
}
