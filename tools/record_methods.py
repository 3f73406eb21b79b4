"""Record LoRA, bottleneck adapters, a prefix and full fine-tuning on the event data, each at a rate of its own.

    python -m tools.record_methods --output data/runs/methods.json --revision REVISION

``tuning``
    One seed a rate, trained on `load_events("fit")` and scored on `load_events("validation")`. A method whose best rate
    lies at the end of its ladder gets one more rung there, until the best lies inside.
``runs``
    Three seeds at the best rate, trained on all 1,600 sentences and scored on the test split.

Runs share the GPU, several processes side by side: their seconds say nothing about speed.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import transformers

from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.data import load_events
from lora_edu.llm.data.extraction import encode_example, evaluate
from lora_edu.llm.files import write_json
from lora_edu.llm.provenance import provenance
from tools.record_personas import METHODS, SEEDS, Lesson, train

LADDERS = {
    "lora": (1e-3, 2e-3, 4e-3, 8e-3),
    "bottleneck": (1e-3, 2e-3, 4e-3, 8e-3),
    "prefix": (5e-3, 1e-2, 2e-2, 4e-2),
    "full": (5e-5, 1e-4, 2e-4, 4e-4),
}
"""Learning rates to begin with, each twice the one before."""
MOST_RUNGS = 8


@dataclass(frozen=True)
class Trial:
    """A method, how it is trained, and the splits that it learns from and is asked."""

    method: str
    learning_rate: float
    seed: int
    steps: int
    learned: str
    asked: str


def attempt(trial: Trial) -> dict[str, Any]:
    """Train, then count the answers that are right (0 to 1) on patterns that were learned and on others."""
    transformers.set_seed(trial.seed)
    model, tokenizer = load_base_model(dtype="float32")
    METHODS[trial.method](model)
    examples = [encode_example(tokenizer, line) for line in load_events(trial.learned)]
    lesson = Lesson("", trial.method, trial.learning_rate, trial.seed, trial.steps)
    losses = train(model, examples, tokenizer, lesson)
    lines = load_events(trial.asked)
    parts = {
        name: [line for line in lines if line["unseen_pattern"] == unseen]
        for name, unseen in (("exact_match", False), ("exact_match_unseen", True))
    }
    result = {
        **asdict(trial),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "losses": losses,
        **{
            name: evaluate(model, tokenizer, part, batch_size=len(part))["exact_match"]
            for name, part in parts.items()
        },
    }
    print({key: value for key, value in result.items() if key != "losses"}, flush=True)
    return result


def score(run: Mapping[str, Any]) -> float:
    """What a rate is chosen by: validation has as many lines of either kind."""
    return run["exact_match"] + run["exact_match_unseen"]


def next_rung(tried: Sequence[Mapping[str, Any]]) -> float | None:
    """The rate to try beyond the end at which a method did best; None if it did best inside."""
    by_rate = sorted(tried, key=lambda run: run["learning_rate"])
    best = max(by_rate, key=score)
    if len(by_rate) >= MOST_RUNGS:
        return None
    if best is by_rate[0]:
        return best["learning_rate"] / 2
    return best["learning_rate"] * 2 if best is by_rate[-1] else None


def tune(pool: ProcessPoolExecutor, steps: int, until: float) -> list[dict[str, Any]]:
    """Try the ladders, and further rungs while there is time."""
    asked = [(method, rate) for method, rates in LADDERS.items() for rate in rates]
    tuning: list[dict[str, Any]] = []
    while asked and time.monotonic() < until:
        trials = [Trial(method, rate, SEEDS[0], steps, "fit", "validation") for method, rate in asked]
        tuning += pool.map(attempt, trials)
        rungs = {method: next_rung([run for run in tuning if run["method"] == method]) for method in LADDERS}
        asked = [(method, rate) for method, rate in rungs.items() if rate is not None]
    return tuning


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--revision", required=True, help="git revision of this checkout")
    parser.add_argument("--steps", type=int, default=120, help="optimizer steps of eight sentences")
    parser.add_argument("--processes", type=int, default=16, help="runs side by side")
    parser.add_argument("--tuning-seconds", type=float, default=220, help="no further rung after that")
    settings = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes: several of them share the cores
    until = time.monotonic() + settings.tuning_seconds
    with ProcessPoolExecutor(settings.processes, multiprocessing.get_context("spawn")) as pool:
        tuning = tune(pool, settings.steps, until)
        best = {m: max((run for run in tuning if run["method"] == m), key=score) for m in LADDERS}
        trials = [
            Trial(method, run["learning_rate"], seed, settings.steps, "train", "test")
            for method, run in best.items()
            for seed in SEEDS
        ]
        runs = list(pool.map(attempt, trials))
    content = {
        "command": "python -m tools.record_methods",
        **provenance(),
        "revision": settings.revision,
        "settings": {"steps": settings.steps, "batch_size": 8, "dtype": "float32"},
        "tuning": tuning,
        "runs": runs,
    }
    write_json(settings.output, content)


if __name__ == "__main__":
    main()
