"""The data of a run, read and shared out: what is learned, what is kept back, what is asked.

What was done to it stands in notes, one sentence each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_edu.llm.data.arrange import also_in, hold_out, with_system
from lora_edu.llm.data.asking import answers_cut
from lora_edu.llm.data.chat_template import context_length
from lora_edu.llm.data.conversations import (
    Conversation,
    encode_conversations,
    encode_whole,
    event_conversation,
    load_conversations,
    too_long,
)
from lora_edu.llm.data.events import load_events
from lora_edu.llm.finetune.config import FinetuneConfig

FEW_SHOT_EXAMPLES = 3


@dataclass(frozen=True)
class Questions:
    """What the model is asked before and after: lines of the event data.

    Attributes
    ----------
    before
        Asked of the base as well.
    worked
        Worked examples for the base's second try.
    seen, unseen
        Asked afterwards: patterns that the training data has, and others.
    batch_size
        Sentences answered at once.
    """

    before: list[dict]
    worked: list[dict]
    seen: list[dict]
    unseen: list[dict]
    batch_size: int


@dataclass(frozen=True)
class Material:
    """The conversations of a run, not yet encoded: learned from, and kept back (none: no validation)."""

    train: list[Conversation]
    validation: list[Conversation]
    questions: Questions
    notes: tuple[str, ...]


def read_material(config: FinetuneConfig) -> Material:
    """Read what a run learns from and is asked.

    Raises
    ------
    ValueError, OSError
        A file is not there, or a row of it is wrong.
    """
    train, worked, test = _read_train(config)
    train, validation = _share_out(config, train)
    notes = []
    if config.system is not None:
        train, given = with_system(train, config.system)
        validation, _ = with_system(validation, config.system)
        notes.append(f"The system prompt was put before {given} of {len(train)} rows: the others have one.")
    if validation:
        notes.append(f"{len(train)} rows are learned from, {len(validation)} are kept back for validation.")
    if repeated := also_in(validation, train):
        notes.append(
            f"{len(repeated)} of {len(validation)} validation rows ask what a training row asks, too."
        )
    seen = [line for line in test if not line.get("unseen_pattern")][: config.test_events]
    unseen = [line for line in test if line.get("unseen_pattern")][: config.test_events]
    if cut := answers_cut():
        seen, unseen = seen[: cut[0]], unseen[: cut[0]]
    questions = Questions(seen[: config.before_events], worked, seen, unseen, config.eval_batch_size)
    return Material(train, validation, questions, tuple(notes))


def _read_train(config: FinetuneConfig) -> tuple[list[Conversation], list[dict], list[dict]]:
    """Return the conversations, worked examples and the test events."""
    if config.dataset is None:
        train = load_events("train", _expanded(config.train_file))
        test = load_events("test", _expanded(config.test_file))
        return [event_conversation(line) for line in train], train[:FEW_SHOT_EXAMPLES], test
    test = load_events("test", _expanded(config.test_file)) if config.test_file else []
    return _conversations(config, config.dataset, config.split), [], test


def _share_out(
    config: FinetuneConfig, train: list[Conversation]
) -> tuple[list[Conversation], list[Conversation]]:
    if config.validation_file is not None:
        return train, _conversations(config, config.validation_file, "train")
    if config.validation_split is not None:
        return train, _conversations(config, str(config.dataset), config.validation_split)
    if config.validation_fraction is not None:
        return hold_out(train, config.validation_fraction, config.seed)
    return train, []


def _conversations(config: FinetuneConfig, source: str, split: str) -> list[Conversation]:
    return load_conversations(str(_expanded(source)), config.columns, config.dataset_config, split)


def encode_material(
    config: FinetuneConfig,
    conversations: Sequence[Conversation],
    tokenizer: Any,
    model_config: Any,
    what: str,
) -> tuple[list[dict[str, list[int]]], list[str]]:
    """Return conversations as examples, and in words how many were cut or dropped.

    Parameters
    ----------
    what
        How the notes call these rows, such as ``"training"``.
    """
    settings = {"learn": config.learn, "over_length": config.over_length}
    examples = encode_conversations(
        tokenizer, list(conversations), config.max_length, model_config, **settings
    )
    if config.over_length == "refuse":
        return examples, []
    most = min(config.max_length, context_length(model_config) or config.max_length)
    longer, empty = too_long(encode_whole(tokenizer, list(conversations), config.learn), most)
    if not longer:
        return examples, []
    dropped = longer if config.over_length == "drop" else empty
    note = (
        f"{longer} of {len(conversations)} {what} rows are longer than {most} tokens: {dropped} were dropped"
    )
    if config.over_length == "cut":
        note += f" (nothing scored was left), {longer - empty} were cut and teach no end of turn"
    return examples, [f"{note}."]


def _expanded(path: str | None) -> str | None:
    return str(Path(path).expanduser()) if path and path.startswith("~") else path
