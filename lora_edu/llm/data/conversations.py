"""Your own training data: one file in, an adapter to chat with out.

Each row says what goes in and what is to come out, in one of three shapes::

    {"sentence": "Mara sings ...", "event": {"who": "Mara", ...}}       the course's task
    {"prompt": "What is a rank?", "completion": "The largest ..."}      a question and its answer
    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}

All rows have the same shape; other keys are passed over. A file whose columns have other names says which is which:
``columns=["prompt=question", "completion=answer"]``. Only a file of the first shape is checked as strictly as the
course's own data (`lora_edu.llm.data.load_events`) and may hold no keys that those do not.

Each conversation goes through the model's chat template, whatever its shape. Of ``messages`` the last turn, the
assistant's, is learned, and those before it are its context (``learn="last"``); or every turn of the assistant is
(``learn="all"``).

Each example is a sequence of its own: nothing is packed. Packing joins examples so that no padding is computed. Of two
random examples the shorter is padded to the longer: 3 % of what is computed for the course's event sentences and for
its personas (`lora_edu.llm.data.doctor.padding_share`; the doctor counts it for any file). That is the most that
packing could save, and it needs attention that keeps the examples of one sequence apart: in TRL 1.12.0 FlashAttention 2
or 3 (``padding_free``, which its packing switches on), and a T4 has neither.

TRL's SFTTrainer reads the same keys otherwise (https://huggingface.co/docs/trl/v1.12.0/en/sft_trainer). ``prompt`` and
``completion`` that are text are its standard format: joined as they stand, without a chat template. Turns under these
keys get the template. Of both the completion alone is learned (``completion_only_loss=None``). Of ``messages`` every
token is, the user's too; with ``assistant_only_loss=True`` all turns of the assistant, as with ``learn="all"``, if the
template marks them with ``{% generation %}``. What is longer than ``max_length`` (1,024 there) is cut at its end, as
with ``over_length="cut"``.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lora_edu.llm.data.chat_template import context_length, require_known_tokens
from lora_edu.llm.data.dialogue import encode_dialogue
from lora_edu.llm.data.events import check_event
from lora_edu.llm.data.extraction import IGNORE, chat, encode_turn, format_event
from lora_edu.llm.data.lines import is_text, require
from lora_edu.llm.data.rows import Row, read_rows
from lora_edu.llm.files import shown

Conversation = tuple[list[dict[str, str]], str]
"""The messages so far, and the turn that is to follow them."""

ROLES = ("system", "user", "assistant")


LEARN = ("last", "all")
"""Which turns of the assistant are learned."""
OVER_LENGTH = ("refuse", "cut", "drop")
"""What is done with rows that are too long."""


class Parsed(NamedTuple):
    """A row as a conversation; where it is none, None and why."""

    place: str
    conversation: Conversation | None
    fault: str = ""


def load_conversations(
    source: str, columns: Sequence[str] = (), config: str | None = None, split: str = "train"
) -> list[Conversation]:
    """Read training data and check every row.

    Parameters
    ----------
    source, config, split
        As in `lora_edu.llm.data.rows.read_rows`.
    columns
        Which column is which, where they have other names: ``"prompt=question"``.

    Returns
    -------
    list of (messages, answer)
        What `lora_edu.llm.data.extraction.encode_turn` takes.

    Raises
    ------
    FileNotFoundError
        There is neither such a file nor such an id.
    ValueError
        A row has none of the three shapes, or another than the first; the message names the line.
    OSError
        The hub cannot be reached, or the package datasets is missing.
    """
    conversations = []
    for parsed in parse_rows(read_rows(source, config, split), columns, strict=Path(source).is_file()):
        if parsed.conversation is None:
            raise ValueError(parsed.fault)
        conversations.append(parsed.conversation)
    return conversations


def parse_rows(rows: Sequence[Row], columns: Sequence[str] = (), strict: bool = True) -> list[Parsed]:
    """Return each row as a conversation, or what is wrong with it.

    Parameters
    ----------
    columns
        As in `load_conversations`.
    strict
        Whether event sentences are checked as the course's own are.

    Raises
    ------
    ValueError
        ``columns`` are not what they must be, or the first row has none of the three shapes.
    """
    names = parse_columns(columns)
    first = next((row for row in rows if not row.fault), None)
    if first is None:
        return [Parsed(row.place, None, row.fault) for row in rows]
    keys = _shape(first.place, _renamed(first, names), names)
    shape = _strict_event if strict and keys == ("sentence", "event") else _SHAPES[keys]
    return [_parsed(row, names, keys, shape) for row in rows]


def parse_columns(columns: Sequence[str]) -> dict[str, str]:
    """Return which column stands for which key.

    Raises
    ------
    ValueError
        One is not of the form key=column, or a key is unknown or stands there twice.
    """
    known = [key for shape in _SHAPES for key in shape]
    pairs = [text.partition("=") for text in columns]
    for text, (key, _, column) in zip(columns, pairs, strict=True):
        allowed = f"of the form key=column with a key of {', '.join(known)}"
        require(key in known and bool(column), "columns", allowed, text)
    names = {key: column for key, _, column in pairs}
    require(len(names) == len(pairs), "columns", "different keys", list(columns))
    return names


def encode_conversations(
    tokenizer: Any,
    conversations: list[Conversation],
    max_length: int,
    config: Any = None,
    learn: str = "last",
    over_length: str = "refuse",
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
    learn
        One of `LEARN`: the last turn of the assistant, or all of them.
    over_length
        One of `OVER_LENGTH`: what is done with examples that are too long. ``"cut"`` takes the tokens at the end away,
        so such an example teaches no end of turn; one of which nothing scored is left is dropped (`too_long` counts).

    Raises
    ------
    ValueError
        The tokenizer has no chat template, or one that refuses these turns; examples are too long, the message says
        how many; or a token, the one that pads among them, is beyond the model's embedding.
    """
    examples = encode_whole(tokenizer, conversations, learn)
    context = None if config is None else context_length(config)
    if over_length == "refuse":
        _require_lengths(
            examples, max_length, "max_length must be at least", f"Shorten them, or raise max_length, {_CURE}"
        )
        if context is not None:
            allowed = f"model must have a context (max_position_embeddings of {tokenizer.name_or_path!r}) of"
            _require_lengths(
                examples, context, allowed, f"Shorten them, choose a model that reads more, {_CURE}"
            )
    else:
        most = int(min(max_length, context or math.inf))
        examples = [_fitted(e, most, over_length) for e in examples]
        examples = [e for e in examples if e["input_ids"]]
        if conversations and not examples:
            raise ValueError(
                f"max_length must leave something to learn, got {most}: all {len(conversations)} rows are longer"
            )
    if config is not None:
        require_known_tokens(
            tokenizer, config, max((max(example["input_ids"]) for example in examples), default=0)
        )
    return examples


