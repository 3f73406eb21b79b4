"""What a model keeps on the way forward for the way back (notebook 03)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lora_edu.classroom import records

WAYS = ("full fine-tuning", "LoRA on q and v", "LoRA on all linear", "the same with dropout")
"""How SmolLM2 was trained for data/runs/kept_activations.json."""
BASES = {"float32": "all in float32", "bfloat16": "base in bfloat16, B and A in float32"}
"""The dtype in which the base was loaded, and in words what that means for LoRA."""


def kept_bytes(model: nn.Module, ids: Tensor) -> int:
    """Bytes that one forward pass keeps for the way back, up to the logits; weights and buffers are left out.

    Parameters
    ----------
    model : nn.Module
        A transformers language model. Which of its parameters train decides what is kept.
    ids : Tensor
        Token ids, shape (batch, tokens).

    Returns
    -------
    int
        Tensors that autograd saved, in bytes. Those that share their memory count once.
    """
    standing = {_memory(tensor) for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}  # the tensors themselves: while they live, no other gets their memory

    def keep(tensor: Tensor) -> Tensor:
        kept[_memory(tensor)] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=ids)
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in standing)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def recorded_mebibytes() -> dict[str, list[float]]:
    """MiB that SmolLM2 keeps for a token, as recorded: for each of `BASES`, in words, one number a way of `WAYS`."""
    record = records.read("kept_activations")
    kept = {(case["base"], case["way"]): case["kept_bytes"] for case in record["cases"]}
    return {
        words: [kept[base, way] / record["tokens"] / 2**20 for way in WAYS] for base, words in BASES.items()
    }
