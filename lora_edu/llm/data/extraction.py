"""The capstone's task: a sentence about an event goes in, the event comes out as JSON.

How a sentence becomes a prompt, a prompt and its answer become a training example, and how answers are read and
counted. The same few functions serve training, evaluation and the notebooks, so that they cannot drift apart.
Two of them know nothing of events and serve any conversation: `encode_turn` and `generate_turns`.
"""

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import nn

from lora_edu.llm.base_model import return_freed_memory
from lora_edu.llm.data.asking import NEW_TOKENS, answers_at_once, answers_cut, progress_bar
from lora_edu.llm.data.chat_template import (
    Messages,
    context_length,
    end_of_turn,
    render,
    require_known_tokens,
    stop_tokens,
)

IGNORE = -100
"""The label that the loss passes over (PyTorch's ``cross_entropy(ignore_index=-100)``)."""

INSTRUCTION = """\
Extract the event as JSON with the keys who, what, where, day and time. \
Copy each value from the sentence."""


def chat(sentence: str, examples: Sequence[dict] = ()) -> list[dict[str, str]]:
    """Return the conversation that asks for the event of a sentence, with worked examples before it.

    Parameters
    ----------
    sentence
        What to read.
    examples
        Lines of the data set (``sentence`` and ``event``), shown as turns already answered.
    """
    turns = [{"role": "system", "content": INSTRUCTION}]
    for example in examples:
        turns += [
            {"role": "user", "content": example["sentence"]},
            {"role": "assistant", "content": format_event(example["event"])},
        ]
    return [*turns, {"role": "user", "content": sentence}]


def format_event(event: dict[str, str]) -> str:
    """Return the answer that the model is to give: the event as JSON on one line."""
    return json.dumps(event, ensure_ascii=False, allow_nan=False)


def parse_event(answer: str) -> dict[str, Any] | None:
    """Return the JSON object that starts at the first ``{`` of an answer, or None if none does.

    Words before and after the object are forgiven, so that a base model that explains itself is not called wrong
    for its manners. A brace among the words before it is not.
    """
    start = answer.find("{")
    if start < 0:
        return None
    try:
        return json.JSONDecoder().raw_decode(answer, start)[0]
    except ValueError:
        return None


def encode_example(tokenizer: Any, example: dict) -> dict[str, list[int]]:
    """Return one training example: prompt and answer as token ids, labels on the answer only.

    The answer ends with the chat template's end of turn, which is a label too: that is how the model learns to stop.
    """
    return encode_turn(tokenizer, chat(example["sentence"]), format_event(example["event"]))


def encode_turn(tokenizer: Any, messages: Messages, answer: str) -> dict[str, list[int]]:
    """Return a conversation and the turn that is to follow it as token ids, labels on that turn only.

    The labels are what the model is to write after the prompt of `generate_turns`: the answer as the chat template
    writes it, to the token that ends the turn.

    Parameters
    ----------
    messages
        The conversation so far, dicts of ``role`` and ``content``; the last one is the user's.
    answer
        What the model is to say next.

    Raises
    ------
    ValueError
        The chat template refuses these turns or leaves one out; or what the tokenizer cannot read.
    """
    prompt = render(tokenizer, messages, add_generation_prompt=True)
    end, after = end_of_turn(tokenizer, messages)
    whole = render(tokenizer, [*messages, {"role": "assistant", "content": answer}])
    written = answer + end
    if whole.startswith(prompt) and whole.endswith(after):
        # What the template strips from the answer, or writes before it, the model must learn to.
        written = whole[len(prompt) : len(whole) - len(after)].removesuffix(end) + end
    return encode_segments(tokenizer, [(prompt, False), (written, True)])


def encode_segments(tokenizer: Any, segments: Sequence[tuple[str, bool]]) -> dict[str, list[int]]:
    """Return pieces of one text as token ids, labels on those that are scored.

    Parameters
    ----------
    segments
        In their order: a piece, and whether it is scored. No token reaches over the end of a piece, since a prompt
        ends there when the model is asked.
    """
    ids, labels, text = [], [], ""
    for piece, scored in segments:
        text += piece
        together, new = _tokens(tokenizer, text), _tokens(tokenizer, piece)
        if together[: len(ids)] == ids:
            # Some tokenizers put a space before what they read first: an answer is not first.
            new = together[len(ids) :]
        ids = ids + new
        labels += new if scored else [IGNORE] * len(new)
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


