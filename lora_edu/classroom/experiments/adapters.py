"""What notebook 11 reads from the record of the personas, and what it times."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

from lora_edu.llm.data import PERSONAS
from lora_edu.llm.surgery import disable_adapter, set_adapter

BASE = "base"
METHODS = {"lora": "LoRA", "bottleneck": "bottleneck", "prefix": "prefix", "full": "full fine-tuning"}
MERGES = {"lora": "yes", "bottleneck": "no", "prefix": "no", "full": "it is the weight"}
_Result = TypeVar("_Result")


def style_rates(record: Mapping[str, Any]) -> dict[str, list[float]]:
    """For the base and each persona's adapter, the share of replies (0 to 1) that keep each persona's rule."""
    answered = {BASE: record["base"], **record["personas"]}
    return {name: [run["styles"][rule] for rule in PERSONAS] for name, run in answered.items()}


def method_columns(record: Mapping[str, Any], milliseconds: Mapping[str, float]) -> dict[str, list[str]]:
    """Columns that compare the methods of a record, for `widgets.compare`.

    Parameters
    ----------
    record
        What tools/record_personas.py wrote.
    milliseconds
        A token's time for each method, by its key in `METHODS`, in the order of the rows.

    Returns
    -------
    dict
        Names, numbers that train, milliseconds, the share of replies that keep the rule of the persona that all methods
        were taught (median, lowest and highest seed), and whether the method can be merged into W.
    """
    runs = {key: [run for run in record["methods"] if run["method"] == key] for key in milliseconds}
    rates = {key: sorted(run["styles"][run["persona"]] for run in runs[key]) for key in milliseconds}
    return {
        "method": [METHODS[key] for key in milliseconds],
        "numbers_that_train": [f"{runs[key][0]['trainable_parameters']:,}" for key in milliseconds],
        "ms_a_token": [f"{time:.0f}" for time in milliseconds.values()],
        "keeps_the_style": [
            f"{statistics.median(r):.0%} ({r[0]:.0%} to {r[-1]:.0%})" for r in rates.values()
        ],
        "merges_into_W": [MERGES[key] for key in milliseconds],
    }


def timed(function: Callable[[], _Result]) -> tuple[_Result, float]:
    """What a function returns, and the seconds it took."""
    start = time.perf_counter()
    return function(), time.perf_counter() - start


@torch.no_grad()
def milliseconds_a_token(
    model: Any, prompt: Tensor, adapters: Sequence[str], tokens: int = 8, repeats: int = 5
) -> dict[str, float]:
    """Time greedy generation with the base alone and with each adapter.

    The candidates take turns, so that a busy moment of the machine hits them alike, and the fastest round of each
    counts. The first token, which reads the prompt, is part of the mean. The last adapter stays active.

    Parameters
    ----------
    model
        A causal language model changed by `surgery`.
    prompt
        Token ids, shape (1, seq).
    adapters
        Names of the model's adapters, of any kind.
    tokens, repeats
        Tokens a round, and rounds; at least 1 each.

    Returns
    -------
    dict
        Milliseconds a token, for ``"base"`` and for each name.

    Raises
    ------
    ValueError
        If the model has no adapter of a name.
    """
    rounds: dict[str, list[float]] = {name: [] for name in (BASE, *adapters)}
    for _ in range(repeats):
        for name, times in rounds.items():
            if name != BASE:
                set_adapter(model, name)
            with disable_adapter(model) if name == BASE else nullcontext():
                start = time.perf_counter()
                model.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    min_new_tokens=tokens,
                    max_new_tokens=tokens,
                )
                times.append(1000 * (time.perf_counter() - start) / tokens)
    return {name: min(times) for name, times in rounds.items()}
