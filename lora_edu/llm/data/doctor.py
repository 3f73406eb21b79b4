"""Look at training data before a model does: ``python -m lora_edu.llm.data.doctor mine.jsonl``.

What breaks a run is named with its line, all of it at once. What does not break it and spoils it is counted: rows that
stand twice, prompts that are answered in two ways, rows that are too long, rows that also stand in the test. Three
examples are shown as the model will read them, with what is scored marked.

The command ends with 0 if a fine-tune would take every row, 1 if not, 2 if the data could not be read.
"""

import argparse
import itertools
import random
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lora_edu.llm.base_model import DEFAULT_NAME, load_tokenizer
from lora_edu.llm.console import say
from lora_edu.llm.data.arrange import also_in, prompt_of, with_system
from lora_edu.llm.data.conversations import (
    LEARN,
    Conversation,
    Parsed,
    encode_whole,
    load_conversations,
    parse_columns,
    parse_rows,
    too_long,
)
from lora_edu.llm.data.extraction import IGNORE
from lora_edu.llm.data.rows import Row, read_rows

SHOWN_FAULTS = 20
SHOWN_CHARACTERS = 1500
BEGIN, END = "[[", "]]"
"""What stands around scored text in `Example.marked`."""


class Example(NamedTuple):
    """A training example as text: its tokens, and their labels, -100 where nothing is scored."""

    tokens: list[str]
    labels: list[int]

    def marked(self) -> str:
        """Return the text, with what is scored between ``[[`` and ``]]``, each stretch whole."""
        pairs = zip(self.tokens, self.labels, strict=True)
        stretches = itertools.groupby(pairs, key=lambda pair: pair[1] != IGNORE)
        texts = [(scored, "".join(token for token, _ in stretch)) for scored, stretch in stretches]
        return "".join(f"{BEGIN}{text}{END}" if scored else text for scored, text in texts)


@dataclass(frozen=True)
class Report:
    """What the doctor found.

    Attributes
    ----------
    rows
        How many there are; what follows but for the faults is counted over those that can be read.
    faults
        What is wrong with each row that cannot be learned, one sentence each, with its line.
    empty_answers
        How many of these have nothing to say.
    duplicates
        Rows that are an earlier row again.
    contradictions
        Rows that answer otherwise what an earlier row asks.
    max_length, over_length
        Most tokens of an example, and how many have more.
    lengths
        Tokens of an example: ``min``, ``median``, ``90 %``, ``max``.
    tokens, scored
        Of all examples together, and how many of them the loss looks at.
    padding
        Share (0 to 1) of what is computed that is padding, two random examples at a time.
    leaks
        Rows that ask what a row of the test asks; None without a test.
    unused
        Columns that nothing is read from.
    examples
        The shortest, the one in the middle and the longest.
    """

    rows: int
    faults: tuple[str, ...]
    empty_answers: int
    duplicates: int
    contradictions: int
    max_length: int
    over_length: int
    lengths: dict[str, int]
    tokens: int
    scored: int
    padding: float
    leaks: int | None
    unused: tuple[str, ...]
    examples: tuple[Example, ...]

    @property
    def masked(self) -> float:
        """Share (0 to 1) of the tokens that the loss passes over."""
        return 1 - self.scored / self.tokens if self.tokens else 0.0

    @property
    def healthy(self) -> bool:
        """Whether a fine-tune takes every row as it is."""
        return not self.faults and not self.over_length

    def __str__(self) -> str:
        lengths = ", ".join(f"{name} {length:,}" for name, length in self.lengths.items())
        lines = [
            f"{'rows':<32}{self.rows:,}",
            f"{'cannot be learned':<32}{len(self.faults):,} (of these, empty answers: {self.empty_answers:,})",
            f"{'stand there twice':<32}{self.duplicates:,}",
            f"{'same prompt, another answer':<32}{self.contradictions:,}",
            f"{f'longer than {self.max_length:,} tokens':<32}{self.over_length:,}",
            f"{'tokens of an example':<32}{lengths or 'none'}",
            f"{'tokens; share not scored':<32}{self.tokens:,}; {self.masked:.0%}",
            f"{'padding, two at a time':<32}{self.padding:.0%}",
        ]
        if self.leaks is not None:
            lines.append(f"{'prompt also in the test':<32}{self.leaks:,}")
        if self.unused:
            lines.append(f"{'columns not read':<32}{', '.join(self.unused)}")
        lines += [f"- {fault}" for fault in self.faults[:SHOWN_FAULTS]]
        if len(self.faults) > SHOWN_FAULTS:
            lines.append(f"- and {len(self.faults) - SHOWN_FAULTS:,} more")
        for name, example in zip(("shortest", "middle", "longest"), self.examples, strict=False):
            text = example.marked()
            if len(text) > SHOWN_CHARACTERS:
                text = f"{text[: SHOWN_CHARACTERS // 2]}\n...\n{text[-SHOWN_CHARACTERS // 2 :]}"
            lines += ["", f"--- the {name} example, scored between {BEGIN} and {END} ---", text]
        return "\n".join(lines)


