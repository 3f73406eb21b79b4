"""What is in memory while a model trains: counted live, tensor by tensor, and what records and the ledger say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lora_edu.classroom import records
from lora_edu.llm.budget import Ledger, memory_ledger
from lora_edu.llm.budget.preflight import GIB
from lora_edu.methods.qlora import NF4Linear


def bytes_of(tensors: Iterable[Tensor | None]) -> int:
    """Bytes of the tensors together; None counts nothing."""
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def standing_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Bytes that a model and its optimizer hold between two steps, by the ledger's terms (`lora_edu.llm.budget`).

    Parameters
    ----------
    model
        With its adapters, and gradients after a backward; quantized layers are ``NF4Linear``.
    optimizer
        After its first step, which makes its state.

    Returns
    -------
    dict
        ``weights`` (frozen, 4-bit codes included), ``quantization constants``, ``adapters``, ``gradients`` and
        ``optimizer`` (its averages, without step counters).
    """
    quantized = [layer for layer in model.modules() if isinstance(layer, NF4Linear)]
    trained = [p for p in model.parameters() if p.requires_grad]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    averages = [t for state in optimizer.state.values() for t in state.values() if t.dim() > 0]
    return {
        "weights": bytes_of([*frozen, *(layer.packed for layer in quantized)]),
        "quantization constants": sum(bytes_of(layer.buffers()) - layer.packed.nbytes for layer in quantized),
        "adapters": bytes_of(trained),
        "gradients": bytes_of(p.grad for p in trained),
        "optimizer": bytes_of(averages),
    }


def checkpoint_blocks(model: Any) -> None:
    """Switch gradient checkpointing on: each block of a transformers model keeps its input alone."""
    enable = getattr(model, "activation_checkpointing_enable", None)  # its name since transformers 5.2x
    (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})


# ---------------------------------------------------------------- the ledger, for pictures

_KINDS = {
    "weights": ("weights", "quantization constants"),
    "adapters": ("adapters",),
    "gradients": ("gradients",),
    "optimizer": ("optimizer",),
    "activations": ("activations", "key-value cache"),
    "logits, workspace": ("logits", "workspace"),
    "Python, libraries": ("process",),
}


def gibibytes(ledger: Mapping[str, int]) -> dict[str, float]:
    """The terms of a ledger in GiB, in fewer kinds, which sum to the ledger's total."""
    return {kind: sum(ledger[term] for term in terms) / GIB for kind, terms in _KINDS.items()}


_STEP_BY_STEP = {"cuda_graphs": False}
"""What a case had that does not say otherwise."""


def cases(name: str, **settings: object) -> list[dict[str, Any]]:
    """The cases of a memory record that had these settings, in its order.

    Parameters
    ----------
    name
        ``"gpu_memory"`` or ``"cpu_memory"``, in ``data/runs``.
    **settings
        What a case must have had, such as ``method="qlora", batch=1``.

    Raises
    ------
    ValueError
        There is no record of that name, or no case had these settings.
    """
    entries = records.read(name)["cases"]
    found = [entry for entry in entries if settings.items() <= (_STEP_BY_STEP | entry["case"]).items()]
    if not found:
        raise ValueError(f"settings must be those of a case in {name}, got {settings}")
    return found


def recorded_ledger(case: Mapping[str, Any], device: str) -> Ledger:
    """What the ledger predicts for a case of ``data/runs/gpu_memory.json`` or ``cpu_memory.json``.

    Parameters
    ----------
    case
        The settings that were recorded.
    device
        ``"cuda"`` or ``"cpu"``: on a GPU, QLoRA had paged 8-bit AdamW.
    """
    settings = {name: value for name, value in case.items() if name != "model"}
    paged = device == "cuda" and case["method"] == "qlora"
    optimizer = "paged_adamw_8bit" if paged else "adamw"
    settings |= {"dtype": getattr(torch, case["dtype"]), "optimizer": optimizer, "device": device}
    return memory_ledger(case["model"], **settings)
