"""One linear layer of a 7B model on a GPU, in 16 and in 4 bits: how fast it is, and what the hardware allows.

The record is `data/runs/bench_gpu_four_bit_layer.json`. Ways, as it calls them: bf16; bitsandbytes' Linear4bit (NF4,
double quantization, in bfloat16); the course's NF4Linear as it is, and with `lora_edu.accel`'s kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from lora_edu.classroom import figures, records

RECORD = "bench_gpu_four_bit_layer"
TOKENS = (1, 8, 64, 512)
LAYERS = {"4,096 × 4,096": (4096, 4096), "14,336 × 4,096": (14_336, 4096), "4,096 × 14,336": (4096, 14_336)}
"""A layer's name to (out, in)."""
PASSES = ("forward", "forward and backward")
CLOCKS = {"the GPU's work": "kernel_seconds", "the whole call": "seconds"}
"""What is timed: kernels alone, or with the time to launch them from Python."""
FOUR_BITS = {
    "bitsandbytes": "bitsandbytes",
    "ours, with kernels": "lora_edu kernels",
    "ours": "lora_edu plain",
}
"""What a picture calls a way, to its name in the record."""
CITED = {"T4": 2.2, "A100": 3.4, "H100": 4.0, "A100, 0.41": 1.5}
"""Times as fast as 16 bits at one token, by bitsandbytes' release notes of July 2023: 0.40.0 expects the first
three, by generation of GPU, for layers of at least 4,096 inputs; 0.41.0, eleven days later, corrects the A100.

https://github.com/bitsandbytes-foundation/bitsandbytes/releases/tag/0.40.0 and .../tag/0.41.0
"""


def seconds(
    rows: Sequence[Mapping[str, Any]], layer: str, work: str = "forward", clock: str = "the GPU's work"
) -> dict[str, list[float]]:
    """Seconds of each way, one for each of `TOKENS`.

    Parameters
    ----------
    rows
        ``results`` of the record.
    layer, work, clock
        One of `LAYERS`, `PASSES` and `CLOCKS`.

    Raises
    ------
    ValueError
        If a row is missing.
    """
    found = {
        (row["way"], row["tokens"]): row[CLOCKS[clock]]
        for row in rows
        if tuple(row["shape"]) == LAYERS[layer] and row["passes"] == work
    }
    ways = ("bf16", *FOUR_BITS.values())
    missing = [(way, count) for way in ways for count in TOKENS if (way, count) not in found]
    if missing:
        raise ValueError(f"rows must hold every way and number of tokens, {layer}, {work} lacks {missing}")
    return {way: [found[way, count] for count in TOKENS] for way in ways}


def speeds(
    rows: Sequence[Mapping[str, Any]], layer: str, work: str = "forward", clock: str = "the GPU's work"
) -> dict[str, list[float]]:
    """How many times as fast as bf16 each way of `FOUR_BITS` is; parameters as in `seconds`."""
    times = seconds(rows, layer, work, clock)
    return {
        name: [wide / narrow for wide, narrow in zip(times["bf16"], times[way], strict=True)]
        for name, way in FOUR_BITS.items()
    }


def work_of(rows: Sequence[Mapping[str, Any]], layer: str) -> dict[str, list[tuple[float, float, float]]]:
    """For bf16, bitsandbytes and ours: operations, bytes moved at least, seconds, one triple for each of `TOKENS`.

    A token takes a multiplication and an addition a weight. Moved are the weight as it is stored, inputs and outputs.
    """
    out, into = LAYERS[layer]
    stored = {row["way"]: row["weight_bytes"] for row in rows if tuple(row["shape"]) == LAYERS[layer]}
    times = seconds(rows, layer)
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
        title="One token waits for reading, 512 wait for multiplying",
    )
