"""Lloyd's iteration: sixteen levels that walk to where they err least, with -1, 0 and 1 kept.

A block of weights is divided by its largest magnitude, its absmax, so an error of one of its quotients counts absmax
times in the weights. So the best place of a level, among the quotients nearest to it, is their *weighted* median (mean
absolute error, weights absmax) or their weighted mean (root mean square, weights absmax squared).

The quotients are sorted once. A cell is then a stretch of them, and whatever a step asks is a difference of running
sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lora_edu.classroom.experiments.four_bit_formats import normal_code
from lora_edu.methods.blockwise import normalize_blocks

POWERS = {"mean absolute": 1, "root mean square": 2}


def even_start() -> Tensor:
    """Sixteen levels, float64: 7 evenly spaced below zero, zero, and 8 above."""
    return torch.cat([torch.linspace(-1, 0, 8), torch.linspace(0, 1, 9)[1:]]).double()


@dataclass(frozen=True)
class Quotients:
    """Weights over their block's absmax, sorted, with the running sums that a step needs; all float64.

    Attributes
    ----------
    x
        Shape (n,), ascending, in [-1, 1].
    weight, moment, square
        Shape (n + 1,): running sums of the weights w, of w x and of w x².
    count
        Number of weights, n.
    error
        "mean absolute" or "root mean square".
    """

    x: Tensor
    weight: Tensor
    moment: Tensor
    square: Tensor
    error: str

    @classmethod
    def of(cls, W: Tensor, blocksize: int, error: str = "mean absolute") -> Quotients:
        """Sort the quotients of `W`, whole blocks of `blocksize`.

        Raises
        ------
        ValueError
            If `error` is unknown, or `W` is empty, not finite, or no multiple of `blocksize`.
        """
        if error not in POWERS:
            raise ValueError(f"error must be one of {list(POWERS)}, got {error!r}")
        if blocksize < 1 or W.numel() % blocksize:
            raise ValueError(f"W must hold whole blocks of {blocksize}, got {W.numel()} numbers")
        x, absmax = normalize_blocks(W, blocksize)
        x, order = x.double().sort()
        w = (absmax.double() ** POWERS[error])[order // blocksize]
        weight, moment, square = (
            torch.cat([torch.zeros(1).double(), (w * x**k).cumsum(0)]) for k in range(3)
        )
        return cls(x, weight, moment, square, error)

    def cells(self, code: Tensor) -> Tensor:
        """Where each level's stretch begins, and where the last one ends: shape (levels + 1,)."""
        inner = torch.searchsorted(self.x, (code[:-1] + code[1:]) / 2, right=True)
        return torch.cat([torch.zeros(1, dtype=inner.dtype), inner, torch.tensor([len(self.x)])])

    def error_of(self, code: Tensor) -> float:
        """The error of the weights when each quotient takes its nearest level."""
        begin, end = self.cells(code)[:-1], self.cells(code)[1:]
        if self.error == "mean absolute":
            middle = torch.searchsorted(self.x, code).clamp(begin, end)  # from here on x lies above its level
            above = _between(self.moment, middle, end) - code * _between(self.weight, middle, end)
            below = code * _between(self.weight, begin, middle) - _between(self.moment, begin, middle)
            return ((above + below).sum() / len(self.x)).item()
        squares = _between(self.square, begin, end) - 2 * code * _between(self.moment, begin, end)
        return ((squares + code**2 * _between(self.weight, begin, end)).sum() / len(self.x)).sqrt().item()

    def step(self, code: Tensor) -> Tensor:
        """One step of Lloyd's: every level but -1, 0 and 1 moves to the best place in its cell."""
        begin, end = self.cells(code)[:-1], self.cells(code)[1:]
        if self.error == "mean absolute":
            half = (self.weight[begin] + self.weight[end]) / 2
            best = self.x[(torch.searchsorted(self.weight, half) - 1).clamp(0, len(self.x) - 1)]
        else:
            best = _between(self.moment, begin, end) / _between(self.weight, begin, end).clamp(min=1e-300)
        return torch.where((code.abs() == 1) | (code == 0) | (begin == end), code, best)


def _between(sums: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    return sums[end] - sums[begin]


def settle(quotients: Quotients, code: Tensor, steps: int) -> Tensor:
    """The levels after 0, 1, ... `steps` steps: shape (steps + 1, levels)."""
    codes = [code.double()]
    for _ in range(steps):
        codes.append(quotients.step(codes[-1]))
    return torch.stack(codes)


def excess(code: Tensor, blocksize: int, error: str, seed: int, size: int = 2**17, steps: int = 100) -> float:
    """How much more `code` errs than the levels that Lloyd finds, as a share, on normal numbers that it did not see.

    Levels are found on one sample, of twice `size` numbers, and judged, both codes, on another.
    """
    generator = torch.Generator().manual_seed(seed)
    seen, new = (
        Quotients.of(torch.randn(count, generator=generator), blocksize, error) for count in (2 * size, size)
    )
    best = settle(seen, even_start(), steps)[-1]
    return new.error_of(code.double()) / new.error_of(best) - 1


def excess_by_offset(offsets: list[float], blocksize: int, seed: int, size: int = 2**17) -> list[float]:
    """How much more the mean absolute error is at each offset than at the best of them, as a share."""
    W = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    quotients = Quotients.of(W, blocksize)
    errors = [quotients.error_of(normal_code(offset)) for offset in offsets]
    return [error / min(errors) - 1 for error in errors]