def examine(
    source: str | Sequence[Conversation],
    tokenizer: Any,
    max_length: int = 512,
    *,
    test: str | Sequence[Conversation] | None = None,
    columns: Sequence[str] = (),
    config: str | None = None,
    split: str = "train",
    system: str | None = None,
    learn: str = "last",
) -> Report:
    """Return what is wrong with training data, and what is in it.

    Parameters
    ----------
    source
        A file, a hub id, or conversations that were read already.
    tokenizer
        Of the model that is to learn; with a chat template.
    max_length
        Most tokens of an example.
    test
        What is asked later, in the same form as `source` (a file: with the same columns).
    columns, config, split, system, learn
        As in `lora_edu.llm.finetune.FinetuneConfig`.

    Raises
    ------
    ValueError, OSError
        The data cannot be read at all, or the tokenizer has no chat template.
    """
    parsed, empty, unused = _read(source, columns, config, split)
    faults = [p.fault for p in parsed if p.conversation is None]
    conversations = [p.conversation for p in parsed if p.conversation is not None]
    if isinstance(test, str):
        test = load_conversations(test, columns, config)
    leaks = None if test is None else len(also_in(conversations, test))
    seen = Counter(str(c) for c in conversations)
    prompts = {prompt_of(c) for c in conversations}
    if system is not None:
        conversations, _ = with_system(conversations, system)
    examples, refused = _encoded(tokenizer, conversations, [p.place for p in parsed if p.conversation], learn)
    examples.sort(key=lambda example: len(example["input_ids"]))
    lengths = [len(example["input_ids"]) for example in examples]
    return Report(
        rows=len(parsed),
        faults=(*faults, *refused),
        empty_answers=empty,
        duplicates=len(conversations) - len(seen),
        contradictions=len(seen) - len(prompts),
        max_length=max_length,
        over_length=too_long(examples, max_length)[0],
        lengths=_quantiles(lengths),
        tokens=sum(lengths),
        scored=sum(label != IGNORE for example in examples for label in example["labels"]),
        padding=padding_share(lengths),
        leaks=leaks,
        unused=unused,
        examples=tuple(_as_text(tokenizer, e) for e in _first_middle_last(examples)),
    )


def padding_share(lengths: Sequence[int], batch_size: int = 2, epochs: int = 20) -> float:
    """Return which share (0 to 1) of the positions that are computed is padding.

    Parameters
    ----------
    lengths
        Tokens of each example.
    batch_size
        Examples at once in memory, drawn at random, each padded to the longest of them.
    epochs
        Draws that are averaged.
    """
    order, generator, computed = list(lengths), random.Random(0), 0
    for _ in range(epochs):
        generator.shuffle(order)
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        computed += sum(len(batch) * max(batch) for batch in batches)
    return 1 - epochs * sum(lengths) / computed if computed else 0.0


