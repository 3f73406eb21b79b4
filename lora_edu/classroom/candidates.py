"""A candidate that a learner's test is handed: only values cross, wherever the test runs.

A written test is judged by functions of ours, right ones and wrong ones. They stay here. The test gets a `Handed`, the
same for all of them: it sends arguments as `wire` has them, and a result or an exception comes back. So a test that
runs in a student's process cannot tell by a name, a source or an identity which candidate is right. In a notebook the
same way is taken, so that a test does there what it does here.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from lora_edu.classroom.calls import outcome
from lora_edu.classroom.values import Raised
from lora_edu.classroom.wire import Decoder, Encoder, Odd

MOST_NUMBERS = 1 << 16  # in the arguments of one call
MOST_CALLS = 1_000  # of one candidate by one test
MOST_SECONDS = 5.0  # of one candidate in one test
EXCEPTIONS = {
    kind.__name__: kind
    for kind in (
        *(ArithmeticError, AssertionError, AttributeError, IndexError, KeyError, MemoryError, OverflowError),
        *(RuntimeError, TypeError, ValueError, ZeroDivisionError),
    )
}


class Handed:
    """What a test gets and calls.

    Parameters
    ----------
    ask : callable
        Takes encoded arguments, as JSON and bytes, and gives the encoded result.
    """

    def __init__(self, ask: Callable[[Any, bytes], tuple[Any, bytes]]):
        self.ask = ask

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        encoder = Encoder()
        code = encoder.encode([arguments, named])
        value = _decoded(*self.ask(code, bytes(encoder.body)))
        if isinstance(value, Raised):
            raise EXCEPTIONS.get(value.name, type(value.name, (Exception,), {}))(value.message)
        return value

    def __repr__(self) -> str:
        return "candidate"


class Candidate:
    """A function of ours under a student's test: so many calls, so much time, so large arguments and no more."""

    def __init__(self, function: Callable):
        self._function, self._calls, self._seconds = function, 0, 0.0

    def answer(self, code: Any, body: bytes) -> tuple[Any, bytes]:
        """The encoded result, or what was raised, for encoded arguments.

        Raises
        ------
        BrokenProtocol, TypeError, ValueError
            What came are no arguments.
        """
        arguments, named = _decoded(code, body)
        self._calls += 1
        start = time.monotonic()
        why = self._unfit(arguments, named) or self._refusal([*arguments, *named.values()])
        value = why or outcome(functools.partial(self._function, **named), tuple(arguments))
        self._seconds += time.monotonic() - start
        encoder = Encoder()
        return encoder.encode(value), bytes(encoder.body)

    def _unfit(self, arguments: list, named: dict) -> Raised | None:
        """That these are too many or too few, in words that do not name the function, as Python's own do."""
        try:
            inspect.signature(self._function).bind(*arguments, **named)
        except TypeError as error:
            return Raised("TypeError", f"candidate: {error}")
        return None

    def _refusal(self, arguments: list) -> Raised | None:
        """Why these arguments are not tried, if so."""
        if self._calls > MOST_CALLS or self._seconds > MOST_SECONDS:
            return Raised(
                "RuntimeError", f"a test may call {MOST_CALLS} times, for {MOST_SECONDS:.0f} seconds in all"
            )
        if strange := next((value for value in arguments if isinstance(value, Odd | str)), None):
            return Raised("TypeError", f"a test hands over tensors, numbers and lists, not {strange}")
        if (numbers := sum(map(_numbers, arguments))) > MOST_NUMBERS:
            return Raised("ValueError", f"a test hands over at most {MOST_NUMBERS} numbers, not {numbers}")
        return None


def _decoded(code: Any, body: bytes) -> Any:
    return Decoder(body).decode(code)


def _numbers(value: Any) -> int:
    """How many numbers a value holds."""
    if isinstance(value, torch.Tensor):
        return value.numel()
    if isinstance(value, dict):
        return sum(map(_numbers, value.values()))
    return sum(map(_numbers, value)) if isinstance(value, list | tuple | set) else 1


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """In this block PyTorch's random numbers are the same at every call of a test, whichever candidate it gets."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
