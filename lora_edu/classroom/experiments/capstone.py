"""What recorded runs of the capstone (notebook 10) did: answers before and after, and how many were right."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from lora_edu.classroom import figures, records
from lora_edu.classroom.language import to_translate
from lora_edu.llm.budget import memory_ledger

GROUPS = to_translate(
    "base model", "base, three examples", "fine-tuned, seen forms", "fine-tuned, unseen forms"
)
"""Who was asked: the columns of `scores`."""

_COLUMNS = to_translate("sentence", "before", "after")
_BASE = "exact_match_before", "exact_match_before_few_shot"
_TUNED = "exact_match", "exact_match_unseen"


def before_and_after(
    run: Mapping[str, Any], indices: Iterable[int], width: int = 100
) -> dict[str, list[str]]:
    """Columns, for `widgets.compare`, of what a model answered before and after its fine-tune.

    Parameters
    ----------
    run
        A record of `lora_edu.llm.finetune`.
    indices
        Which of its answers.
    width
        Letters after which an answer from before is cut; a cut one ends with " …".
    """
    entries = [run["answers"][index] for index in indices]
    columns = (
        [entry["sentence"] for entry in entries],
        [_cut(entry["before"], width) for entry in entries],
        [entry["answer"] for entry in entries],
    )
    return dict(zip(_COLUMNS, columns, strict=True))


def scores(runs: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Shares of events exactly right (0 to 1), a row a run, a column for each of `GROUPS`.

    The base, the same for every seed, was asked in the first run alone.
    """
    base = [runs[0][key] for key in _BASE]
    return [base + [run[key] for key in _TUNED] for run in runs]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[:width].rsplit(' ', 1)[0]} …"


def draw_job() -> figures.Picture:
    """Draw one sentence of a recorded run of the small model, as its base answered it and as it did after training."""
    entry = records.read("events_qlora_cpu_seed0")["answers"][1]
    ledger = memory_ledger("SmolLM2-135M", "qlora", dtype=torch.bfloat16)
    base = (ledger["weights"] + ledger["quantization constants"]) / 1e6
    return figures.one_job(
        entry["sentence"],
        _cut(entry["before"], 62),
        entry["answer"],
        base=base,
        adapter=ledger["adapters"] / 1e6,
    )
