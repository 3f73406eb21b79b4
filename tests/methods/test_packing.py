"""Packing is the inverse of unpacking, and the byte is the one a human would write."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_edu.methods.packing import pack_4bit, unpack_4bit


@given(st.lists(st.integers(0, 15), min_size=1, max_size=200))
def test_unpacking_returns_what_was_packed(values):
    indices = torch.tensor(values, dtype=torch.uint8)
    packed = pack_4bit(indices)
    assert packed.dtype == torch.uint8 and packed.shape == ((len(values) + 1) // 2,)
    assert torch.equal(unpack_4bit(packed, len(values)), indices)


@given(st.lists(st.integers(0, 15), min_size=1, max_size=50))
def test_a_byte_reads_as_two_hexadecimal_digits(values):
    digits = "".join(f"{v:x}" for v in values)
    expected = bytes.fromhex(digits + "0" * (len(digits) % 2))
    assert bytes(pack_4bit(torch.tensor(values, dtype=torch.uint8)).tolist()) == expected


def test_a_matrix_is_packed_row_by_row():
    indices = torch.arange(12, dtype=torch.uint8).view(3, 4)
    assert torch.equal(pack_4bit(indices), pack_4bit(indices.flatten()))
    assert torch.equal(pack_4bit(indices.T), pack_4bit(indices.T.contiguous()))


BAD = [
    (lambda: pack_4bit([1, 2]), TypeError, "indices must be a uint8 tensor, got list"),
    (lambda: pack_4bit(torch.tensor([1, 2])), TypeError, "indices must be a uint8 tensor, got torch.int64"),
    (
        lambda: pack_4bit(torch.empty(0, dtype=torch.uint8)),
        ValueError,
        "indices must be a tensor with at least one element, got shape (0,)",
    ),
    (
        lambda: pack_4bit(torch.tensor([3, 16], dtype=torch.uint8)),
        ValueError,
        "indices must be at most 15, got 16",
    ),
    (lambda: unpack_4bit(torch.zeros(2), 4), TypeError, "packed must be a uint8 tensor, got torch.float32"),
    (
        lambda: unpack_4bit(torch.zeros(2, 2, dtype=torch.uint8), 8),
        ValueError,
        "packed must be 1-dimensional, got shape (2, 2)",
    ),
    (
        lambda: unpack_4bit(torch.zeros(2, dtype=torch.uint8), 5),
        ValueError,
        "numel must be an integer in 3 … 4, got 5",
    ),
    (
        lambda: unpack_4bit(torch.zeros(2, dtype=torch.uint8), 2),
        ValueError,
        "numel must be an integer in 3 … 4, got 2",
    ),
    (
        lambda: unpack_4bit(torch.zeros(2, dtype=torch.uint8), 4.0),
        TypeError,
        "numel must be an integer in 3 … 4, got 4.0",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[message for _, _, message in BAD])
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()
