"""Find a part of an argument again by its place, and make of it what a call in another process made of it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def place(value: Any, path: Iterable[Any], kind: str) -> Any:
    """The part of `value` at the place that `calls.parts` names.

    Parameters
    ----------
    value
        An argument.
    path
        Of keys, positions, fields, and the name of a parameter, a buffer or (for the kind ``"mode"``) a module.
    kind : str
        ``"values"``, ``"requires_grad"`` or ``"mode"``.

    Raises
    ------
    LookupError
        There is no such part.
    """
    for step in path:
        if isinstance(value, nn.Module):
            named = value.named_modules() if kind == "mode" else _tensors(value)
            value = dict(named)[step]
        elif isinstance(value, dict | list | tuple):
            value = value[step]
        elif dataclasses.is_dataclass(value) and step in {field.name for field in dataclasses.fields(value)}:
            value = getattr(value, step)
        else:
            raise LookupError(step)
    return value


def _tensors(model: nn.Module) -> Iterable[tuple[str, Any]]:
    return itertools.chain(model.named_parameters(), model.named_buffers())


def change(argument: Any, path: list, kind: str, content: Any) -> None:
    """Do to a part of `argument` what was done to its copy; what cannot be done so changes it in another way."""
    try:
        part = place(argument, path, kind)
    except (LookupError, TypeError):
        part = None
    if kind == "requires_grad" and isinstance(part, torch.Tensor) and isinstance(content, bool):
        part.requires_grad_(content)
    elif kind == "mode" and isinstance(part, nn.Module) and isinstance(content, bool):
        part.training = content
    elif isinstance(part, torch.Tensor) and _fits(part, content):
        part.data.copy_(content)
    else:
        spoil(argument)


def _fits(part: torch.Tensor, content: Any) -> bool:
    return isinstance(content, torch.Tensor) and content.shape == part.shape and content.dtype == part.dtype


def spoil(value: Any) -> None:
    """Make an argument another one, so that whoever compares it sees that it was changed."""
    if isinstance(value, torch.Tensor):
        value.data = (
            torch.full_like(value.data, 1) if bool((value != 1).any()) else torch.zeros_like(value.data)
        )
    elif isinstance(value, nn.Module):
        value.register_buffer("changed", torch.zeros(1))
    elif isinstance(value, dict):
        value["changed"] = None
    elif isinstance(value, list):
        value.append(None)
    elif isinstance(value, tuple) and value:
        spoil(value[0])
    elif dataclasses.is_dataclass(value):
        tensors = (getattr(value, field.name) for field in dataclasses.fields(value))
        spoil(next((tensor for tensor in tensors if isinstance(tensor, torch.Tensor)), None))
