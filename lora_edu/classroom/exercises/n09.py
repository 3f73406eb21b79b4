"""Exercises of notebook 09."""

import torch
from torch import Tensor

from lora_edu.classroom.checks import Exercise, Law, WrongAnswer
from lora_edu.classroom.experiments.in_memory import LiveTensors
from lora_edu.methods.codebook import nf4_code
from lora_edu.methods.nf4 import QuantState, dequantize_nf4, quantize_nf4
from lora_edu.methods.packing import unpack_4bit


def _quantized(d_out: int, d_in: int, seed: int, double_quant: bool = True) -> tuple[Tensor, QuantState]:
    generator = torch.Generator().manual_seed(seed)
    return quantize_nf4(torch.randn(d_out, d_in, generator=generator), double_quant=double_quant)


def _levels(packed: Tensor, quant_state: QuantState) -> Tensor:
    """The level of each code, not yet multiplied by its block's scale."""
    return nf4_code()[unpack_4bit(packed, quant_state.shape.numel()).int()].view(quant_state.shape)


def _indices(packed: Tensor, quant_state: QuantState) -> Tensor:
    return unpack_4bit(packed, quant_state.shape.numel()).view(quant_state.shape).float()


# ------------------------- 09.1 qlora_forward(x, packed, quant_state, lora_A, lora_B, lora_alpha)


def qlora_forward(
    x: Tensor, packed: Tensor, quant_state: QuantState, lora_A: Tensor, lora_B: Tensor, lora_alpha: float
) -> Tensor:
    """A LoRA layer over a 4-bit weight."""
    return _forward(x, dequantize_nf4(packed, quant_state), lora_A, lora_B, lora_alpha / len(lora_A))


def _forward(x, W, lora_A, lora_B, scaling):
    return x @ W.T + scaling * (x @ lora_A.T) @ lora_B.T


def _alpha_alone(x, packed, quant_state, lora_A, lora_B, lora_alpha):
    return _forward(x, dequantize_nf4(packed, quant_state), lora_A, lora_B, lora_alpha)


def _not_scaled(x, packed, quant_state, lora_A, lora_B, lora_alpha):
    return _forward(x, dequantize_nf4(packed, quant_state), lora_A, lora_B, 1)


def _upside_down(x, packed, quant_state, lora_A, lora_B, lora_alpha):
    return _forward(x, dequantize_nf4(packed, quant_state), lora_A, lora_B, len(lora_A) / lora_alpha)


def _all_scaled(x, packed, quant_state, lora_A, lora_B, lora_alpha):
    W = dequantize_nf4(packed, quant_state)
    return lora_alpha / len(lora_A) * (x @ W.T + (x @ lora_A.T) @ lora_B.T)


def _W_not_transposed(x, packed, quant_state, lora_A, lora_B, lora_alpha):
    return _forward(x, dequantize_nf4(packed, quant_state).T, lora_A, lora_B, lora_alpha / len(lora_A))


def _without_scales(x, packed, quant_state, lora_A, lora_B, lora_alpha):
    return _forward(x, _levels(packed, quant_state), lora_A, lora_B, lora_alpha / len(lora_A))


def _codes_as_numbers(x, packed, quant_state, lora_A, lora_B, lora_alpha):
    return _forward(x, _indices(packed, quant_state), lora_A, lora_B, lora_alpha / len(lora_A))


def _update_alone(x, packed, quant_state, lora_A, lora_B, lora_alpha):
    return lora_alpha / len(lora_A) * (x @ lora_A.T) @ lora_B.T


def _base_alone(x, packed, quant_state, lora_A, lora_B, lora_alpha):
    return x @ dequantize_nf4(packed, quant_state).T


def _layers():
    for d_out, d_in, r, lora_alpha in ((16, 16, 2, 6.0), (16, 48, 4, 2.0)):
        generator = torch.Generator().manual_seed(r)
        shapes = (3, d_in), (r, d_in), (d_out, r)
        x, lora_A, lora_B = (torch.randn(shape, generator=generator) for shape in shapes)
        yield x, *_quantized(d_out, d_in, seed=r), lora_A, lora_B, lora_alpha


