"""Real handwritten digits, and the same digits changed, as an old task and a new one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PARTS = {"pretrain": 700, "adapt": 400, "validation": 300, "test": 397}
SIDE = 8  # pixels

Data = tuple[Tensor, Tensor]


def load(change: Callable[[Tensor], Tensor] | None = None) -> dict[str, Data]:
    """scikit-learn's 1,797 digits in four parts that share no image.

    Parameters
    ----------
    change : callable, optional
        Turns images (n, 8, 8) into images of the same shape.

    Returns
    -------
    dict of str to tuple of Tensor
        For each of `PARTS`: images (n, 64), float64 from -1 (paper) to 1 (ink), and labels (n,), 0 to 9. The
        same images are in the same part whatever the change.

    References
    ----------
    Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
    doi 10.24432/C50P49.
    """
    from sklearn.datasets import load_digits  # here: it takes a second to import

    bunch: Any = load_digits()  # a Bunch; its stubs say tuple
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(bunch.images)[order] / 8 - 1  # stored as 0 … 16
    if change is not None:
        images = change(images)
    rows, labels = images.reshape(-1, SIDE * SIDE), torch.from_numpy(bunch.target)[order]
    sizes = list(PARTS.values())
    return dict(zip(PARTS, zip(rows.split(sizes), labels.split(sizes), strict=True), strict=True))


def few(data: Data, seed: int, count: int = 200) -> Data:
    """`count` of the images of a part and their labels; `seed` decides which."""
    images, labels = data
    if not 1 <= count <= len(labels):
        raise ValueError(f"count must be in 1 … {len(labels)}, got {count}")
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:count]
    return images[chosen], labels[chosen]


def strip(images: Tensor) -> Tensor:
    """Images (n, 64) side by side as one picture (10, 10 n): each has a margin of one pixel of paper."""
    framed = F.pad(images.reshape(-1, SIDE, SIDE), (1, 1, 1, 1), value=-1.0)
    return framed.permute(1, 0, 2).reshape(SIDE + 2, -1)
