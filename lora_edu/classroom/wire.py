"""How values cross between the grader and a student's process: JSON, and the raw bytes of tensors beside it.

A frame is two lengths, a JSON header and a body of bytes. Both sides encode in the same way. What comes from a child
is never unpickled: `decode` makes plain values, numbers of numpy and tensors out of it and nothing else, and everything
that it takes has a limit.
"""

from __future__ import annotations

import dataclasses
import fractions
import json
import math
import struct
from collections.abc import Callable
from typing import IO, Any

import numpy as np
import torch

from lora_edu.classroom.values import Lazy, Raised

LENGTHS = struct.Struct(">4sII")
MAGIC = b"lora"
MOST_HEADER, MOST_BODY = 2 << 20, 4 << 20  # bytes of a frame that a child may send
MOST_ITEMS = 20_000  # values in one answer; a tensor is one
MOST_KEYS = 1_000  # in a dictionary or a set: whole numbers can be chosen so that all of them collide
MOST_DEPTH = 50
MOST_TEXT = 20_000  # characters
MOST_BITS = 20_000  # of a whole number

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
    )
}
NUMPY = {
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
}


class BrokenProtocol(Exception):
    """What came is no frame, or no value that `encode` makes."""


@dataclasses.dataclass(frozen=True, eq=False)
class Odd:
    """A value that cannot cross: equal to nothing. Its class bears the name of the value's type (`odd`)."""

    text: str

    def __repr__(self) -> str:
        return self.text


def odd(kind: str, text: str) -> Odd:
    """An `Odd` whose type is called `kind`, as far as that is a name."""
    return type(name_or(kind, "object"), (Odd,), {})(text[:200])


def name_or(text: Any, other: str) -> str:
    """`text` if it is a short name in Python, else `other`."""
    return text if isinstance(text, str) and len(text) <= 60 and text.isidentifier() else other


# ---------------------------------------------------------------- frames


def write_frame(stream: IO[bytes], header: Any, body: bytes = b"") -> None:
    """Write one frame and flush it."""
    text = json.dumps(header).encode("ascii")
    stream.write(LENGTHS.pack(MAGIC, len(text), len(body)) + text + body)
    stream.flush()


def read_frame(stream: IO[bytes], most_body: int = MOST_BODY) -> tuple[Any, bytes]:
    """Read one frame: its header and its body.

    Raises
    ------
    EOFError
        The other side has gone.
    BrokenProtocol
        What comes is no frame, or longer than a frame may be; nothing of that length has been read.
    """
    magic, header, body = LENGTHS.unpack(_exactly(stream, LENGTHS.size))
    if magic != MAGIC or header > MOST_HEADER or body > most_body:
        raise BrokenProtocol("what came is no frame, or too long")
    text = _exactly(stream, header)
    try:
        return json.loads(text), _exactly(stream, body)
    except (ValueError, RecursionError) as error:
        raise BrokenProtocol("the header is no JSON") from error


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError("the other side has gone")
    return data


# ---------------------------------------------------------------- encode


class Encoder:
    """Turns values into JSON, and collects the bytes of tensors and arrays in ``body``.

    Parameters
    ----------
    part_of : callable
        Where in the arguments of the call a tensor is, if it is the very object: JSON, or None.
    """

    def __init__(self, part_of: Callable[[Any], Any] = lambda value: None):
        self.body = bytearray()
        self._part_of, self._items = part_of, 0

    def encode(self, value: Any, depth: int = 0) -> Any:
        """JSON for a value; what cannot cross becomes its type's name and its text."""
        self._items += 1
        if depth > MOST_DEPTH or self._items > MOST_ITEMS:
            return _as_odd(value, "too large an answer")
        if isinstance(value, Raised):
            return {"raised": [value.name, _clean(value.message)]}
        if isinstance(value, Lazy):
            return {"lazy": [value.kind, self._all(value.items, depth)]}
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, np.ndarray | np.generic):
            return self._numpy(value)
        if isinstance(value, list | tuple):
            return {"list" if isinstance(value, list) else "tuple": self._all(value, depth)}
        if type(value) in (set, frozenset) and len(value) <= MOST_KEYS:
            return {"set": self._all(value, depth)}
        if isinstance(value, dict) and len(value) <= MOST_KEYS:
            return {"dict": [self._all(pair, depth) for pair in value.items()]}
        return _plain(value)

    def _all(self, values: Any, depth: int) -> list:
        return [self.encode(value, depth + 1) for value in values]

    def _tensor(self, value: torch.Tensor) -> Any:
        if (part := self._part_of(value)) is not None:
            return {"part": part}
        name = str(value.dtype).removeprefix("torch.")
        size = value.numel() * value.element_size()
        if name not in DTYPES or value.layout != torch.strided or value.is_meta or self._is_full(size):
            return _as_odd(value, f"a tensor of shape {tuple(value.shape)} in {value.dtype}")
        return {"tensor": [name, list(value.shape), *self._put(_bytes_of(value))]}

    def _numpy(self, value: np.ndarray | np.generic) -> Any:
        if value.dtype.name not in NUMPY or self._is_full(value.nbytes):
            return _as_odd(value)
        kind = "array" if isinstance(value, np.ndarray) else "number"
        return {kind: [value.dtype.name, list(value.shape), *self._put(value.tobytes())]}

    def _is_full(self, size: int) -> bool:
        return len(self.body) + size > MOST_BODY

    def _put(self, data: bytes) -> tuple[int, int]:
        start = len(self.body)
        self.body += data
        return start, len(data)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if value is ...:
        return {"ellipsis": True}
    if isinstance(value, int) and value.bit_length() <= MOST_BITS:
        return {"int": hex(value)}
    if isinstance(value, float):
        return {"float": float.hex(value)}
    if isinstance(value, complex):
        return {"complex": [float.hex(value.real), float.hex(value.imag)]}
    if isinstance(value, fractions.Fraction):
        return {"fraction": [hex(value.numerator), hex(value.denominator)]}
    if type(value) is str and len(value) <= MOST_TEXT:
        return {"str": _clean(value)}
    if type(value) is bytes and len(value) <= MOST_TEXT:
        return {"bytes": value.hex()}
    return _as_odd(value)


