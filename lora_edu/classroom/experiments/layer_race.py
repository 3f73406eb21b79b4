"""One linear layer of a 7B model on a GPU, in 16 and in 4 bits: how fast it is, and what the hardware allows.

The record is `data/runs/bench_gpu_four_bit_layer.json`. Ways, as it calls them: bf16; bitsandbytes' Linear4bit (NF4,
double quantization, in bfloat16); the course's NF4Linear as it is, and with `lora_edu.accel`'s kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from statistics import median
from typing import Any

from lora_edu.classroom import figures, records

RECORD = "bench_gpu_four_bit_layer"
TOKENS = (1, 8, 64, 512)
LAYERS = {"4,096 × 4,096": (4096, 4096), "14,336 × 4,096": (14_336, 4096), "4,096 × 14,336": (4096, 14_336)}
"""A layer's name to (out, in)."""
PASSES = ("forward", "forward and backward")
GPU, CALL = CLOCKS = ("the GPU's work", "the whole call")
"""What is timed: kernels alone, or with the time to launch them from Python."""
FOUR_BITS = {
    "bitsandbytes": "bitsandbytes",
    "ours, with kernels": "lora_edu kernels",
    "ours": "lora_edu plain",
}
"""What a picture calls a way, to its name in the record."""
CITED = {"RTX 4090": 3.8, "RTX 3090": 3.1, "A100": 1.5, "RTX 2080 Ti": 1.1}
"""Times as fast as 16 bits at one token, by the release note of bitsandbytes 0.41.0 (July 2023). That of 0.40.0, eleven
days before and without names of GPUs, expected 2.2, 3.4 and 4.0 for three generations.

https://github.com/bitsandbytes-foundation/bitsandbytes/releases/tag/0.41.0
"""


Rows = Sequence[Mapping[str, Any]]


def rows_of(rows: Rows, layer: str, work: str = "forward") -> dict[str, list[Mapping[str, Any]]]:
    """The rows of each way, one for each of `TOKENS`.

    Parameters
    ----------
    rows
        ``results`` of the record.
    layer, work
        One of `LAYERS` and of `PASSES`.

    Raises
    ------
    ValueError
        If a row is missing, or the layer is none of `LAYERS`.
    """
    if layer not in LAYERS:
        raise ValueError(f"layer must be one of {list(LAYERS)}, got {layer!r}")
    found = {
        (row["way"], row["tokens"]): row
        for row in rows
        if tuple(row["shape"]) == LAYERS[layer] and row["passes"] == work
    }
    ways = ("bf16", *FOUR_BITS.values())
    missing = [(way, count) for way in ways for count in TOKENS if (way, count) not in found]
    if missing:
        raise ValueError(f"rows must hold every way and number of tokens, {layer}, {work} lacks {missing}")
    return {way: [found[way, count] for count in TOKENS] for way in ways}


def speeds(rows: Rows, layer: str, work: str = "forward", clock: str = GPU) -> dict[str, list[float]]:
    """How many times as fast as bf16 each way of `FOUR_BITS` is; layer and work as in `rows_of`.

    By the whole call a busy moment slows both, so there the ratio is taken within each round, and its median counts.
    """
    found = rows_of(rows, layer, work)
    if clock == CALL:
        return {name: [1 / median(row["ratios"]) for row in found[way]] for name, way in FOUR_BITS.items()}
    return {
        name: [
            wide["kernel_seconds"] / row["kernel_seconds"]
            for wide, row in zip(found["bf16"], found[way], strict=True)
        ]
        for name, way in FOUR_BITS.items()
    }


def work_of(rows: Rows, layer: str) -> dict[str, list[tuple[float, float, float]]]:
    """For bf16, bitsandbytes and ours: operations, bytes moved at least, seconds, one triple for each of `TOKENS`.

    A token takes a multiplication and an addition a weight. Moved are the weight as it is stored, inputs and outputs.
    """
    out, into = LAYERS[layer]
    stored = {row["way"]: row["weight_bytes"] for row in rows if tuple(row["shape"]) == LAYERS[layer]}
    times = {way: [row["kernel_seconds"] for row in found] for way, found in rows_of(rows, layer).items()}
    names = {"bf16": "bf16", "bitsandbytes": "bitsandbytes", "ours": "lora_edu plain"}
    return {
        name: [
            (2.0 * count * out * into, stored[way] + 2.0 * count * (out + into), time)
            for count, time in zip(TOKENS, times[way], strict=True)
        ]
        for name, way in names.items()
    }


@cache
def recorded() -> dict[str, Any]:
    """The record."""
    return records.read(RECORD)


def draw_speeds(ax: figures.Picture, layer: str, work: str, clock: str) -> None:
    """Draw the recorded speeds; the axis stands still for all layers, passes and clocks."""
    rows = recorded()["results"]
    every = [
        value
        for name in LAYERS
        for one in PASSES
        for timed in CLOCKS
        for values in speeds(rows, name, one, timed).values()
        for value in values
    ]
    drawn = speeds(rows, layer, work, clock)
    few, many = drawn["bitsandbytes"][0], drawn["bitsandbytes"][-1]
    figures.speed_by_tokens(
        drawn,
        tokens=TOKENS,
        cited=CITED if work == "forward" else None,
        base="bf16",
        ylim=(min(every) / 1.3, max(*every, *CITED.values()) * 1.5),
        title=f"{layer}, {work}: bitsandbytes is {few:.2f} times as fast at 1 token, {many:.2f} at {TOKENS[-1]}",
        ax=ax,
    )


def draw_roof(layer: str = "14,336 × 4,096") -> figures.Picture:
    """Draw the recorded forward passes of a layer under the roof of the GPU, as it was measured beside them."""
    record = recorded()
    return figures.roof_by_tokens(
        work_of(record["results"], layer),
        tokens=TOKENS,
        bandwidth=record["copy_bytes_a_second"],
        peak=record["peak_operations_a_second"],
        title="In bf16 one token waits for reading, 512 wait for multiplying",
    )
