"""Record a classifier: a new head on the base model, trained with LoRA, saved with and without the head.

    python tools/record_classifier.py --output data/runs/classifier.json --revision REVISION

The class of a sentence about an event is its kind of day (`KINDS`). A keyword list could tell it, so the task is no
feat; the question is what becomes of the head, which is new and random, when the adapter is saved. Three ways, each
with three seeds: only the head trains; LoRA and head train and both are saved (``modules_to_save``); both train and
the head is left out of the file. Accuracy is counted before training, after it, and after loading from disk.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from lora_edu.llm.base_model import fetch_base_model
from lora_edu.llm.data import load_events
from lora_edu.llm.files import write_json
from lora_edu.llm.provenance import provenance

KINDS = ("weekday", "weekend", "tomorrow", "date")
SEEDS = (0, 1, 2)
SETTINGS = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
TRAINING = {"max_steps": 100, "per_device_train_batch_size": 16, "learning_rate": 1e-3, "warmup_steps": 5}


def kind_of_day(day: str) -> str:
    """The kind of a day as it stands in a sentence: "next Sunday", "tomorrow", "7 June"."""
    if day.endswith(("Saturday", "Sunday")):
        return "weekend"
    if day.lower() == "tomorrow":
        return "tomorrow"
    return "date" if any(character.isdigit() for character in day) else "weekday"


def examples(part: str, tokenizer: Any) -> list[dict[str, Any]]:
    return [
        {**tokenizer(line["sentence"]), "labels": KINDS.index(kind_of_day(line["event"]["day"]))}
        for line in load_events(part)
    ]


def new_model(seed: int) -> Any:
    """The base model with a head of four classes in place of its output layer; the head's weights are random."""
    transformers.set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        fetch_base_model(), num_labels=len(KINDS), dtype=torch.float32
    )
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def accuracy(model: Any, test: list[dict[str, Any]], collate: DataCollatorWithPadding) -> float:
    """The share of test sentences (0 to 1) whose class is named."""
    model.eval()
    right = 0
    for start in range(0, len(test), 50):
        batch: Any = collate(test[start : start + 50])
        batch = batch.to(model.device)
        right += (model(**batch).logits.argmax(-1) == batch["labels"]).sum().item()
    return right / len(test)


def record(way: str, seed: int, tokenizer: Any) -> dict[str, Any]:
    """Train one way with one seed; the accuracies and the size of the file in bytes."""
    train, test = examples("train", tokenizer), examples("test", tokenizer)
    collate = DataCollatorWithPadding(tokenizer)
    model = new_model(seed)
    if way == "head":
        model.requires_grad_(False).score.requires_grad_(True)
    else:
        head, saved = model.score, ["score"] if way == "LoRA, head saved" else None
        model: Any = get_peft_model(model, LoraConfig(**SETTINGS, modules_to_save=saved))
        if not saved:
            head.requires_grad_(True)
    result = {"way": way, "seed": seed, "before": accuracy(model, test, collate)}
    result["trainable_parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            **TRAINING,
            seed=seed,
            save_strategy="no",
            report_to="none",
            logging_steps=1,
            disable_tqdm=True,
        )
        trainer = Trainer(model, arguments, train_dataset=train, data_collator=collate)  # pyright: ignore
        trainer.train()
        result["losses"] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        result["after"] = accuracy(model, test, collate)
        if way != "head":
            model.save_pretrained(folder)
            result["file_bytes"] = (Path(folder) / "adapter_model.safetensors").stat().st_size
            again = PeftModel.from_pretrained(new_model(seed + 100), folder)  # its own random head
            result["loaded"] = accuracy(again, test, collate)
    print({key: value for key, value in result.items() if key != "losses"}, flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--revision", required=True, help="git revision of this checkout")
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(fetch_base_model())
    ways = ("head", "LoRA, head saved", "LoRA, head not saved")
    content = {
        "command": "tools/record_classifier.py",
        **provenance(),
        "revision": arguments.revision,
        "settings": SETTINGS | TRAINING | {"classes": KINDS},
        "runs": [record(way, seed, tokenizer) for way in ways for seed in SEEDS],
    }
    write_json(arguments.output, content)


if __name__ == "__main__":
    main()
