"""A classifier over SmolLM2: heads alone on the frozen base, and heads with LoRA. All recorded."""

from __future__ import annotations

from typing import Any

import numpy as np

from lora_edu.classroom import records

WAYS = ("head alone, last token", "head alone, mean, block 2", "LoRA and head", "LoRA, new head")
SEEDS = 3


def head_alone(reading: str, last_block: bool = False) -> dict[str, Any]:
    """The run of a head on the frozen base, of the block that did best on validation sentences.

    Parameters
    ----------
    reading : str
        What of a sentence is read: ``"last token"`` or ``"mean"`` over its tokens.
    last_block : bool
        Read what the last block gives, whatever the validation sentences say.
    """
    runs = records.runs("frozen_head", reading=reading)
    if last_block:
        return max(runs, key=lambda run: run["block"])
    return max(runs, key=lambda run: run["validation"])


def right() -> np.ndarray:
    """The share of test sentences (0 to 1) whose class is named, (seeds, ways): a row a seed, a column a way.

    Heads alone are fitted to the end and know no seed: their share stands in every row.
    """
    alone = [head_alone("last token", last_block=True)["after"], head_alone("mean")["after"]]
    with_head, without = (
        records.runs("classifier", way=f"LoRA, head {how}") for how in ("saved", "not saved")
    )
    trained, loaded = [run["loaded"] for run in with_head], [run["loaded"] for run in without]
    return np.column_stack([*(np.full(SEEDS, share) for share in alone), trained, loaded])
