"""Your own training data: one file in, an adapter to chat with out.

Each line says what goes in and what is to come out, in one of three shapes::

    {"sentence": "Mara sings ...", "event": {"who": "Mara", ...}}       the course's task
    {"prompt": "What is a rank?", "completion": "The largest ..."}      a question and its answer
    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}

All lines have the same shape; other keys are passed over. Only a file of the first shape is checked as strictly as
the course's own data (`lora_edu.llm.data.load_events`) and may hold no keys that those do not. Of ``messages``
the last, the assistant's, is learned; those before it are its context.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_edu.llm.data.chat_template import context_length, require_known_tokens
from lora_edu.llm.data.events import load_events
from lora_edu.llm.data.extraction import chat, encode_turn, format_event
from lora_edu.llm.data.lines import is_text, read_lines, require
from lora_edu.llm.files import parse_json, shown

Conversation = tuple[list[dict[str, str]], str]
"""The messages so far, and the turn that is to follow them."""

ROLES = ("system", "user", "assistant")


def load_conversations(source: str) -> list[Conversation]:
    """Read training data and check every line.

    Parameters
    ----------
    source
        A JSON Lines file, or the id of a data set on the Hugging Face hub, ``"owner/name"``, whose ``train`` split is
        read (needs the package datasets).

    Returns
    -------
    list of (messages, answer)
        What `lora_edu.llm.data.extraction.encode_turn` takes.

    Raises
    ------
    FileNotFoundError
        There is neither such a file nor such an id.
    ValueError
        A line has none of the three shapes, or another than the first; the message names the line.
    OSError
        The hub cannot be reached, or the package datasets is missing.
    """
    if Path(source).is_file():
        records = _file_records(Path(source))
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not source.endswith((".jsonl", ".json")):
        records = _hub_records(source)
    else:
        raise FileNotFoundError(
            f"dataset must be an existing JSON Lines file or a hub id 'owner/name', got {source!r}"
        )
    if not records:
        raise ValueError(f"dataset must hold at least one line, {source} holds none")
    keys = _shape(**records[0])
    if keys == ("sentence", "event") and Path(source).is_file():
        return [
            event_conversation(record) for record in load_events(path=source)
        ]  # which checks the event as well
    return [_SHAPES[keys](at["place"], _require_keys(**at, keys=keys)) for at in records]


def encode_conversations(
    tokenizer: Any, conversations: list[Conversation], max_length: int, config: Any = None
) -> list[dict[str, list[int]]]:
    """Return training examples, none longer than `max_length` tokens or than the model can read.

    Parameters
    ----------
    tokenizer
        With a chat template.
    conversations
        From `load_conversations`.
    max_length
        Most tokens of an example.
    config
        The model's transformers configuration, before its weights are loaded; None: what only the model knows, its
        context and how many tokens its embedding has, is not looked at.

    Raises
    ------
    ValueError
        The tokenizer has no chat template, or one that refuses these turns; examples are too long, the message says
        how many; or a token, the one that pads among them, is beyond the model's embedding.
    """
    if tokenizer.chat_template is None:
        raise ValueError(
            "model must be one that chats (an instruct model), its tokenizer has no chat template"
        )
    examples = []
    for number, (messages, answer) in enumerate(conversations, start=1):
        try:
            examples.append(encode_turn(tokenizer, messages, answer))
        except ValueError as error:
            raise ValueError(f"example {number}: {error}") from error
    _require_lengths(examples, max_length, "max_length must be at least", "Shorten them, or raise max_length")
    if config is not None:
        context = context_length(config)
        if context is not None:
            allowed = f"model must have a context (max_position_embeddings of {tokenizer.name_or_path!r}) of"
            _require_lengths(examples, context, allowed, "Shorten them, or choose a model that reads more")
        require_known_tokens(
            tokenizer, config, max((max(example["input_ids"]) for example in examples), default=0)
        )
    return examples


def _require_lengths(examples: list[dict[str, list[int]]], most: int, setting: str, cure: str) -> None:
    lengths = [len(example["input_ids"]) for example in examples]
    longer = [number for number, length in enumerate(lengths, start=1) if length > most]
    if longer:
        raise ValueError(
            f"{setting} the tokens of every example, got {most}: {len(longer)} of {len(lengths)} are longer, the first "
            f"is number {longer[0]} with {lengths[longer[0] - 1]}, the longest has {max(lengths)}. {cure}"
        )


def _file_records(file: Path) -> list[dict[str, Any]]:
    """Return what each line holds, and where it stands."""
    return read_lines(file, lambda line, place: {"place": place, "record": parse_json(line, place)})


def _hub_records(name: str) -> list[dict[str, Any]]:
    try:
        from datasets import load_dataset  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]
    except ModuleNotFoundError as error:
        raise OSError(
            f"there is no file {name!r} here. If it names a data set on the hub, the package datasets is needed to "
            "read it: run `pip install datasets`"
        ) from error
    rows = load_dataset(name, split="train")
    return [{"place": f"{name}, row {number}", "record": row} for number, row in enumerate(rows, start=1)]


def event_conversation(record: dict[str, Any]) -> Conversation:
    """Return the course's task for one line of its data."""
    return chat(record["sentence"]), format_event(record["event"])


def _event(place: str, record: dict[str, Any]) -> Conversation:
    event = record["event"]
    require(is_text(record["sentence"]), f"{place}: sentence", "text", record["sentence"])
    require(isinstance(event, dict) and bool(event), f"{place}: event", "a JSON object", event)
    try:
        return event_conversation(record)
    except (TypeError, ValueError):  # rows of the hub may hold dates, bytes or NaN
        raise ValueError(f"{place}: event must be a JSON object, got {shown(event)}") from None


def _pair(place: str, record: dict[str, Any]) -> Conversation:
    for key in ("prompt", "completion"):
        require(is_text(record[key]), f"{place}: {key}", "text", record[key])
    return [{"role": "user", "content": record["prompt"]}], record["completion"]


def _messages(place: str, record: dict[str, Any]) -> Conversation:
    messages = record["messages"]
    require(
        isinstance(messages, list) and len(messages) > 1, f"{place}: messages", "two or more turns", messages
    )
    turns = []
    for message in messages:
        ok = isinstance(message, dict) and message.get("role") in ROLES and is_text(message.get("content"))
        require(ok, f"{place}: a message", f"a role of {', '.join(ROLES)} and text as content", message)
        turns.append({"role": message["role"], "content": message["content"]})
    require(
        turns[-1]["role"] == "assistant", f"{place}: the last message", "the assistant's", turns[-1]["role"]
    )
    return turns[:-1], turns[-1]["content"]


_SHAPES: dict[tuple[str, ...], Callable[[str, dict[str, Any]], Conversation]] = {
    ("sentence", "event"): _event,
    ("prompt", "completion"): _pair,
    ("messages",): _messages,
}


def _shape(place: str, record: Any) -> tuple[str, ...]:
    keys = record.keys() if isinstance(record, dict) else set()
    shape = next((shape for shape in _SHAPES if keys >= set(shape)), None)
    if shape is None:
        allowed = "; or ".join(" and ".join(shape) for shape in _SHAPES)
        raise ValueError(f"{place} must be a JSON object with the keys {allowed}; got {shown(record)}")
    return shape


def _require_keys(place: str, record: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    ok = isinstance(record, dict) and set(keys) <= record.keys()
    require(ok, place, f"a JSON object with the keys {' and '.join(keys)}, as the first line", record)
    return record
