"""Record what three details of a professional trainer change in notebook 06's training of 20 steps.

    python -m tools.record_trainer_details

Writes data/runs/trainer_details.json. The plain loop averages the losses of its two sentences and keeps its learning
rate. Here three details are added: the rate falls linearly to zero; a gradient longer than 1.0 is shortened to that;
each scored token of a step weighs the same, whichever sentence it is in. For each seed (of A, and of which sentences
are learned from) the loss over held-out sentences is kept, in nats a token, with and without these details.
"""

import argparse
import random
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.data import extraction, load_events
from lora_edu.llm.files import write_json
from lora_edu.llm.provenance import provenance
from lora_edu.llm.surgery import add_lora, lora_parameters

TARGET = Path(__file__).resolve().parents[1] / "data" / "runs" / "trainer_details.json"
DETAILS = ("decay", "clipping", "token weights")
WAYS = ((), DETAILS)
SEEDS = (0, 1, 2)
SETTINGS: dict[str, Any] = {"r": 8, "lora_alpha": 16, "steps": 20, "sentences_a_step": 2}
SETTINGS |= {"learning_rate": 2e-3, "longest_gradient": 1.0, "held_out": 8}

Example = dict[str, torch.Tensor]


def restart(model: nn.Module, seed: int) -> None:
    """Draw A anew, as `add_lora` does, and set B to zero."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_A"):
                parameter.uniform_(-1, 1).div_(parameter.shape[1] ** 0.5)
            elif name.endswith("lora_B"):
                parameter.zero_()


def train(model: nn.Module, examples: list[Example], details: tuple[str, ...]) -> float:
    """Train as the notebook does, with these details added; return the longest gradient (norm)."""
    trained, steps = list(lora_parameters(model)), SETTINGS["steps"]
    optimizer = torch.optim.AdamW(trained, lr=SETTINGS["learning_rate"])
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 1 - step / steps if "decay" in details else 1.0
    )
    longest = 0.0
    for pair in zip(examples[::2], examples[1::2], strict=True):
        scored = [(example["labels"] >= 0).sum().item() for example in pair]
        for example, tokens in zip(pair, scored, strict=True):
            share = tokens / sum(scored) if "token weights" in details else 1 / len(pair)
            (model(**example).loss * share).backward()
        most = SETTINGS["longest_gradient"] if "clipping" in details else float("inf")
        longest = max(longest, nn.utils.clip_grad_norm_(trained, most).item())
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return longest


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    model, tokenizer = load_base_model(dtype="float32")
    add_lora(model, target_modules="all-linear", r=SETTINGS["r"], lora_alpha=SETTINGS["lora_alpha"])

    def encoded(lines: list[dict[str, Any]]) -> list[Example]:
        examples = (extraction.encode_example(tokenizer, line) for line in lines)
        return [
            {key: torch.tensor([ids], device=model.device) for key, ids in example.items()}
            for example in examples
        ]

    train_lines = load_events("train")
    held_out = encoded(load_events("test")[: SETTINGS["held_out"]])
    runs = []
    for seed, details in product(SEEDS, WAYS):
        lines = random.Random(seed).sample(train_lines, SETTINGS["steps"] * SETTINGS["sentences_a_step"])
        restart(model, seed)
        longest = train(model, encoded(lines), details)
        with torch.no_grad():
            losses = [model(**example).loss.item() for example in held_out]
        run = {
            "details": details,
            "seed": seed,
            "loss": sum(losses) / len(losses),
            "longest_gradient": longest,
        }
        print(run, flush=True)
        runs.append(run)
    content = {"command": "python -m tools.record_trainer_details", **provenance()}
    write_json(TARGET, content | {"settings": SETTINGS, "runs": runs})


if __name__ == "__main__":
    main()