def longest_prompt(tokenizer: Any, sentences: Sequence[str], examples: Sequence[dict] = ()) -> int:
    """Return the tokens of the longest prompt that asks about one of these sentences."""
    prompts = (
        render(tokenizer, chat(sentence, examples), add_generation_prompt=True) for sentence in sentences
    )
    return max(len(_tokens(tokenizer, prompt)) for prompt in prompts)


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)  # the template has written those


def generate_answers(
    model: nn.Module,
    tokenizer: Any,
    sentences: Sequence[str],
    examples: Sequence[dict] = (),
    batch_size: int = 25,
    max_new_tokens: int = NEW_TOKENS,
    progress: str | None = None,
) -> list[str]:
    """Return the model's greedy answers, in the order of the sentences.

    Parameters
    ----------
    model, tokenizer
        A causal language model and its tokenizer.
    sentences
        What to ask about.
    examples
        Worked examples put before each question.
    batch_size
        Sentences answered at once; with examples, which make the prompts longer, proportionally fewer.
    max_new_tokens
        Length at which an answer is cut off, in tokens; the longest answer of the data has 49.
    progress
        Title of a progress bar; None shows none.
    """
    return generate_turns(
        model,
        tokenizer,
        [chat(sentence, examples) for sentence in sentences],
        batch_size=answers_at_once(batch_size, examples),
        max_new_tokens=max_new_tokens,
        progress=progress,
    )


@torch.no_grad()
def generate_turns(
    model: nn.Module,
    tokenizer: Any,
    conversations: Sequence[Messages],
    batch_size: int = 25,
    max_new_tokens: int = NEW_TOKENS,
    progress: str | None = None,
    adapter_names: Sequence[str] | None = None,
) -> list[str]:
    """Return the model's greedy next turn in each conversation, in their order.

    Parameters
    ----------
    model, tokenizer
        A causal language model and its tokenizer.
    conversations
        Each as in `encode_turn`.
    batch_size
        Conversations continued at once.
    max_new_tokens
        Length at which a turn is cut off, in tokens, if the model's context does not end before.
    progress
        Title of a progress bar; None shows none.
    adapter_names
        The adapter that answers each conversation (a mixed batch); None: the active one answers all.

    Raises
    ------
    ValueError
        If `adapter_names` are not as many as the conversations, the chat template refuses a turn, or a conversation
        fills the model's context.
    """
    if adapter_names is not None and len(adapter_names) != len(conversations):
        raise ValueError(
            f"adapter_names must be one a conversation, {len(conversations)}, got {len(adapter_names)}"
        )
    if cut := answers_cut():
        max_new_tokens = min(max_new_tokens, cut[1])
    was_training = model.training
    model.eval()
    turns: list[str] = []
    with progress_bar(len(conversations), progress) as bar:
        for start in range(0, len(conversations), batch_size):
            rows = slice(start, start + batch_size)
            prompts = [render(tokenizer, turns, add_generation_prompt=True) for turns in conversations[rows]]
            batch = tokenizer(
                prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
            ).to(model.device)
            room = _room(model, tokenizer, batch["input_ids"])
            mixed = {} if adapter_names is None else {"adapter_names": list(adapter_names[rows])}
            output = cast(Any, model).generate(
                **batch,
                **mixed,
                do_sample=False,
                max_new_tokens=min(max_new_tokens, room),
                eos_token_id=stop_tokens(model, tokenizer, conversations[start]),
                pad_token_id=tokenizer.pad_token_id,
                use_cache=True,
            )
            new_tokens = output[:, batch["input_ids"].shape[1] :]
            turns += tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
            bar.update(len(prompts))
    model.train(was_training)
    return turns


