"""Does a model in 4 bits answer faster than one in 16, a token at a time?

    python -m benchmarks.decode_step --device cuda [--json FILE] [--quick]

Published shapes with random weights: bfloat16, bitsandbytes' NF4, the course's `NF4Linear`, that with the kernels of
`lora_edu.accel`, and fused (`lora_edu.accel.fuse`). "bf16, fused" has the same norms, rotation and SwiGLU around layers
in 16 bits, so it shows what 4 bits alone are worth. A step is greedy: the next token of a cache of 256 places, as
Python launches it and as a CUDA graph; the head stays in 16 bits. On a CPU all is float32, and there is no graph.
"""

import gc
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from transformers import StaticCache

from benchmarks._harness import Race, Result, Settings, compiler, main, relative_difference
from benchmarks.qlora_step import captured_runs, dense_model, linear_4bit
from lora_edu import accel
from lora_edu.accel.fused import fuse_around
from lora_edu.llm.surgery import linear_layers, quantize_linear_layers

SIZES = ("SmolLM2-135M", "SmolLM2-1.7B", "Mistral-7B")
PLACES = 256
"""Tokens that the cache has room for; attention looks at all of them."""


def measure(settings: Settings) -> list[Result]:
    names = SIZES[:1] if settings.quick else SIZES
    return [result for name in names for result in race(name, settings)]


def race(name: str, settings: Settings) -> list[Result]:
    """One shape: every way against 16 bits, launched one by one and in a graph."""
    results = []
    for way in ["eager", "graph"] if settings.device.type == "cuda" else ["eager"]:
        sides = {side: prepare(make, name, way, settings) for side, make in makers(settings).items()}
        race = Race(sides, settings)
        for side in sides:
            if side != "bf16":
                difference = relative_difference(race.outputs[side], race.outputs["plain"])
                text = f"{difference:.1%} from plain"
                results.append(race.result(f"{name}, next token, {way}", side, "bf16", text))
        del race, sides
        gc.collect()
    return results


def makers(settings: Settings) -> dict[str, Callable[[str, Settings], nn.Module]]:
    """How the model of each side is made."""
    found: dict[str, Callable[[str, Settings], nn.Module]] = {
        "bf16": dense_model,
        "bitsandbytes": bitsandbytes_model,
        "plain": plain_model,
        compiler(settings.device): lambda name, settings: accel.use_kernels(plain_model(name, settings)),
    }
    if settings.device.type == "cuda":
        found["triton, fused"] = lambda name, settings: accel.fuse(plain_model(name, settings))
        found["bf16, fused"] = fused_dense_model
    return found


def plain_model(name: str, settings: Settings) -> nn.Module:
    return quantize_linear_layers(cast(Any, dense_model(name, settings)))


def fused_dense_model(name: str, settings: Settings) -> nn.Module:
    model = dense_model(name, settings)
    fuse_around(model, torch.bfloat16)
    return model


def bitsandbytes_model(name: str, settings: Settings) -> nn.Module:
    model = dense_model(name, settings)
    for path, layer in linear_layers(model).items():
        model.set_submodule(path, linear_4bit(cast(nn.Linear, layer)))
    return model


def prepare(make: Callable, name: str, way: str, settings: Settings) -> Callable[[], torch.Tensor]:
    """What a side does for one token."""
    run = next_token(make(name, settings).eval())
    return captured_runs(run) if way == "graph" else run


def next_token(model: Any) -> Callable[[], torch.Tensor]:
    """One greedy step, always of the same token at the last place of the cache; returns the logits."""
    ids = torch.full((1, 1), 5, device=model.device)
    model.config.sliding_window = None  # Mistral's is 4096, and the cache is shorter
    cache: Any = StaticCache(config=model.config, max_cache_len=PLACES)
    with torch.no_grad():
        model(input_ids=ids.expand(1, PLACES - 1), past_key_values=cache, use_cache=True)
    counts = [layer.cumulative_length for layer in cache.layers]
    place, chosen = torch.full((1, 1), PLACES - 1, device=model.device), torch.empty_like(ids)

    @torch.no_grad()
    def run() -> torch.Tensor:
        for count in counts:
            count.fill_(PLACES - 1)
        logits = model(input_ids=ids, position_ids=place, past_key_values=cache, use_cache=True).logits
        torch.argmax(logits[:, -1], -1, keepdim=True, out=chosen)
        return logits

    return run


if __name__ == "__main__":
    main("A token in 4 bits and in 16", measure)
