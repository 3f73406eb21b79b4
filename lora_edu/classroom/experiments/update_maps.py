"""The updates of an adapter as `update_map` draws them."""

import math
from statistics import median

from lora_edu.llm.inspect import Report


def updates_by_kind(report: Report, blocks: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return the norm of each update by kind of layer, and the median rank that holds 99 % of its energy.

    Parameters
    ----------
    report
        Of `inspect_adapter`.
    blocks
        Of the base: as many norms a kind, NaN where a block has no update.
    """
    norms: dict[str, list[float]] = {}
    held: dict[str, list[int]] = {}
    for update in report.updates:
        if update.block is not None:
            kind = update.kind.rpartition(".")[2]
            norms.setdefault(kind, [math.nan] * blocks)[update.block] = update.norm
            held.setdefault(kind, []).append(update.copy_rank())
    return norms, {kind: median(ranks) for kind, ranks in held.items()}
