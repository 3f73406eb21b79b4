"""Asked before a weight is loaded (notebooks 00 and 10): which model, trained how, fits which GPU?"""

from functools import cache
from typing import Any

import torch

from lora_edu.classroom import figures, records
from lora_edu.classroom.experiments.in_memory import cases, gibibytes, recorded_ledger
from lora_edu.classroom.language import label, say, to_translate
from lora_edu.classroom.widgets import Explorer, explore
from lora_edu.llm.budget import Ledger, memory_ledger, preflight
from lora_edu.llm.budget.preflight import GIB, changes
from lora_edu.llm.tiers import LONGEST_EXAMPLE

MODELS = ("SmolLM2-135M", "SmolLM2-1.7B", "Qwen2.5-7B")
METHODS = ("full", "lora", "qlora")
T4_GIB = 14.56
GPU_GIB = (4, 8, T4_GIB, 24, 80)
WAYS = dict(zip(to_translate("full fine-tune", "LoRA", "QLoRA"), METHODS, strict=True))
"""What `draw_ways` calls the methods."""
_KINDS = to_translate("weights", "gradients", "optimizer", "the rest")
WAYS_GIB = (8, 12, T4_GIB, 24, 48, 80, 141)


@cache
def gpu_ledger(
    model: str, method: str, seq: int, batch: int = 2, r: int = 8, micro_batches: int = 1
) -> Ledger:
    """Predict a fine-tune's memory on a GPU such as a T4: fp16, no fused attention, paged AdamW for QLoRA.

    Full fine-tuning keeps float32, as `lora_edu.llm.finetune` does. Steps are not replayed from CUDA graphs.
    """
    return memory_ledger(
        model,
        method,
        batch,
        seq,
        r,
        dtype=torch.float32 if method == "full" else torch.float16,
        optimizer="paged_adamw_8bit" if method == "qlora" else "adamw",
        device="cuda",
        micro_batches=micro_batches,
        flash_attention=False,
    )


@cache
def verdict(model: str, method: str, gib: float, seq: int) -> tuple[Ledger, str]:
    """Return the memory of what `preflight` lets through on a GPU of `gib` GiB, and its decision in words.

    Where it refuses, the memory of the lightest way to run: as asked, or checkpointing one sequence at once.
    """
    asked = gpu_ledger(model, method, seq)
    try:
        fitting = preflight(asked, "cuda", available=int(gib * GIB))
    except MemoryError:
        batch = asked.settings["batch"]
        alone = asked.but(gradient_checkpointing=True, batch=1, micro_batches=batch)
        lightest = min(asked, alone, key=lambda ledger: ledger.total)
        return lightest, f"refused, it needs {_gib(lightest.total)} GiB at least"
    changed = changes(asked, fitting) or "as it is"
    return fitting, f"fits, {changed}, with {_gib(fitting.total)} GiB"


def explore_fits(seq: int = LONGEST_EXAMPLE) -> Explorer:
    """Sliders over model, method and GPU; one bar is what is asked, the other what `preflight` decides.

    Parameters
    ----------
    seq
        Tokens of the longest training example; that of the capstone by the course's tokenizer.
    """
    for model in MODELS:  # ahead of the first move of a slider
        for method in METHODS:
            for gib in GPU_GIB:
                verdict(model, method, gib, seq)

    def draw(ax: Any, model: str, method: str, GPU_GiB: float) -> None:
        fitting, decision = verdict(model, method, GPU_GiB, seq)
        bars = {"as asked": gibibytes(gpu_ledger(model, method, seq)), "preflight": gibibytes(fitting)}
        needed = ", ".join(f"{name} {sum(kinds.values()):.2f} GiB" for name, kinds in bars.items())
        figures.stacked(
            bars,
            limit=(f"GPU: {GPU_GiB:g} GiB", GPU_GiB),
            largest=1.5 * GPU_GiB,  # so the line stands still, and a bar says how full the GPU is
            unit="GiB",
            title=f"{model}, {method}:\n{decision}",
            alt=f"{model}, {method}, GPU of {GPU_GiB:g} GiB: {decision}. In the picture: {needed}.",
            ax=ax,
        )

    start = {"model": "Qwen2.5-7B", "method": "lora", "GPU_GiB": T4_GIB}
    return explore(draw, start=start, model=MODELS, method=METHODS, GPU_GiB=GPU_GIB)


