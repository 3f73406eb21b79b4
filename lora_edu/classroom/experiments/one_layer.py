"""One 4-bit layer in a training step: what it holds moment by moment, what waits, and whom it agrees with."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from lora_edu.classroom import figures
from lora_edu.llm.budget.count import meta_model
from lora_edu.llm.budget.preflight import GIB
from lora_edu.llm.surgery import linear_layers
from lora_edu.methods import _validate
from lora_edu.methods.qlora import NF4Linear
from lora_edu.methods.quant_state import bits_per_parameter

MIB = 2**20
METHODS = ("LoRA", "QLoRA", "QLoRA, kept wide")
"""``QLoRA, kept wide``: the weight is dequantized in forward, and autograd keeps that copy for backward."""
MOMENTS = ("at rest", "forward", "waiting", "back", "after")
"""Forward and back are the moments of the products with W; waiting is between the two."""
PARTS = {
    "codes, scales": "codes",
    "W in 16 bits": "frozen",
    "A and B": "trained",
    "Adam's averages": "optimizer",
    "activations": "activations",
    "gradients": "gradients",
}
"""What a layer holds, and its meaning in the course's colours."""
STEPS = (0, 6, 12, 18, 24, 31, 32, 39, 45, 51, 57, 63)
"""Moments of the film: forward through the 32 blocks of Mistral-7B, and back."""
SIZES = {"d_in": 4096, "d_out": 4096, "tokens": 512, "r": 16}
"""A layer of a 7B model, and one text."""
FOUND = {
    "at rest": ("W lies in 16 bits", "only the codes are there"),
    "forward": ("no copy is needed", "W is made in 16 bits, for this product"),
    "waiting": ("W and the input are there", "the copy is gone, the input waits"),
    "back": ("no copy is needed", "W is made a second time"),
    "after": ("W as before, and gradients of A and B", "the codes as before, and gradients of A and B"),
}
"""What a moment shows, of LoRA and of QLoRA."""
STEP = ("output", "gradient of x", "gradient of A", "gradient of B", "A after the step", "B after the step")
"""What `one_step` returns."""


# ---------------------------------------------------------------- memory, from the shapes


def layer_bytes(method: str, moment: str, d_in: int, d_out: int, tokens: int, r: int) -> dict[str, int]:
    """What one linear layer holds at one moment of a training step, in bytes, by `PARTS`.

    W, the inputs and the outputs are 16-bit. A and B, their gradients and Adam's averages are float32, and A keeps
    its input in float32, as in peft and in `lora_edu` (outside autocast). Averages are there, as from the second step
    on. The products are those with W. An input is counted as long as the layer keeps it, an output as long as the
    layer makes it: after that it is the next layer's input.

    Parameters
    ----------
    method
        One of `METHODS`; 4-bit weights are NF4 with double quantization, blocks of 64 and 256.
    moment
        One of `MOMENTS`.
    d_in, d_out, tokens, r
        Sizes, at least 1.

    Raises
    ------
    TypeError, ValueError
        `method` or `moment` is unknown, or a size is below 1.

    References
    ----------
    Dettmers et al. 2023 (arXiv 2305.14314), section 3, equations 5 and 6.
    """
    _validate.require(method in METHODS, "method", f"one of {', '.join(METHODS)}", repr(method))
    _validate.require(moment in MOMENTS, "moment", f"one of {', '.join(MOMENTS)}", repr(moment))
    for name, size in (("d_in", d_in), ("d_out", d_out), ("tokens", tokens), ("r", r)):
        _validate.integer(name, size, 1)
    quantized, kept_wide = method != "LoRA", method == "QLoRA, kept wide" and moment == "waiting"
    wide = not quantized or moment in ("forward", "back") or kept_wide
    trained, x, y = 4 * r * (d_in + d_out), 2 * tokens * d_in, 2 * tokens * d_out
    activations = {"forward": x + y, "waiting": 2 * x + 4 * tokens * r}  # waiting are x and Ax, in float32
    # The adapter's share of the gradient of x waits to be added to the share that came through W.
    gradients = {"back": y + 2 * x + trained, "after": trained}
    sizes = (
        _nf4_bytes(d_in, d_out) if quantized else 0,
        2 * d_in * d_out if wide else 0,
        trained,
        2 * trained,
        activations.get(moment, 0),
        gradients.get(moment, 0),
    )
    return dict(zip(PARTS, sizes, strict=True))


def _nf4_bytes(d_in: int, d_out: int) -> int:
    """Codes and scales of a layer, from its shape alone; the table of the 8-bit scales is left out."""
    state = NF4Linear(d_in, d_out, bias=False, device="meta").quant_state
    return round(bits_per_parameter(state) * d_in * d_out / 8)


