"""Models by name: how large their adapters are, and what it takes to train them (notebook 03)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from lora_edu.classroom import figures, records
from lora_edu.classroom.experiments.gpu_fits import T4_GIB, WAYS, gpu_ledger
from lora_edu.classroom.experiments.in_memory import cases, recorded_ledger
from lora_edu.llm.budget import ARCHITECTURES, SHAPES, Ledger, memory_ledger
from lora_edu.llm.budget.count import meta_model
from lora_edu.llm.budget.preflight import GIB
from lora_edu.llm.surgery import ALL_LINEAR, choose_layers, linear_layers
from lora_edu.methods.quant_state import packed_bytes

QUERY_VALUE = ("q_proj", "v_proj")
MODELS = tuple(name for name, shape in SHAPES.items() if shape["model_type"] in ARCHITECTURES)
"""Models whose training memory the ledger predicts."""
TOKENS = (128, 512, 2048)
GPUS = {f"T4: {T4_GIB} GiB": T4_GIB, "24 GiB": 24.0, "80 GiB": 80.0}
"""GPUs that people have, in GiB."""
TOPS = 160.0, 26.0
"""Where the two scales end, in GiB: the whole, and its beginning enlarged."""
LONGEST_EVENT = 124
"""Tokens of the longest training example of data/events."""
PARTS = {
    "frozen weights": "frozen",
    "4-bit weights": "codes",
    "their scales": "scales",
    "weights that train": "trained",
    "gradients": "gradients",
    "Adam's averages": "optimizer",
    "activations": "activations",
    "logits, short-lived": "",
}
"""What fills the memory, and its meaning in the course's colours, if it has one."""


# ---------------------------------------------------------------- numbers of adapters


@cache
def adapter_numbers(model: str, target_modules: tuple[str, ...] | str = ALL_LINEAR, r: int = 8) -> int:
    """Numbers of B and A in a whole model.

    Parameters
    ----------
    model
        A name of `lora_edu.llm.budget.SHAPES`.
    target_modules
        As in `lora_edu.llm.surgery.add_lora`. For GPT-3, whose layers have other names, `QUERY_VALUE` or "all-linear".
    r
        Rank, at least 1.

    Raises
    ------
    TypeError, ValueError
        The model is unknown, it has no such layers, or a rank does not fit them.
    """
    if model == "GPT-3":
        blocks, width = SHAPES[model]["n_layer"], SHAPES[model]["n_embd"]
        square = 2 if target_modules == QUERY_VALUE else 4  # query, key, value and output
        mlp = 0 if target_modules == QUERY_VALUE else 2  # up to four times the width, and down again
        return r * blocks * width * (square * (1 + 1) + mlp * (1 + 4))
    layers = choose_layers(meta_model(model), target_modules, r)
    return sum(r * sum(layer.get_parameter("weight").shape) for layer in layers.values())


# ---------------------------------------------------------------- memory of a training


@cache
def training_ledger(model: str, way: str, tokens: int) -> Ledger:
    """The ledger of one text at a time on a T4, the gradients of two texts added up before a step.

    Full fine-tuning is in float32; with adapters the frozen weights are in 16 or 4 bits, B and A in float32.
    """
    return gpu_ledger(model, WAYS[way], tokens, 1, micro_batches=2)


@cache
def parts(model: str, way: str, tokens: int) -> Mapping[str, float]:
    """GiB by `PARTS`, which sum to the ledger's total.

    Parameters
    ----------
    model, way, tokens
        One of `MODELS`, one of `gpu_fits.WAYS`, and the length of the text.
    """
    return split(training_ledger(model, way, tokens), model)


def split(ledger: Ledger, model: str) -> Mapping[str, float]:
    """GiB by `PARTS` of a ledger on a GPU for `model`, one of `SHAPES`; they sum to the ledger's total."""
    quantized, full = ledger.settings["method"] == "qlora", ledger.settings["method"] == "full"
    matrices = linear_layers(meta_model(model)).values() if quantized else ()
    codes = sum(packed_bytes(layer.get_parameter("weight").numel()) for layer in matrices)
    sizes = (
        0 if full else ledger["weights"] - codes,
        codes,
        ledger["quantization constants"],
        ledger["weights"] if full else ledger["adapters"],
        *(ledger[term] for term in ("gradients", "optimizer", "activations")),
        ledger["logits"] + ledger["workspace"],
    )
    return {name: size / GIB for name, size in zip(PARTS, sizes, strict=True)}


def draw_training_memory(whole: Any, enlarged: Any, model: str, tokens: int) -> None:
    """A bar for each way to train a model, on two scales, with the GPUs that people have."""
    bars = {way: parts(model, way, tokens) for way in WAYS}
    held = [way for way, sizes in bars.items() if sum(sizes.values()) <= T4_GIB]
    figures.two_scales(
        whole,
        enlarged,
        bars,
        tops=TOPS,
        limits=GPUS,
        roles={name: role for name, role in PARTS.items() if role},
        title=f"{model}: {_HELD[len(held)].format(*held)} a T4",
        enlarged_title=f"{tokens:,} tokens: the first {TOPS[1]:g} GiB enlarged",
    )


_HELD = "none of the three fits", "only {} fits", "two of three fit", "all three fit"


def errors_of_the_ledger() -> dict[str, list[float]]:
    """Predicted over measured memory, less 1, for SmolLM2: of single steps and whole fine-tunes on a GPU, and on a CPU.

    The backend is peft's, without CUDA graphs. The records are gpu_memory.json, events_gpu_alone.json (batches of 8, as
    long as the longest event) and cpu_memory.json.
    """
    found: dict[str, list[float]] = {}
    for name, record, device in (("GPU", "gpu_memory", "cuda"), ("CPU", "cpu_memory", "cpu")):
        plain = cases(record, backend="peft", cuda_graphs=False)
        smol = [entry for entry in plain if "SmolLM2" in entry["case"]["model"]]
        found[name] = [
            recorded_ledger(entry["case"], device).total / entry["measured_bytes"] - 1 for entry in smol
        ]
    found["whole fine-tunes, GPU"] = [
        _whole_finetune(run["method"]).total / run["peak_gpu_memory_bytes"] - 1
        for run in records.runs("events_gpu_alone", cuda_graphs="off")
    ]
    return found


def _whole_finetune(method: str) -> Ledger:
    optimizer = "paged_adamw_8bit" if method == "qlora" else "adamw"
    return memory_ledger(
        "SmolLM2-135M", method, 8, LONGEST_EVENT, dtype=torch.float32, optimizer=optimizer, device="cuda"
    )


def ledger_against_records() -> str:
    """How far the ledger is off on SmolLM2, in one line."""
    spans = (
        f"{name} {min(errors):+.1%} to {max(errors):+.1%} ({len(errors)} runs)"
        for name, errors in errors_of_the_ledger().items()
    )
    return f"predicted against measured: {', '.join(spans)}"
