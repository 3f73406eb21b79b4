r"""Low-rank adaptation: a frozen linear layer plus a small trainable update.

.. math:: y = W x + b + \frac{\alpha}{r}\, B (A x)

``W`` (out, in) stays as it is. Only ``A`` (r, in) and ``B`` (out, r) train: r * (in + out) numbers in place
of in * out. ``B`` starts at zero, so the wrapped layer starts as the base layer.
"""

import math
from itertools import chain
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lora_edu.methods import _validate


class LoRALinear(nn.Module):
    """A linear layer with a trainable low-rank update beside it.

    Parameters
    ----------
    base_layer
        ``nn.Linear``, ``NF4Linear`` or any module with ``in_features``, ``out_features`` and a linear map as
        its forward. Its parameters are frozen.
    r
        Rank of the update, 1 … min(in_features, out_features). Dimensionless.
    lora_alpha
        Numerator of ``scaling``. Dimensionless.
    lora_dropout
        Probability in [0, 1) of dropping an input of the update (never of the base layer) while training.
    use_rslora
        ``scaling`` is ``lora_alpha / sqrt(r)`` instead of ``lora_alpha / r``.

    Raises
    ------
    TypeError, ValueError
        An argument outside these bounds.

    Notes
    -----
    The numbers of ``lora_B`` are stored column after column: on a CPU its two products in backward then take half the
    time. PyTorch's ``fully_shard`` (FSDP) refuses such a parameter, and safetensors wants ``.contiguous()``.

    References
    ----------
    Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, equation 3 and
    section 4.1. Kalajdzievski 2023, arXiv 2312.03732, for the square root.
    """

    def __init__(
        self,
        base_layer: nn.Module,
        r: int,
        lora_alpha: float,
        lora_dropout: float = 0.0,
        use_rslora: bool = False,
    ) -> None:
        super().__init__()
        in_features, out_features = _features(base_layer)
        r = _validate.integer("r", r, 1, min(in_features, out_features))
        lora_alpha, lora_dropout, use_rslora = checked_settings(lora_alpha, lora_dropout, use_rslora)
        self.base_layer = base_layer.requires_grad_(False)
        self.in_features, self.out_features = in_features, out_features
        self.r, self.lora_alpha, self.use_rslora = r, lora_alpha, use_rslora
        self.scaling = lora_alpha / (math.sqrt(r) if use_rslora else r)
        self.lora_dropout = nn.Dropout(lora_dropout) if lora_dropout > 0 else nn.Identity()
        lora_A, lora_B = _initial_factors(in_features, out_features, r)
        device = _device(base_layer)
        self.lora_A, self.lora_B = nn.Parameter(lora_A.to(device)), nn.Parameter(lora_B.to(device))

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """``base_layer(x) + scaling * B(A(dropout(x)))``, the update computed in the dtype of ``lora_A``."""
        base = self.base_layer(x)
        hidden = F.linear(self.lora_dropout(x.to(self.lora_A.dtype)), self.lora_A)
        # Scaling the r hidden values costs less than scaling the out_features results.
        update = F.linear(self.scaling * hidden, self.lora_B)
        return (base + update).to(base.dtype)

    def delta_weight(self) -> Float[Tensor, "out in"]:
        """``scaling * B A``: what the adapter adds to the weight."""
        return self.scaling * (self.lora_B @ self.lora_A)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows of this layer."""
        return f"r={self.r}, lora_alpha={self.lora_alpha}, scaling={self.scaling:g}"


def checked_settings(lora_alpha: float, lora_dropout: float, use_rslora: bool) -> tuple[float, float, bool]:
    """Return the settings of a `LoRALinear` that depend on no layer as Python's own numbers, or raise as it does."""
    return (
        _validate.number("lora_alpha", lora_alpha),
        _validate.number("lora_dropout", lora_dropout, 0, 1),
        _validate.flag("use_rslora", use_rslora),
    )


@torch.no_grad()
def merged_linear(lora: LoRALinear) -> nn.Linear:
    """A new plain layer that computes what ``lora`` computes in evaluation: weight ``W + delta_weight``.

    The sum is formed in float32 (in float64 over a float64 base) and rounded once, to the dtype of the base
    weight. Nothing is shared with ``lora``, which stays as it is: unmerging is to keep using it.

    Parameters
    ----------
    lora
        A layer over ``nn.Linear`` or over ``NF4Linear`` (its weight is dequantized first).

    Returns
    -------
    nn.Linear
        On the device of the base layer; its parameters do not require gradients.

    Raises
    ------
    TypeError
        ``lora`` is no ``LoRALinear``.

    References
    ----------
    Hu et al. 2021, arXiv 2106.09685, section 4.1, "No Additional Inference Latency".
    """
    _validate.require(isinstance(lora, LoRALinear), "lora", "a LoRALinear", type(lora).__name__, TypeError)
    base = cast(Any, lora.base_layer)
    weight = base.dequantize() if hasattr(base, "dequantize") else base.weight
    bias = getattr(base, "bias", None)
    merged = nn.Linear(lora.in_features, lora.out_features, bias is not None, weight.device, weight.dtype)
    wide = torch.promote_types(weight.dtype, torch.float32)
    merged.weight.copy_(weight.to(wide) + lora.delta_weight().to(wide))
    if bias is not None:
        merged.bias.copy_(bias)
    return merged.requires_grad_(False)


def _features(base_layer: nn.Module) -> tuple[int, int]:
    features = getattr(base_layer, "in_features", None), getattr(base_layer, "out_features", None)
    is_linear = isinstance(base_layer, nn.Module) and all(isinstance(n, int) for n in features)
    allowed = "a module with in_features and out_features"
    _validate.require(is_linear, "base_layer", allowed, type(base_layer).__name__, TypeError)
    return cast(tuple[int, int], features)


def _initial_factors(in_features: int, out_features: int, r: int) -> tuple[Tensor, Tensor]:
    """A uniform in ±1/sqrt(in_features), B zero.

    Two ``nn.Linear`` are made and A is drawn again, all on the CPU, because peft does so: one seed then gives
    both libraries the same A, layer after layer.
    """
    A = nn.Linear(in_features, r, bias=False, dtype=torch.float32)
    nn.Linear(r, out_features, bias=False, dtype=torch.float32)  # only for the numbers that it draws
    nn.init.kaiming_uniform_(A.weight, a=math.sqrt(5))
    # By columns, as the notes of LoRALinear say.
    return A.weight.detach(), torch.zeros(r, out_features, dtype=torch.float32).T


def _device(module: nn.Module) -> torch.device:
    return next((t.device for t in chain(module.parameters(), module.buffers())), torch.device("cpu"))