# ---------------------------------------------------- 09.2 matmul_4bit(x, packed, quant_state)


class _MatMul4Bit(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, packed, quant_state):
        ctx.save_for_backward(packed)
        ctx.quant_state = quant_state
        return x @ dequantize_nf4(packed, quant_state).T

    @staticmethod
    def backward(ctx, grad_y):  # pyright: ignore[reportIncompatibleMethodOverride]
        (packed,) = ctx.saved_tensors
        return grad_y @ dequantize_nf4(packed, ctx.quant_state), None, None


def matmul_4bit(x: Tensor, packed: Tensor, quant_state: QuantState) -> Tensor:
    """``x @ W.T``, of which only the 4 bits are kept for backward."""
    return _MatMul4Bit.apply(x, packed, quant_state)  # pyright: ignore[reportReturnType]


def _product_not_transposed(x, packed, quant_state):
    return x @ dequantize_nf4(packed, quant_state)


def _product_without_scales(x, packed, quant_state):
    return x @ _levels(packed, quant_state).T


def _product_with_codes(x, packed, quant_state):
    return x @ _indices(packed, quant_state).T


def _weight_itself(x, packed, quant_state):
    return dequantize_nf4(packed, quant_state)


def _products():
    for d_out, d_in, double_quant in ((16, 16, True), (64, 32, False), (32, 64, True)):
        x = torch.randn(3, d_in, generator=torch.Generator().manual_seed(d_in), requires_grad=True)
        yield x, *_quantized(d_out, d_in, d_out, double_quant)


def _backward_runs(function) -> bool:
    x, *stored = next(_products())
    y = function(x, *stored)
    return torch.autograd.grad(y, x, torch.ones_like(y))[0].shape == x.shape


def _gives_the_gradient_of_a_wide_layer(function) -> bool:
    for x, packed, quant_state in _products():
        W = dequantize_nf4(packed, quant_state)
        grad_y = torch.randn(len(x), len(W), generator=torch.Generator().manual_seed(0))
        [grad_x] = torch.autograd.grad(function(x, packed, quant_state), x, grad_y)
        if not torch.allclose(grad_x, grad_y @ W, rtol=1e-4, atol=1e-5):
            return False
    return True


def _keeps_nothing_wide(function) -> bool:
    x, packed, quant_state = list(_products())[1]
    with LiveTensors() as live:
        y = function(x, packed, quant_state)
        kept = live.now - y.nbytes
    return kept < 2 * quant_state.shape.numel()  # a copy in 16 bits would be as large


# ---------------------------------------------------- 09.3 qlora_bytes(d_in, d_out, r)


def qlora_bytes(d_in: int, d_out: int, r: int) -> tuple[int, int, int, int, int]:
    """Bytes of codes, scales, adapter, gradients and Adam's averages of one QLoRA layer."""
    weights, trained = d_in * d_out, 4 * r * (d_in + d_out)
    return weights // 2, weights // 64 + 4 * weights // (64 * 256), trained, trained, 2 * trained


def _with(position, value):
    """The solution with one of its five numbers replaced by what `value` makes of the sizes."""

    def wrong(d_in, d_out, r):
        terms = list(qlora_bytes(d_in, d_out, r))
        terms[position] = value(d_in * d_out, r * (d_in + d_out))
        return terms

    return wrong


