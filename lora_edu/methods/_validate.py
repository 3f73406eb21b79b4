"""One form for every complaint: ``<name> must be <allowed>, got <given>``."""

import math
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


def require(ok: bool, name: str, allowed: str, given: Any, error: type[Exception] = ValueError) -> None:
    """Raise ``error`` unless ``ok``."""
    if not ok:
        raise error(f"{name} must be {allowed}, got {given}")


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """``value`` is an integer, and ``low <= value <= high``; returned as Python's own, which JSON can hold."""
    allowed = f"an integer of at least {low}" if high is None else f"an integer in {low} … {high}"
    require(_is(Integral, value), name, allowed, repr(value), TypeError)
    require(low <= value and (high is None or value <= high), name, allowed, value)
    return int(value)


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """``value`` is a finite number, and ``low <= value < high``; returned as Python's own."""
    allowed = "a finite number" if math.isinf(high) else f"a number in [{low}, {high})"
    require(_is(Real, value), name, allowed, repr(value), TypeError)
    require(math.isfinite(value) and low <= value < high, name, allowed, value)
    return int(value) if isinstance(value, Integral) else float(value)


def flag(name: str, value: Any) -> bool:
    """``value`` is True or False, of Python or of numpy; returned as Python's own."""
    plain = value.item() if hasattr(value, "item") else value
    require(isinstance(plain, bool), name, "True or False", repr(value), TypeError)
    return plain


def tensor(name: str, value: Any, dtype: torch.dtype | None = None, ndim: int | None = None) -> None:
    """``value`` is a tensor with elements: of ``dtype``, or of any floating dtype when ``dtype`` is None."""
    kind = "floating-point" if dtype is None else str(dtype).removeprefix("torch.")
    require(isinstance(value, Tensor), name, f"a {kind} tensor", type(value).__name__, TypeError)
    right = value.is_floating_point() if dtype is None else value.dtype == dtype
    require(right, name, f"a {kind} tensor", value.dtype, TypeError)
    require(value.numel() > 0, name, "a tensor with at least one element", f"shape {tuple(value.shape)}")
    require(ndim in (None, value.ndim), name, f"{ndim}-dimensional", f"shape {tuple(value.shape)}")


def floating_dtype(name: str, value: Any) -> None:
    """``value`` is a floating-point ``torch.dtype``."""
    ok = isinstance(value, torch.dtype) and value.is_floating_point
    require(ok, name, "a floating-point torch.dtype", repr(value), TypeError)


def finite(name: str, value: Tensor) -> None:
    """No NaN and no infinity in ``value``; for a large tensor its largest values, which show both, will do."""
    require(bool(value.isfinite().all()), name, "finite", "NaN or infinity")


def ascending(name: str, value: Any) -> None:
    """``value`` is a code: 2 … 256 levels, finite, each above the one before."""
    tensor(name, value, ndim=1)
    require(2 <= value.numel() <= 256, name, "2 … 256 levels", f"{value.numel()} levels")
    finite(name, value)
    require(bool((value.diff() > 0).all()), name, "strictly ascending", value.tolist())


def shape(name: str, value: Tensor, expected: tuple[int, ...]) -> None:
    """``value`` is of the shape ``expected``."""
    require(value.shape == expected, name, f"of shape {expected}", f"shape {tuple(value.shape)}")


def _is(kind: type, value: Any) -> bool:
    """Python counts True as a number; here it is a mistake."""
    return isinstance(value, kind) and not isinstance(value, bool)
