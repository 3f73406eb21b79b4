"""Many small trainings, scored: which setting is chosen, and what is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def tuned(validation: Tensor, test: Tensor) -> Tensor:
    """Test scores at the setting that looks best on other data.

    Parameters
    ----------
    validation, test : Tensor
        Scores of shape (settings, seeds): one row a setting, such as a learning rate.

    Returns
    -------
    Tensor
        The row of `test`, (seeds,), whose setting has the highest median of `validation`.

    Raises
    ------
    ValueError
        If the shapes are not equal and two-dimensional.
    """
    if validation.shape != test.shape or validation.ndim != 2:
        shapes = f"{tuple(validation.shape)} and {tuple(test.shape)}"
        raise ValueError(f"validation and test must both have shape (settings, seeds), got {shapes}")
    return test[validation.median(dim=1).values.argmax()]


def at_rate(trials: Sequence[Tensor], rates: Sequence[float], rate: float | str) -> Tensor:
    """Test scores of several models at one learning rate.

    Parameters
    ----------
    trials : sequence of Tensor
        For each model scores of shape (2, rates, seeds): validation, then test.
    rates : sequence of float
        The learning rates of the rows.
    rate : float or str
        One of `rates`, or "tuned": for each model the one that `tuned` takes.

    Returns
    -------
    Tensor
        Shape (seeds, models).

    Raises
    ------
    ValueError
        If `rate` is neither.
    """
    if rate == "tuned":
        return torch.stack([tuned(*trial) for trial in trials], dim=1)
    if rate not in rates:
        raise ValueError(f"rate must be 'tuned' or one of {list(rates)}, got {rate!r}")
    return torch.stack([trial[1, list(rates).index(float(rate))] for trial in trials], dim=1)


def medians(curves: Mapping[str, Tensor]) -> str:
    """In words, the medians over seeds of curves (seeds, points) in percent; a level curve's are said once."""

    def numbers(curve: Tensor) -> str:
        texts = [f"{median:.0%}" for median in curve.median(dim=0).values.tolist()]
        is_level = bool((curve == curve[:, :1]).all())
        return ", ".join(texts[:1] if is_level else texts)

    return "; ".join(f"{name} {numbers(curve)}" for name, curve in curves.items())
