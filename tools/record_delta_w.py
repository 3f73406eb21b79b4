"""Record what full fine-tuning adds to each weight, and how much of it the task needs.

    python tools/record_delta_w.py --seed 0 --output build/delta_w --revision REVISION

Trains every weight of the base model in float32 on the event sentences (the settings of full fine-tuning in
tools/record_gpu_runs.py), takes dW = tuned - base of every linear layer, and writes into the output folder:

``delta_w_seed<N>.json``
    Exact match with the best rank-r copy of every dW added to the base, r = 0, 1, 2, … (embedding and norms as in
    the base), with all of dW, and with the whole tuned model; |dW| / |W| of each layer; settings and versions.
``spectra.safetensors``
    Singular values of dW and W of each linear layer: ``<path>.dW``, ``<path>.W``, float32.
``<path>.safetensors``
    The dW of one layer, for a few layers, float16, multiplied by the power of two that the file's metadata names.

The last two kinds from seed 0 only.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.data import load_events
from lora_edu.llm.data.extraction import evaluate
from lora_edu.llm.files import write_json
from lora_edu.llm.finetune import FinetuneConfig, finetune
from lora_edu.llm.surgery import linear_layers

SETTINGS = {"method": "full", "dtype": "float32", "learning_rate": 5e-5, "steps": 200, "batch_size": 8}
SETTINGS |= {"micro_batch_size": 8, "before_events": 0, "eval_batch_size": 100, "save_every": 1000}
RANKS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
KEPT = ("losses", "seconds", "versions", "device", "base", "peak_gpu_memory_bytes")
MATRICES = tuple(f"model.layers.{block}.self_attn.q_proj" for block in (0, 15, 29))


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The weight (out, in) of each linear layer but the output head, by the layer's path."""
    return {path: layer.weight.detach() for path, layer in linear_layers(model).items()}  # pyright: ignore


def scores(model: nn.Module, tokenizer: Any) -> dict[str, float]:
    """Exact match (0 to 1) on the events of seen and of unseen patterns."""
    test = load_events("test")
    parts = {
        "exact_match": [line for line in test if not line.get("unseen_pattern")],
        "exact_match_unseen": [line for line in test if line.get("unseen_pattern")],
    }
    return {
        name: evaluate(model, tokenizer, lines, name, batch_size=100)["exact_match"]
        for name, lines in parts.items()
    }


def by_rank(
    model: nn.Module, tokenizer: Any, factors: dict[str, tuple[Tensor, Tensor, Tensor]]
) -> Iterator[dict[str, Any]]:
    """Score the base with the first r terms of every dW added, for each r, then with all of them."""
    base = {path: weight.clone() for path, weight in weights(model).items()}
    for rank in (*RANKS, None):
        for path, weight in weights(model).items():
            U, S, Vh = (
                factor[..., :rank] if i < 2 else factor[:rank] for i, factor in enumerate(factors[path])
            )
            weight.copy_(base[path] + (U * S @ Vh).float())
        yield {"rank": rank, **scores(model, tokenizer)}


def scaled_half(dW: Tensor) -> tuple[Tensor, int]:
    """dW as float16, multiplied by the power of two that brings its largest entry to [0.5, 1)."""
    exponent = -math.frexp(dW.abs().max().item())[1]
    return (dW * 2.0**exponent).half().cpu(), exponent


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="folder that receives the files")
    parser.add_argument("--revision", required=True, help="git revision of this checkout")
    arguments = parser.parse_args()
    folder: Path = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    config = FinetuneConfig(output=str(folder / f"seed{arguments.seed}"), seed=arguments.seed, **SETTINGS)
    with torch.enable_grad():
        run = finetune(config)
    model, tokenizer = load_base_model(dtype=torch.float32)
    model.to(run.model.device)
    W, tuned = weights(model), weights(run.model)
    dW = {path: tuned[path] - W[path] for path in W}
    # float64: the smallest singular values of dW are far below float32's rounding of the largest.
    factors = {path: torch.linalg.svd(update.double(), full_matrices=False) for path, update in dW.items()}
    if arguments.seed == 0:
        spectra = {f"{path}.dW": S.float().cpu() for path, (_, S, _) in factors.items()}
        spectra |= {f"{path}.W": torch.linalg.svdvals(w.double()).float().cpu() for path, w in W.items()}
        save_file(spectra, folder / "spectra.safetensors")
        for path in MATRICES:
            half, exponent = scaled_half(dW[path])
            save_file({path: half}, folder / f"{path}.safetensors", metadata={path: f"2**{exponent}"})
    record = {
        "command": f"tools/record_delta_w.py --seed {arguments.seed}",
        "revision": arguments.revision,
        "settings": SETTINGS | {"seed": arguments.seed},
        **{key: run.record[key] for key in KEPT},
        "tuned": {key: run.record[key] for key in ("exact_match", "exact_match_unseen")},
        "relative_size": {path: (dW[path].norm() / W[path].norm()).item() for path in W},
        "by_rank": list(by_rank(model, tokenizer, factors)),
    }
    write_json(folder / f"delta_w_seed{arguments.seed}.json", record)


if __name__ == "__main__":
    main()
