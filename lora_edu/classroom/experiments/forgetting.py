"""What a fine-tune costs elsewhere: the loss on general text, which the training data says nothing about.

Two kinds of text, both of the course: paragraphs of its own pages, and the base's own greedy answers to general
questions. The second kind can also be mixed into the training data, so that a model rehearses what it was.
"""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lora_edu.llm.data import DATA
from lora_edu.llm.data.extraction import IGNORE, encode_turn, generate_turns, parse_event

LONGEST_ANSWER = 96
"""Tokens that an answer may take; one that is longer was cut, and is not used."""

_IN_SHORT = "Answer in one sentence."


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


def share_of_events(answers: Sequence[str]) -> float:
    """Return the share (0 to 1) of answers that are written as an event is, as JSON."""
    return sum(isinstance(parse_event(answer), dict) for answer in answers) / len(answers)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False))