def _sixteen_bit_adapters(d_in, d_out, r):
    codes, scales, *trained = qlora_bytes(d_in, d_out, r)
    return codes, scales, *(size // 2 for size in trained)


def _numbers(d_in, d_out, r):
    weights, trained = d_in * d_out, r * (d_in + d_out)
    return weights, weights // 64 + weights // (64 * 256), trained, trained, 2 * trained


def _product_of_sides(d_in, d_out, r):
    trained = 4 * r * d_in * d_out
    return *qlora_bytes(d_in, d_out, r)[:2], trained, trained, 2 * trained


EXERCISES = {
    "09.1": Exercise(
        qlora_forward,
        _layers,
        (
            WrongAnswer(_alpha_alone, "Your update is r times too large. Is alpha divided by anything?"),
            WrongAnswer(_not_scaled, "Your update is not scaled: alpha and r play no part in it."),
            WrongAnswer(_upside_down, "Upside down: in the scaling, alpha is the numerator."),
            WrongAnswer(_all_scaled, "You scale the base's share too. Only the update is scaled."),
            WrongAnswer(
                _W_not_transposed,
                "You multiply by W. It has shape (out, in), and inputs are rows: which side meets which?",
            ),
            WrongAnswer(
                _without_scales,
                "These are levels in [-1, 1]. Each block still has to be multiplied by its scale.",
            ),
            WrongAnswer(
                _codes_as_numbers, "You compute with the codes. They are places in a table, not weights."
            ),
            WrongAnswer(_update_alone, "That is the update alone. LoRA adds it to the base, which stays."),
            WrongAnswer(_base_alone, "That is the base alone. Where are A and B?"),
        ),
    ),
    "09.2": Exercise(
        matmul_4bit,
        _products,
        (
            WrongAnswer(
                _product_not_transposed,
                "Forward multiplies by W here. It has shape (out, in), and inputs are rows.",
            ),
            WrongAnswer(
                _product_without_scales, "These are levels in [-1, 1], without the scales of their blocks."
            ),
            WrongAnswer(
                _product_with_codes, "You compute with the codes. They are places in a table, not weights."
            ),
            WrongAnswer(_weight_itself, "That is the wide weight. Return its product with x."),
        ),
        (
            Law(
                "backward runs. It returns one value for each argument of forward, None where there is no gradient.",
                _backward_runs,
            ),
            Law(
                "x gets the gradient that a layer with the dequantized weight would give it.",
                _gives_the_gradient_of_a_wide_layer,
            ),
            Law(
                "between forward and backward no copy of the weight exists but the 4-bit one.",
                _keeps_nothing_wide,
            ),
        ),
    ),
    "09.3": Exercise(
        qlora_bytes,
        lambda: [(4096, 4096, 16), (576, 1536, 8), (4096, 14336, 64)],
        (
            WrongAnswer(
                _with(1, lambda weights, trained: 0),
                "4 bits a weight are the codes alone. Without their scales nobody can read them.",
            ),
            WrongAnswer(
                _with(1, lambda weights, trained: 4 * weights // 64),
                "Your scales are float32: 4.5 bits a weight in all. Double quantization stores them in fewer.",
            ),
            WrongAnswer(
                _with(1, lambda weights, trained: weights // 64),
                "The 8-bit scales have scales of their own, one for 256 of them.",
            ),
            WrongAnswer(
                _with(0, lambda weights, trained: weights), "You give each code a byte. Two share one."
            ),
            WrongAnswer(
                _with(0, lambda weights, trained: 2 * weights),
                "That is the wide weight in 16 bits. It is there for a moment only, not stored.",
            ),
            WrongAnswer(
                _with(3, lambda weights, trained: 4 * (weights + trained)),
                "You count a gradient for the 4-bit weight. It is frozen and has none.",
            ),
            WrongAnswer(
                _with(4, lambda weights, trained: 8 * (weights + trained)),
                "You count averages for the 4-bit weight. Adam keeps none for what does not train.",
            ),
            WrongAnswer(
                _with(4, lambda weights, trained: 4 * trained), "That is one average. Adam keeps two."
            ),
            WrongAnswer(
                _sixteen_bit_adapters,
                "You give the adapter 2 bytes a number, as the paper does. Here it is float32.",
            ),
            WrongAnswer(_numbers, "Those are numbers. How many bytes has each kind?"),
            WrongAnswer(
                _product_of_sides,
                "B and A hold r numbers for each row and for each column of W, not for each weight.",
            ),
        ),
    ),
}
