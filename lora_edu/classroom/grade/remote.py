"""A student's function as `checks.examine` sees it: called here, run in the child.

Each effect of a call is done here again: what it prints, what it changes of its arguments, that it draws a random
number, what it keeps in memory for backward. So cases, laws and hints need not know where the function runs. A result
is compared here, and only values come back; effects are the child's word.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import torch

from lora_edu.classroom.candidates import Handed
from lora_edu.classroom.grade.guards import bounded_memory
from lora_edu.classroom.grade.places import change, place
from lora_edu.classroom.grade.sandbox import Child, ChildLost
from lora_edu.classroom.values import Raised
from lora_edu.classroom.wire import BrokenProtocol, Decoder, Encoder

MOST_KEPT = 1 << 30  # bytes that are kept here because a call has kept them there
MOST_CHANGES = 500
MOST_MEMORY = 2 << 30  # bytes that a candidate of ours may take for what a student's test hands it


class Remote:
    """A function of any arguments that the child runs.

    Parameters
    ----------
    child : Child
        In which the function is defined.
    """

    def __init__(self, child: Child):
        self._child = child

    def __call__(self, *arguments: Any) -> Any:
        if len(arguments) == 1 and isinstance(arguments[0], Handed):
            return self._test(arguments[0])
        header, body = self._child.ask({"do": "call"}, pickle.dumps(arguments))
        return self._understood(lambda: self._result(arguments, header, body))

    def _understood(self, work: Callable[[], Any]) -> Any:
        """Read an answer; a child whose answer is none is asked no more."""
        try:
            return work()
        except (BrokenProtocol, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            self._child.give_up(f"broke the protocol: {type(error).__name__}")
            raise ChildLost(self._child.lost) from None

    def _result(self, arguments: tuple, header: dict[str, Any], body: bytes) -> Any:
        decoder = Decoder(body, lambda where: _part(arguments, where))
        print(str(decoder.decode(header["printed"])), end="")
        for position, path, kind, content in header["changed"][:MOST_CHANGES]:
            change(arguments[position], path, kind, decoder.decode(content))
        if header["drew"]:
            torch.rand(())
        if header["kept"]:
            kept = header["kept"]
            held = [arguments[position] for position in kept["arguments"]]
            size = min(int(kept["bytes"]), MOST_KEPT)
            inputs = [a for a in arguments if isinstance(a, torch.Tensor) and a.requires_grad]
            return _Result.apply(self, lambda: _tensor(decoder, header["value"]), size, held, *inputs)
        value = decoder.decode(header["value"])
        if isinstance(value, Raised):
            raise _exception(value)
        return value

    def _test(self, handed: Handed) -> Any:
        """What the student's test says of a candidate: it asks from there, and the candidate runs here."""

        def answer(header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
            with bounded_memory(MOST_MEMORY):
                code, result = handed.ask(header["question"], body)
            return {"answer": code}, result

        return self._understood(lambda: self._result((), *self._child.ask({"do": "test"}, answer=answer)))

    def gradients(self, gradient: torch.Tensor) -> list:
        """Gradients of the last result for its inputs, by the child's backward."""
        encoder = Encoder()
        request = {"do": "backward", "gradient": encoder.encode(gradient)}
        header, body = self._child.ask(request, bytes(encoder.body))
        value = self._understood(lambda: Decoder(body).decode(header["value"]))
        if isinstance(value, Raised):
            raise _exception(value)
        return value


class _Result(torch.autograd.Function):
    """A result whose backward is the child's; it keeps what the child keeps."""

    @staticmethod
    def forward(
        ctx: Any, remote: Remote, result: Callable, size: int, held: list, *inputs: torch.Tensor
    ) -> Any:
        ctx.remote, ctx.inputs, ctx.held = remote, len(inputs), held
        ctx.kept = torch.empty(size, dtype=torch.uint8)
        return result()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradients = ctx.remote.gradients(gradient)
        ones = [g if isinstance(g, torch.Tensor) else None for g in gradients][: ctx.inputs]
        return (None, None, None, None, *ones)


def _tensor(decoder: Decoder, code: Any) -> torch.Tensor:
    value = decoder.decode(code)
    if not isinstance(value, torch.Tensor):
        raise BrokenProtocol("a tensor was to come")
    return value


def _part(arguments: tuple, where: Any) -> torch.Tensor:
    position, path = where
    part = place(arguments[position], path, "requires_grad")
    if not isinstance(part, torch.Tensor):
        raise BrokenProtocol("there is no tensor at this place")
    return part


def _exception(raised: Raised) -> Exception:
    """An exception whose type bears the name of the one that was raised."""
    return type(raised.name, (Exception,), {})(raised.message)
