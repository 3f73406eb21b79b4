"""Call a learner's function, and see all that the call does: what it returns, raises, prints and changes."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from lora_edu.classroom.language import say
from lora_edu.classroom.values import Lazy, Raised, one_line

MANY_ITEMS = 1000  # a generator may have no end


@dataclass(frozen=True)
class Call:
    """What one call did.

    Parameters
    ----------
    value : object
        What it returned; a `Raised` if it raised, a `Lazy` if it returned an iterator.
    printed : str
        What it wrote to the standard output.
    changed : frozenset of (int, str)
        Which argument is another than before, by its position, and what of it: its values, its
        ``"requires_grad"`` or its ``"mode"``.
    """

    value: Any
    printed: str
    changed: frozenset[tuple[int, str]]


def call(function: Callable, arguments: tuple) -> Call:
    """Call `function`; nothing that it does goes through but an interrupt from the keyboard."""
    before = [dict(parts(argument)) for argument in arguments]
    paper = _Paper()
    with contextlib.redirect_stdout(paper):
        value = outcome(function, arguments)
    changed = {
        (position, kind)
        for position, (argument, old) in enumerate(zip(arguments, before, strict=True))
        for kind in {key[-1] for key in changed_parts(old, dict(parts(argument)))}
    }
    return Call(value, paper.getvalue(), frozenset(changed))


def outcome(function: Callable, arguments: tuple) -> Any:
    """What a call returns, or which exception it raises."""
    try:
        value = function(*arguments)
        if isinstance(value, Iterator):
            return Lazy(type(value).__name__, list(itertools.islice(value, MANY_ITEMS)))
        return value
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # an exit as well: it would end the kernel
        return Raised(type(error).__name__, one_line(error))


class _Paper(io.StringIO):
    """What is printed; cannot be closed, so that it can be read afterwards."""

    def close(self) -> None:
        pass


_PRODUCT = re.compile(r"mat1 and mat2 shapes cannot be multiplied \((\d+)x(\d+) and (\d+)x(\d+)\)")
_SIZES = re.compile(r"The size of tensor a \((\d+)\) must match the size of tensor b \((\d+)\)")


def why(raised: Raised) -> str:
    """What an exception means, where PyTorch's words do not say it to a learner."""
    if found := _PRODUCT.search(raised.message):
        a, b, c, d = map(int, found.groups())
        second, first = say(" Transposed, the second would fit."), say(" Transposed, the first would fit.")
        advice = second if b == d else first if a == c else ""
        told = say(
            "({a}, {b}) @ ({c}, {d}) does not chain: the two inner numbers must be equal.", a=a, b=b, c=c, d=d
        )
        return told + advice
    if found := _SIZES.search(raised.message):
        return say(
            "Two tensors meet number by number, and one has {one} where the other has {other}.",
            one=found[1],
            other=found[2],
        )
    return raised.message


def parts(value: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """All that a function can change of an argument, copied: pairs of (where, what of it) and its content."""
    yield (*path, type(value).__name__, "values"), None
    if isinstance(value, torch.Tensor):
        yield (*path, "values"), value.detach().clone()
    elif isinstance(value, torch.nn.Module):
        yield from _parts_of_module(value, path)
    elif isinstance(value, dict):
        yield (*path, "keys", "values"), list(value)
        for key, item in value.items():
            yield from parts(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from parts(item, (*path, index))
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from parts(getattr(value, field.name), (*path, field.name))
    else:
        yield (*path, "values"), value


def _parts_of_module(model: torch.nn.Module, path: tuple) -> Iterator[tuple[tuple, Any]]:
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        yield (*path, name, "values"), tensor.detach().clone()
        yield (*path, name, "requires_grad"), tensor.requires_grad
    for name, module in model.named_modules():
        yield (*path, name, type(module).__name__, "values"), None
        yield (*path, name, "mode"), module.training


def changed_parts(before: dict[tuple, Any], after: dict[tuple, Any]) -> list[tuple]:
    """Where two states of an argument, as `parts` gives them, differ: keys of either, in order."""
    keys = {**before, **after}
    return [key for key in keys if not _identical(before.get(key, ...), after.get(key, ...))]


def _identical(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        return bool(((a == b) | ((a != a) & (b != b))).all())  # nan stays nan
    return type(a) is type(b) and a == b
