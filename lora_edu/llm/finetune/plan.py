"""All that settings, data and machine decide about a run, settled once before a weight is loaded.

`make_plan` reads the data, chooses the model, asks whether memory will do, and answers with one frozen `Plan`. What
comes after it asks neither the machine nor the user again.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from lora_edu.llm.base_model import DEFAULT_NAME, load_config, load_tokenizer
from lora_edu.llm.budget import Ledger
from lora_edu.llm.finetune.config import AUTO, FinetuneConfig
from lora_edu.llm.finetune.reading import Questions, encode_material, read_material
from lora_edu.llm.finetune.recipe import Recipe, choose_model, fit, make_recipe
from lora_edu.llm.threads import use_free_cores

_NOT_IDENTITY = (
    *("output", "resume", "overwrite", "preflight", "report_to", "model", "epochs"),
    # What they come to is known by its content.
    *("train_file", "dataset", "dataset_config", "split", "columns", "test_file", "system", "learn"),
    *("max_length", "over_length", "validation_file", "validation_split", "validation_fraction"),
)


@dataclass(frozen=True)
class Plan:
    """A run, settled.

    Attributes
    ----------
    config
        What the user said; for the record alone.
    folder
        Where everything goes, absolute.
    recipe
        How each step is computed.
    examples
        Encoded training examples: ``input_ids``, ``attention_mask``, ``labels``.
    validation
        Such examples whose loss is measured at each checkpoint; empty without validation data.
    patience
        After how many validation losses without a new best the run stops; None: never.
    ledger
        Predicted memory, bytes by term; None where nothing was predicted.
    notes
        What was chosen or changed, and why: one sentence each.
    report_to
        ``"none"`` or ``"tensorboard"``.
    identity
        What makes two runs the same run, so that one may go on as the other: settings, and the data by its content.
    """

    config: FinetuneConfig
    folder: Path
    recipe: Recipe
    examples: list[dict[str, list[int]]]
    validation: list[dict[str, list[int]]]
    patience: int | None
    questions: Questions
    ledger: Ledger | None
    notes: tuple[str, ...]
    report_to: str
    identity: dict[str, Any]


def make_plan(config: FinetuneConfig) -> Plan:
    """Settle a run; nothing is loaded but the tokenizer, nothing is written.

    Raises
    ------
    ValueError
        A setting or a line of the data is wrong.
    MemoryError
        The run would not fit this machine; the message says what to change.
    """
    processes = PartialState(cpu=not torch.cuda.is_available()).num_processes
    recipe = make_recipe(config, processes)
    material = read_material(config)
    if recipe.sharded and material.validation:
        raise ValueError("validation data must not be given with FSDP: a sharded run writes no checkpoints")
    notes = [] if recipe.device == "cuda" else [f"Computes with {use_free_cores()}."]
    notes += material.notes
    if recipe.model == AUTO:
        # The course's tokenizer needs no hub, and one tokenizer counts about as many tokens as another.
        counted = load_tokenizer(DEFAULT_NAME), load_config(DEFAULT_NAME)
        examples, _ = encode_material(config, material.train, *counted, "training")
        recipe = replace(recipe, model=choose_model(recipe, _longest(examples)))
        notes.append(f"Model: {recipe.model}")
    read_by = load_tokenizer(recipe.model), load_config(recipe.model)
    examples, changed = encode_material(config, material.train, *read_by, "training")
    validation, more = encode_material(config, material.validation, *read_by, "validation")
    notes += changed + more
    recipe = replace(recipe, steps=config.steps or _steps_of(config, recipe, len(examples)))
    identity = _identity(config, recipe, examples, validation, material.questions)
    ledger = None
    if config.preflight:
        recipe, ledger, changed = fit(recipe, _longest(examples + validation))
        notes += changed
    folder = Path(config.output).expanduser().absolute()
    return Plan(
        config,
        folder,
        recipe,
        examples,
        validation,
        config.patience,
        material.questions,
        ledger,
        tuple(notes),
        config.report_to,
        identity,
    )


def _steps_of(config: FinetuneConfig, recipe: Recipe, rows: int) -> int:
    """Return how many optimizer steps the epochs take; the last step of each may see fewer rows."""
    return math.ceil((config.epochs or 0) * math.ceil(rows / recipe.batch_size))


def _longest(examples: Sequence[dict[str, list[int]]]) -> int:
    return max(len(example["input_ids"]) for example in examples)


def _identity(
    config: FinetuneConfig,
    recipe: Recipe,
    examples: list[dict[str, list[int]]],
    validation: list[dict[str, list[int]]],
    questions: Questions,
) -> dict[str, Any]:
    """Files count by what they hold, not by their names; ``auto`` by what it became."""
    settings = {key: value for key, value in asdict(config).items() if key not in _NOT_IDENTITY}
    became = {
        "dtype": str(recipe.dtype).removeprefix("torch."),
        "optimizer": recipe.optimizer,
        "steps": recipe.steps,
    }
    content = {
        "training_data_sha256": _sha256(examples),
        "validation_data_sha256": _sha256(validation) if validation else None,
        "test_data_sha256": _sha256(asdict(questions)),
    }
    return settings | became | content


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
