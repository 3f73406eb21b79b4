"""What the recorded fine-tunes of SmolLM2 say about rank, scaling and the length of a step."""

from __future__ import annotations

from statistics import median

from lora_edu.classroom import records

SCALING_RANKS = (4, 32, 128)
FINAL_RANKS = (1, 2, 4, 8, 16, 64)
ALPHA = 16  # of the record of scalings; elsewhere alpha is 2 r

Points = dict[str, tuple[float, list[float]]]


def unseen_by_step() -> dict[str, Points]:
    """The share of events right on unseen patterns, for each scaling s by rank r, with its seeds.

    Returns
    -------
    dict
        Name of a scaling to points: the rank, as text, to (s r, one share (0 to 1) a seed). All had the learning rate
        0.001.
    """

    def shares(record: str, r: int, **settings: object) -> list[float]:
        runs = records.runs(record, method="lora", r=r, learning_rate=0.001, **settings)
        return [run["exact_match_unseen"] for run in runs]

    return {
        "s = 2": {f"{r}": (2.0 * r, shares("events_gpu_final", r)) for r in FINAL_RANKS},
        "s = 16 / r": {
            f"{r}": (float(ALPHA), shares("events_gpu_scaling", r, use_rslora=False)) for r in SCALING_RANKS
        },
        "s = 16 / √r": {
            f"{r}": (ALPHA * r**0.5, shares("events_gpu_scaling", r, use_rslora=True)) for r in SCALING_RANKS
        },
    }


def scaling_columns() -> dict[str, list[str]]:
    """Both scores of both scalings for `widgets.compare`: seen patterns by their median, unseen ones seed by seed."""
    columns = {"r": [str(r) for r in SCALING_RANKS]}
    for name, use_rslora in (("α / r", False), ("α / √r", True)):
        found = [records.runs("events_gpu_scaling", r=r, use_rslora=use_rslora) for r in SCALING_RANKS]
        columns[f"{name}, seen"] = [f"{median(run['exact_match'] for run in runs):.1%}" for runs in found]
        columns[f"{name}, unseen"] = [
            ", ".join(f"{share:.0%}" for share in sorted(run["exact_match_unseen"] for run in runs))
            for runs in found
        ]
    return columns