def draw_ways(ax: Any, GPU_GiB: float) -> None:
    """A bar each for full fine-tuning, LoRA and QLoRA of a 7B model, one text of 512 tokens at a time, and a GPU."""
    ledgers = {way: gpu_ledger("Mistral-7B", method, 512, 1) for way, method in WAYS.items()}
    fitting = [way for way, ledger in ledgers.items() if ledger.total <= GPU_GiB * GIB]
    verdict = _fits(fitting, f"{GPU_GiB:g}")
    needed = ", ".join(f"{label(way)} {_gib(ledger.total)} GiB" for way, ledger in ledgers.items())
    figures.stacked(
        {way: _few_kinds(ledger) for way, ledger in ledgers.items()},
        limit=(say("GPU: {gib} GiB", gib=f"{GPU_GiB:g}"), GPU_GiB),
        largest=max(*WAYS_GIB, *(ledger.total / GIB for ledger in ledgers.values())),
        unit="GiB",
        title=verdict,
        alt=say("{verdict}. Training Mistral-7B takes: {needed}.", verdict=verdict, needed=needed),
        ax=ax,
    )


def _fits(ways: list[str], gib: str) -> str:
    """Which of the three ways fit, in a sentence without its full stop."""
    if not ways:
        return say("On a GPU of {gib} GiB nothing fits", gib=gib)
    if len(ways) == 1:
        return say("On a GPU of {gib} GiB {one} fits", gib=gib, one=label(ways[0]))
    if len(ways) == 2:
        return say(
            "On a GPU of {gib} GiB {one} and {two} fit", gib=gib, one=label(ways[0]), two=label(ways[1])
        )
    return say("On a GPU of {gib} GiB all three fit", gib=gib)


def _few_kinds(ledger: Ledger) -> dict[str, float]:
    """GiB of a ledger in the kinds that a beginner can be told of; they sum to its total."""
    kinds = gibibytes(ledger)
    few = [kinds.pop(name) for name in _KINDS[:-1]]
    return dict(zip(_KINDS, [*few, sum(kinds.values())], strict=True))


def measured_columns() -> dict[str, list[str]]:
    """Columns, for `widgets.compare`, of what was predicted and what a GPU held (data/runs/gpu_memory.json).

    One row of 512 tokens, rank 16 on all linear layers, bf16, gradient checkpointing, no CUDA graphs, under a limit of
    14.5 GiB.
    """
    columns: dict[str, list[str]] = {
        name: [] for name in ("model", "method", "predicted_GiB", "measured_GiB")
    }
    asked = {"backend": "peft", "batch": 1, "seq": 512, "r": 16, "gradient_checkpointing": True}
    for entry in cases("gpu_memory", dtype="bfloat16", cuda_graphs=False, **asked):
        case, held = entry["case"], entry.get("measured_bytes")
        predicted = _gib(recorded_ledger(case, "cuda").total)
        cells = (case["model"], case["method"], predicted, "out of memory" if held is None else _gib(held))
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
    return columns


def capped_columns() -> dict[str, list[str]]:
    """Columns, for `widgets.compare`, of notebook 10 on a GPU held to what a T4 has (data/runs/t4_capped.json).

    Its cells, and of its own training (120 steps of two sentences): the ledger's prediction, PyTorch's peak, and the
    median time of a step. Last that of the reader's own training, as many sentences a step, from CUDA graphs.
    """
    models = records.read("t4_capped")["models"]
    trainings, replayed = zip(*(model["trainings"] for model in models), strict=True)
    return {
        "model": [model["model"] for model in models],
        "weights": ["random" if model["random_weights"] else "its own" for model in models],
        "cells_that_ran": [f"{model['ran']} of {model['cells']}" for model in models],
        "predicted_GiB": [_gib(training["predicted_bytes"]) for training in trainings],
        "peak_GiB": [_gib(training["peak_allocated_bytes"]) for training in trainings],
        "seconds_a_step": [f"{training['step_seconds']:.2f}" for training in trainings],
        "from_CUDA_graphs": [f"{training['step_seconds']:.2f}" for training in replayed],
    }


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"