def _read(
    source: str | Sequence[Conversation], columns: Sequence[str], config: str | None, split: str
) -> tuple[list[Parsed], int, tuple[str, ...]]:
    """Return each row as a conversation or its fault, how many say nothing, and the columns that are not read."""
    if not isinstance(source, str):
        return [Parsed(f"example {n}", c) for n, c in enumerate(source, start=1)], 0, ()
    rows, names = read_rows(source, config, split), parse_columns(columns)
    records = [row.record for row in rows if isinstance(row.record, dict)]
    read = set(names.values()) | {"prompt", "completion", "messages", "sentence", "event", "unseen_pattern"}
    unused = [key for key in dict.fromkeys(k for record in records for k in record) if key not in read]
    parsed = _parse_all(rows, columns, strict=Path(source).is_file())
    return parsed, sum(_says_nothing(row, names) for row in rows), tuple(unused)


def _parse_all(rows: Sequence[Row], columns: Sequence[str], strict: bool) -> list[Parsed]:
    """Return what `parse_rows` does, but hold the rows to the first that has one of the shapes."""
    bad: list[Parsed] = []
    while len(bad) < SHOWN_FAULTS:
        try:
            return bad + parse_rows(rows, columns, strict)
        except ValueError as error:
            place = next(i for i, row in enumerate(rows) if not row.fault)
            bad += [Parsed(row.place, None, row.fault) for row in rows[:place]]
            bad.append(Parsed(rows[place].place, None, str(error)))
            rows = rows[place + 1 :]
    return bad + [Parsed(row.place, None, f"{row.place}, as those before it") for row in rows]


def _says_nothing(row: Row, names: dict[str, str]) -> bool:
    record = row.record if isinstance(row.record, dict) else {}
    answer = record.get(names.get("completion", "completion"), "-")
    messages = record.get(names.get("messages", "messages"))
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        answer = messages[-1].get("content")
    return answer is None or (isinstance(answer, str) and not answer.strip())


def _encoded(
    tokenizer: Any, conversations: Sequence[Conversation], places: Sequence[str], learn: str
) -> tuple[list[dict[str, list[int]]], list[str]]:
    """Return the examples, and why the chat template refuses a row."""
    examples, refused = [], []
    encode_whole(tokenizer, [])  # no template at all is no matter of rows
    for conversation, place in zip(conversations, places, strict=True):
        try:
            examples += encode_whole(tokenizer, [conversation], learn)
        except ValueError as error:
            refused.append(f"{place}: {str(error).removeprefix('example 1: ')}")
    return examples, refused


def _quantiles(lengths: Sequence[int]) -> dict[str, int]:
    """Return four of them, of lengths in ascending order; none of none."""
    if not lengths:
        return {}
    nearly = lengths[-1 - len(lengths) // 10]
    middle = int(statistics.median_low(lengths))
    return {"min": lengths[0], "median": middle, "90 %": nearly, "max": lengths[-1]}


def _first_middle_last(examples: list[dict[str, list[int]]]) -> list[dict[str, list[int]]]:
    places = dict.fromkeys((0, (len(examples) - 1) // 2, len(examples) - 1)) if examples else ()
    return [examples[i] for i in places]


def _as_text(tokenizer: Any, example: dict[str, list[int]]) -> Example:
    return Example([tokenizer.decode([token]) for token in example["input_ids"]], example["labels"])


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m lora_edu.llm.data.doctor", description="Look at training data before a model does."
    )
    parser.add_argument("source", help="a .jsonl, .json or .csv file, or a hub id")
    parser.add_argument("--model", default=DEFAULT_NAME, help="whose tokenizer reads it")
    parser.add_argument("--max-length", type=int, default=512, help="most tokens of an example")
    parser.add_argument("--test", help="rows that are asked later: is one of them learned?")
    parser.add_argument("--columns", nargs="+", default=[], help="such as prompt=question completion=answer")
    parser.add_argument("--dataset-config", dest="config", help="configuration of the hub's data set")
    parser.add_argument("--split", default="train", help="split of the hub's data set")
    parser.add_argument("--system", help="system prompt before each row that has none")
    parser.add_argument("--learn", choices=LEARN, default="last", help="which turns of the assistant")
    arguments = vars(parser.parse_args())
    source, model = arguments.pop("source"), arguments.pop("model")
    try:
        report = examine(source, load_tokenizer(model), **arguments)
    except (ValueError, OSError) as error:
        say(f"error: {error}", sys.stderr)
        return 2
    say(str(report))
    return 0 if report.healthy else 1


if __name__ == "__main__":
    sys.exit(main())
