"""What does a step of QLoRA training cost at the sizes people fine-tune, against peft over bitsandbytes?

    python -m benchmarks.qlora_step --device cuda [--json FILE] [--quick]

Published shapes with random weights, the same for both sides; NF4 with double quantization, rank 16 on all linear
layers, both sides set up as ``lora_edu.llm.finetune`` sets them up. A step is forward, backward and AdamW. Ours runs
twice: in plain PyTorch, and with the compiled products of ``lora_edu.accel``. Memory is what a step takes beyond what
is held, as a multiple of the model in float32. On a CPU only ``--quick`` is a good idea.
"""

import gc
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
import transformers
from torch import nn

from benchmarks._harness import Race, Result, Settings, compiler, main
from lora_edu import accel
from lora_edu.llm.budget import count_parameters, resolve_config
from lora_edu.llm.finetune import FinetuneConfig
from lora_edu.llm.finetune.backends import backend_of
from lora_edu.llm.finetune.recipe import make_recipe
from lora_edu.llm.surgery import linear_layers
from tools.record_gpu_memory import linear_4bit

# Sentences, and tokens in each.
SIZES = {"SmolLM2-135M": (8, 256), "SmolLM2-1.7B": (4, 512), "Mistral-7B": (1, 512)}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 99}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}


def measure(settings: Settings) -> list[Result]:
    names = list(SIZES)[:1] if settings.quick else list(SIZES)
    return [result for name in names for result in train(name, settings)]


def train(name: str, settings: Settings) -> list[Result]:
    """One shape: a row for each way of ours."""
    batch, tokens = (2, 8) if settings.quick else SIZES[name]
    makers: dict[str, Callable[..., nn.Module]] = {
        "plain": scratch_model,
        compiler(settings.device): lambda *arguments: accel.use_kernels(scratch_model(*arguments)),
        "peft": peft_model,
    }
    models, held = {}, {}
    gc.collect()  # what the size before this one left
    for side, make in makers.items():
        before = allocated(settings.device)
        models[side] = make(name, settings)
        gc.collect()
        held[side] = (allocated(settings.device) - before) / 2**30
    ids = torch.randint(3, 99, (batch, tokens), generator=torch.Generator().manual_seed(0)).to(
        settings.device
    )
    steps = {side: step(model, ids) for side, model in models.items()}
    losses = {side: [run() for _ in range(3)][2] for side, run in steps.items()}
    race = Race(steps, settings, unit_bytes=4 * count_parameters(shape(name, settings)))
    return [
        race.result(
            f"{name}, {batch} x {tokens}",
            side,
            "peft",
            f"third losses {losses[side]:.4f} and {losses['peft']:.4f}, "
            f"{held[side]:.2f} and {held['peft']:.2f} GiB held",
        )
        for side in makers
        if side != "peft"
    ]


def scratch_model(name: str, settings: Settings) -> nn.Module:
    """lora_edu's layers."""
    return attach(dense_model(name, settings), "scratch")


def peft_model(name: str, settings: Settings) -> nn.Module:
    """peft's, over bitsandbytes'."""
    model: Any = dense_model(name, settings)
    for path, layer in linear_layers(model).items():
        model.set_submodule(path, linear_4bit(cast(nn.Linear, layer)))
    model.is_loaded_in_4bit = True  # what transformers' quantizer sets, and peft asks
    return attach(model, "peft")


def dense_model(name: str, settings: Settings) -> nn.Module:
    """The shape with the same random weights each time, in 16 bits on a GPU and 32 on a CPU."""
    torch.manual_seed(0)
    with settings.device:
        model = transformers.AutoModelForCausalLM.from_config(
            shape(name, settings), dtype=dtype_on(settings.device)
        )
    return model.requires_grad_(False)


def shape(name: str, settings: Settings) -> Any:
    config: Any = resolve_config(name)
    if settings.quick:
        config.update(TINY)
    return config


def attach(model: Any, side: Literal["scratch", "peft"]) -> nn.Module:
    """Adapters as the fine-tune attaches them; A the same on both sides, and B zero."""
    dtype: Any = str(model.dtype).partition(".")[2]
    config = FinetuneConfig(output=".", method="qlora", backend=side, dtype=dtype, r=16)
    torch.manual_seed(0)
    return backend_of("qlora", side).attach(model, make_recipe(config))


def step(model: Any, ids: torch.Tensor) -> Callable[[], float]:
    """One optimizer step, always on the same tokens; the loss before it."""
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)
    model.train()

    def run() -> float:
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def dtype_on(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated() if device.type == "cuda" else 0


if __name__ == "__main__":
    main("A step of QLoRA training", measure)
