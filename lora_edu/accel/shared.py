"""What the layers that read one tensor share: room behind its rows, products, and how backward makes it again.

A norm's output is read by two or three layers, and a SwiGLU's by one. The gradient of an adapter's A needs it again.
Both are made in one cheap kernel from tensors that backward keeps in any case. So a layer keeps the recipe, not the
tensor. What is shared travels as an attribute of the tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor


class Remade:
    """How to make a tensor again, once for all the layers that read it.

    Parameters
    ----------
    make
        Returns the tensor.
    """

    def __init__(self, make: Callable[[], Tensor]):
        self._make, self._waiting = make, 0
        self._made: Tensor | None = None

    def awaited(self) -> Remade:
        """Say that one more backward will ask."""
        self._waiting += 1
        return self

    def __call__(self) -> Tensor:
        """The tensor; the last one that asks takes it along."""
        if self._made is None:
            with torch.no_grad():
                self._made = self._make()
        made, self._waiting = self._made, self._waiting - 1
        if not self._waiting:
            self._made = None
        return made


@dataclass
class Shared:
    """Of a tensor that several layers read.

    Attributes
    ----------
    remade
        How it is made again.
    wide
        The memory in which its rows stand, and behind each row columns that any reader may write over.
    products
        Without gradients: by layer, what a neighbour has computed for it.
    """

    remade: Remade
    wide: Float[Tensor, "rows columns"] | None = None
    products: dict[object, Tensor] = field(default_factory=dict)


def share(
    tensor: Tensor, make: Callable[[], Tensor], wide: Float[Tensor, "rows columns"] | None = None
) -> Tensor:
    """Return ``tensor``, which from now on carries what its readers share."""
    tensor.shared = Shared(Remade(make), wide)  # type: ignore[attr-defined]
    return tensor


def shared(tensor: Tensor) -> Shared | None:
    """What the readers of a tensor share, if anything."""
    return getattr(tensor, "shared", None)


def pitch(columns: int) -> int:
    """How far apart rows of so many 16-bit numbers begin, as the GPU's products and stores like it."""
    return -(-columns // 16) * 16
