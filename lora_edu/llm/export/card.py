"""Model cards: what a file is, over which base it runs, by which licence, learned from what, and how well.

The head between two lines of dashes is the one that model hubs read (YAML).
"""

from pathlib import Path
from typing import Any

import torch

from lora_edu.llm.export.source import Adapter, Base

_SCORES = {
    "before": ("exact_match_before", "the base"),
    "seen": ("exact_match", "fine-tuned, seen patterns"),
    "unseen": ("exact_match_unseen", "fine-tuned, unseen patterns"),
}


def adapter_card(adapter: Adapter, out: Path) -> str:
    """Return the card of an adapter as GGUF."""
    return f"""{_head(adapter.base.title, "adapter", licence=None)}
# {out.stem}

A LoRA adapter in GGUF, for llama.cpp and programs built on it. It holds no weight of the base: it is to be laid over a
GGUF file of **{adapter.base.title}**, and of no other model.

{_what_it_is(adapter)}

    llama-cli -m BASE.gguf --lora {out.name}

{_data_and_scores(adapter.run)}
## Licence

The base's licence: {adapter.base.licence or "see the base's own card"}. Choose one for the adapter, and name it in the
head of this file (`license:`).
"""


def merged_into(base: Base, dtype: torch.dtype, quantization: str | None) -> str:
    """Return into which weights an adapter is merged, in words."""
    if quantization:
        return (
            f"each linear layer of {base.title} rounded to NF4 with double quantization, then made wide again, in "
            f"{_name_of(dtype)}"
        )
    return f"the weights of {base.title} as they come, in {_name_of(dtype)}"


def merged_card(adapter: Adapter, out: Path, dtype: torch.dtype, quantization: str | None) -> str:
    """Return the card of a merged model, which says into which weights the adapter was merged."""
    into = merged_into(adapter.base, dtype, quantization)
    return f"""{_head(adapter.base.origin, "finetune", adapter.base.licence)}
# {out.name}

{adapter.base.title} with a LoRA adapter merged into its weights, in transformers' format, {_name_of(dtype)}.

**Merged into:** {into}.{_mismatch(adapter.run, quantization)}

{_what_it_is(adapter)}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("{out.name}"), AutoTokenizer.from_pretrained("{out.name}")
```

{_data_and_scores(adapter.run)}
## Licence

{_licence_of_weights(adapter.base)}
"""


def gguf_card(model: Base, out: Path, quantization: str) -> str:
    """Return the card of a whole model as GGUF."""
    relation = "quantized" if model.origin == model.title else "finetune"
    return f"""{_head(model.origin, relation, model.licence)}
# {out.stem}

The model **{model.title}** as one GGUF file, {quantization}, with its tokenizer and chat template.

    llama-cli -m {out.name}

## Licence

{_licence_of_weights(model)}
"""


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _head(base: str, relation: str, licence: str | None) -> str:
    lines = [f"base_model: {base}", f"base_model_relation: {relation}"]
    if licence:
        lines.append(f"license: {licence}")
    return "\n".join(["---", *lines, "tags: [lora]", "---"])


def _licence_of_weights(base: Base) -> str:
    if base.licence:
        return f"These are weights of {base.origin}, changed: {base.licence}."
    return (
        f"These are weights of {base.origin}, changed: the licence of that model decides. See its own card."
    )


def _what_it_is(adapter: Adapter) -> str:
    numbers = sum(A.numel() + B.numel() for A, B in adapter.layers.values())
    names = ", ".join(sorted({path.rpartition(".")[2] for path in adapter.layers}))
    rule = "alpha / sqrt(r)" if adapter.use_rslora else "alpha / r"
    return f"""| | |
|---|---|
| base | {adapter.base.title} |
| rank, alpha | {adapter.r}, {adapter.lora_alpha:g} (scaling {rule} = {adapter.scaling:g}) |
| layers | {len(adapter.layers)}: {names} |
| numbers | {numbers:,} |"""


def _mismatch(run: dict[str, Any] | None, quantization: str | None) -> str:
    """Say so where the adapter saw other weights in training than it is merged into."""
    method = run and run["config"].get("method")
    if method == "qlora" and quantization is None:
        return " The adapter was trained over the same base in NF4: the scores below are over that one."
    if method == "lora" and quantization:
        return " The adapter was trained over the same base without rounding: the scores below are over that one."
    return ""


def _data_and_scores(run: dict[str, Any] | None) -> str:
    if run is None:
        return "## Data and scores\n\nNo record of a fine-tune (run.json) lies beside the adapter: add both here.\n"
    config = run["config"]
    data = config.get("dataset") or config.get("train_file") or "the course's events (CC BY 4.0)"
    trained = (
        f"{config['method']}, {len(run['losses'])} steps of {config['batch_size']} examples, learning rate "
    )
    rows = [
        f"| {words} | {run[key]:.1%} | {run['n'][part]} |"
        for part, (key, words) in _SCORES.items()
        if run.get(key) is not None
    ]
    table = (
        ["| exact match on held-out events | | of |", "|---|---|---|", *rows]
        if rows
        else ["No test was asked."]
    )
    return "\n".join(
        [
            "## Data and scores",
            "",
            f"Trained on {_without_folder(data)}: {trained}{config['learning_rate']:g}, seed {run['seed']}.",
            "",
            *table,
            "",
        ]
    )


def _without_folder(name: str) -> str:
    """A file's name alone: where it lay on the machine that trained tells nobody else anything."""
    return Path(name).name if Path(name).is_absolute() or Path(name).suffix else name
