"""What a fine-tune costs elsewhere: the loss on general text, which the training data says nothing about.

Two kinds of text, both of the course: paragraphs of its own pages, and the base's own greedy answers to general
questions. The second kind can also be mixed into the training data, so that a model rehearses what it was.
"""

import json
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from lora_edu.classroom import records
from lora_edu.llm.data import DATA
from lora_edu.llm.data.extraction import IGNORE, encode_turn, generate_turns, parse_event

MEASURED = ("prose", "own_answers", "as_event", "validation", "validation_unseen")
LONGEST_ANSWER = 96
"""Tokens that an answer may take; one that is longer was cut, and is not used."""

RATES = (1e-4, 3e-4, 1e-3, 3e-3)
LONGER = (3e-4, 1e-3)
REHEARSED = (1e-3, 3e-3)
"""The rates that `tools/record_forgetting.py` tried, those with twice as many steps, those with general lines."""

_IN_SHORT = "Answer in one sentence."


class Glance(NamedTuple):
    """Loss on general text, in nats a token, and answers to general questions."""

    loss: float
    answers: list[str]


def load_prose() -> list[str]:
    """Return paragraphs of the course's pages, of 28 to 100 words."""
    return json.loads((DATA / "general" / "prose.json").read_text("utf-8"))


def load_questions() -> list[str]:
    """Return 120 general questions, none about an event."""
    return json.loads((DATA / "general" / "questions.json").read_text("utf-8"))


def asked(question: str) -> list[dict[str, str]]:
    """Return the conversation that asks a general question; no instruction is put before it."""
    return [{"role": "user", "content": f"{question} {_IN_SHORT}"}]


def encode_prose(tokenizer: Any, paragraph: str) -> dict[str, list[int]]:
    """Return a paragraph as token ids, each but the first also a label."""
    ids = tokenizer.encode(paragraph, add_special_tokens=False)
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ids}


def encode_answer(tokenizer: Any, line: dict[str, str]) -> dict[str, list[int]]:
    """Return a general ``question`` and its ``answer`` as token ids, labels on the answer only."""
    return encode_turn(tokenizer, asked(line["question"]), line["answer"])


def own_answers(model: nn.Module, tokenizer: Any, questions: Sequence[str]) -> list[dict[str, str]]:
    """Return the model's greedy answers, as dicts of ``question`` and ``answer``; those that were cut are left out."""
    answers = generate_turns(
        model, tokenizer, [asked(q) for q in questions], batch_size=40, max_new_tokens=LONGEST_ANSWER
    )
    lines = [{"question": q, "answer": a} for q, a in zip(questions, answers, strict=True)]
    return [line for line in lines if 0 < _tokens(tokenizer, line["answer"]) < LONGEST_ANSWER - 1]


@torch.no_grad()
def mean_loss(model: nn.Module, examples: Sequence[dict[str, list[int]]]) -> float:
    """Return the mean of -log(probability of the right token) over all labels of the examples, in nats a token.

    Parameters
    ----------
    examples
        Dicts of ``input_ids``, ``attention_mask`` and ``labels``; at least one label.
    """
    was_training, total, count = model.training, 0.0, 0
    model.eval()
    for example in examples:
        tensors = {key: torch.tensor([ids], device=_device(model)) for key, ids in example.items()}
        logits = model(input_ids=tensors["input_ids"], attention_mask=tensors["attention_mask"]).logits
        labels = tensors["labels"][0, 1:]
        total += nn.functional.cross_entropy(
            logits[0, :-1].float(), labels, ignore_index=IGNORE, reduction="sum"
        ).item()
        count += int((labels != IGNORE).sum())
    model.train(was_training)
    return total / count


def glance(
    model: nn.Module, tokenizer: Any, questions: Sequence[str], paragraphs: int = 6, tokens: int = 24
) -> Glance:
    """Return what can be seen in seconds: the loss on the first paragraphs of the course, and the start of answers."""
    prose = [encode_prose(tokenizer, text) for text in load_prose()[:paragraphs]]
    turns = [asked(question) for question in questions]
    return Glance(mean_loss(model, prose), generate_turns(model, tokenizer, turns, max_new_tokens=tokens))


def share_of_events(answers: Sequence[str]) -> float:
    """Return the share (0 to 1) of answers that are written as an event is, as JSON."""
    return sum(isinstance(parse_event(answer), dict) for answer in answers) / len(answers)


def trade_offs(
    text: str = "own_answers",
) -> tuple[dict[str, dict[str, list[list[float]]]], tuple[float, float]]:
    """Return what each recorded way to train costs and wins, and the base, as `figures.trade_off` draws it.

    Parameters
    ----------
    text
        ``"prose"`` or ``"own_answers"``: on which of the two the loss is.

    Returns
    -------
    series, base
        Label to points: a name to the loss in nats a token and the exact match, a pair a seed; and the base's pair.
    """

    def pair(run: dict[str, Any]) -> list[float]:
        return [run[text], (run["validation"] + run["validation_unseen"]) / 2]

    def points(**setting: float) -> list[list[float]]:
        return [pair(run) for run in records.runs("forgetting", **setting)]

    def by_rate(rates: Sequence[float], **setting: float) -> dict[str, list[list[float]]]:
        return {_short(rate): points(learning_rate=rate, **setting) for rate in rates}

    series = {
        "120 steps": by_rate(RATES, event_steps=120, general_lines=0),
        "240 steps": by_rate(LONGER, event_steps=240, general_lines=0),
        "+60 general": by_rate(REHEARSED, event_steps=120, general_lines=60),
    }
    loss, score = pair(records.read("forgetting")["base"])
    return series, (loss, score)


def medians(learning_rate: float, event_steps: int = 120, general_lines: int = 0) -> dict[str, float]:
    """Return the medians over the seeds of what was measured after a recorded way to train."""
    setting = {"event_steps": event_steps, "general_lines": general_lines}
    found = records.runs("forgetting", learning_rate=learning_rate, **setting)
    return {key: statistics.median(run[key] for run in found) for key in MEASURED}


def _short(rate: float) -> str:
    """1e-4, not 0.0001."""
    return f"{rate:.0e}".replace("e-0", "e-")


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False))
