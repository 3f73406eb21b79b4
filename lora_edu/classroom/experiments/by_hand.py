"""What notebook 10 calls beside the libraries, while it fine-tunes a model in its own cells."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lora_edu.classroom.experiments.live_loss import LiveLoss
from lora_edu.classroom.experiments.merging import free_memory
from lora_edu.llm.budget import Ledger, count_parameters, preflight
from lora_edu.llm.budget.preflight import changes
from lora_edu.llm.checkpoint import CONFIG_FILE
from lora_edu.llm.data.extraction import evaluate, parse_event
from lora_edu.llm.export.source import find_base
from lora_edu.llm.files import write_json, write_text
from lora_edu.llm.finetune.backends import PeftBackend
from lora_edu.llm.finetune.plan import Plan
from lora_edu.llm.finetune.record import Fingerprint, base_fingerprint, peak_memory_bytes
from lora_edu.llm.machine import GIB, left_for_another
from lora_edu.llm.surgery import linear_layers

GROUPS = "base", "base, three\nexamples", "tuned,\nseen patterns", "tuned,\nunseen patterns"
"""Whose answers `shares` counts."""

FREED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""For a process that shares memory with the notebook's: glibc gives blocks of 1 MiB or more back when they are freed.
Loading then peaks 250 MiB lower; answers take longer."""

_SHARES = "exact_match_before", "exact_match_before_few_shot", "exact_match", "exact_match_unseen"


def ask(
    model: Any,
    tokenizer: Any,
    lines: Sequence[dict],
    examples: Sequence[dict] = (),
    title: str = "answers",
    at_once: int = 25,
) -> dict[str, Any]:
    """Answer the sentences of these lines and count; `evaluate`'s entries, and ``right``, how many are."""
    said = evaluate(model, tokenizer, lines, title, examples=examples, batch_size=at_once)
    return said | {"right": round(said["exact_match"] * said["n"])}


def counts(base: Any, r: int) -> dict[str, int]:
    """How many ``parameters`` a base has, and how many numbers would be ``trained`` beside all its linear layers."""
    layers: Any = linear_layers(base).values()
    trained = sum(r * (layer.in_features + layer.out_features) for layer in layers)
    return {"parameters": count_parameters(base), "trained": trained}


def fingerprint(model: Any, tokenizer: Any) -> Fingerprint:
    """The hash of the base's weights, and its logits on one sentence with peft's adapter switched off."""
    return base_fingerprint(PeftBackend(), model, tokenizer)


