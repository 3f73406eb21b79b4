"""Record the personas: a LoRA adapter for each, and what other methods make of one of them.

    python tools/record_personas.py --output data --revision REVISION

Writes into the output folder ``adapters/<name>/`` (PEFT's format, float16, below 1 MB) and ``runs/personas.json``:

``tuning``, ``methods``
    The gardener, taught in four ways: LoRA, bottleneck adapters and a prefix of about equally many numbers, and full
    fine-tuning. Each at several learning rates, then with two more seeds at the one whose development loss (nats a
    token, on every sixth turn, which is never trained on) was lowest.
``base``, ``personas``
    Every reply of the base and of each persona's adapter to the held-out questions, with the rates of all three styles.

Runs share the GPU, several processes side by side: their seconds say nothing about speed.
"""

import argparse
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainingArguments

from lora_edu.llm.base_model import DEFAULT_NAME, load_base_model
from lora_edu.llm.checkpoint import WEIGHTS_FILE, save_adapter
from lora_edu.llm.data import PERSONAS, load_persona, load_persona_questions
from lora_edu.llm.data.extraction import encode_turn, generate_turns
from lora_edu.llm.data.personas import style_rate
from lora_edu.llm.files import write_json
from lora_edu.llm.provenance import provenance
from lora_edu.llm.surgery import add_bottleneck, add_lora, add_prefix, base_weights_hash

BATCH_SIZE = 8
DEVELOPMENT = slice(None, None, 6)
SEEDS = (0, 1, 2)
COMPARED = "gardener"  # its style is a word that fits, the hardest of the three to keep
LORA = {"target_modules": ["q_proj", "v_proj"], "r": 8, "lora_alpha": 16}
METHODS: dict[str, Callable[[Any], Any]] = {
    "lora": partial(add_lora, **LORA),  # 460,800 numbers
    "bottleneck": partial(add_bottleneck, bottleneck=6),  # 449,640
    "prefix": partial(add_prefix, num_virtual_tokens=40),  # 460,800
    "full": lambda model: model.requires_grad_(True),
}
RATES = {
    "lora": (1e-3, 2e-3, 5e-3),
    "bottleneck": (1e-3, 3e-3, 1e-2),
    "prefix": (1e-2, 3e-2, 1e-1),
    "full": (2e-5, 5e-5, 1e-4),
}


@dataclass(frozen=True)
class Lesson:
    """What is taught, how, and how long."""

    persona: str
    method: str
    learning_rate: float
    seed: int
    steps: int
    adapter_folder: Path | None = None


def asked(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def encoded(turns: Sequence[dict[str, str]], tokenizer: Any) -> list[dict[str, list[int]]]:
    return [encode_turn(tokenizer, asked(turn["user"]), turn["reply"]) for turn in turns]


def answered(model: Any, tokenizer: Any) -> dict[str, Any]:
    """The replies to the held-out questions, and the rate of each style in them."""
    questions = load_persona_questions()
    replies = generate_turns(model, tokenizer, [asked(q) for q in questions], batch_size=len(questions))
    return {"styles": {name: style_rate(name, replies) for name in PERSONAS}, "replies": replies}


def answer_as_base() -> dict[str, Any]:
    return answered(*load_base_model(dtype="float32"))


@torch.no_grad()
def mean_loss(model: Any, examples: Sequence[dict[str, list[int]]]) -> float:
    """Mean over the examples of the loss of a reply, in nats a token."""
    model.eval()
    losses = [
        model(**{key: torch.tensor([ids], device=model.device) for key, ids in example.items()}).loss.item()
        for example in examples
    ]
    return sum(losses) / len(losses)


def train(model: Any, examples: Sequence[dict], tokenizer: Any, lesson: Lesson) -> list[float]:
    """Train what is not frozen; return the loss of each optimizer step, in nats a token."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=lesson.steps,
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=lesson.learning_rate,
            warmup_steps=5,
            seed=lesson.seed,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=examples,  # pyright: ignore[reportArgumentType]
            data_collator=DataCollatorForSeq2Seq(tokenizer),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def teach(lesson: Lesson) -> dict[str, Any]:
    """Train, measure, and save the adapter if the lesson says where."""
    transformers.set_seed(lesson.seed)
    model, tokenizer = load_base_model(dtype="float32")
    model.config.name_or_path = DEFAULT_NAME  # what adapter_config.json names; not this machine's folder
    hash_before = base_weights_hash(model)
    METHODS[lesson.method](model)
    turns = load_persona(lesson.persona)
    kept_back = turns[DEVELOPMENT]
    losses = train(model, encoded([t for t in turns if t not in kept_back], tokenizer), tokenizer, lesson)
    result = {
        **{key: value for key, value in asdict(lesson).items() if key not in ("steps", "adapter_folder")},
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "base_unchanged": base_weights_hash(model) == hash_before,
        "development_loss": mean_loss(model, encoded(kept_back, tokenizer)),
        "losses": losses,
        **answered(model, tokenizer),
    }
    if lesson.adapter_folder:
        folder = save_adapter(model.half(), lesson.adapter_folder)
        result["adapter_bytes"] = (folder / WEIGHTS_FILE).stat().st_size
    print({k: v for k, v in result.items() if k not in ("losses", "replies")}, flush=True)
    return result


def without_replies(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in run.items() if key != "replies"} for run in runs]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for adapters/ and runs/personas.json"
    )
    parser.add_argument("--revision", required=True, help="git revision of this checkout")
    parser.add_argument("--steps", type=int, default=120, help="optimizer steps")
    parser.add_argument("--processes", type=int, default=8, help="runs side by side")
    settings = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes: several of them share the cores
    steps = settings.steps
    with ProcessPoolExecutor(settings.processes, multiprocessing.get_context("spawn")) as pool:
        base = pool.submit(answer_as_base)
        lessons = [Lesson(COMPARED, m, rate, SEEDS[0], steps) for m in METHODS for rate in RATES[m]]
        tuning = list(pool.map(teach, lessons))
        best = {
            m: min((r for r in tuning if r["method"] == m), key=lambda run: run["development_loss"])
            for m in METHODS
        }
        rates = {method: run["learning_rate"] for method, run in best.items()}
        personas = [
            Lesson(name, "lora", rates["lora"], SEEDS[0], steps, settings.output / "adapters" / name)
            for name in PERSONAS
        ]
        repeats = [Lesson(COMPARED, m, rates[m], seed, steps) for m in METHODS for seed in SEEDS[1:]]
        taught = list(pool.map(teach, personas + repeats))
        content = {
            "command": "tools/record_personas.py",
            **provenance(),
            "revision": settings.revision,
            "settings": {"lora": LORA, "steps": steps, "batch_size": BATCH_SIZE, "learning_rates": rates},
            "questions": load_persona_questions(),
            "base": base.result(),
            "personas": dict(zip(PERSONAS, taught, strict=False)),
            "methods": without_replies([*best.values(), *taught[len(personas) :]]),
            "tuning": without_replies(tuning),
        }
    file = settings.output / "runs" / "personas.json"
    write_json(file, content)


if __name__ == "__main__":
    main()