@torch.no_grad()
def stream_turn(
    model: nn.Module, tokenizer: Any, messages: Messages, max_new_tokens: int = 256, at_once: int = 4
) -> Iterator[str]:
    """Yield the model's greedy next turn while it grows; at last the whole of it.

    The text is that of `generate_turns`, which is asked for a few tokens at a time. No thread runs beside the reader:
    who stops reading stops the model, and an error is raised where the text is read.

    Parameters
    ----------
    model, tokenizer
        A causal language model and its tokenizer.
    messages
        The conversation so far, as in `encode_turn`. The mark of a turn that was cut is not read to the model.
    max_new_tokens
        Length at which the turn is cut, in tokens, if the model's context does not end before. A turn that is cut
        ends with ``... (cut at 256 tokens)``.
    at_once
        Tokens between two texts.

    Raises
    ------
    ValueError
        As in `generate_turns`.
    """
    turns = [turn | {"content": _CUT.sub("", turn["content"])} for turn in messages]
    batch = tokenizer(
        [render(tokenizer, turns, add_generation_prompt=True)], return_tensors="pt", add_special_tokens=False
    ).to(model.device)
    ids, prompt, cache = batch["input_ids"], batch["input_ids"].shape[1], None
    most = min(max_new_tokens, _room(model, tokenizer, ids))
    stops = stop_tokens(model, tokenizer, turns)
    was_training = model.training
    try:
        while (written := ids.shape[1] - prompt) < most and not (written and int(ids[0, -1]) in stops):
            model.eval()
            output = cast(Any, model).generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                past_key_values=cache,
                do_sample=False,
                max_new_tokens=min(at_once, most - written),
                eos_token_id=stops,
                pad_token_id=tokenizer.pad_token_id,
                use_cache=True,
                return_dict_in_generate=True,
            )
            ids, cache = output.sequences, output.past_key_values
            # Of a character that takes several tokens the first alone are no text yet.
            yield tokenizer.decode(ids[0, prompt:], skip_special_tokens=True).removesuffix("\ufffd")
    finally:
        model.train(was_training)
    text = tokenizer.decode(ids[0, prompt:], skip_special_tokens=True)
    yield text if int(ids[0, -1]) in stops else f"{text} ... (cut at {most:,} tokens)"


_CUT = re.compile(r" \.\.\. \(cut at [\d,]+ tokens\)$")


def _room(model: Any, tokenizer: Any, input_ids: torch.Tensor) -> int:
    """Return how many tokens the model can still write after these; refuse what it cannot read."""
    require_known_tokens(tokenizer, model.config, int(input_ids.max()))
    context, length = context_length(model.config) or sys.maxsize, input_ids.shape[1]
    if length >= context:
        raise ValueError(
            f"conversations must be shorter than the model's context of {context} tokens, got one of {length}"
        )
    return context - length


def exact_match(answers: Sequence[str], events: Sequence[dict[str, str]]) -> float:
    """Return the fraction (0 to 1) of answers whose JSON equals the event, every key and every value."""
    if len(answers) != len(events) or not events:
        raise ValueError(
            f"answers must be as many as events, at least one, got {len(answers)} and {len(events)}"
        )
    return sum(parse_event(a) == e for a, e in zip(answers, events, strict=True)) / len(events)


def evaluate(
    model: nn.Module, tokenizer: Any, lines: Sequence[dict], progress: str | None = None, **generation: Any
) -> dict[str, Any]:
    """Answer the sentences of a data set and count what is right: all of them, or as many as `answers_cut` allows.

    Returns
    -------
    dict
        ``exact_match`` (fraction 0 to 1), ``n``, ``answers`` (as generated), ``seconds``.
    """
    start = time.perf_counter()
    if cut := answers_cut():
        lines = lines[: cut[0]]
    answers = generate_answers(
        model, tokenizer, [line["sentence"] for line in lines], progress=progress, **generation
    )
    return_freed_memory()  # of the keys and values of so many answers
    return {
        "exact_match": exact_match(answers, [line["event"] for line in lines]),
        "n": len(lines),
        "answers": answers,
        "seconds": time.perf_counter() - start,
    }