def moments_of(method: str, d_in: int, d_out: int, tokens: int, r: int) -> dict[str, dict[str, float]]:
    """MiB by `PARTS` at each of `MOMENTS`; arguments as in `layer_bytes`."""
    return {
        moment: {
            part: size / MIB for part, size in layer_bytes(method, moment, d_in, d_out, tokens, r).items()
        }
        for moment in MOMENTS
    }


def draw_moments(ax: Any, method: str, moment: int) -> None:
    """What one layer of `SIZES` holds over a step, told for one moment, counted from 1."""
    name = MOMENTS[moment - 1]
    found = FOUND[name][method != "LoRA"]
    if method == "QLoRA, kept wide" and name == "waiting":
        found = "the copy in 16 bits is still there"
    title = f"{method}, {name}: {found}"
    moments = moments_of(method, **SIZES)
    figures.held_over_time(moments, roles=PARTS, now=moment - 1, top=60, title=title, ax=ax)


def draw_life(ax: Any, step: int) -> None:
    """Mistral-7B in 4 bits while a step passes through its 32 blocks; what is wide is its largest weight."""
    stored, wide = stored_and_wide("Mistral-7B")
    figures.weight_life(step, layers=32, stored=stored, wide=wide, unit="GiB", ax=ax)


@cache
def stored_and_wide(model: str) -> tuple[float, float]:
    """GiB of all linear layers of a model in NF4, and of the largest of them in 16 bits.

    Parameters
    ----------
    model
        A name of `lora_edu.llm.budget.SHAPES`.
    """
    shapes = [layer.get_parameter("weight").shape for layer in linear_layers(meta_model(model)).values()]
    stored = sum(_nf4_bytes(d_in, d_out) for d_out, d_in in shapes)
    return stored / GIB, max(2 * d_in * d_out for d_out, d_in in shapes) / GIB


# ---------------------------------------------------------------- a real layer, watched


def kept_for_backward(layer: Callable[[Tensor], Tensor], x: Tensor) -> str:
    """Run a layer forward and say which tensors autograd keeps for the way back: dtype and MiB of each.

    PyTorch shows each kept tensor to a hook (``torch.autograd.graph.saved_tensors_hooks``).
    """
    saved: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(x)
    return ", ".join(f"{str(t.dtype).removeprefix('torch.')}, {t.nbytes / MIB:.1f} MiB" for t in saved)


def best_milliseconds(layer: Callable[[Tensor], Tensor], d_in: int, tokens: int) -> str:
    """The fastest of five forward and backward passes of `tokens` rows, in milliseconds, written."""
    inputs = torch.randn(tokens, d_in, requires_grad=True)
    timer = Timer("layer(x).sum().backward()", globals={"layer": layer, "x": inputs})
    return f"{1000 * min(timer.timeit(1).mean for _ in range(5)):.1f}"


def one_step(layer: nn.Module, seed: int = 0) -> list[Tensor]:
    """A step of AdamW of a `LoRALinear` from drawn A and B, on 32 drawn rows: the tensors that `STEP` names."""
    generator = torch.Generator().manual_seed(seed)
    A, B = layer.get_parameter("lora_A"), layer.get_parameter("lora_B")
    with torch.no_grad():
        for factor in (A, B):
            factor.copy_(torch.randn(factor.shape, generator=generator) / 24)
    x = torch.randn(32, A.shape[1], generator=generator).requires_grad_()
    layer.zero_grad()
    y = layer(x)
    y.backward(torch.randn(y.shape, generator=generator))
    torch.optim.AdamW([A, B], lr=1e-3).step()
    results = [y, x.grad, A.grad, B.grad, A, B]
    return [tensor.detach().clone() for tensor in results if tensor is not None]


def agree(layer: nn.Module, other: nn.Module) -> list[bool]:
    """Whether two layers give the same in `one_step`, up to rounding, tensor by tensor."""
    pairs = zip(one_step(layer), one_step(other), strict=True)
    return [torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs]


def by_bitsandbytes(W: Tensor) -> nn.Module:
    """A ``bnb.nn.Linear4bit`` over W, (out, in), in NF4 with double quantization, on the CPU.

    bitsandbytes 0.50 has a path for CPUs with AVX512 and bfloat16 that repacks the weights in ``eval()``; after that
    training loses the gradient of x without a word. It is switched off here.
    """
    bnb: Any = import_module("bitsandbytes")
    layer = bnb.nn.Linear4bit(
        *reversed(W.shape), bias=False, compute_dtype=torch.float32, quant_type="nf4"
    )  # compresses the scales too, unless told otherwise
    layer.weight = bnb.nn.Params4bit(W.clone(), requires_grad=False, quant_type="nf4")
    layer.support_avx512bf16_for_cpu = False
    return layer.to("cpu")  # this quantizes
