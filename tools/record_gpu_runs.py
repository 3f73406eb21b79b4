"""Record fine-tunes on a GPU, several processes side by side, into one file: does QLoRA match LoRA match full?

    python tools/record_gpu_runs.py tune      one seed, several learning rates a method, scored on the validation split
    python tools/record_gpu_runs.py final     three seeds at the best learning rates, and LoRA at several ranks
    python tools/record_gpu_runs.py targets   LoRA on q and v alone, at the rank and at the size of all-linear r = 8,
                                              and on the MLP alone at that size
    python tools/record_gpu_runs.py targets_tune   the same and all-linear r = 8 at three learning rates, one seed,
                                              scored on the validation split
    python tools/record_gpu_runs.py scaling   alpha / r against alpha / sqrt(r) at one learning rate
    python tools/record_gpu_runs.py alone     seconds and memory of one run a method with the GPU to itself, its steps
                                              one by one and replayed from CUDA graphs

A model of 135 million parameters leaves a large GPU idle most of the time, so runs share it: their seconds say
nothing about speed (for that: ``alone --processes 1``), their exact match does not care. Runs that fail or do not
finish in time are listed as such.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

from lora_edu.llm.data import load_events
from lora_edu.llm.files import write_json, write_text

# One pass over the 1,600 training sentences. No question before training: the CPU records have that.
COMMON = {"steps": 200, "batch_size": 8, "micro_batch_size": 8, "before_events": 0, "save_every": 1000}
COMMON |= {"eval_batch_size": 100, "dtype": "float32"}
ADAPTER_RATES = (2e-4, 5e-4, 1e-3, 2e-3)
FULL_RATES = (2e-5, 5e-5, 1e-4, 2e-4)
BEST_RATE = {"full": 5e-5, "lora": 1e-3, "qlora": 1e-3}
RANKS = (1, 2, 4, 16, 64)
SEEDS = (0, 1, 2)
QUERY_VALUE, MLP = ["q_proj", "v_proj"], ["gate_proj", "up_proj", "down_proj"]
# Layers, rank and learning rates. All-linear at r = 8 has 2.44 million numbers, q and v at 42 2.42, the MLP at 13 2.47.
TARGETS = (
    (QUERY_VALUE, 8, (1e-3, 2e-3, 5e-3)),
    (QUERY_VALUE, 42, (1e-3, 2e-3, 5e-3)),
    (MLP, 13, (5e-4, 1e-3, 2e-3)),
)
ALL_LINEAR = (("all-linear",), 8, (5e-4, 1e-3, 2e-3))
SCALING_RANKS = (4, 32, 128)
KEPT = ("losses", "exact_match", "exact_match_unseen", "n", "base", "trainable_parameters", "seconds")


def plan(name: str) -> list[dict[str, Any]]:
    """The settings of each run: what differs from `COMMON`, and r = 8, alpha = 2 r."""
    if name == "tune":
        full = [{"method": "full", "learning_rate": rate} for rate in FULL_RATES]
        lora = [{"method": "lora", "r": 8, "lora_alpha": 16, "learning_rate": rate} for rate in ADAPTER_RATES]
        return full + lora  # QLoRA takes LoRA's
    if name.startswith("targets"):
        tried, seeds = (TARGETS, SEEDS) if name == "targets" else ((*TARGETS, ALL_LINEAR), SEEDS[:1])
        return [
            {"method": "lora", "r": r, "lora_alpha": 2 * r, "learning_rate": rate, "seed": seed}
            | {"target_modules": list(layers)}
            for layers, r, rates in tried
            for rate, seed in product(rates, seeds)
        ]
    if name == "scaling":
        return [
            {"method": "lora", "r": r, "lora_alpha": 16, "use_rslora": use_rslora, "seed": seed}
            | {"learning_rate": BEST_RATE["lora"]}
            for r, use_rslora, seed in product(SCALING_RANKS, (False, True), SEEDS)
        ]
    if name == "alone":
        return [
            {"method": method, "learning_rate": rate, "cuda_graphs": way}
            for way, (method, rate) in product(("off", "on"), BEST_RATE.items())
        ]
    methods = [("full", "peft"), ("lora", "peft"), ("qlora", "peft"), ("qlora", "scratch")]
    runs = [
        {"method": method, "backend": backend, "learning_rate": BEST_RATE[method], "seed": seed}
        for (method, backend), seed in product(methods, SEEDS)
    ]
    return runs + [
        {"method": "lora", "r": r, "lora_alpha": 2 * r, "learning_rate": BEST_RATE["lora"], "seed": seed}
        for r, seed in product(RANKS, SEEDS)
    ]


def common_of(plan_name: str, folder: Path) -> dict[str, Any]:
    """The settings that all runs of a plan share. Rates are chosen without the test split: see `load_events`."""
    if not plan_name.endswith("tune"):
        return COMMON
    files = {"train_file": "fit", "test_file": "validation"}
    for split in files.values():
        lines = map(json.dumps, load_events(split))
        write_text(folder / f"{split}.jsonl", "".join(f"{line}\n" for line in lines))
    return COMMON | {flag: str(folder / f"{split}.jsonl") for flag, split in files.items()}


def run(settings: dict[str, Any], common: dict[str, Any], folder: Path, deadline: float) -> dict[str, Any]:
    """Fine-tune in a process of its own; return the settings with the record, or with what went wrong."""
    name = "-".join(str(value) for value in settings.values())
    values = common | settings | {"output": folder / name}
    flags = [
        part
        for key, value in values.items()
        for part in (f"--{key}", *map(str, value if isinstance(value, list) else [value]))
    ]
    command = [sys.executable, "-m", "lora_edu.llm.finetune", *flags, "--overwrite"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=max(1.0, deadline - time.monotonic()),
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=True,
        )
    except subprocess.TimeoutExpired:
        return settings | {"failed": "not finished in the time given"}
    except subprocess.CalledProcessError as error:
        return settings | {"failed": error.stderr[-500:]}
    record = json.loads((folder / name / "run.json").read_text())
    print(done.stdout.splitlines()[-1], record["exact_match"], record["exact_match_unseen"], flush=True)
    kept = {key: record[key] for key in (*KEPT, "peak_gpu_memory_bytes")}
    return settings | kept | {"versions": record["versions"], "device": record["device"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("plan", choices=["tune", "final", "targets", "targets_tune", "scaling", "alone"])
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--revision", required=True, help="git revision of this checkout")
    parser.add_argument("--processes", type=int, default=12, help="runs side by side")
    parser.add_argument("--seconds", type=float, default=520, help="time for all of them")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    folder = Path("build") / "gpu_runs"
    common = common_of(arguments.plan, folder)
    with ThreadPoolExecutor(arguments.processes) as pool:
        runs = list(pool.map(lambda settings: run(settings, common, folder, deadline), plan(arguments.plan)))
    device = next((entry.pop("device") for entry in runs if "device" in entry), None)
    versions = next((entry.pop("versions") for entry in runs if "versions" in entry), None)
    for entry in runs:
        entry.pop("device", None)
        entry.pop("versions", None)
    content = {
        "command": f"tools/record_gpu_runs.py {arguments.plan}",
        "revision": arguments.revision,
        "device": device,
        "versions": versions,
        "common": common,
        "runs": runs,
    }
    write_json(arguments.output, content)


if __name__ == "__main__":
    main()
