"""Many small trainings, scored: which setting is chosen."""

from __future__ import annotations

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
