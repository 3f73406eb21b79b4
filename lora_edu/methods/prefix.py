r"""Prefix tuning: trainable keys and values that every token of every layer may attend to.

.. math:: \operatorname{attention}(Q, K, V) = \operatorname{softmax}(Q\,[P_K; K]^\top / \sqrt{d})\,[P_V; V]

``K`` and ``V`` come from the tokens, as always. ``P_K`` and ``P_V`` come from no token: they are parameters, one pair
a layer, that stand before the first token as if that many tokens had been read already. No weight of the model changes,
but what flows through it does. With no virtual token at all, the model is the base.

A prefix does not start as the base: at first it is noise that the tokens look at. Its length is paid for in attention
at every token, and it cannot be merged into a weight.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lora_edu.methods import _validate


class PrefixEncoder(nn.Module):
    """The keys and values of ``num_virtual_tokens`` tokens that were never written, for every layer.

    It holds ``2 * num_layers * num_virtual_tokens * num_kv_heads * head_dim`` parameters, in float32, drawn from the
    standard normal distribution.

    Parameters
    ----------
    num_virtual_tokens
        Length of the prefix in tokens, at least 0.
    num_layers
        Attention layers of the model, at least 1.
    num_kv_heads
        Heads that have keys and values of their own, at least 1: fewer than the query heads under grouped-query
        attention.
    head_dim
        Numbers in one head's key, at least 1. Dimensionless.

    Raises
    ------
    TypeError, ValueError
        An argument outside these bounds.

    References
    ----------
    Li and Liang 2021, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", arXiv 2101.00190, section 4.2.
    The small network through which they train the prefix (section 4.3) is left out, as it is by default in peft.
    """

    def __init__(self, num_virtual_tokens: int, num_layers: int, num_kv_heads: int, head_dim: int) -> None:
        super().__init__()
        num_virtual_tokens = _validate.integer("num_virtual_tokens", num_virtual_tokens, 0)
        num_layers = _validate.integer("num_layers", num_layers, 1)
        num_kv_heads = _validate.integer("num_kv_heads", num_kv_heads, 1)
        head_dim = _validate.integer("head_dim", head_dim, 1)
        self.num_virtual_tokens = num_virtual_tokens
        shape = (num_layers, num_kv_heads, num_virtual_tokens, head_dim)
        self.keys = nn.Parameter(torch.randn(shape, dtype=torch.float32))
        self.values = nn.Parameter(torch.randn(shape, dtype=torch.float32))

    def forward(
        self, batch_size: int
    ) -> list[tuple[Float[Tensor, "batch heads tokens dim"], Float[Tensor, "batch heads tokens dim"]]]:
        """The prefix of each layer, the same for each row of the batch: what a key-value cache takes."""
        _validate.integer("batch_size", batch_size, 1)
        return [
            (keys.expand(batch_size, -1, -1, -1), values.expand(batch_size, -1, -1, -1))
            for keys, values in zip(self.keys, self.values, strict=True)
        ]

    def extra_repr(self) -> str:
        """What ``print(model)`` shows of this layer."""
        num_layers, num_kv_heads, num_virtual_tokens, head_dim = self.keys.shape
        return f"{num_virtual_tokens=}, {num_layers=}, {num_kv_heads=}, {head_dim=}"
