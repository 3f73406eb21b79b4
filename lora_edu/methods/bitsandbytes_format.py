"""The state dict of a bitsandbytes NF4 layer, read and written, bit for bit.

``bitsandbytes.nn.Linear4bit.state_dict()`` holds the packed codes, the scales and the code tables as tensors,
and what is no tensor as JSON, whose bytes are a tensor too.
"""

import json
from typing import Any

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
        An entry is missing, or the weight is not NF4.
    """
    missing = {"weight", "weight.absmax", FACTS} - state_dict.keys()
    allowed = f"an NF4 layer's, with {sorted(missing)}"
    _validate.require(not missing, "state_dict", allowed, sorted(state_dict))
    facts = json.loads(bytes(state_dict[FACTS].tolist()))
    dtype: Any = getattr(torch, facts["dtype"], None)
    _validate.floating_dtype("state_dict's dtype", dtype)
    packed, offset = state_dict["weight"].flatten(), facts.get("nested_offset")
    quant_state = QuantState(
        torch.Size(facts["shape"]),
        dtype,
        facts["blocksize"],
        state_dict["weight.absmax"],
        state_dict.get("weight.nested_absmax"),
        facts.get("nested_blocksize"),
        state_dict.get("weight.nested_quant_map"),
        None if offset is None else torch.tensor(offset, dtype=torch.float32, device=packed.device),
    )
    return packed, quant_state, state_dict.get("bias")


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
