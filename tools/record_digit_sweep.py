"""Record what notebook 05 says about rank, learning rate and the base: many trainings of a tiny network.

    python -m tools.record_digit_sweep [--seeds 20] [--processes 2] [--output FILE]

Writes data/runs/digit_sweep.json. It needs a CPU alone: about 6 minutes on two cores, and less with more processes.
Each entry of ``runs`` is one setting; ``validation`` and ``test`` hold a score (0 to 1) for each seed.

Three experiments:

- ``ranks``: 20 images of a task. Two columns swapped, a quarter turn. From scratch, full fine-tuning, and LoRA
  over the base's W and over a random W at five ranks, and without W at rank 8.
- ``images``: the same with 200 images, LoRA at rank 8.
- ``scaling``: 100 turned images, alpha 4, scaled by alpha / r and by alpha / sqrt(r), at four ranks.

How the first task was chosen: on the validation digits alone, among pairs of swapped columns and rows, slanted,
shifted and ruled digits, with 10, 20 or 40 images, as one that a fresh network learns worse than the base.
"""

import argparse
import itertools
import multiprocessing
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lora_edu.classroom.experiments import digit_sweep as sweep
from lora_edu.llm.files import write_json
from lora_edu.llm.provenance import provenance

TARGET = Path(__file__).resolve().parents[1] / "data" / "runs" / f"{sweep.RECORD}.json"


def settings() -> Iterator[dict[str, Any]]:
    """Every setting that is recorded; ``experiment`` names what it belongs to."""
    whole = [(way, None) for way in (sweep.SCRATCH, sweep.FULL)]
    with_rank = itertools.product((sweep.LORA, sweep.RANDOM), sweep.RANKS)
    ways = [*whole, *with_rank, (sweep.ALONE, sweep.ONE_RANK)]
    for task, (way, r), rate in itertools.product(sweep.TASKS, ways, sweep.RATES):
        yield {
            "experiment": "ranks",
            "task": task,
            "images": sweep.FEW,
            "way": way,
            "r": r,
            "learning_rate": rate,
        }
    some = [*whole, (sweep.LORA, sweep.ONE_RANK)]
    for task, (way, r), rate in itertools.product(sweep.TASKS, some, sweep.RATES):
        yield {
            "experiment": "images",
            "task": task,
            "images": sweep.MANY,
            "way": way,
            "r": r,
            "learning_rate": rate,
        }
    for use_rslora, r, rate in itertools.product((False, True), sweep.SCALING_RANKS, sweep.SCALING_RATES):
        run = {"experiment": "scaling", "task": "turned", "images": 100, "way": sweep.LORA, "r": r}
        yield run | {"lora_alpha": 4, "use_rslora": use_rslora, "learning_rate": rate}


def recorded(setting: dict[str, Any], seeds: int) -> dict[str, Any]:
    """A setting with its scores, one for each seed."""
    torch.set_num_threads(1)
    arguments = {key: value for key, value in setting.items() if key != "experiment" and value is not None}
    return setting | sweep.scores_of(**arguments, seeds=range(seeds))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=sweep.SEEDS, help=f"default {sweep.SEEDS}")
    parser.add_argument("--processes", type=int, default=2, help="default 2")
    parser.add_argument("--output", type=Path, default=TARGET)
    options = parser.parse_args()
    source = provenance()  # before the file itself makes the tree differ from its revision
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        runs = pool.imap(partial(recorded, seeds=options.seeds), settings())
        done = []
        for done_now in runs:
            done.append(done_now)
            print(f"\r{len(done)} settings", end="", flush=True)
    print()
    command = "python -m tools.record_digit_sweep"
    write_json(options.output, {"command": command, **source, "seeds": options.seeds, "runs": done})


if __name__ == "__main__":
    main()
