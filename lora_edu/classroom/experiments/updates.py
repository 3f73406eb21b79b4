"""Recorded updates of the base model (notebook 02): their size, their rank, what was needed of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from lora_edu.classroom import figures, records
from lora_edu.llm.base_model import fetch_base_model

KINDS = ("q", "k", "v", "o", "gate", "up", "down")
BLOCKS = 30
SHAPES = {
    "q": (576, 576),
    "k": (192, 576),
    "v": (192, 576),
    "o": (576, 576),
    "gate": (1536, 576),
    "up": (1536, 576),
    "down": (576, 1536),
}
"""(out, in) of a weight of each kind in SmolLM2-135M."""
READS, WRITES = "directions it reads", "directions it writes"
SEEDS = (0, 1, 2)
LORA_RANKS = (1, 2, 4, 8, 16, 64)
"""Ranks at which LoRA was trained in data/runs/events_gpu_final.json."""
GROUPS = {"seen patterns": "exact_match", "unseen patterns": "exact_match_unseen"}


def path_of(kind: str, block: int) -> str:
    """A weight's path in the model.

    >>> path_of("q", 15), path_of("up", 0)
    ('model.layers.15.self_attn.q_proj', 'model.layers.0.mlp.up_proj')
    """
    return f"model.layers.{block}.{'self_attn' if len(kind) == 1 else 'mlp'}.{kind}_proj"


def kind_of(path: str) -> str:
    """Which of `KINDS` a weight is.

    >>> kind_of("model.layers.15.self_attn.q_proj")
    'q'
    """
    return path.rpartition(".")[2].removesuffix("_proj")


def base_weight(path: str) -> Tensor:
    """A weight (out, in) of the base model, float64; in its file it is bfloat16."""
    with safe_open(fetch_base_model() / "model.safetensors", "pt") as file:
        return file.get_tensor(f"{path}.weight").double()


@cache
def spectra() -> dict[str, Tensor]:
    """As `records.delta_w_spectra`, read once."""
    return records.delta_w_spectra()


def sizes(part: str) -> Tensor:
    """Root mean square of the numbers of each weight, or of its update, (kinds, blocks), from singular values.

    Parameters
    ----------
    part
        ``"W"`` or ``"dW"``.
    """
    return torch.tensor(
        [
            [
                spectra()[f"{path_of(kind, block)}.{part}"].norm().item()
                / (SHAPES[kind][0] * SHAPES[kind][1]) ** 0.5
                for block in range(BLOCKS)
            ]
            for kind in KINDS
        ],
        dtype=torch.float64,
    )


def energy(S: Tensor) -> Tensor:
    """Share of the sum of squares that the first 1, 2, 3, … singular values hold."""
    return S.square().cumsum(0) / S.square().sum()


def energies(part: str) -> dict[str, Tensor]:
    """`energy` of all 210 weights (``"W"``) or updates (``"dW"``), by path."""
    return {
        name.removesuffix(f".{part}"): energy(S) for name, S in spectra().items() if name.endswith(f".{part}")
    }


@cache
def noise_energy(kind: str) -> Tensor:
    """`energy` of Gaussian noise in the shape of a kind of weight."""
    generator = torch.Generator().manual_seed(0)
    return energy(torch.linalg.svdvals(torch.randn(SHAPES[kind], generator=generator))).double()


def draw_energy(ax: Any, kind: str, block: int, rank: int) -> None:
    """What the first terms keep of a weight's energy, of its update's, and of noise in its shape."""
    path = path_of(kind, block)
    curves = {part: energy(spectra()[f"{path}.{part}"]) for part in ("dW", "W")}
    curves["noise"] = noise_energy(kind)
    kept = ", ".join(f"{name} {curve[rank - 1]:.0%}" for name, curve in curves.items())
    title = f"{kind} of block {block}: rank {rank} keeps {curves['dW'][rank - 1]:.0%} of dW"
    text = f"{kind} of block {block}: of {len(curves['W'])} terms, the first {rank} keep this share of energy: {kept}."
    arrays = {name: curve.numpy() for name, curve in curves.items()}
    roles = {"dW": "trained", "W": "frozen"}
    figures.energy_by_rank(arrays, rank=rank, roles=roles, title=title, alt=text, ax=ax)


def bf16_levels(*weights: float, reach: float = 0.0021) -> dict[str, np.ndarray]:
    """For each number the distances to the bfloat16 numbers around it; it is rounded to one of them first.

    Parameters
    ----------
    *weights
        Above `reach`.
    reach
        How far to either side.

    Raises
    ------
    ValueError
        If a weight is not above `reach`, or `reach` not above 0.
    """
    if not 0 < reach < min(weights):
        raise ValueError(f"reach must be above 0 and below all weights, got {reach} and {weights}")
    every = torch.arange(1, 0x7F80, dtype=torch.int16).view(torch.bfloat16).double()  # all that are above 0
    rows = {}
    for weight in weights:
        distances = every - torch.tensor(weight).bfloat16().double()
        rows[f"a weight of {weight:g}"] = distances[distances.abs() <= reach].numpy()
    return rows


def scores() -> dict[str, dict[str, tuple[Sequence[int] | None, list[list[float]]]]]:
    """Exact match of three seeds, for `figures.rank_panels`: cut and trained to a rank, and full fine-tuning."""
    cuts = [
        [row for row in records.read(f"delta_w_seed{seed}")["by_rank"] if row["rank"] in range(1, 65)]
        for seed in SEEDS
    ]
    trained = [records.runs("events_gpu_final", method="lora", r=r) for r in LORA_RANKS]
    full = records.runs("events_gpu_final", method="full")
    return {
        group: {
            "full": (None, [[run[key]] for run in full]),
            "LoRA": (LORA_RANKS, [[runs[seed][key] for runs in trained] for seed in SEEDS]),
            "full, cut": (
                [row["rank"] for row in cuts[0]],
                [[row[key] for row in rows] for rows in cuts],
            ),
        }
        for group, key in GROUPS.items()
    }


@cache
def _overlaps() -> dict[str, Any]:
    return records.read("delta_w_overlap")


def overlap(kind: str, side: str) -> np.ndarray:
    """How much of the first r directions two seeds share: (blocks x pairs of seeds, ranks), each 0 to 1.

    Parameters
    ----------
    kind
        One of `KINDS`.
    side
        ``"left"``: directions that the update writes to; ``"right"``: those that it reads.
    """
    return np.array(
        [pair for block in range(BLOCKS) for pair in _overlaps()["layers"][path_of(kind, block)][side]]
    )


def overlap_groups(kind: str) -> Mapping[str, Mapping[str, tuple[Sequence[int], Any]]]:
    """The overlaps of a kind of weight, for `figures.rank_panels`, with what chance would give: r over the width."""
    ranks = _overlaps()["ranks"]
    out, into = SHAPES[kind]
    sides = {READS: ("right", into), WRITES: ("left", out)}
    return {
        group: {
            "two runs": (ranks, overlap(kind, side)),
            "chance": (ranks, np.array(ranks) / width),
        }
        for group, (side, width) in sides.items()
    }


def draw_overlap(ax: Any, kind: str) -> None:
    """What two runs share of the first r directions of an update, over 30 blocks and three pairs of runs."""
    groups = overlap_groups(kind)
    shared, chance = (np.median(np.atleast_2d(line[1])[:, -1]) for line in groups[READS].values())
    rank = _overlaps()["ranks"][-1]
    title = f"{kind}: two runs share {shared:.0%} of {rank} directions read; chance: {chance:.0%}"
    figures.rank_panels(groups, ylabel="shared", roles={"two runs": "trained"}, title=title, ax=ax)
