"""The state dict of a bitsandbytes NF4 layer, read and written, bit for bit.

``bitsandbytes.nn.Linear4bit.state_dict()`` holds the packed codes, the scales and the code tables as tensors,
and what is no tensor as JSON, whose bytes are a tensor too.
"""

import json
from contextlib import suppress
from typing import Any, cast

import torch
from jaxtyping import UInt8
from torch import Tensor

from lora_edu.methods import _validate
from lora_edu.methods.codebook import nf4_code
from lora_edu.methods.quant_state import QuantState

FACTS = "weight.quant_state.bitsandbytes__nf4"
"""The entry with what is no tensor."""


def read_linear4bit(
    state_dict: dict[str, Tensor],
) -> tuple[UInt8[Tensor, "bytes"], QuantState, Tensor | None]:
    """The packed codes, their ``QuantState``, and the bias or None.

    Raises
    ------
    TypeError, ValueError
        An entry is missing or unreadable, the bias does not fit, or the weight is not NF4. Whether the codes and
        the scales fit is for ``check_stored`` to say.
    """
    missing = {"weight", "weight.absmax", "weight.quant_map", FACTS} - state_dict.keys()
    allowed = f"an NF4 layer's, with {sorted(missing)}"
    _validate.require(not missing, "state_dict", allowed, sorted(state_dict))
    code = state_dict["weight.quant_map"].tolist()
    _validate.require(code == nf4_code().tolist(), "state_dict's quant_map", "the NF4 levels", code)
    facts = _read_facts(state_dict[FACTS])
    packed, offset = state_dict["weight"].flatten(), facts.get("nested_offset")
    quant_state = QuantState(
        torch.Size(facts["shape"]),
        facts["dtype"],
        facts["blocksize"],
        state_dict["weight.absmax"],
        state_dict.get("weight.nested_absmax"),
        facts.get("nested_blocksize"),
        state_dict.get("weight.nested_quant_map"),
        None if offset is None else torch.tensor(offset, dtype=torch.float32, device=packed.device),
    )
    bias = state_dict.get("bias")
    if bias is not None:
        _validate.tensor("state_dict's bias", bias)
        _validate.shape("state_dict's bias", bias, (quant_state.shape[0],))
    return packed, quant_state, bias


def _read_facts(entry: Tensor) -> dict[str, Any]:
    """What ``FACTS`` holds, checked, with the dtype as one of torch's."""
    _validate.tensor(f"state_dict's {FACTS}", entry, torch.uint8, 1)
    text, facts = bytes(entry.tolist()), cast(Any, None)
    with suppress(ValueError):
        facts = json.loads(text)
    _validate.require(isinstance(facts, dict), f"state_dict's {FACTS}", "a JSON object", text)
    shape = facts.get("shape")
    is_matrix = isinstance(shape, list) and [type(size) for size in shape] == [int, int] and min(shape) > 0
    _validate.require(is_matrix, "state_dict's shape", "two integers of at least 1", shape)
    _validate.integer("state_dict's blocksize", facts.get("blocksize"), 1)
    if facts.get("nested_offset") is not None:
        _validate.number("state_dict's nested_offset", facts["nested_offset"])
    dtype = getattr(torch, str(facts.get("dtype")), None)
    _validate.floating_dtype("state_dict's dtype", dtype)
    return facts | {"dtype": dtype}


def write_linear4bit(
    packed: UInt8[Tensor, "bytes"], quant_state: QuantState, bias: Tensor | None
) -> dict[str, Tensor]:
    """What ``bitsandbytes.nn.Linear4bit.state_dict()`` would be: ``read_linear4bit`` reversed."""
    s = quant_state
    facts = {
        "quant_type": "nf4",
        "blocksize": s.blocksize,
        "dtype": str(s.dtype).removeprefix("torch."),
        "shape": list(s.shape),
    }
    if s.offset is not None:
        facts |= {
            "nested_blocksize": s.nested_blocksize,
            "nested_dtype": "float32",
            "nested_offset": s.offset.item(),
        }
    tensors = {
        "weight": packed[:, None],
        "bias": bias,
        "weight.absmax": s.absmax,
        "weight.quant_map": nf4_code().to(s.absmax.device),
        "weight.nested_absmax": s.nested_absmax,
        "weight.nested_quant_map": s.nested_code,
        FACTS: torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8),
    }
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}
