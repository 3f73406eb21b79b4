"""Run the whole notebook 10 on a GPU that is held to what a T4 has, with models of four sizes, and record what it took.

    python -m tools.record_t4 --output data/runs/t4_capped.json [--only SmolLM2-1.7B] [--seconds 460]

The GPU is another, and stands for a T4: 14.5 GiB for PyTorch, compute capability 7.5 for the course's code, so float16,
no kernel in bfloat16, no fused attention for grouped queries (`lora_edu.llm.machine`). What is not shown is a T4's
speed, and bitsandbytes' own kernels for it. SmolLM2-135M is the real one. The larger models are folders with the
published shapes, random weights and the course's tokenizer: they say nothing about answers, and never end one, so
`LORA_EDU_ANSWERS` cuts what is asked to 8 answers of 32 tokens. A model that is already in the output, of the same
revision, is kept: so the models may be recorded in several calls.

The keys of a model: ``model``, ``random_weights``; ``cells`` (code cells), ``ran``, ``errors`` (what each cell that
failed raised, first line and last); ``seconds``; ``trainings``: each, in order, with ``steps``, ``step_seconds``
(median), ``batch``, ``seq``, ``cuda_graphs`` (whether steps were replayed from them), ``gradient_checkpointing``,
``optimizer``, ``learning_rate``, first and last ``losses``, ``predicted_bytes`` (the ledger of that training),
``peak_allocated_bytes`` (PyTorch's, and bitsandbytes' paged state),
``peak_reserved_bytes``, ``ratio`` (predicted to allocated); ``runs``: the same of each run.json, answering included;
``peak_allocated_bytes`` and ``peak_reserved_bytes`` of the whole notebook, and the cell that they are of.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import nbformat
import torch
from nbformat.v4 import new_code_cell
from transformers import Trainer, TrainerCallback

from lora_edu.llm.base_model import DEFAULT_NAME, fetch_base_model
from lora_edu.llm.budget import memory_ledger
from lora_edu.llm.data.asking import ANSWERS
from lora_edu.llm.files import write_json
from lora_edu.llm.finetune.graph_shapes import padded_length, scored_tokens
from lora_edu.llm.finetune.plan import longest
from lora_edu.llm.machine import CAPABILITY, MEMORY
from lora_edu.llm.provenance import provenance
from lora_edu.llm.tiers import MODEL
from tools.build_notebooks import ROOT, compose, executed_cells
from tools.random_model import write_random_model
from tools.set_repo import present_slug

SOURCE = ROOT / "notebooks" / "src" / "10_qlora_finetune.py"
TARGET = ROOT / "data" / "runs" / "t4_capped.json"
T4 = {CAPABILITY: "7.5", MEMORY: "14.5"}
CUT = {ANSWERS: "8x32"}
REAL = "SmolLM2-135M"
MODELS = (REAL, "SmolLM2-1.7B", "Llama-3.2-3B", "Qwen2.5-7B")


# ---------------------------------------------------------------- inside the kernel


def watch(report: str) -> None:
    """Note in a file, from now on, what each training of this kernel and each of its cells took of the GPU."""
    from IPython.core.getipython import get_ipython

    train = Trainer.train

    def watched(trainer: Any, *arguments: Any, **settings: Any) -> Any:
        ends = Steps()
        trainer.add_callback(ends)
        result = train(trainer, *arguments, **settings)
        _note(report, {"training": _training(trainer, ends.ends)})
        return result

    cast(Any, Trainer).train = watched
    events = cast(Any, get_ipython()).events
    events.register("pre_run_cell", lambda info: _reset())
    events.register("post_run_cell", lambda result: _note(report, {"cell": _peaks()}))


def _training(trainer: Any, ends: list[float]) -> dict[str, Any]:
    """What a training was, what the ledger says of it, and what it took."""
    model, arguments = trainer.accelerator.unwrap_model(trainer.model), trainer.args
    lora = getattr(model, "peft_config", {}).get("default")
    quantized = bool(getattr(model, "is_loaded_in_4bit", False))
    optimizer = str(getattr(arguments.optim, "value", arguments.optim))
    checkpointing = bool(
        getattr(arguments, "activation_checkpointing", getattr(arguments, "gradient_checkpointing", False))
    )
    batch, seq = arguments.per_device_train_batch_size, longest(trainer.train_dataset)
    graphs = bool(getattr(trainer, "graph_lengths", []))  # `finetune` may replay its steps; Trainer does not
    ledger = memory_ledger(
        model.config,
        "qlora" if quantized else ("lora" if lora else "full"),
        batch,
        padded_length(seq) if graphs else seq,
        lora.r if lora else 8,
        sorted(lora.target_modules) if lora else "all-linear",
        torch.float16 if arguments.fp16 else torch.bfloat16 if arguments.bf16 else torch.float32,
        "paged_adamw_8bit" if optimizer == "paged_adamw_8bit" else "adamw",
        checkpointing,
        device="cuda" if torch.cuda.is_available() else "cpu",
        micro_batches=arguments.gradient_accumulation_steps,
        flash_attention=False,
        cuda_graphs=graphs,
        scored=max(1, *map(scored_tokens, trainer.train_dataset)),
        validation=longest(trainer.eval_dataset or []),
    )
    peaks, losses = _peaks(), [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    steps = [later - end for end, later in itertools.pairwise(ends)]
    return {
        "steps": trainer.state.global_step,
        "step_seconds": round(statistics.median(steps), 4) if steps else None,
        "batch": batch,
        "seq": seq,
        "cuda_graphs": graphs,
        "gradient_checkpointing": checkpointing,
        "optimizer": optimizer,
        "learning_rate": arguments.learning_rate,
        "losses": [losses[0], losses[-1]] if losses else [],
        **_compared(ledger.total, peaks["peak_allocated_bytes"], peaks["peak_reserved_bytes"]),
    }


def _peaks() -> dict[str, int]:
    """Peaks since the last reset; zeros without a GPU."""
    if not torch.cuda.is_available():
        return {"peak_allocated_bytes": 0, "peak_reserved_bytes": 0}
    return {
        "peak_allocated_bytes": torch.cuda.max_memory_allocated() + _paged_bytes(),
        "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
    }


def _paged_bytes() -> int:
    """bitsandbytes' paged optimizer state, which PyTorch does not count."""
    if "bitsandbytes" not in sys.modules:
        return 0
    from bitsandbytes.functional import GlobalPageManager

    return sum(tensor.nbytes for tensor in cast(Any, GlobalPageManager.get_instance()).paged_tensors)


