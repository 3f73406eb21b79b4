"""Record whether full fine-tunes with other seeds change a weight in the same directions.

    python -m tools.record_update_overlap --output data/runs/delta_w_overlap.json --revision REVISION

Three full fine-tunes as in tools/record_delta_w.py, each in a process of its own. Of each linear layer's dW (out, in)
the first r left and right singular vectors span a space; two seeds share |U^T U'|_F^2 / r of it, from 0 to 1. Random
spaces share r / out (left) and r / in (right): what directions of noise would do. Beside it, of seed 0: how much of dW
is lost when W + dW is stored in bfloat16.
"""

import argparse
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.files import write_json
from lora_edu.llm.finetune import FinetuneConfig, finetune
from tools.record_delta_w import SETTINGS, weights

SEEDS = (0, 1, 2)
RANKS = (1, 2, 4, 8, 16, 32, 64)


def top_directions(dW: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """The first r left (out, r) and right (in, r) singular vectors of dW (out, in), float64."""
    if dW.shape[0] > dW.shape[1]:
        right, left = top_directions(dW.T, r)
        return left, right
    dW = dW.double()
    left = torch.linalg.eigh(dW @ dW.T).eigenvectors[:, -r:].flip(1)  # eigh sorts from the smallest
    return left, torch.nn.functional.normalize(dW.T @ left, dim=0)


def overlaps(ours: Tensor, theirs: Tensor, ranks: Sequence[int] = RANKS) -> list[float]:
    """|U_r^T U'_r|_F^2 / r for each r: the share of one space that lies in the other. Shapes (n, r)."""
    cosines = (ours.T @ theirs).square()
    return [(cosines[:r, :r].sum() / r).item() for r in ranks]


def rounding_error(W: Tensor, dW: Tensor) -> float:
    """|bfloat16(W + dW) - (W + dW)| / |dW|, dimensionless."""
    tuned = W + dW
    return ((tuned.bfloat16().float() - tuned).norm() / dW.norm()).item()


def train(seed: int, folder: Path, steps: int) -> dict[str, Any]:
    """Fine-tune, keep the first directions of each dW in `folder`, return what the record says of the run."""
    settings: dict[str, Any] = SETTINGS | {"seed": seed, "steps": steps, "test_events": 1}
    run = finetune(FinetuneConfig(output=str(folder / f"seed{seed}"), **settings))
    base, _ = load_base_model(dtype=torch.float32)
    W, tuned = weights(base.to(run.model.device)), weights(run.model)
    kept, errors = {}, {}
    for path in W:
        dW = tuned[path] - W[path]
        for side, vectors in zip(("left", "right"), top_directions(dW, max(RANKS)), strict=True):
            kept[f"{path}.{side}"] = vectors.float().cpu().contiguous()
        errors[path] = rounding_error(W[path], dW)
    save_file(kept, folder / f"seed{seed}.safetensors")
    said = {key: run.record[key] for key in ("losses", "seconds", "versions", "device")}
    return {"settings": settings, "bf16_error": errors, **said}


def compare(folder: Path, errors: dict[str, float]) -> dict[str, dict[str, Any]]:
    """The overlaps of each pair of seeds, by layer and side, beside the layer's rounding error."""
    kept = [load_file(folder / f"seed{seed}.safetensors") for seed in SEEDS]
    return {
        path: {
            side: [
                overlaps(a[f"{path}.{side}"].double(), b[f"{path}.{side}"].double())
                for a, b in combinations(kept, 2)
            ]
            for side in ("left", "right")
        }
        | {"bf16_error": error}
        for path, error in errors.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--revision", required=True, help="git revision of this checkout")
    parser.add_argument("--steps", type=int, default=SETTINGS["steps"], help="fewer to try the script")
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(len(SEEDS), mp_context=spawn) as pool:
            futures = [pool.submit(train, seed, folder, arguments.steps) for seed in SEEDS]
            runs = [future.result() for future in futures]
        layers = compare(folder, runs[0].pop("bf16_error"))
    content = {
        "command": f"tools/record_update_overlap.py --steps {arguments.steps}",
        "revision": arguments.revision,
        "settings": runs[0]["settings"] | {"seed": list(SEEDS)},
        "versions": runs[0]["versions"],
        "device": runs[0]["device"],
        "losses": [run["losses"] for run in runs],
        "seconds": [run["seconds"]["train"] for run in runs],
        "ranks": list(RANKS),
        "layers": layers,
    }
    write_json(arguments.output, content)


if __name__ == "__main__":
    main()
