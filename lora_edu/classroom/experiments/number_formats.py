"""One number in the formats of notebook 07, bit by bit."""

from __future__ import annotations

from typing import NamedTuple

import torch

from lora_edu.methods.blockwise import nearest_level
from lora_edu.methods.codebook import symmetric_int_code


class FloatFormat(NamedTuple):
    """A floating-point format: one bit for the sign, then exponent and fraction."""

    dtype: torch.dtype
    exponent_bits: int
    fraction_bits: int


class Stored(NamedTuple):
    """What a format keeps of a number: its bits by field, as text of 0 and 1, and the number they mean."""

    fields: dict[str, str]
    value: float


FLOATS = {
    "fp32": FloatFormat(torch.float32, 8, 23),
    "fp16": FloatFormat(torch.float16, 5, 10),
    "bf16": FloatFormat(torch.bfloat16, 8, 7),
    "fp8 E4M3": FloatFormat(torch.float8_e4m3fn, 4, 3),
}
_INTEGERS = {8: torch.uint8, 16: torch.int16, 32: torch.int32}


def as_float(number: float, name: str) -> Stored:
    """A number in one of the formats `FLOATS`: the fields sign, exponent and fraction.

    Raises
    ------
    ValueError
        If there is no format of that name.
    """
    if name not in FLOATS:
        raise ValueError(f"name must be one of {list(FLOATS)}, got {name!r}")
    dtype, exponent_bits, fraction_bits = FLOATS[name]
    stored = torch.tensor(number, dtype=torch.float32).to(dtype)
    width = 1 + exponent_bits + fraction_bits
    pattern = _pattern(int(stored.view(_INTEGERS[width])), width)
    cut = 1 + exponent_bits
    fields = {"sign": pattern[0], "exponent": pattern[1:cut], "fraction": pattern[cut:]}
    return Stored(fields, stored.float().item())


def as_integer(number: float, bits: int, largest: float) -> Stored:
    """A number as a whole number of steps (two's complement), the largest of which means `largest`.

    Steps are ``symmetric_int_code(bits)`` times `largest`. What lies beyond is stored as the largest.

    Raises
    ------
    ValueError
        If `largest` is not above 0, or `bits` is not in 2 … 8.
    """
    if not largest > 0:
        raise ValueError(f"largest must be above 0, got {largest}")
    code = symmetric_int_code(bits)
    index = nearest_level(torch.tensor(number / largest).clamp(-1, 1), code)
    steps = int(index) - len(code) // 2
    return Stored({"whole number": _pattern(steps, bits)}, code[index].item() * largest)


def in_all_formats(number: float, largest: float) -> dict[str, Stored]:
    """A number in the floating-point formats, and in int8 and int4 with steps up to `largest`."""
    floats = {name: as_float(number, name) for name in FLOATS}
    return floats | {f"int{bits}": as_integer(number, bits, largest) for bits in (8, 4)}


def rows(number: float, largest: float) -> dict[str, tuple[dict[str, str], str]]:
    """What `figures.bit_fields` draws of `in_all_formats`: nine digits tell any two numbers of fp32 apart."""
    stored = in_all_formats(number, largest)
    return {name: (fields, f"{value:.9g}") for name, (fields, value) in stored.items()}


def _pattern(integer: int, width: int) -> str:
    return f"{integer % 2**width:0{width}b}"
