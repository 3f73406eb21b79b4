"""Compare what a learner's function returns with what it should return, and say in a line where they differ.

A result is right when it has the right kind and the right numbers. Whole numbers are compared exactly, others to
rounding. A number of numpy is the number that it is. float32 and float64 are one kind; integers, floats and bools
are three; an exercise that wants one dtype says so with a law.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import re
import reprlib
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from lora_edu.classroom.language import say

RELATIVE, ABSOLUTE = 1e-4, 1e-6  # how far a result may be from the solution's
LINE = 70  # characters that a value may take in a sentence
FEW_NUMBERS = 12  # a tensor of more is named by its shape
MANY_NUMBERS = 10_000  # a result of more is not taken apart to see whether it is right in another form


@dataclasses.dataclass(frozen=True)
class Raised:
    """The outcome of a call that raised; two are equal when the exception's type is."""

    name: str
    message: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True)
class Lazy:
    """What a call returned that gives its items only once, such as a generator."""

    kind: str
    items: list


def same(got: Any, expected: Any) -> bool:
    """Whether `got` is as good an answer as `expected`: of its kind, and equal to rounding."""
    if isinstance(expected, torch.Tensor):
        return (
            isinstance(got, torch.Tensor)
            and _kind(got.dtype) == _kind(expected.dtype)
            and close(got, expected)
        )
    if _is_number(expected):
        return _is_number(got) and (_is_whole(got) or not _is_whole(expected)) and close(got, expected)
    if isinstance(expected, list | tuple):
        return isinstance(got, list | tuple) and len(got) == len(expected) and all(map(same, got, expected))
    return close(got, expected)


def close(a: Any, b: Any) -> bool:
    """Whether two values hold the same: numbers whatever their type, tensors of one shape whatever their dtype."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and not bool(_wrong(a, b).any())
    if _is_number(a) and _is_number(b):
        return _close_numbers(a, b)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(close, a, b))
    return type(a) is type(b) and bool(a == b)


def alike(a: Any, b: Any) -> bool:
    """Whether two results, however they are wrapped, hold the same: so is a wrong answer recognised."""
    return close(a, b) or close(bare(a), bare(b))


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral)


def _close_numbers(a: Any, b: Any) -> bool:
    if _is_whole(a) and _is_whole(b):
        return int(a) == int(b)
    try:
        a, b = float(a), float(b)
    except OverflowError:  # a whole number that no float can hold
        return False
    return math.isclose(a, b, rel_tol=RELATIVE, abs_tol=ABSOLUTE) or (math.isnan(a) and math.isnan(b))


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_complex or dtype.is_floating_point:
        return "complex" if dtype.is_complex else "float"
    return "bool" if dtype == torch.bool else "integer"


def _wrong(got: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """True where two tensors of one shape differ by more than rounding, or at all if both hold whole numbers."""
    if {_kind(got.dtype), _kind(expected.dtype)} <= {"integer", "bool"}:
        return got.long() != expected.long()
    wide = torch.complex128 if got.is_complex() or expected.is_complex() else torch.float64
    return ~torch.isclose(got.to(wide), expected.to(wide), rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)


def bare(value: Any) -> Any:
    """The numbers and texts of a value in plain lists: what is left when its form is taken away."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        value = value.tolist() if math.prod(value.shape) <= MANY_NUMBERS else value
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, complex):
        return value.real if value.imag == 0 else value
    if isinstance(value, str):
        return _number_in(value)
    if isinstance(value, Lazy):
        value = value.items
    if isinstance(value, dict):
        value = list(value.items())
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)
    return [bare(item) for item in value] if isinstance(value, list | tuple) else value


