"""What does a step of LoRA training cost, a layer's and a whole model's, against peft? And an answer?

    python -m benchmarks.lora_step [--device cuda] [--json FILE] [--quick]

The layer is trained as in a model: forward, backward with the input's gradient, AdamW. The model is the base model
of the course with QLoRA as in the capstone: 4-bit weights, rank 8 on all linear layers, two sentences a step; then it
answers 25 sentences, greedily. Our model runs twice: in plain PyTorch, and with the compiled products of
``lora_edu.accel``. The steps' races take three times as many rounds as the answers'.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from benchmarks._harness import Race, Result, Settings, compiler, main, relative_difference
from lora_edu import accel
from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.data import load_events
from lora_edu.llm.data.extraction import encode_example, generate_answers
from lora_edu.llm.surgery import ALL_LINEAR, add_qlora
from lora_edu.methods.lora import LoRALinear

R, LORA_ALPHA = 8, 16
TOKENS = 256


def measure(settings: Settings) -> list[Result]:
    sizes = (64,) if settings.quick else (1024, 2048, 4096)
    return [*(train_layer(size, settings) for size in sizes), *train_and_ask_model(settings)]


def train_layer(size: int, settings: Settings) -> Result:
    linear = nn.Linear(size, size)
    x, grad_y = torch.randn(2, TOKENS, size).to(settings.device)
    makers = {"LoRALinear": scratch_layer, "peft": peft_layer}
    layers = {name: make(copy.deepcopy(linear)).to(settings.device) for name, make in makers.items()}
    steps = {name: layer_step(layer, x, grad_y) for name, layer in layers.items()}
    y, theirs = ([run(), run()][1] for run in steps.values())  # in the first step B is zero
    apart = f"{relative_difference(y, theirs):.0e} apart"
    race = Race(steps, more_rounds(settings), unit_bytes=4 * size * size)
    return race.result(f"layer {size}", *steps, agreement=apart)


def more_rounds(settings: Settings) -> Settings:
    """Steps are short, and their ratios close to 1."""
    return replace(settings, rounds=3 * settings.rounds)


def scratch_layer(linear: nn.Linear) -> nn.Module:
    torch.manual_seed(0)  # both draw the same A
    return LoRALinear(linear, R, LORA_ALPHA)


def peft_layer(linear: nn.Linear) -> nn.Module:
    from peft import LoraConfig, get_peft_model  # after lora_edu.llm, which keeps what it imports quiet

    torch.manual_seed(0)
    config = LoraConfig(r=R, lora_alpha=LORA_ALPHA, target_modules=["0"])
    return cast(Any, get_peft_model(cast(Any, nn.Sequential(linear)), config)).base_model.model[0]


def layer_step(layer: nn.Module, x: torch.Tensor, grad_y: torch.Tensor) -> Callable[[], torch.Tensor]:
    x = x.clone().requires_grad_()
    optimizer = adamw(layer)

    def run() -> torch.Tensor:
        x.grad = None
        optimizer.zero_grad()
        y = layer(x)
        y.backward(grad_y)
        optimizer.step()
        return y.detach()

    return run


def train_and_ask_model(settings: Settings) -> list[Result]:
    compiled = compiler(settings.device)
    models = {"plain": scratch_model(), compiled: compiled_model(), "peft": peft_model()}
    steps = {name: model_step(*loaded) for name, loaded in models.items()}
    losses = {name: [run() for _ in range(3)][2] for name, run in steps.items()}
    count, new_tokens = (1, 4) if settings.quick else (25, 64)
    sentences = [line["sentence"] for line in load_events("test")[:count]]
    asked = {
        name: partial(generate_answers, *loaded, sentences, max_new_tokens=new_tokens)
        for name, loaded in models.items()
    }
    answering = Race(asked, settings)
    answers = answering.outputs
    training = Race(steps, more_rounds(settings))
    results = []
    for name in ("plain", compiled):
        both = f"third losses {losses[name]:.5f} and {losses['peft']:.5f}"
        results.append(training.result("capstone step", name, "peft", both))
    for name in ("plain", compiled):
        same = sum(a == b for a, b in zip(answers[name], answers["peft"], strict=True))
        results.append(answering.result(f"{count} answers", name, "peft", f"{same} of {count} the same"))
    return results


def compiled_model() -> tuple[Any, Any]:
    model, tokenizer = scratch_model()
    return accel.use_kernels(model), tokenizer


def scratch_model() -> tuple[Any, Any]:
    model, tokenizer = load_base_model()
    torch.manual_seed(0)
    add_qlora(model, ALL_LINEAR, r=R, lora_alpha=LORA_ALPHA)
    return model, tokenizer


def peft_model() -> tuple[Any, Any]:
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    model, tokenizer = load_base_model(quantization="nf4")
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    torch.manual_seed(0)
    config = LoraConfig(r=R, lora_alpha=LORA_ALPHA, target_modules=ALL_LINEAR, task_type="CAUSAL_LM")
    return get_peft_model(model, config), tokenizer


def model_step(model: Any, tokenizer: Any) -> Callable[[], float]:
    """One optimizer step on two sentences, always the same; the loss before it."""
    from transformers import DataCollatorForSeq2Seq

    examples = [encode_example(tokenizer, line) for line in load_events("train")[:2]]
    batch = DataCollatorForSeq2Seq(tokenizer)(examples).to(model.device)
    optimizer = adamw(model)

    def run() -> float:
        model.train()
        optimizer.zero_grad()
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)


if __name__ == "__main__":
    main("A step of LoRA training, and greedy generation", measure)