_CURE = "or cut or drop them (over_length)"


def encode_whole(
    tokenizer: Any, conversations: list[Conversation], learn: str = "last"
) -> list[dict[str, list[int]]]:
    """Return each conversation as a training example, however long; see `encode_conversations`."""
    if tokenizer.chat_template is None:
        raise ValueError(
            "model must be one that chats (an instruct model), its tokenizer has no chat template"
        )
    encode = encode_dialogue if learn == "all" else encode_turn
    examples = []
    for number, (messages, answer) in enumerate(conversations, start=1):
        try:
            examples.append(encode(tokenizer, messages, answer))
        except ValueError as error:
            raise ValueError(f"example {number}: {error}") from error
    return examples


def too_long(examples: Sequence[dict[str, list[int]]], most: int) -> tuple[int, int]:
    """Return how many examples have more than `most` tokens, and how many of these nothing scored among the first."""
    longer = [example["labels"] for example in examples if len(example["labels"]) > most]
    return len(longer), sum(not _is_scored(labels[:most]) for labels in longer)


def _is_scored(labels: Sequence[int]) -> bool:
    return any(label != IGNORE for label in labels[1:])  # nothing stands before the first token


def _fitted(example: dict[str, list[int]], most: int, over_length: str) -> dict[str, list[int]]:
    """Return an example of at most so many tokens; an empty one in place of one that is dropped."""
    if len(example["input_ids"]) <= most:
        return example
    keep = most if over_length == "cut" and _is_scored(example["labels"][:most]) else 0
    return {key: values[:keep] for key, values in example.items()}


def _require_lengths(examples: list[dict[str, list[int]]], most: int, setting: str, cure: str) -> None:
    lengths = [len(example["input_ids"]) for example in examples]
    longer = [number for number, length in enumerate(lengths, start=1) if length > most]
    if longer:
        raise ValueError(
            f"{setting} the tokens of every example, got {most}: {len(longer)} of {len(lengths)} are longer, the first "
            f"is number {longer[0]} with {lengths[longer[0] - 1]}, the longest has {max(lengths)}. {cure}"
        )


def event_conversation(record: dict[str, Any]) -> Conversation:
    """Return the course's task for one line of its data."""
    return chat(record["sentence"]), format_event(record["event"])


def _strict_event(place: str, record: dict[str, Any]) -> Conversation:
    return event_conversation(check_event(record, place))


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
        turns = " (turns belong under messages)" if isinstance(record[key], list) else ""
        require(is_text(record[key]), f"{place}: {key}", f"text{turns}", record[key])
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


def _shape(place: str, record: Any, names: dict[str, str]) -> tuple[str, ...]:
    keys = record.keys() if isinstance(record, dict) else set()
    shape = next((s for s in _SHAPES if keys >= set(s) >= names.keys()), None)
    if shape is None:
        allowed = "; or ".join(" and ".join(shape) for shape in _SHAPES)
        raise ValueError(
            f"{place} must be a JSON object with the keys {allowed}; got {shown(record)}. Where they have other names, "
            "columns says which is which"
        )
    return shape


def _renamed(row: Row, names: dict[str, str]) -> Any:
    """Return what a row holds, under the keys that its columns stand for."""
    if not names or not isinstance(row.record, dict):
        return row.record
    missing = [column for column in names.values() if column not in row.record]
    if missing:
        raise ValueError(f"{row.place} must have the column {missing[0]!r}, got {shown(list(row.record))}")
    others = {key: value for key, value in row.record.items() if key not in names.values()}
    return others | {key: row.record[column] for key, column in names.items()}


def _parsed(
    row: Row,
    names: dict[str, str],
    keys: tuple[str, ...],
    shape: Callable[[str, dict[str, Any]], Conversation],
) -> Parsed:
    if row.fault:
        return Parsed(row.place, None, row.fault)
    try:
        return Parsed(row.place, shape(row.place, _require_keys(row.place, _renamed(row, names), keys)))
    except ValueError as error:
        return Parsed(row.place, None, str(error))


def _require_keys(place: str, record: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    ok = isinstance(record, dict) and set(keys) <= record.keys()
    require(ok, place, f"a JSON object with the keys {' and '.join(keys)}, as the first line", record)
    return record
