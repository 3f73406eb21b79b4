"""Record fine-tunes on a GPU step by step and from CUDA graphs, one after another: seconds, memory, losses.

    python -m tools.record_cuda_graphs --output data/runs/cuda_graphs.json --revision REVISION [--only CASE ...]

``capstone`` is the fine-tune of notebook 10, 120 steps of the real base, by both backends; ``fused``: by ours with
``--fused on`` (``pip install -e ".[fused]"`` first); ``AdamW``: in 32 bits, not the paged one in 8. ``capped`` is the
1.7B's shape with random weights in float16, on a GPU that is held to what a T4 has: 14.5 GiB and compute capability
7.5. Each runs in a process of its own. A case keeps ``seconds`` (``train``, and ``step``, the median), the first and
last losses, ``peak_gpu_memory_bytes`` of the training, ``cuda_graphs``: the padded lengths, or why there are none, and
``pretended``: what else the machine was told of itself.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lora_edu.llm.data.asking import ANSWERS
from lora_edu.llm.files import write_json
from lora_edu.llm.machine import CAPABILITY, MEMORY
from lora_edu.llm.provenance import provenance
from tools.random_model import write_random_model

T4 = {CAPABILITY: "7.5", MEMORY: "14.5", ANSWERS: "2x8"}
SHORT = {"before_events": 0, "test_events": 2, "save_every": 1000}
CAPPED = {"steps": 30, "batch_size": 8, "micro_batch_size": 8}
CASES = {
    "capstone, peft": {"backend": "peft"},
    "capped, peft": {"backend": "peft"} | CAPPED,
    "capstone, scratch": {"backend": "scratch"},
    "capped, scratch": {"backend": "scratch"} | CAPPED,
    "capstone, scratch, fused": {"backend": "scratch", "fused": "on"},
    # Its steps are one kernel, where each tensor's paged step is a call of its own.
    "capstone, peft, AdamW": {"backend": "peft", "optimizer": "adamw"},
    "capstone, scratch, fused, AdamW": {"backend": "scratch", "fused": "on", "optimizer": "adamw"},
}
CAPPED_SHAPE = "SmolLM2-1.7B"
WAYS = ("off", "on")
ENDS = 5
"""Of the losses, how many of the first and of the last are kept."""


def record(case: str, way: str, model: str, folder: Path) -> dict[str, Any]:
    """Fine-tune once in a process of its own, and return what is kept of it, or what went wrong."""
    settings = SHORT | CASES[case] | {"model": model, "output": folder / f"{case}, {way}", "cuda_graphs": way}
    flags = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | (T4 if case.startswith("capped") else {})
    command = [sys.executable, "-m", "lora_edu.llm.finetune", *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout, flush=True)
    if done.returncode:
        return {"failed": done.stderr[-500:]}
    run = json.loads((folder / f"{case}, {way}" / "run.json").read_text(encoding="utf-8"))
    return {
        "pretended": T4 if case.startswith("capped") else {},
        "dtype": run["config"]["dtype"],
        "batch_size": run["config"]["batch_size"],
        "micro_batch_size": run["config"]["micro_batch_size"],
        "steps": run["config"]["steps"],
        "seconds": {key: run["seconds"][key] for key in ("train", "step")},
        "losses": {"first": run["losses"][:ENDS], "last": run["losses"][-ENDS:]},
        "peak_gpu_memory_bytes": run["training_peak_gpu_memory_bytes"],
        "cuda_graphs": run["cuda_graphs"],
    }


def earlier(output: Path, revision: str) -> dict[str, dict[str, Any]]:
    """The cases that the file holds of this revision."""
    held = json.loads(output.read_text("utf-8")) if output.exists() else {}
    return held["runs"] if held.get("revision") == revision else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--revision", required=True, help="git revision of this checkout")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=CASES,
        default=CASES,
        help="these alone, beside those of this revision before",
    )
    arguments = parser.parse_args()
    head = {"command": "python -m tools.record_cuda_graphs", **provenance(), "revision": arguments.revision}
    runs = earlier(arguments.output, arguments.revision)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        capped = folder / "model"
        for case in arguments.only:
            model = "smollm2-135m"
            if case.startswith("capped"):
                model = str(capped if capped.exists() else write_random_model(CAPPED_SHAPE, capped))
            runs[case] = {way: record(case, way, model, folder) for way in WAYS}
            ordered = {each: runs[each] for each in CASES if each in runs}
            write_json(arguments.output, head | {"capped_shape": CAPPED_SHAPE, "runs": ordered})


if __name__ == "__main__":
    main()
