"""Does a model in 4 bits answer faster than one in 16, a token at a time?

    python -m benchmarks.decode_step --device cuda [--json FILE] [--quick]

Published shapes with random weights: bfloat16, bitsandbytes' NF4, the course's `NF4Linear`, and that with the kernels
of `lora_edu.accel`, which go from 4 bits to the product of one token in one kernel. A step is the forward of one token
without a context, as Python launches it and as a CUDA graph; the head stays in 16 bits. On a CPU all is float32, and
there is no graph.
"""

import gc
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from benchmarks._harness import Race, Result, Settings, compiler, main, relative_difference
from benchmarks.qlora_step import dense_model, linear_4bit
from lora_edu import accel
from lora_edu.llm.surgery import linear_layers, quantize_linear_layers

SIZES = ("SmolLM2-135M", "SmolLM2-1.7B", "Mistral-7B")


def measure(settings: Settings) -> list[Result]:
    names = SIZES[:1] if settings.quick else SIZES
    return [result for name in names for result in race(name, settings)]


def race(name: str, settings: Settings) -> list[Result]:
    """One shape: every way against 16 bits, launched one by one and in a graph."""
    models = {"bf16": dense_model(name, settings), "bitsandbytes": bitsandbytes_model(name, settings)}
    models["plain"] = quantize_linear_layers(cast(Any, dense_model(name, settings)))
    kernels = quantize_linear_layers(cast(Any, dense_model(name, settings)))
    models[compiler(settings.device)] = accel.use_kernels(kernels)
    gc.collect()
    results = []
    ways: dict[str, Callable[..., Any]] = {"eager": eager}
    if settings.device.type == "cuda":
        ways["graph"] = captured
    for way, prepare in ways.items():
        race = Race({side: prepare(model.eval()) for side, model in models.items()}, settings)
        for side in models:
            if side != "bf16":
                difference = relative_difference(race.outputs[side], race.outputs["plain"])
                text = f"{difference:.1%} from plain"
                results.append(race.result(f"{name}, one token, {way}", side, "bf16", text))
    return results


def bitsandbytes_model(name: str, settings: Settings) -> nn.Module:
    model = dense_model(name, settings)
    for path, layer in linear_layers(model).items():
        model.set_submodule(path, linear_4bit(cast(nn.Linear, layer)))
    return model


def eager(model: Any) -> Callable[[], torch.Tensor]:
    """The forward of one token, as Python launches it."""
    ids = torch.full((1, 1), 5, device=model.device)

    @torch.no_grad()
    def run() -> torch.Tensor:
        return model(input_ids=ids, use_cache=False).logits

    return run


def captured(model: Any) -> Callable[[], torch.Tensor]:
    """The same, replayed."""
    run = eager(model)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = run()

    def replay() -> torch.Tensor:
        graph.replay()
        return logits

    return replay


if __name__ == "__main__":
    main("A token in 4 bits and in 16", measure)
