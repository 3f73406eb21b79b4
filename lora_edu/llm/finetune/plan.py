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

from lora_edu.llm.base_model import DEFAULT_NAME, TIERS, load_config, load_tokenizer, require_consent
from lora_edu.llm.base_model.download import is_hub_id, require_disk
from lora_edu.llm.budget import Ledger
from lora_edu.llm.data.asking import NEW_TOKENS, answers_at_once, answers_cut
from lora_edu.llm.data.extraction import longest_prompt
from lora_edu.llm.finetune.config import AUTO, FinetuneConfig
from lora_edu.llm.finetune.fusing import require_fusable_model
from lora_edu.llm.finetune.graph_shapes import scored_tokens
from lora_edu.llm.finetune.memory import Asking, choose_model, fit
from lora_edu.llm.finetune.reading import Questions, encode_material, read_material
from lora_edu.llm.finetune.recipe import Recipe, make_recipe, settle_graphs, settle_rate
from lora_edu.llm.machine import GIB
from lora_edu.llm.threads import use_free_cores
from lora_edu.llm.tiers import LARGE_RATE

_NOT_IDENTITY = (
    *("output", "resume", "overwrite", "preflight", "allow_download", "report_to", "model", "epochs"),
    "cuda_graphs",
    # What they come to is known by its content.
    *("train_file", "dataset", "dataset_config", "split", "columns", "test_file", "system", "learn"),
    *("max_length", "over_length", "validation_file", "validation_split", "validation_fraction"),
)
ALLOW_DOWNLOAD = "--allow-download (in Python: allow_download=True; in notebook 10: DOWNLOAD = True)"


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

    def __str__(self) -> str:
        """What is to be told before anything is loaded: memory, and the notes."""
        at_once = f"rows at once in memory: {self.recipe.micro_batch_size}"
        memory = [f"{self.ledger.total / GIB:.2f} GiB predicted; {at_once}"] if self.ledger else []
        return "\n".join([*memory, *self.notes])


def make_plan(config: FinetuneConfig, loaded: bool = False) -> Plan:
    """Settle a run; nothing is loaded but the tokenizer, nothing is written.

    Parameters
    ----------
    config
        What the user said.
    loaded
        Whether the base is in memory already.

    Raises
    ------
    ValueError
        A setting or a line of the data is wrong.
    MemoryError
        The run would not fit this machine; the message says what to change.
    PermissionError
        A model of more than 1 GB would be fetched, and ``allow_download`` is not set.
    OSError
        The disk has no room for it.
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
        asking = _asking(counted[0], material.questions, examples)
        model = choose_model(recipe, longest(examples), asking)
        recipe = replace(recipe, model=model, learning_rate=settle_rate(config, model))
        tier = TIERS[model]
        notes.append(f"Model: {model} ({tier.download / 1e9:.1f} GB to download once, {tier.licence})")
        if recipe.dtype == torch.float16:
            notes.append(f"In float16: {tier.half}")
    if is_hub_id(recipe.model) and not loaded:
        require_consent(recipe.model, config.allow_download, ALLOW_DOWNLOAD)
        require_disk(recipe.model)
    if config.learning_rate is None and recipe.learning_rate == LARGE_RATE:
        notes.append(
            f"Learning rate {LARGE_RATE:g}: the model has a billion parameters or more. (learning_rate changes it.)"
        )
    tokenizer, model_config = load_tokenizer(recipe.model), load_config(recipe.model)
    examples, changed = encode_material(config, material.train, tokenizer, model_config, "training")
    validation, more = encode_material(config, material.validation, tokenizer, model_config, "validation")
    notes += changed + more
    recipe = replace(recipe, steps=config.steps or _steps_of(config, recipe, len(examples)))
    identity = _identity(config, recipe, examples, validation, material.questions)
    ledger, questions = None, material.questions
    if config.preflight:
        asking = _asking(tokenizer, questions, examples, validation)
        recipe, ledger, changed = fit(recipe, longest(examples + validation), asking, loaded)
        notes += changed
        if ledger and ledger.settings["answers"] < asking.answers:
            questions = _fewer_at_once(tokenizer, questions, ledger)
    if recipe.fused:
        require_fusable_model(model_config.model_type, recipe.gradient_checkpointing)
    recipe, changed = settle_graphs(recipe)
    notes += changed
    folder = Path(config.output).expanduser().absolute()
    return Plan(
        config,
        folder,
        recipe,
        examples,
        validation,
        config.patience,
        questions,
        ledger,
        tuple(notes),
        config.report_to,
        identity,
    )


def _kinds(tokenizer: Any, questions: Questions) -> list[tuple[int, Asking]]:
    """How many worked examples stand before each question of a kind, and what it asks at once."""
    new_tokens = min(NEW_TOKENS, (answers_cut() or (0, NEW_TOKENS))[1])
    kinds = []
    for lines, worked in ((questions.seen + questions.unseen, []), (questions.before, questions.worked)):
        if lines:
            answers = min(len(lines), answers_at_once(questions.batch_size, worked))
            prompt = longest_prompt(tokenizer, [line["sentence"] for line in lines], worked)
            kinds.append((len(worked), Asking(answers, prompt, new_tokens)))
    return kinds


def _asking(
    tokenizer: Any, questions: Questions, examples: Sequence[dict], validation: Sequence[dict] = ()
) -> Asking:
    """What the run will ask, as far as memory depends on it: the questions that hold most tokens at once."""
    kinds = [asking for _, asking in _kinds(tokenizer, questions)]
    most = max(
        kinds, key=lambda asking: asking.answers * (asking.prompt + asking.new_tokens), default=Asking()
    )
    scored = max(1, *map(scored_tokens, examples))
    return replace(most, scored=scored, validation=longest(validation))


def _fewer_at_once(tokenizer: Any, questions: Questions, ledger: Ledger) -> Questions:
    """The questions, with so many at once that no kind holds more tokens than the ledger counts; at least one."""
    s = ledger.settings
    tokens = s["answers"] * (s["prompt"] + s["new_tokens"])
    most = [
        (1 + worked) * (tokens // (asking.prompt + asking.new_tokens))
        for worked, asking in _kinds(tokenizer, questions)
    ]
    return replace(questions, batch_size=max(1, min(questions.batch_size, *most)))


def _steps_of(config: FinetuneConfig, recipe: Recipe, rows: int) -> int:
    """Return how many optimizer steps the epochs take; the last step of each may see fewer rows."""
    return math.ceil((config.epochs or 0) * math.ceil(rows / recipe.batch_size))


def longest(examples: Sequence[dict[str, list[int]]]) -> int:
    """Tokens of the longest example; 0 if there is none."""
    return max((len(example["input_ids"]) for example in examples), default=0)


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
        "learning_rate": recipe.learning_rate,
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