def record(
    folder: Path,
    answers: Mapping[str, dict[str, Any]],
    live: LiveLoss,
    predicted: Ledger | None,
) -> dict[str, Any]:
    """Write what the run did to run.json in `folder`; return it, as `lora_edu.llm.finetune.summary` reads it.

    Parameters
    ----------
    answers
        What `ask` returned: ``before`` and ``few_shot`` of the base, ``seen`` and ``unseen`` after training.
    predicted
        The memory that was predicted, bytes by term.
    """
    kinds = "before", "few_shot", "seen", "unseen"
    content = {
        **{key: answers[kind]["exact_match"] for key, kind in zip(_SHARES, kinds, strict=True)},
        "n": {kind: answers[kind]["n"] for kind in kinds},
        "losses": live.losses,
        "losses_of_the_form": live.form,
        "losses_of_copied_tokens": live.copied,
        "validation_losses": {str(step): loss for step, loss in live.validation.items()},
        "seconds": {
            "before": answers["before"]["seconds"] + answers["few_shot"]["seconds"],
            "train": live.seconds,
            "answers": answers["seen"]["seconds"],
            "answers_unseen": answers["unseen"]["seconds"],
        },
        "predicted_memory_bytes": predicted,
        "peak_memory_bytes": peak_memory_bytes(),
        "peak_gpu_memory_bytes": None,
        "peak_gpu_reserved_bytes": None,
    }
    if torch.cuda.is_available():
        content["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
        content["peak_gpu_reserved_bytes"] = torch.cuda.max_memory_reserved()
    write_json(folder / "run.json", content)
    return content


def shares(record: Mapping[str, Any]) -> list[float]:
    """Shares of events exactly right (0 to 1), for `GROUPS`."""
    return [record[key] for key in _SHARES]


def wrong_answers(said: Mapping[str, Any], lines: Sequence[dict], most: int = 3) -> dict[str, list[str]]:
    """Columns, for `widgets.compare`, of the first answers that are wrong, and of what would be right.

    Parameters
    ----------
    said
        What `ask` returned for the first of these lines.
    """
    answered = zip(said["answers"], lines, strict=False)  # a test may ask fewer than there are
    wrong = [(line, answer) for answer, line in answered if parse_event(answer) != line["event"]][:most]
    columns: dict[str, list[str]] = {
        "sentence": [line["sentence"] for line, _ in wrong],
        "wrong_answer": [answer for _, answer in wrong],
    }
    for line, answer in wrong:
        found = parse_event(answer)
        missed = [
            f"{key}: {value}"
            for key, value in line["event"].items()
            if not isinstance(found, dict) or found.get(key) != value
        ]
        columns.setdefault("right_would_be", []).append(", ".join(missed) or "no other keys")
    return columns


def settled(plan: Plan) -> str:
    """What a plan tells before anything is loaded, without its line on threads: that is of the machine alone."""
    return "\n".join(line for line in str(plan).splitlines() if not line.startswith("Computes with"))


def decisions(asked: Ledger | None, times: Sequence[float]) -> list[str]:
    """What `preflight` decides of a run where there are so many times the bytes that it needs; a line each.

    Of a model whose memory is not predicted (None) one line says so.
    """
    if asked is None:
        return ["Memory is not predicted for this model's architecture: there is nothing to decide by."]
    return [f"{share} times {asked.total / GIB:.2f} GiB: {decision(asked, share)}" for share in times]


def decision(asked: Ledger, times: float) -> str:
    """What `preflight` decides where there are so many times the bytes that are needed."""
    device = asked.settings["device"]
    try:
        fitting = preflight(asked, device, available=int(times * asked.total))
    except MemoryError as refusal:
        return f"refused: {refusal}"
    return changes(asked, fitting) or "as it is"


def new_folder(path: str) -> Path:
    """An empty folder of this name; what lay there is discarded."""
    shutil.rmtree(path, ignore_errors=True)
    folder = Path(path)
    folder.mkdir(parents=True)
    return folder


def name_base(adapter: Path, model: str) -> None:
    """Name the base of an adapter for others, where peft has named the folder in which this machine keeps it.

    In ``adapter_config.json`` the base is called as `load_base_model` takes it, so that it is found again: of a folder
    of one's own that is its path. The card, README.md, has the name on a model hub, or the last part of that path.

    Parameters
    ----------
    adapter
        The folder that ``save_pretrained`` wrote.
    model
        As `load_base_model` took it.
    """
    file, card, base = adapter / CONFIG_FILE, adapter / "README.md", find_base(model)
    config = json.loads(file.read_text(encoding="utf-8"))
    text = card.read_text(encoding="utf-8").replace(config["base_model_name_or_path"], base.title)
    write_text(card, text)
    write_json(file, config | {"base_model_name_or_path": base.name})


def run_elsewhere(program: str, arguments: Sequence[str], folder: Path) -> str:
    """Run a program in a fresh Python, in the course's folder; return the last line that it prints.

    Before that all that is held unused is given back: the program shares memory and GPU with this process.

    Raises
    ------
    RuntimeError
        It failed; the message ends as its errors do.
    """
    free_memory()
    command = [sys.executable, "-c", program, *arguments]
    own = os.environ | FREED_AT_ONCE | left_for_another()
    done = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the program failed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout.splitlines()[-1]
