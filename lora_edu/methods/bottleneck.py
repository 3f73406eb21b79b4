r"""Bottleneck adapters: a small network in series with a sublayer of a frozen model.

.. math:: y = h + U\, f(D h + b_D) + b_U

``h`` is what the sublayer says, ``D`` (bottleneck, features) squeezes it, ``f`` is a nonlinearity, ``U``
(features, bottleneck) widens it again. ``U`` and both biases start at zero, so the model starts as itself.

Unlike LoRA's update this one is not linear in ``h``: it cannot be merged into a weight, and since it stands behind
the sublayer and not beside it, the model has to wait for it at every token.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lora_edu.methods import _validate

ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu, "tanh": torch.tanh}


class BottleneckAdapter(nn.Module):
    """What comes after a sublayer: down to a few numbers, a nonlinearity, up again, and the input added.

    It holds ``2 * features * bottleneck + features + bottleneck`` parameters, in float32.

    Parameters
    ----------
    features
        Numbers in a row of ``h``. Dimensionless, at least 1.
    bottleneck
        Numbers it is squeezed to, 1 … features. Dimensionless.
    activation
        The name of ``f``: ``"gelu"``, ``"relu"``, ``"silu"`` or ``"tanh"``.

    Raises
    ------
    TypeError, ValueError
        An argument outside these bounds.

    References
    ----------
    Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP", arXiv 1902.00751, section 2.1 and figure 2.
    There the layer norms train as well, and ``U`` starts near zero rather than at zero.
    """

    def __init__(self, features: int, bottleneck: int, activation: str = "gelu") -> None:
        super().__init__()
        features = _validate.integer("features", features, 1)
        bottleneck = _validate.integer("bottleneck", bottleneck, 1, features)
        known = f"one of {', '.join(ACTIVATIONS)}"
        _validate.require(isinstance(activation, str), "activation", known, repr(activation), TypeError)
        _validate.require(activation in ACTIVATIONS, "activation", known, repr(activation))
        self.features, self.bottleneck, self.activation = features, bottleneck, activation
        self.down = nn.Linear(features, bottleneck, dtype=torch.float32)
        self.up = nn.Linear(bottleneck, features, dtype=torch.float32)
        for start_at_zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(start_at_zero)

    def forward(self, h: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        """``h + up(f(down(h)))``, computed in the dtype of the adapter and given back in the dtype of ``h``."""
        squeezed = ACTIVATIONS[self.activation](self.down(h.to(self.down.weight.dtype)))
        return (h + self.up(squeezed)).to(h.dtype)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows of this layer."""
        return f"features={self.features}, bottleneck={self.bottleneck}, activation={self.activation!r}"