def _as_odd(value: Any, text: str | None = None) -> Any:
    try:
        return {"odd": [type(value).__name__, _clean(repr(value) if text is None else text)[:200]]}
    except BaseException:  # a `__repr__` may do anything
        return {"odd": [type(value).__name__, f"<{type(value).__name__}>"]}


def _clean(text: str) -> str:
    """Text of whole characters."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _bytes_of(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    flat = torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat
    return flat.view(torch.uint8).numpy().tobytes()


# ---------------------------------------------------------------- decode


class Decoder:
    """Makes values out of what `Encoder` wrote, and nothing else.

    Parameters
    ----------
    body : bytes
        Of the frame.
    part : callable
        The tensor that stands at a place in the arguments of the call.
    """

    def __init__(self, body: bytes, part: Callable[[Any], Any] | None = None):
        self._body, self._part, self._items, self._taken = body, part, 0, 0

    def decode(self, code: Any, depth: int = 0) -> Any:
        """The value behind the JSON.

        Raises
        ------
        BrokenProtocol
            It is none that `Encoder` writes, or larger than an answer may be.
        """
        try:
            return self._decode(code, depth)
        except BrokenProtocol:
            raise
        except (LookupError, TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError) as error:
            raise BrokenProtocol(f"what came is no value ({type(error).__name__})") from error

    def _decode(self, code: Any, depth: int) -> Any:
        self._items += 1
        if depth > MOST_DEPTH + 1 or self._items > 2 * MOST_ITEMS:
            raise BrokenProtocol("the answer is too large")
        if code is None or isinstance(code, bool):
            return code
        [(kind, content)] = code.items()
        if kind in ("list", "tuple", "set"):
            return self._collection(kind, content, depth)
        if kind == "dict":
            pairs = [self._all(pair, depth) for pair in _at_most(content, MOST_KEYS)]
            return {key: value for key, value in pairs}
        if kind == "lazy":
            return Lazy(name_or(content[0], "iterator"), self._all(content[1], depth))
        if kind == "part" and self._part is not None:
            return self._part(content)
        if kind in ("tensor", "array", "number"):
            return self._numbers(kind, *content)
        return _PLAIN[kind](content)

    def _all(self, codes: Any, depth: int) -> list:
        if not isinstance(codes, list):
            raise BrokenProtocol("a list was to come")
        return [self._decode(code, depth + 1) for code in codes]

    def _collection(self, kind: str, codes: Any, depth: int) -> Any:
        if kind == "set":
            return set(self._all(_at_most(codes, MOST_KEYS), depth))
        values = self._all(codes, depth)
        return values if kind == "list" else tuple(values)

    def _numbers(self, kind: str, name: str, shape: list, start: int, size: int) -> Any:
        if not all(type(n) is int and 0 <= n < 2**40 for n in (*shape, start, size)) or len(shape) > 16:
            raise BrokenProtocol("the shape is none")
        self._taken += size
        if self._taken > len(self._body):  # no two tensors are made of the same bytes
            raise BrokenProtocol("more is taken than came")
        data = bytearray(self._body[start : start + size])
        item = DTYPES[name].itemsize if kind == "tensor" else np.dtype(_known(name, NUMPY)).itemsize
        if len(data) != size or math.prod(shape) * item != size:
            raise BrokenProtocol("the bytes do not fill the shape")
        if kind == "tensor":
            return _tensor(DTYPES[name], data).reshape(shape)
        array = np.frombuffer(data, dtype="uint8" if name == "bool" else name)
        array = (array != 0 if name == "bool" else array).reshape(shape)
        return array if kind == "array" else array[()]


def _tensor(dtype: torch.dtype, data: bytearray) -> torch.Tensor:
    """A tensor of its own memory, so that whoever counts tensors sees it."""
    if not data:
        return torch.empty(0, dtype=dtype)
    if dtype == torch.bool:  # a byte of a bool is 0 or 1, whatever was sent
        return torch.frombuffer(data, dtype=torch.uint8) != 0
    return torch.frombuffer(data, dtype=dtype).clone()


def _at_most(items: Any, most: int) -> list:
    if not isinstance(items, list) or len(items) > most:
        raise BrokenProtocol("too many keys")
    return items


def _known(name: str, names: set[str]) -> str:
    if name not in names:
        raise BrokenProtocol("no such dtype")
    return name


def _text(text: Any) -> str:
    if not isinstance(text, str) or len(text) > 4 * MOST_TEXT:
        raise BrokenProtocol("no text, or too long")
    return _clean(text)


def _whole(text: Any) -> int:
    if len(text) > MOST_BITS // 4 + 8:
        raise BrokenProtocol("the number is too long")
    return int(text, 16)


_PLAIN: dict[str, Callable[[Any], Any]] = {
    "ellipsis": lambda content: ...,
    "int": _whole,
    "float": lambda content: float.fromhex(_text(content)),
    "complex": lambda content: complex(*map(float.fromhex, content)),
    "fraction": lambda content: fractions.Fraction(*map(_whole, content)),
    "str": _text,
    "bytes": lambda content: bytes.fromhex(_text(content)),
    "raised": lambda content: Raised(name_or(content[0], "Exception"), _text(content[1])),
    "odd": lambda content: odd(content[0], _text(content[1])),
}
