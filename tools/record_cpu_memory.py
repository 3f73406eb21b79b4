"""Measure the resident memory of three fine-tunes on a CPU, to compare with what `lora_edu.llm.budget` predicts.

    python -m tools.record_cpu_memory

Writes data/runs/cpu_memory.json: full fine-tuning, LoRA and QLoRA of SmolLM2-135M with settings for little memory. Each
trains three steps in a process of its own, as `tools.record_gpu_memory` does on a GPU.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from lora_edu.llm.base_model import fetch_base_model
from lora_edu.llm.files import write_json
from lora_edu.llm.provenance import provenance
from tools.record_gpu_memory import DEFAULTS, REAL, ROOT, STEPS, measure_apart

TARGET = ROOT / "data" / "runs" / "cpu_memory.json"
SMALL: dict[str, Any] = {"model": REAL, "r": 8, "batch": 2, "seq": 128, "gradient_checkpointing": False}
"""What differs from `DEFAULTS`, which say bfloat16."""


def record_case(method: str, seconds: float) -> dict[str, Any]:
    """What a case holds; what is predicted for it is left to whoever reads the record."""
    case = DEFAULTS | SMALL | {"method": method}
    result = measure_apart(case, seconds)
    print(case, result)
    return {"case": case} | {key: result[key] for key in ("measured", "measured_bytes")}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=TARGET)
    parser.add_argument("--seconds", type=float, default=300, help="time for each case")
    arguments = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    fetch_base_model()
    cases = [record_case(method, arguments.seconds) for method in ("full", "lora", "qlora")]
    record = {"command": "python -m tools.record_cpu_memory"} | provenance()
    record |= {"steps": STEPS, "cases": cases}
    write_json(arguments.output, record)


if __name__ == "__main__":
    main()
