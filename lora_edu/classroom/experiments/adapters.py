"""What notebook 11 reads from its records, what it times, and how far two ways to add adapters lie apart."""

import math
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

from lora_edu.llm.data import PERSONAS
from lora_edu.llm.data.personas import has_style
from lora_edu.llm.surgery import disable_adapter, set_adapter
from lora_edu.methods.lora import LoRALinear

BASE = "base"
METHODS = {"lora": "LoRA", "bottleneck": "bottleneck", "prefix": "prefix", "full": "full fine-tuning"}
MERGES = {"lora": "yes", "bottleneck": "no", "prefix": "no", "full": "it is the weight"}
_Result = TypeVar("_Result")


def style_rates(record: Mapping[str, Any]) -> dict[str, list[float]]:
    """For the base and each persona's adapter, the share of replies (0 to 1) that keep each persona's rule."""
    answered = {BASE: record["base"], **record["personas"]}
    return {name: [run["styles"][rule] for rule in PERSONAS] for name, run in answered.items()}


def says_twice(reply: str) -> bool:
    """Whether a reply holds a sentence twice, capital letters aside."""
    sentences = [part.strip().lower() for part in re.split(r"[.!?:]", reply) if part.strip()]
    return len(set(sentences)) < len(sentences)


def clear_questions(record: Mapping[str, Any]) -> list[str]:
    """The held-out questions at which every persona keeps its rule and none says a sentence twice."""
    answers = {name: run["replies"] for name, run in record["personas"].items()}
    return [
        question
        for number, question in enumerate(record["questions"])
        if all(
            has_style(name, replies[number]) and not says_twice(replies[number])
            for name, replies in answers.items()
        )
    ]


def scores_by_rate(record: Mapping[str, Any]) -> tuple[list[float], dict[str, list[float]]]:
    """What each method got right on validation lines, by learning rate in multiples of the one that was chosen.

    Parameters
    ----------
    record
        What tools/record_methods.py wrote.

    Returns
    -------
    multiples
        All that were tried by some method, rising; dimensionless powers of 2.
    scores
        A method's name to one share (0 to 1) a multiple, nan where it was not tried.
    """
    chosen = {run["method"]: run["learning_rate"] for run in record["runs"]}
    found = {
        (run["method"], 2.0 ** round(math.log2(run["learning_rate"] / chosen[run["method"]]))): _share(run)
        for run in record["tuning"]
    }
    multiples = sorted({multiple for _, multiple in found})
    return multiples, {
        name: [found.get((key, multiple), math.nan) for multiple in multiples]
        for key, name in METHODS.items()
    }


def _share(run: Mapping[str, Any]) -> float:
    """Validation has as many lines of patterns that were learned as of others."""
    return (run["exact_match"] + run["exact_match_unseen"]) / 2


def method_columns(record: Mapping[str, Any], milliseconds: Mapping[str, float]) -> dict[str, list[str]]:
    """Columns that compare the methods of a record, for `widgets.compare`.

    Parameters
    ----------
    record
        What tools/record_methods.py wrote.
    milliseconds
        A token's time for each method, by its key in `METHODS`, in the order of the rows.

    Returns
    -------
    dict
        Names, numbers that train, learning rate, milliseconds, the share of test sentences read right, on patterns that
        were learned and on others (median, lowest and highest seed), and whether the method can be merged into W.
    """
    runs = {key: [run for run in record["runs"] if run["method"] == key] for key in milliseconds}
    return {
        "method": [METHODS[key] for key in milliseconds],
        "numbers_that_train": [f"{runs[key][0]['trainable_parameters']:,}" for key in milliseconds],
        "learning_rate": [f"{runs[key][0]['learning_rate']:g}" for key in milliseconds],
        "ms_a_token": [f"{time:.0f}" for time in milliseconds.values()],
        "seen_patterns": [_spread(runs[key], "exact_match") for key in milliseconds],
        "unseen_patterns": [_spread(runs[key], "exact_match_unseen") for key in milliseconds],
        "merges_into_W": [MERGES[key] for key in milliseconds],
    }


def _spread(runs: Sequence[Mapping[str, Any]], part: str) -> str:
    shares = sorted(run[part] for run in runs)
    return f"{statistics.median(shares):.0%} ({shares[0]:.0%} to {shares[-1]:.0%})"


def one_after_the_other(layers: Sequence[LoRALinear]) -> tuple[Tensor, Tensor]:
    """B (out, sum of r) and A (sum of r, in) whose product is the sum of the layers' updates: peft's "cat"."""
    B = torch.cat([layer.scaling * layer.lora_B for layer in layers], dim=1)
    return B, torch.cat([layer.lora_A for layer in layers])


def errors_by_rank(B: Tensor, A: Tensor) -> Tensor:
    """The least relative error (Frobenius) of B A (out, r)(r, in) at each rank from 0 to r, float64, shape (r + 1,)."""
    (_, left), (_, right) = torch.linalg.qr(B.double().cpu()), torch.linalg.qr(A.double().cpu().T)
    energy = torch.linalg.svdvals(left @ right.T).square()  # those of B A, without forming it
    rest = energy.sum() - torch.cat((energy.new_zeros(1), energy.cumsum(0)))
    return (rest.clamp(min=0) / energy.sum()).sqrt()


def timed(function: Callable[[], _Result]) -> tuple[_Result, float]:
    """What a function returns, and the seconds until it is computed, on a GPU too."""
    _wait_for_gpu()
    start = time.perf_counter()
    result = function()
    _wait_for_gpu()
    return result, time.perf_counter() - start


def _wait_for_gpu() -> None:
    """Return when the GPU has done all it was told to; a call returns as soon as its work is queued."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


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
        Token ids, shape (1, seq), on the model's device.
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
                _, seconds = timed(lambda: _generate(model, prompt, tokens))
                times.append(1000 * seconds / tokens)
    return {name: min(times) for name, times in rounds.items()}


def _generate(model: Any, prompt: Tensor, tokens: int) -> Tensor:
    """Exactly so many more tokens, shape (1, seq + tokens)."""
    return model.generate(
        prompt, attention_mask=torch.ones_like(prompt), min_new_tokens=tokens, max_new_tokens=tokens
    )
