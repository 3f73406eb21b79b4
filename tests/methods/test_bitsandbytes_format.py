"""What a bitsandbytes state dict must hold; that it goes both ways is for tests/parity."""

import json
import re

import pytest
import torch
from torch import nn

from lora_edu.methods.bitsandbytes_format import FACTS
from lora_edu.methods.codebook import fp4_code, nf4_code
from lora_edu.methods.qlora import NF4Linear


def state_dict(**entries):
    """A layer's of (6, 8), with other entries; None takes one away."""
    written = NF4Linear.from_linear(nn.Linear(8, 6), double_quant=True).to_bitsandbytes()
    return {name: t for name, t in (written | entries).items() if t is not None}


def facts(**entries):
    """The same with other facts; ... takes one away."""
    known = json.loads(bytes(state_dict()[FACTS].tolist())) | entries
    text = json.dumps({name: value for name, value in known.items() if value is not ...})
    return state_dict(**{FACTS: as_bytes(text)})


def as_bytes(text):
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def test_the_untouched_one_is_read():
    assert NF4Linear.from_bitsandbytes(facts()).dequantize().shape == (6, 8)


ENTRY = f"state_dict's {FACTS} must be"
LEVELS = "state_dict's quant_map must be the NF4 levels, got"
SHAPE = "state_dict's shape must be two integers of at least 1, got"
DTYPE = "state_dict's dtype must be a floating-point torch.dtype, got"
BAD = [
    (
        {"weight": torch.ones(1)},
        ValueError,
        f"state_dict must be an NF4 layer's, with ['weight.absmax', 'weight.quant_map', '{FACTS}'], got ['weight']",
    ),
    (state_dict(**{"weight.quant_map": None}), ValueError, "state_dict must be an NF4 layer's, with ['w"),
    (state_dict(**{"weight.quant_map": -nf4_code().flip(0)}), ValueError, f"{LEVELS} [-1.0, -0.7"),
    (state_dict(**{"weight.quant_map": fp4_code()}), ValueError, LEVELS),
    (
        state_dict(**{FACTS: as_bytes('{"shape": [6')}),
        ValueError,
        f"{ENTRY} a JSON object, got b'{{\"shape\": [6'",
    ),
    (state_dict(**{FACTS: as_bytes("[]")}), ValueError, f"{ENTRY} a JSON object, got b'[]'"),
    (state_dict(**{FACTS: torch.ones(3)}), TypeError, f"{ENTRY} a uint8 tensor, got torch.float32"),
    (facts(shape=...), ValueError, f"{SHAPE} None"),
    (facts(shape=[6, 8, 1]), ValueError, f"{SHAPE} [6, 8, 1]"),
    (facts(shape=[6, 8.0]), ValueError, f"{SHAPE} [6, 8.0]"),
    (facts(shape=[6, 0]), ValueError, f"{SHAPE} [6, 0]"),
    (facts(shape=[6, 80]), ValueError, "packed must be of shape (240,), got shape (24,)"),
    (facts(dtype=...), TypeError, f"{DTYPE} None"),
    (facts(dtype="int8"), TypeError, f"{DTYPE} torch.int8"),
    (facts(blocksize=...), TypeError, "state_dict's blocksize must be an integer of at least 1, got None"),
    (facts(blocksize=0), ValueError, "state_dict's blocksize must be an integer of at least 1, got 0"),
    (facts(nested_offset="0.1"), TypeError, "state_dict's nested_offset must be a finite number, got '0.1'"),
    (facts(nested_offset=...), TypeError, "quant_state.offset must be a float32 tensor, got NoneType"),
    (facts(nested_blocksize=...), TypeError, "quant_state.nested_blocksize must be an integer"),
    (state_dict(**{"weight.nested_absmax": None}), TypeError, "quant_state.nested_absmax must be"),
    (state_dict(bias=torch.ones(3)), ValueError, "state_dict's bias must be of shape (6,), got shape (3,)"),
    (state_dict(bias=torch.ones(6).int()), TypeError, "state_dict's bias must be a floating-point"),
]


@pytest.mark.parametrize(("entries", "error", "message"), BAD, ids=[message for *_, message in BAD])
def test_bad_input_is_refused_by_name(entries, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        NF4Linear.from_bitsandbytes(entries)
