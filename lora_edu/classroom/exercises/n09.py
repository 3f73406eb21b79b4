"""Exercises of notebook 09."""

import torch
from torch import Tensor

from lora_edu.classroom.checks import Exercise, Law, WrongAnswer
from lora_edu.classroom.live_tensors import LiveTensors
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


def _A_and_B_not_transposed(x, packed, quant_state, lora_A, lora_B, lora_alpha):
    return _forward(x, dequantize_nf4(packed, quant_state), lora_A.T, lora_B.T, lora_alpha / len(lora_A))


def _A_not_transposed(x, packed, quant_state, lora_A, lora_B, lora_alpha):
    return _forward(x, dequantize_nf4(packed, quant_state), lora_A.T, lora_B, lora_alpha / len(lora_A))


def _B_not_transposed(x, packed, quant_state, lora_A, lora_B, lora_alpha):
    return _forward(x, dequantize_nf4(packed, quant_state), lora_A, lora_B.T, lora_alpha / len(lora_A))


def _inputs_in_columns(x, packed, quant_state, lora_A, lora_B, lora_alpha):
    return dequantize_nf4(packed, quant_state) @ x + lora_alpha / len(lora_A) * lora_B @ (lora_A @ x)


def _r_taken_from_B(x, packed, quant_state, lora_A, lora_B, lora_alpha):
    return _forward(x, dequantize_nf4(packed, quant_state), lora_A, lora_B, lora_alpha / len(lora_B))


def _divided_by_alpha(x, packed, quant_state, lora_A, lora_B, lora_alpha):
    return _forward(x, dequantize_nf4(packed, quant_state), lora_A, lora_B, 1 / lora_alpha)


def _layers():
    for d_out, d_in, r, lora_alpha in ((16, 16, 2, 6.0), (16, 48, 4, 2.0), (16, 16, 16, 8.0)):
        generator = torch.Generator().manual_seed(r)
        shapes = (16, d_in), (r, d_in), (d_out, r)
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


def _backward_runs(function, x, *stored) -> bool:
    y = function(x, *stored)
    return torch.autograd.grad(y, x, torch.ones_like(y))[0].shape == x.shape


def _gives_the_gradient_of_a_wide_layer(function, x, packed, quant_state) -> bool:
    W = dequantize_nf4(packed, quant_state)
    grad_y = torch.randn(len(x), len(W), generator=torch.Generator().manual_seed(0))
    [grad_x] = torch.autograd.grad(function(x, packed, quant_state), x, grad_y)
    return torch.allclose(grad_x, grad_y @ W, rtol=1e-4, atol=1e-5)


def _keeps_nothing_wide(function, x, packed, quant_state) -> bool:
    with LiveTensors() as live:
        y = function(x, packed, quant_state)
        kept = live.now - y.nbytes
    return kept < 2 * quant_state.shape.numel()  # a copy in 16 bits would be as large


def _keeps_no_inputs(function, x, packed, quant_state) -> bool:
    with LiveTensors() as live:
        inputs = x.repeat(100, 1)  # made here, and no leaf: it lives on only if somebody keeps it
        size = inputs.nbytes
        y = function(inputs, packed, quant_state)
        del inputs
        kept = live.now - y.nbytes
    return kept < size


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


def _trains_W(d_in, d_out, r):
    codes, scales, adapter, *_ = qlora_bytes(d_in, d_out, r)
    return codes, scales, adapter, 4 * d_in * d_out, 8 * d_in * d_out


def _trains_W_too(d_in, d_out, r):
    codes, scales, adapter, *_ = qlora_bytes(d_in, d_out, r)
    both = 4 * d_in * d_out + adapter
    return codes, scales, adapter, both, 2 * both


def _trains_W_in_16_bits(d_in, d_out, r):
    codes, scales, adapter, *_ = qlora_bytes(d_in, d_out, r)
    return codes, scales, adapter, 2 * d_in * d_out, 4 * d_in * d_out


def _bits(d_in, d_out, r):
    return tuple(8 * size for size in qlora_bytes(d_in, d_out, r))


def _bits_of_the_base(d_in, d_out, r):
    codes, scales, *trained = qlora_bytes(d_in, d_out, r)
    return 8 * codes, 8 * scales, *trained


def _numbers_that_train(d_in, d_out, r):
    codes, scales, *trained = qlora_bytes(d_in, d_out, r)
    return codes, scales, *(size // 4 for size in trained)


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
            WrongAnswer(
                _divided_by_alpha, "You divide by alpha. The update grows with alpha: it is divided by r."
            ),
            WrongAnswer(
                _r_taken_from_B,
                "You divide alpha by the number of outputs: `len(lora_B)` is out. `len(lora_A)` is r.",
            ),
            WrongAnswer(
                _A_and_B_not_transposed,
                "The transposes of A and B are missing: inputs are rows, and A is (r, in), B is (out, r).",
            ),
            WrongAnswer(_A_not_transposed, "A's transpose is missing: (batch, in) @ (r, in) does not chain."),
            WrongAnswer(_B_not_transposed, "B's transpose is missing: (batch, r) @ (out, r) does not chain."),
            WrongAnswer(
                _inputs_in_columns, "You write W @ x, with x as a column. Here inputs are the rows of x."
            ),
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
                of_process=True,
            ),
            Law(
                "x is not kept. Its gradient takes grad_y and the weight; only a gradient of W would take x.",
                _keeps_no_inputs,
                of_process=True,
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
                (
                    _with(3, lambda weights, trained: 4 * weights),
                    _with(3, lambda weights, trained: 2 * weights),
                    _with(3, lambda weights, trained: weights // 2),
                ),
            ),
            WrongAnswer(
                _trains_W,
                "You count a gradient and averages for the 4-bit weight. It is frozen: only B and A train.",
                (_trains_W_too, _trains_W_in_16_bits),
            ),
            WrongAnswer(
                _with(1, lambda weights, trained: weights // 64 + weights // (64 * 256)),
                "You give the second-level scales 8 bits. They stay in float32: 4 bytes each.",
            ),
            WrongAnswer(
                _bits,
                "Those are bits. Return bytes: a byte has 8 bits.",
                (_bits_of_the_base, _with(0, lambda weights, trained: 4 * weights)),
            ),
            WrongAnswer(
                _with(4, lambda weights, trained: 8 * (weights + trained)),
                "You count averages for the 4-bit weight. Adam keeps none for what does not train.",
                (
                    _with(4, lambda weights, trained: 8 * weights),
                    _with(4, lambda weights, trained: 4 * weights),
                ),
            ),
            WrongAnswer(
                _with(4, lambda weights, trained: 4 * trained), "That is one average. Adam keeps two."
            ),
            WrongAnswer(
                _sixteen_bit_adapters,
                "You give the adapter 2 bytes a number, as the paper does. Here it is float32.",
            ),
            WrongAnswer(_numbers, "Those are numbers. How many bytes has each kind?", (_numbers_that_train,)),
            WrongAnswer(
                _product_of_sides,
                "B and A hold r numbers for each row and for each column of W, not for each weight.",
            ),
        ),
    ),
}
