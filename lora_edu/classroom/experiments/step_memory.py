"""Where the memory of a QLoRA step goes, part by part: predicted, counted live, and recorded on a GPU (notebook 09)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from lora_edu.classroom import figures
from lora_edu.classroom.experiments.gpu_fits import T4_GIB
from lora_edu.classroom.experiments.in_memory import cases, recorded_ledger, standing_bytes
from lora_edu.classroom.experiments.training_memory import PARTS, split
from lora_edu.classroom.live_tensors import LiveTensors
from lora_edu.llm.budget import Ledger, memory_ledger
from lora_edu.llm.budget.moments import HEAP_FACTOR, FineTune
from lora_edu.llm.budget.preflight import GIB
from lora_edu.methods.qlora import NF4Linear

ROLES = {part: role for part, role in PARTS.items() if part != "gradients"}
"""Parts at the peak, where activations are there and gradients are not, and their meaning in the course's colours."""
STANDING = {part: ROLES[part] for part in list(ROLES)[:5]}
"""Those parts that stand from step to step."""
CARD = ("card: 48 GiB", 48.0)
WIDTH, LAYERS = 8192, 80  # LLaMA-65B
T4 = (f"T4: {T4_GIB} GiB", T4_GIB)
RANKS, TOKENS = (8, 16, 64, 256), (512, 1024, 2048)
WAYS = {
    "LoRA": ("lora", "adamw"),
    "QLoRA": ("qlora", "adamw"),
    "QLoRA, 8-bit averages": ("qlora", "paged_adamw_8bit"),
}
"""Method and optimizer: the first two have the same, with averages in 32 bits."""
MODELS = ("Mistral-7B", "Qwen2.5-7B")
USUAL = {
    **{"backend": "peft", "dtype": "bfloat16", "gradient_checkpointing": True, "batch": 1, "seq": 512},
    "cuda_graphs": False,
}
METHODS = {"lora": "LoRA", "qlora": "QLoRA"}


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW over what trains."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)


# ---------------------------------------------------------------- one live step of SmolLM2 on a CPU


def predicted(tokens: int) -> dict[str, float]:
    """GiB of tensors by `ROLES`, for SmolLM2-135M in float32, NF4 and rank 8, one text, by `lora_edu`'s layers.

    The moment is that of the loss: a short text's peak on a CPU may come before, while the model loads. There the
    ledger predicts the memory of the process: it adds Python, and counts activations a second time for the holes that
    freed tensors leave. Here tensors are counted, so neither belongs to the prediction.
    """
    settings = memory_ledger("SmolLM2-135M", "qlora", batch=1, seq=tokens, r=8, backend="scratch").settings
    _, at_the_loss, *_ = FineTune(**settings).moments()
    parts = dict(split(Ledger(at_the_loss, settings), "SmolLM2-135M"))
    parts["activations"] /= 1 + HEAP_FACTOR
    return {part: parts[part] for part in ROLES}


def measured(model: Any, optimizer: torch.optim.Optimizer, ids: Tensor) -> dict[str, float]:
    """Train one step and count what is alive: GiB by `ROLES`, at the peak.

    Parameters
    ----------
    model
        With `NF4Linear` layers and adapters, of transformers.
    optimizer
        Of the adapters; the step makes its averages, which count as if they had been there.
    ids
        Tokens, (1, tokens).
    """
    with LiveTensors() as live:
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        log_probabilities = 4 * ids.numel() * model.config.vocab_size
        activations = live.now - log_probabilities
        loss.backward()
    optimizer.step()
    standing = standing_bytes(model, optimizer)
    codes = sum(layer.packed.nbytes for layer in model.modules() if isinstance(layer, NF4Linear))
    sizes = (
        standing["weights"] - codes,
        codes,
        standing["quantization constants"],
        standing["adapters"],
        standing["optimizer"],
        activations,
        live.peak - activations,
    )
    return {part: size / GIB for part, size in zip(ROLES, sizes, strict=True)}


def cost_of_a_step(model: Any, ids: Tensor) -> tuple[float, float]:
    """MiB that wait between forward and backward, and seconds of both, the lesser of two tries."""
    tries = []
    for _ in range(2):
        model.zero_grad()
        start = time.perf_counter()
        with LiveTensors() as live:
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            waiting = live.now
            loss.backward()
        tries.append((time.perf_counter() - start, waiting / 2**20))
    seconds, waiting = min(tries)
    return waiting, seconds


