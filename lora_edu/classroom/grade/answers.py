"""In the child: define a student's function, call it, and tell all that the call does.

What this module says is a student's word, once the student's code has run in the same process. It is written as if it
were true; the parent believes none of it but values, which are right or are not.
"""

from __future__ import annotations

import ast
import contextlib
import io
import pickle
import tempfile
import weakref
from collections.abc import Callable, Iterator
from typing import IO, Any

import torch

from lora_edu.classroom.calls import call, changed_parts, parts
from lora_edu.classroom.candidates import Handed, seeded
from lora_edu.classroom.grade import cells
from lora_edu.classroom.grade.places import place
from lora_edu.classroom.live_tensors import LiveTensors
from lora_edu.classroom.values import Raised, one_line
from lora_edu.classroom.wire import Decoder, Encoder, read_frame, write_frame

MOST_PRINTED = 4_000  # characters of what a call prints
MOST_CHANGES = 500  # parts of the arguments
MOST_REQUEST = 256 << 20  # bytes that the parent may send: it is trusted


def warm_up(counts: bool) -> None:
    """Let PyTorch start and import what it does at the first backward, while it still may.

    `counts` says whether a task asks what a call keeps in memory: for that, PyTorch imports much.
    """
    torch.set_num_threads(1)
    tempfile.tempdir = (
        "/"  # where nothing can be written; else PyTorch looks for a better one, and finds none
    )
    W = torch.zeros(2, 2, requires_grad=True)
    with _counting(counts):
        (W @ W).sum().backward()


def serve(requests: IO[bytes], replies: IO[bytes], missing: dict[str, str]) -> None:
    """Say which guards are missing, then answer until the parent hangs up."""

    def exchange(header: Any, body: bytes) -> tuple[Any, bytes]:
        write_frame(replies, header, body)
        return read_frame(requests, most_body=MOST_REQUEST)

    student = _Student(exchange)
    write_frame(replies, {"missing": missing})
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            request, body = read_frame(requests, most_body=MOST_REQUEST)
            write_frame(replies, *student.answer(request, body))


class _Student:
    """A student's notebook and the function that is asked for.

    Parameters
    ----------
    exchange : callable
        Sends the parent a frame in the middle of a call, and gives what comes back.
    """

    def __init__(self, exchange: Callable[[Any, bytes], tuple[Any, bytes]]) -> None:
        self._exchange = exchange
        self._sources: list[str] = []
        self._statements: list[cells.Statement] = []
        self._function: Any = None
        self._graph: tuple[torch.Tensor, list[torch.Tensor]] | None = None

    def answer(self, request: dict, body: bytes) -> tuple[Any, bytes]:
        answers = {
            "notebook": self._read,
            "define": self._define,
            "call": self._call,
            "test": self._test,
            "backward": self._backward,
        }
        return answers[request["do"]](request, body)

    def _read(self, request: dict, body: bytes) -> tuple[Any, bytes]:
        try:
            self._sources = cells.code_cells(body)
            self._statements = cells.statements(self._sources)
        except ValueError as error:
            return {"fault": one_line(error)}, b""
        return {"fault": None}, b""

    def _define(self, request: dict, body: bytes) -> tuple[Any, bytes]:
        """Run what defines the asked name; say what it is, or why there is none."""
        name, self._function, self._graph = request["name"], None, None
        official = cells.statements(request["imports"])
        needed = cells.definition(name, self._statements, official, request["stub"])
        fault = cells.fault(name, self._sources)
        if not needed:
            return {"found": False, "fault": fault}, b""
        flags = annotations.compiler_flag if _postpones(self._statements) else 0
        space: dict[str, Any] = {"__name__": "__main__"}
        for statement in needed:
            fault = _run(statement.node, space, flags) or fault
        self._function = space.get(name)
        encoder = Encoder()
        kind = "callable" if callable(self._function) else "value"
        value = None if kind == "callable" else encoder.encode(self._function)
        return {"found": name in space, "fault": fault, "kind": kind, "value": value}, bytes(encoder.body)

    def _call(self, request: dict, body: bytes) -> tuple[Any, bytes]:
        """Call the function on arguments that the parent pickled: the parent is trusted, and the child is not."""
        arguments, leaves = _with_graph(pickle.loads(body))
        before = [dict(parts(argument)) for argument in arguments]
        numbers = torch.get_rng_state()
        with _counting(bool(leaves)) as live:
            made = call(self._function, arguments)
        drew = not torch.equal(numbers, torch.get_rng_state())
        encoder = Encoder(part_of=_Places(arguments))
        reply = {
            "value": encoder.encode(made.value),
            "printed": encoder.encode(made.printed[:MOST_PRINTED]),
            "changed": _changes(encoder, before, arguments),
            "drew": drew,
            "kept": None,
        }
        alive = _alive(arguments)
        del arguments, before
        if leaves and isinstance(made.value, torch.Tensor) and made.value.requires_grad:
            self._graph = made.value, leaves
            reply["kept"] = {"bytes": max(0, live.now - made.value.nbytes), "arguments": sorted(alive)}
        return reply, bytes(encoder.body)

    def _test(self, request: dict, body: bytes) -> tuple[Any, bytes]:
        """Hand the function, which is a test, a candidate that the parent keeps."""
        encoder = Encoder()
        with seeded():
            made = call(self._function, (Handed(self._asked),))
        value, printed = encoder.encode(made.value), encoder.encode(made.printed[:MOST_PRINTED])
        reply = {"value": value, "printed": printed, "changed": [], "drew": False, "kept": None}
        return reply, bytes(encoder.body)

    def _asked(self, code: Any, body: bytes) -> tuple[Any, bytes]:
        header, answer = self._exchange({"question": code}, body)
        return header["answer"], answer

    def _backward(self, request: dict, body: bytes) -> tuple[Any, bytes]:
        """Gradients of the last result for the tensors among its arguments that have one."""
        encoder = Encoder()
        try:
            if self._graph is None:
                raise RuntimeError("no result to go back from")
            value, leaves = self._graph
            self._graph = None
            grad = Decoder(body).decode(request["gradient"])
            gradients: Any = list(torch.autograd.grad(value, leaves, grad, allow_unused=True))
        except BaseException as error:
            gradients = Raised(type(error).__name__, one_line(error))
        return {"value": encoder.encode(gradients)}, bytes(encoder.body)


