"""Tensors that backward makes a second time instead of keeping them.

A norm's output and a SwiGLU's are inputs of linear layers, and the gradient of an adapter's A needs them. Both are made
in one cheap kernel from tensors that backward keeps in any case. So the linear layer keeps the recipe, not the result.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
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

    @classmethod
    def of(cls, tensor: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """Return ``tensor``, which from now on carries how it is made; without gradients as it is."""
        if torch.is_grad_enabled():
            tensor.remade = cls(make)  # type: ignore[attr-defined]
        return tensor

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


def remade(tensor: Tensor) -> Remade | None:
    """How a tensor is made again, if it can be."""
    return getattr(tensor, "remade", None)


def again(make: Remade, like: Tensor) -> Tensor:
    """The tensor, one row for each of ``like`` and in its dtype."""
    return make().reshape(len(like), -1).to(like.dtype)