# ---------------------------------------------------------------- recorded, and predicted, on a GPU


def recorded_peaks() -> tuple[dict[str, dict[str, float]], dict[str, float | None]]:
    """Predicted GiB by `ROLES` and measured GiB of one text of 512 tokens, rank 16, by model and method.

    From data/runs/gpu_memory.json: real shapes, random weights, bfloat16, gradient checkpointing, a limit of 14.5 GiB.
    Measured is None where that was too little. QLoRA had 8-bit averages, LoRA 32-bit ones.
    """
    bars, found = {}, {}
    for model in MODELS:
        for method, name in METHODS.items():
            [entry] = cases("gpu_memory", model=model, method=method, **USUAL)
            bar = f"{model}, {name}"
            bars[bar] = _peak(split(recorded_ledger(entry["case"], "cuda"), model))
            size = entry.get("measured_bytes")
            found[bar] = None if size is None else size / GIB
    return bars, found


def _peak(parts: Mapping[str, float]) -> dict[str, float]:
    if parts["gradients"]:
        raise ValueError("the peak must come when the loss is computed, before there are gradients")
    return {part: parts[part] for part in ROLES}


@cache
def mistral(way: str, r: int, tokens: int, checkpointing: bool) -> Mapping[str, float]:
    """Predicted GiB by `PARTS` of Mistral-7B in one of `WAYS`, one text in bfloat16, with fused attention."""
    method, optimizer = WAYS[way]
    settings = {"optimizer": optimizer, "device": "cuda", "gradient_checkpointing": checkpointing}
    ledger = memory_ledger("Mistral-7B", method, 1, tokens, r, dtype=torch.bfloat16, **settings)
    return split(ledger, "Mistral-7B")


def draw_mistral(ax: Any, r: int, tokens: int, checkpointing: str) -> None:
    """A bar a way, on an axis that stands still, with the memory of a T4."""
    bars = {way: mistral(way, r, tokens, checkpointing == "on") for way in WAYS}
    totals = [sum(parts.values()) for parts in bars.values()]
    told = f"QLoRA takes {totals[1]:.1f} GiB, LoRA {totals[0]:.1f}"
    figures.memory_at_peak(
        bars,
        roles=PARTS,
        limit=T4,
        largest=38.0,
        title=f"Mistral-7B, r = {r}, {tokens:,} tokens, checkpointing {checkpointing}: {told}",
        ax=ax,
    )


def llama_65b(r: int = 64) -> dict[str, dict[str, float]]:
    """GiB that stand from the first step to the last in the paper's case: NF4, adapters on all linear layers.

    Everything that is not 4-bit is 16-bit but the averages, which are 32-bit, as in the authors' script. Gradients and
    activations come on top. Two bars, by the parts of `STANDING`: with the averages, and when they are paged out.

    References
    ----------
    Touvron et al. 2023 (arXiv 2302.13971), table 2: width 8192, 80 layers. The inner width of the MLP is 2/3 of four
    times that, rounded up to a multiple of 256. Dettmers et al. 2023, and artidoro/qlora, qlora.py: `lora_r` 64,
    `optim` paged_adamw_32bit.
    """
    inner = 256 * -(-8 * WIDTH // 3 // 256)
    weights = LAYERS * (4 * WIDTH**2 + 3 * WIDTH * inner)
    trained = r * LAYERS * (4 * 2 * WIDTH + 3 * (WIDTH + inner))
    sizes = (
        2 * 2 * 32_000 * WIDTH,
        weights / 2,
        weights / 64 + 4 * weights / 64 / 256,
        2 * trained,
        8 * trained,
    )
    bar = {part: size / GIB for part, size in zip(STANDING, sizes, strict=True)}
    return {"LLaMA-65B": bar, "averages paged out": bar | {"Adam's averages": 0.0}}


def with_and_without_checkpointing() -> tuple[float, float]:
    """Recorded GiB of SmolLM2-1.7B in QLoRA, all activations kept, and with gradient checkpointing."""
    kept, again = (
        cases("gpu_memory", model="SmolLM2-1.7B", method="qlora", **USUAL | {"gradient_checkpointing": on})[0]
        for on in (False, True)
    )
    return kept["measured_bytes"] / GIB, again["measured_bytes"] / GIB
