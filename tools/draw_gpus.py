"""Write the tables of docs/gpus.md from the records of GPU runs: `python -m tools.draw_gpus`.

Every number of the page comes from data/runs/: those of tables through this file, and
tests/classroom/test_gpus_page.py looks for the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from lora_edu.classroom import records
from lora_edu.classroom.experiments import gpu_fits

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "gpus.md"
METHODS = {"full": "full fine-tuning", "lora": "LoRA, r = 8", "qlora": "QLoRA, r = 8"}
SHAPES = {"smollm2-135m": "SmolLM2-135M", "Mistral-7B": "Mistral-7B"}
WAYS = {"one GPU": "one process", "ddp": "two, DDP", "fsdp": "two, FSDP"}
GIB = 2**30


# ---------------------------------------------------------------- what was recorded


def scores() -> dict[str, list[tuple[float, float]]]:
    """Exact match (0 to 1) on seen and unseen patterns, of each seed of each of `METHODS`."""
    return {
        name: [
            (run["exact_match"], run["exact_match_unseen"])
            for run in records.runs("events_gpu_final", method=method, r=8, backend="peft")
        ]
        for method, name in METHODS.items()
    }


def alone(cuda_graphs: str) -> dict[str, dict[str, float]]:
    """What a run took that had the GPU to itself, with CUDA graphs "off" or "on": training, a median step, the peak."""
    runs = {run["method"]: run for run in records.runs("events_gpu_alone", cuda_graphs=cuda_graphs)}
    return {
        name: {
            "seconds": runs[method]["seconds"]["train"],
            "ms": 1000 * runs[method]["seconds"]["step"],
            "GiB": runs[method]["peak_gpu_memory_bytes"] / GIB,
        }
        for method, name in METHODS.items()
    }


def shared_gpu() -> list[dict[str, Any]]:
    """The runs of one process, and of two that share a GPU by DDP and by FSDP."""
    return records.read("scaling_one_gpu")["runs"]


def times_as_fast(record: str) -> dict[str, float]:
    """Steps a second of two GPUs over those of one, by way."""
    runs = [run for run in records.read(record)["runs"] if run["backend"] == "peft"]
    one = next(run["seconds"]["step"] for run in runs if run["gpus"] == 1)
    return {run["way"]: one / run["seconds"]["step"] for run in runs if run["gpus"] == 2}


# ---------------------------------------------------------------- tables


def score_table() -> str:
    """A row a method: median, lowest and highest seed."""
    rows = []
    for name, seeds in scores().items():
        seen, unseen = ([seed[part] for seed in seeds] for part in (0, 1))
        rows.append((name, _spread(seen), _spread(unseen)))
    return _table(("method", "exact match, seen patterns", "unseen patterns"), rows)


def cost_table() -> str:
    """A row a method: memory step by step; time step by step and from CUDA graphs."""
    head = ("alone on the GPU", "peak, GiB", "s", "s, graphs", "ms a step", "ms, graphs")
    replayed = alone("on")
    rows = []
    for name, cost in alone("off").items():
        times = [f"{each[key]:.0f}" for key in ("seconds", "ms") for each in (cost, replayed[name])]
        rows.append((name, f"{cost['GiB']:.2f}", *times))
    return _table(head, rows)


def peak_table() -> str:
    """What was predicted, and what the GPU held."""
    return _table(("model", "method", "predicted GiB", "measured GiB"), _rows(gpu_fits.measured_columns()))


def sharing_table() -> str:
    """Memory and loss, by model and way."""
    rows = [
        (
            SHAPES[run["shape"]],
            WAYS[run["way"]],
            f"{max(run['training_peak_gpu_memory_bytes']) / GIB:.2f}",
            f"{sum(run['losses']) / len(run['losses']):.3f}",
        )
        for run in shared_gpu()
    ]
    return _table(("model of the run", "way", "GiB a process", "mean loss"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "| method |": score_table,
    "| alone on the GPU |": cost_table,
    "| model |": peak_table,
    "| model of the run |": sharing_table,
}
"""How the first line of each table of the page begins."""


def _rows(columns: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    return list(zip(*columns.values(), strict=True))


def _spread(shares: Sequence[float]) -> str:
    return f"{median(shares):.1%} ({min(shares):.1%} to {max(shares):.1%})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def page_of(page: str) -> str:
    """The page with its tables as the records have them."""
    for start, table in TABLES.items():
        page, found = re.subn(rf"(?m)^{re.escape(start)}(?:.*\n)(?:\|.*\n)+", table() + "\n", page)
        if found != 1:
            raise ValueError(f"the page must have one table that begins {start!r}, found {found}")
    return page


def main() -> None:
    PAGE.write_text(page_of(PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
