"""Measure exact and randomized SVD, from 512 to 8192 rows and columns, for notebook 01.

    python tools/record_svd_times.py [--largest 8192]

Writes data/svd/times.json. The largest exact SVD takes minutes and 2 GB, too long for a notebook. Times are
seconds of one core (one thread, `time.process_time`), so that other work on the machine hardly changes them.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from lora_edu.llm.files import write_json
from lora_edu.methods.lowrank import truncated_svd

TARGET = Path(__file__).resolve().parents[1] / "data" / "svd" / "times.json"
SMALLEST = 512
RANK = 64


def core_seconds(run: Callable[[], object], repeats: int) -> float:
    """Median time of `repeats` runs, in seconds of this process."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return round(statistics.median(seconds), 4)


def measure(size: int) -> dict[str, float]:
    """Seconds of one core by method, for a Gaussian matrix of `size` rows and columns in float32."""
    W = torch.randn(size, size, generator=torch.Generator().manual_seed(size))
    repeats = 5 if size <= 2048 else 1
    return {
        method: core_seconds(lambda method=method: truncated_svd(W, RANK, method), repeats)
        for method in ("exact", "randomized")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure exact and randomized SVD.")
    parser.add_argument("--largest", type=int, default=8192, help="rows and columns; a power of two")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [SMALLEST]
    while sizes[-1] < options.largest:
        sizes.append(2 * sizes[-1])
    measure(SMALLEST)  # loads the libraries
    times = []
    for size in sizes:
        times.append(measure(size))
        print(size, times[-1], flush=True)
    record = {
        "script": "tools/record_svd_times.py",
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": 1,
        "r": RANK,
        "size": sizes,
        "exact_seconds": [entry["exact"] for entry in times],
        "randomized_seconds": [entry["randomized"] for entry in times],
    }
    write_json(TARGET, record, indent=2)


if __name__ == "__main__":
    main()
