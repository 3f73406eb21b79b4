"""How llama.cpp's GGUF files lay out a model: the names of its tensors, and the order of the rows that positions turn.

Both ways of the course go through here: the base model is read from a GGUF file, adapters and merged models are written
to one.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor
    from transformers import PretrainedConfig

TENSOR_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Last part of a tensor's name in GGUF, and the module of transformers; those of a block stand under its number."""

_PARTS = {module: part for part, module in TENSOR_NAMES.items()}
_BLOCKS = "model.layers."


@dataclass(frozen=True)
class Architecture:
    """What llama.cpp calls a kind of model, and whether it wants query and key rows interleaved."""

    name: str
    interleaved: bool


ARCHITECTURES = {
    "llama": Architecture("llama", interleaved=True),
    "mistral": Architecture("llama", interleaved=True),
    "qwen2": Architecture("qwen2", interleaved=False),
}
"""By transformers' ``model_type``. Source: llama.cpp's ``convert_hf_to_gguf.py``, ``permute`` of LlamaModel, which
Qwen2Model has not."""


def architecture(config: "PretrainedConfig") -> Architecture:
    """Return how GGUF holds models of this configuration.

    Raises
    ------
    ValueError
        The kind of model is none of `ARCHITECTURES`.
    """
    kind = config.model_type
    if kind not in ARCHITECTURES:
        raise ValueError(f"base must be a model of type {', '.join(ARCHITECTURES)}, got {kind}")
    return ARCHITECTURES[kind]


def gguf_name(path: str) -> str:
    """Return what GGUF calls the weight of a module: ``model.layers.3.mlp.up_proj`` is ``blk.3.ffn_up.weight``.

    Raises
    ------
    ValueError
        GGUF has no name for the module.
    """
    block, module = "", path
    if path.startswith(_BLOCKS):
        number, _, module = path.removeprefix(_BLOCKS).partition(".")
        block = f"blk.{number}."
    if module not in _PARTS or bool(block) == module.startswith("model."):
        raise ValueError(f"GGUF must have a name for each module, it has none for {path}")
    return f"{block}{_PARTS[module]}.weight"


def module_path(name: str) -> str:
    """Return the module whose weight a GGUF tensor is: the inverse of `gguf_name`."""
    *block, part, _ = name.split(".")  # blk.<number>.<part>.weight, or <part>.weight
    return f"{_BLOCKS}{block[1]}.{TENSOR_NAMES[part]}" if block else TENSOR_NAMES[part]


def rotary_heads(path: str, config: "PretrainedConfig") -> int | None:
    """Return how many heads' rows of this module GGUF holds in another order; None if it holds them as they are."""
    if not architecture(config).interleaved:
        return None
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    return heads.get(path.rpartition(".")[2])


def interleave_rows(weight: "Float[Tensor, 'rows columns']", heads: int) -> "Float[Tensor, 'rows columns']":
    """Reorder the rows of a query or key weight, or of its ``lora_B``, from transformers' order to llama.cpp's.

    Rotary embedding turns pairs of a head's features. transformers pairs halves (i, i + head_dim / 2), llama.cpp
    neighbours (2i, 2i + 1), so a GGUF file of a llama model holds these rows interleaved. Attention does not notice: it
    takes products of queries and keys, and both are reordered alike.
    """
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def separate_rows(weight: "Float[Tensor, 'rows columns']", heads: int) -> "Float[Tensor, 'rows columns']":
    """Reorder such rows from llama.cpp's order to transformers': the inverse of `interleave_rows`."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)
