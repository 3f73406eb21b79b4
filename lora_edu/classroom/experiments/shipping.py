"""What notebook 05b weighs, times and swaps: memory at the peak, a merged layer, updates added and subtracted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from lora_edu.classroom import records
from lora_edu.llm.base_model import fetch_base_model
from lora_edu.llm.data import DATA, PERSONAS
from lora_edu.llm.machine import GIB

FLOAT32 = 4  # bytes
ROLES = {
    "frozen weights": "frozen",
    "trained weights": "trained",
    "Adam's averages": "optimizer",
    "activations and the rest": "activations",
}
FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SWAPS = 300


def peaks() -> dict[str, dict[str, float]]:
    """GiB at the recorded peak of SmolLM2's training, part by part: full fine-tuning, and LoRA of rank 8.

    Weights and averages are counted, in float32; the rest is what the peak leaves. It comes when the loss is computed:
    the activations are there, and no gradient yet (`llm.budget.moments`).
    """
    bars = {}
    for name, method in {"full fine-tuning": "full", "LoRA, r = 8": "lora"}.items():
        [run] = records.runs("events_gpu_alone", method=method, cuda_graphs="off")
        trained = run["trainable_parameters"]
        frozen = 0 if method == "full" else run["base"]["parameters"]
        counted = [FLOAT32 * numbers / GIB for numbers in (frozen, trained, 2 * trained)]
        parts = [*counted, run["peak_gpu_memory_bytes"] / GIB - sum(counted)]
        bars[name] = dict(zip(ROLES, parts, strict=True))
    return bars


@torch.no_grad()
def microseconds(layers: Mapping[str, nn.Module], x: Tensor, rounds: int = 200) -> list[str]:
    """Time of one call of each layer, in microseconds, written; they take turns, and the best of `rounds` counts."""
    timers = [Timer("layer(x)", globals={"layer": layer, "x": x}) for layer in layers.values()]
    times = torch.tensor([[timer.timeit(20).mean for timer in timers] for _ in range(rounds)])
    return [f"{1e6 * time:.0f}" for time in times.min(dim=0).values.tolist()]


def update_sizes() -> Tensor:
    """|s BA| / |W| (Frobenius norms) of every update in the course's three persona adapters, (180,), float64."""
    sizes = []
    with safe_open(fetch_base_model() / "model.safetensors", "pt") as base:
        for folder in (DATA / "adapters" / persona for persona in PERSONAS):
            config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
            with safe_open(folder / "adapter_model.safetensors", "pt") as adapter:
                for key in (key for key in adapter.keys() if "lora_A" in key):  # noqa: SIM118
                    A, B = (
                        adapter.get_tensor(key.replace("lora_A", name)).double()
                        for name in ("lora_A", "lora_B")
                    )
                    update = config["lora_alpha"] / config["r"] * B @ A
                    path = key.removeprefix("base_model.model.").replace("lora_A.", "")
                    sizes.append(update.norm() / base.get_tensor(path).double().norm())
    return torch.stack(sizes)


def swapped(W: Tensor, updates: Sequence[Tensor]) -> list[float]:
    """Add and subtract each update in W's own number format; |W now - W| / |W| after each, in float64."""
    now, errors = W.clone(), []
    for update in updates:
        now = (now + update) - update
        errors.append(((now - W).double().norm() / W.double().norm()).item())
    return errors


def drift(W: Tensor, size: float, r: int = 8, seed: int = 0) -> dict[str, list[float]]:
    """Errors over `SWAPS` swaps in each of `FORMATS`: the same random update each time, and another one each time.

    Parameters
    ----------
    W
        A weight, (out, in).
    size
        |update| / |W|.
    r, seed
        Rank of the updates, and where their random numbers start.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = {"generator": generator, "dtype": torch.double}
    products = torch.randn(SWAPS, W.shape[0], r, **shape) @ torch.randn(SWAPS, r, W.shape[1], **shape)
    updates = products * (size * W.double().norm() / products.norm(dim=(1, 2), keepdim=True))
    curves = {}
    for name, dtype in FORMATS.items():
        start, rounded = W.to(dtype), updates.to(dtype)
        curves[f"{name}, another each time"] = swapped(start, list(rounded))
        curves[f"{name}, the same again"] = swapped(start, [rounded[0]] * SWAPS)
    return curves