def _number_in(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def factor(got: list, expected: list) -> float | None:
    """The number by which all results are too large, if it is one and the same in every case."""
    found, wanted = (list(_floats(bare(results))) for results in (got, expected))
    if len(found) != len(wanted) or None in found + wanted or len(set(map(abs, wanted)) - {0}) < 2:
        return None
    largest = max(range(len(wanted)), key=lambda i: abs(wanted[i]))
    multiple = found[largest] / wanted[largest]
    is_same = all(_close_numbers(a, multiple * b) for a, b in zip(found, wanted, strict=True))
    return multiple if is_same and multiple not in (0, 1) else None


def _floats(value: Any) -> Iterator[Any]:
    """The numbers in nested lists; None for all that is none, or not finite."""
    if isinstance(value, list):
        for item in value:
            yield from _floats(item)
    else:
        yield float(value) if isinstance(value, int | float) and abs(value) < 1e15 else None


class _Short(reprlib.Repr):
    """Writes values so short that a sentence can hold several; survives a `__repr__` that raises."""

    def __init__(self):
        super().__init__()
        self.maxstring = self.maxother = LINE

    def repr_float(self, x: float, level: int) -> str:
        return digits(x)

    def repr_instance(self, x: Any, level: int) -> str:
        if isinstance(x, np.generic):
            return self.repr1(x.item(), level)
        if isinstance(x, np.ndarray):
            return (
                say("array of shape {shape}", shape=str(x.shape)) if x.ndim else f"array({digits(x.item())})"
            )
        if isinstance(x, torch.Tensor):
            return _tensor_in_a_line(x)
        if isinstance(x, Lazy):
            return say("a {kind}", kind=x.kind)
        if isinstance(x, torch.nn.Module) or dataclasses.is_dataclass(x):
            return type(x).__name__
        return super().repr_instance(x, level)


_SHORT = _Short()


def digits(number: Any) -> str:
    """A number in at most six significant digits; whole numbers in full."""
    if not isinstance(number, float) or not math.isfinite(number):
        return str(number)
    if number.is_integer() and abs(number) < 1e15:
        return str(number)
    return f"{number:.6g}"


def _tensor_in_a_line(x: torch.Tensor) -> str:
    by_shape = say("tensor of shape {shape}", shape=str(tuple(x.shape)))
    if x.is_meta or x.numel() > FEW_NUMBERS or x.numel() == 0:
        return by_shape
    text = f"tensor({_nested(x.tolist())})"
    return text if len(text) <= LINE else by_shape


def _nested(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_nested, value))}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def without_addresses(text: str) -> str:
    """Text without memory addresses, which are others at each run."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def shorten(value: Any) -> str:
    """A value in one short line."""
    return textwrap.shorten(without_addresses(_SHORT.repr(value)), width=LINE, placeholder=" ...")


def listed(values: Iterable[Any]) -> str:
    """Arguments in a line, in brackets."""
    return f"({', '.join(map(shorten, values))})"


def one_line(error: BaseException) -> str:
    """What an exception says, as far as it says something."""
    try:
        return textwrap.shorten(without_addresses(str(error)), width=120, placeholder=" ...")
    except Exception:
        return ""


def difference(got: Any, expected: Any) -> str:
    """What came, and what should have come: only where the two part, if they are long."""
    short, wanted = shorten(got), shorten(expected)
    if not same(got, expected) and close(bare(got), bare(expected)):
        form = _form(got, expected)
        return say("{short}, not {wanted}: right, but {form}", short=short, wanted=wanted, form=form)
    if isinstance(got, torch.Tensor) and isinstance(expected, torch.Tensor):
        return _difference_of_tensors(got, expected)
    if isinstance(got, list | tuple) and isinstance(expected, list | tuple) and len(got) == len(expected):
        index = next(i for i, (a, b) in enumerate(zip(got, expected, strict=True)) if not same(a, b))
        if short == wanted or isinstance(got[index], torch.Tensor):
            return say("as item {index} {this}", index=index, this=difference(got[index], expected[index]))
    return say("{short}, not {wanted}", short=short, wanted=wanted)


def _form(got: Any, expected: Any) -> str:
    """The form of a right result that has another form than the expected one, and a way to that."""
    if isinstance(got, torch.Tensor) and isinstance(expected, torch.Tensor):
        return say(
            "in {dtype}; numbers of the kind of {wanted} are wanted",
            dtype=str(got.dtype),
            wanted=str(expected.dtype),
        )
    if isinstance(got, list | tuple) and isinstance(expected, list | tuple):
        pairs = zip(got, expected, strict=True)
        index, (a, b) = next((i, pair) for i, pair in enumerate(pairs) if not same(*pair))
        return say("item {index} is {form}", index=index, form=_form(a, b))
    if isinstance(expected, torch.Tensor):
        if isinstance(got, np.ndarray):
            return say("a numpy array; `torch.from_numpy` makes it a tensor")
        if type(got) is list:
            return say("a list; `torch.tensor` makes it one")
        return say("a {kind}; a tensor is wanted", kind=_name(got))
    if isinstance(expected, list | tuple):
        cure = "`.tolist()`" if isinstance(got, torch.Tensor | np.ndarray) else "`list(...)`"
        return say("a {kind}; a list is wanted, which {cure} makes", kind=_name(got), cure=cure)
    if isinstance(got, torch.Tensor | np.ndarray):
        return say("a {kind}; `.item()` makes it a plain number", kind=_name(got))
    if _is_number(got) and _is_whole(expected):
        return say("a {kind}; a whole number (int) is wanted", kind=type(got).__name__)
    kind, wanted = type(got).__name__, type(expected).__name__
    return say("of type {kind}; {wanted} is wanted", kind=kind, wanted=wanted)


def _name(value: Any) -> str:
    if isinstance(value, Lazy):
        return value.kind
    if isinstance(value, np.ndarray):
        return say("numpy array")
    if isinstance(value, torch.Tensor):
        return "tensor"
    return say("plain number") if _is_number(value) else type(value).__name__


def _difference_of_tensors(got: torch.Tensor, expected: torch.Tensor) -> str:
    if got.shape != expected.shape:
        shapes = {"shape": str(tuple(got.shape)), "wanted": str(tuple(expected.shape))}
        return say("a tensor of shape {shape}, not {wanted}", **shapes)
    texts = shorten(got), shorten(expected)
    if all(text.startswith("tensor(") for text in texts):
        return say("{short}, not {wanted}", short=texts[0], wanted=texts[1])
    wrong = _wrong(got, expected)
    if not bool(wrong.any()):
        dtypes = {"dtype": str(got.dtype), "wanted": str(expected.dtype)}
        return say("a tensor in {dtype}, not in {wanted}", **dtypes)
    first = wrong.nonzero()[0].tolist()
    found, wanted = (_nested(tensor[tuple(first)].item()) for tensor in (got, expected))
    return say(
        "a tensor of the right shape in which {count} of {total} numbers are wrong: {first} is {found}, not {wanted}",
        count=int(wrong.sum()),
        total=wrong.numel(),
        first=str(first),
        found=found,
        wanted=wanted,
    )
