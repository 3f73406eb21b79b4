"""What an adapter adds to one weight, measured from its two small factors."""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

BLOCK = re.compile(r"(?P<before>.*\.(?:layers|h|blocks)\.)(?P<number>\d+)\.(?P<kind>.+)")
"""The path of a layer in a block: what comes before the block's number, the number, what the layer is in the block."""


@dataclass(frozen=True)
class Update:
    """What an adapter adds to one weight, scaling included.

    Attributes
    ----------
    path
        Of the layer in the base, such as ``model.layers.3.self_attn.q_proj``.
    shape
        (out, in) of the weight.
    singular_values
        Of the update, (r,), float64, the largest first; NaN where the file holds numbers that are not finite.
    weight_norm
        Frobenius norm of the base's weight, None where no base was given.
    """

    path: str
    shape: tuple[int, int]
    singular_values: "Float[Tensor, 'r']"
    weight_norm: float | None = None

    @property
    def r(self) -> int:
        """Rank of the two factors: the most directions that the update can use."""
        return len(self.singular_values)

    @property
    def norm(self) -> float:
        """Frobenius norm of the update."""
        return self.singular_values.square().sum().sqrt().item()

    @property
    def relative_norm(self) -> float | None:
        """Norm of the update over that of the weight."""
        return None if self.weight_norm is None else self.norm / self.weight_norm

    @property
    def kind(self) -> str:
        """What it is in its block: ``self_attn.q_proj``."""
        found = BLOCK.fullmatch(self.path)
        return found["kind"] if found else self.path

    @property
    def block(self) -> int | None:
        """Number of its block, None outside of the blocks."""
        found = BLOCK.fullmatch(self.path)
        return int(found["number"]) if found else None

    def copy_rank(self, share: float = 0.99) -> int:
        """Return the smallest k whose best rank-k copy holds this share of the update's energy; 0 for no update.

        The energy is the sum of the squared singular values (Eckart and Young 1936).
        """
        energy = self.singular_values.square().cumsum(0)
        if not energy[-1] > 0:
            return 0
        return int((energy < share * energy[-1]).sum().item()) + 1


def singular_values(A: "Float[Tensor, 'r in']", B: "Float[Tensor, 'out r']") -> "Float[Tensor, 'r']":
    """Return the singular values of ``B @ A`` from matrices of r rows alone, float64.

    With ``B = Q1 R1`` and ``A.T = Q2 R2`` the product is ``Q1 (R1 R2.T) Q2.T``, and Q1 and Q2 change no length.
    """
    R1, R2 = (torch.linalg.qr(factor.double(), mode="r").R for factor in (B, A.T))
    product = R1 @ R2.T
    if not product.isfinite().all():
        return torch.full((A.shape[0],), math.nan, dtype=torch.float64)
    return torch.linalg.svdvals(product)