def _reset() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _note(report: str, entry: dict[str, Any]) -> None:
    with Path(report).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


class Steps(TrainerCallback):
    """When each step ended, and a peak that is the training's alone."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        _reset()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())


# ---------------------------------------------------------------- the record


def record_model(name: str, folder: Path, source: Path = SOURCE) -> dict[str, Any]:
    """Execute the notebook with a model of this shape, and return its entry of the record.

    Parameters
    ----------
    folder
        For the model's files, the runs and the notes; an executed copy of the notebook stays in it.
    """
    start, random = time.perf_counter(), name != REAL
    model = str(write_random_model(name, folder / "model")) if random else DEFAULT_NAME
    folder.mkdir(parents=True, exist_ok=True)
    notes = folder / "notes.jsonl"
    environment = T4 | (CUT if random else {}) | {MODEL: model, "LORA_EDU_RUNS": str(folder / "runs")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    notebook = compose(source, f"notebooks/{source.stem}.ipynb", present_slug(ROOT))
    first = new_code_cell(f"from tools.record_t4 import watch\nwatch({str(notes)!r})")
    notebook.cells.insert(0, first)
    results = list(executed_cells(notebook, f"{source.stem}, {name}", source.parents[1], environment))
    nbformat.write(notebook, folder / f"{source.stem}_{name}.ipynb")
    shutil.rmtree(folder / "model", ignore_errors=True)
    entry = {"model": name, "random_weights": random, "seconds": round(time.perf_counter() - start, 1)}
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"][1:]
    errors = [_short(error) for _, error in results if error]
    entry |= {"cells": len(cells), "ran": sum(error is None for _, error in results[1:]), "errors": errors}
    return entry | _noted(notes, [cell.source for cell, _ in results[1:]]) | {"runs": _runs(folder / "runs")}


def _noted(notes: Path, sources: list[str]) -> dict[str, Any]:
    """What the kernel noted: trainings, and the largest peak with the cell that had it."""
    lines = notes.read_text("utf-8").splitlines() if notes.exists() else []
    entries = [json.loads(line) for line in lines]
    peaks = [entry["cell"] for entry in entries if "cell" in entry]
    pairs = list(zip(peaks[1:], sources, strict=False))  # the first is of the cell that began to watch
    found = {"trainings": [entry["training"] for entry in entries if "training" in entry]}
    if pairs:
        peak, source = max(pairs, key=lambda pair: pair[0]["peak_allocated_bytes"])
        found |= peak | {"peak_cell": source.strip().partition("\n")[0]}
    return found


def _runs(folder: Path) -> list[dict[str, Any]]:
    """Each run of `finetune`: what was predicted and what it took, answering included.

    A run that the page itself recorded, cell by cell, is left out: its peak was reset at each cell.
    """
    runs = []
    for file in sorted(folder.glob("*/run.json")):
        run = json.loads(file.read_text("utf-8"))
        if "step" not in run["seconds"]:
            continue
        predicted = sum((run["predicted_memory_bytes"] or {}).values())
        sizes = (predicted, run["peak_gpu_memory_bytes"] or 0, run["peak_gpu_reserved_bytes"] or 0)
        runs.append({"run": file.parent.name, "step_seconds": run["seconds"]["step"]} | _compared(*sizes))
    return runs


def _compared(predicted: int, allocated: int, reserved: int) -> dict[str, Any]:
    return {
        "predicted_bytes": predicted,
        "peak_allocated_bytes": allocated,
        "peak_reserved_bytes": reserved,
        "ratio": round(predicted / allocated, 4) if allocated else None,
    }


def _short(error: str) -> str:
    """Which cell failed, and the last line of what it raised."""
    lines = error.strip().splitlines()
    return f"{lines[0]} {lines[-1]}" if len(lines) > 1 else error


def kept(output: Path, revision: str | None) -> list[dict[str, Any]]:
    """The models of an earlier call at the same revision."""
    if not output.exists():
        return []
    earlier = json.loads(output.read_text("utf-8"))
    return earlier["models"] if earlier.get("revision") == revision else []


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=TARGET)
    parser.add_argument("--only", nargs="+", choices=MODELS, default=MODELS, help="these models alone")
    parser.add_argument("--seconds", type=float, default=460, help="no model is begun after that")
    parser.add_argument("--folder", type=Path, help="for models and executed copies; default a temporary one")
    parser.add_argument("--revision", help="git revision, for a copy of the checkout without git")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("PyTorch finds no CUDA device here, and no other GPU could stand for a T4")
    fetch_base_model()
    origin = provenance()
    origin["revision"] = options.revision or origin["revision"]
    head = {"command": "python -m tools.record_t4"} | origin | {"stands_for_a_T4": T4, "cut": CUT}
    start, models = (
        time.monotonic(),
        {entry["model"]: entry for entry in kept(options.output, origin["revision"])},
    )
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.only:
            if time.monotonic() - start > options.seconds:
                print(f"{name}: no time left")
                continue
            models[name] = record_model(name, (options.folder or Path(temporary)) / name)
            write_json(options.output, head | {"models": [models[name] for name in MODELS if name in models]})
            print(json.dumps(models[name], indent=1), flush=True)
    return 1 if any(entry["errors"] for entry in models.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