def _postpones(found: list[cells.Statement]) -> bool:
    """Whether a notebook has ``from __future__ import annotations``, which goes for all that follows."""
    imports = (s.node for s in found if isinstance(s.node, ast.ImportFrom))
    return any(node.module == "__future__" for node in imports)


def _run(node: ast.stmt, space: dict[str, Any], flags: int) -> str | None:
    """Run one statement; why it stopped, if it did."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(ast.Module([node], []), "<notebook>", "exec", flags, dont_inherit=True), space)
    except BaseException as error:
        return f"what it needs stops with {type(error).__name__}: {one_line(error)}"
    return None


def _with_graph(arguments: tuple) -> tuple[tuple, list[torch.Tensor]]:
    """Arguments of which those that want a gradient are results, so that nobody but their user keeps them alive."""
    leaves = [a for a in arguments if isinstance(a, torch.Tensor) and a.requires_grad]
    given = tuple(a * 1 if any(a is leaf for leaf in leaves) else a for a in arguments)
    return given, leaves


@contextlib.contextmanager
def _counting(really: bool) -> Iterator[Any]:
    if not really:
        yield None
        return
    with LiveTensors() as live:
        yield live


def _alive(arguments: tuple) -> set[int]:
    """The places of arguments that are tensors; each is struck out once nobody has it any more."""
    alive = set()
    for position, argument in enumerate(arguments):
        if isinstance(argument, torch.Tensor):
            alive.add(position)
            weakref.finalize(argument.untyped_storage(), alive.discard, position)
    return alive


class _Places:
    """Where in the arguments a tensor stands, for a result that is one of them."""

    def __init__(self, arguments: tuple):
        self._at = {
            id(place(argument, key[:-1], key[-1])): [position, list(key[:-1])]
            for position, argument in enumerate(arguments)
            for key, content in parts(argument)
            if isinstance(content, torch.Tensor)
        }

    def __call__(self, value: torch.Tensor) -> Any:
        return self._at.get(id(value))


def _said(step: Any) -> str | int:
    """A step on the way to a part, in a form that JSON has: a key of a dictionary may be anything."""
    return step if isinstance(step, str | int) else repr(step)[:200]


def _changes(encoder: Encoder, before: list[dict], arguments: tuple) -> list:
    """The parts of the arguments that are others than before: argument, place in it, what of it, its new content."""
    return [
        [position, [_said(step) for step in key[:-1]], key[-1], encoder.encode(after.get(key))]
        for position, (old, after) in enumerate(
            (old, dict(parts(argument))) for old, argument in zip(before, arguments, strict=True)
        )
        for key in changed_parts(old, after)
    ][:MOST_CHANGES]
