"""Which layers get B and A: recorded fine-tunes of SmolLM2, three choices of one size and a smaller one."""

from __future__ import annotations

from statistics import median
from typing import Any, NamedTuple

import numpy as np

from lora_edu.classroom import figures, records
from lora_edu.llm.budget import lora_parameter_count

QUERY_VALUE = ["q_proj", "v_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
BLOCKS = 30
SHAPES = {  # (in, out) of SmolLM2-135M's linear layers
    "q_proj": (576, 576),
    "k_proj": (576, 192),
    "v_proj": (576, 192),
    "o_proj": (576, 576),
    "gate_proj": (576, 1536),
    "up_proj": (576, 1536),
    "down_proj": (1536, 576),
}
PARTS = {"seen patterns": "exact_match", "unseen patterns": "exact_match_unseen"}
FINDINGS = {
    "seen patterns": "Validation, seen: q and v at r = 8 need the highest rate",
    "unseen patterns": "Validation, unseen: no such order",
}


class Choice(NamedTuple):
    """Layers and a rank; alpha is 2 r. `target_modules` None stands for all linear layers."""

    target_modules: list[str] | None
    r: int

    @property
    def numbers(self) -> int:
        """How many numbers B and A hold in all blocks."""
        layers = self.target_modules or list(SHAPES)
        return BLOCKS * sum(lora_parameter_count(*SHAPES[name], self.r) for name in layers)


CHOICES = {
    "all linear, r = 8": Choice(None, 8),
    "MLP, r = 13": Choice(MLP, 13),
    "q and v, r = 42": Choice(QUERY_VALUE, 42),
    "q and v, r = 8": Choice(QUERY_VALUE, 8),
}


def columns() -> dict[str, list[str]]:
    """The choices for `widgets.compare`: how many numbers each trains, and alpha."""
    return {
        "layers": list(CHOICES),
        "numbers": [f"{choice.numbers:,}" for choice in CHOICES.values()],
        "α": [f"{2 * choice.r}" for choice in CHOICES.values()],
        "α / r": ["2"] * len(CHOICES),
    }


def validation(part: str) -> tuple[list[float], dict[str, np.ndarray]]:
    """Learning rates, and for each choice its validation score (0 to 1) at each of them; nan where none was run.

    Parameters
    ----------
    part : str
        One of `PARTS`.
    """
    found = {
        name: {run["learning_rate"]: run[PARTS[part]] for run in _runs("events_gpu_targets_tune", choice)}
        for name, choice in CHOICES.items()
    }
    rates = sorted({rate for scores in found.values() for rate in scores})
    return rates, {
        name: np.array([scores.get(rate, np.nan) for rate in rates]) for name, scores in found.items()
    }


def chosen_rates() -> dict[str, float]:
    """For each choice the learning rate best on validation sentences of seen patterns; of equals the lowest."""
    rates, scores = validation("seen patterns")
    return {name: rates[int(np.nanargmax(row))] for name, row in scores.items()}


def test_scores(part: str) -> dict[str, list[float]]:
    """For each choice its test scores (0 to 1), one a seed, at its chosen rate.

    Raises
    ------
    ValueError
        If a choice was never scored on the test split at that rate.
    """
    scores = {}
    for name, rate in chosen_rates().items():
        choice = CHOICES[name]
        record = "events_gpu_targets" if choice.target_modules else "events_gpu_final"
        runs = [run for run in _runs(record, choice) if run["learning_rate"] == rate]
        if not runs:
            raise ValueError(f"{record} must hold runs of '{name}' at learning rate {rate:g}, and holds none")
        scores[name] = [run[PARTS[part]] for run in runs]
    return scores


def test_columns() -> dict[str, list[str]]:
    """Each choice for `widgets.compare`: its rate, and on either part of the test the median and all three seeds."""
    table = {"layers": list(CHOICES), "rate": [f"{rate:g}" for rate in chosen_rates().values()]}
    for part in PARTS:
        table[part] = [_with_seeds(seeds) for seeds in test_scores(part).values()]
    return table


def draw_rates(ax: figures.Picture, part: str) -> None:
    """Draw validation scores of one part against the learning rate, a line a choice."""
    rates, scores = validation(part)
    style = {"ylabel": "exactly right", "ylim": (0.65, 1.02), "title": FINDINGS[part]}
    figures.score_by_rate(scores, rates=rates, **style, ax=ax)


def _runs(record: str, choice: Choice) -> list[dict[str, Any]]:
    every = records.runs(record, method="lora", r=choice.r)
    wanted = choice.target_modules or ["all-linear"]
    return [run for run in every if run.get("target_modules", ["all-linear"]) == wanted]


def _with_seeds(seeds: list[float]) -> str:
    return f"{median(seeds):.1%} ({', '.join(f'{share:.1%}' for share in sorted(seeds))})"
