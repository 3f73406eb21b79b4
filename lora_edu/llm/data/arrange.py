"""What is done to conversations before they are encoded: a system turn, rows kept back, rows that stand twice."""

import json
import random
from collections.abc import Sequence

from lora_edu.llm.data.conversations import Conversation


def with_system(conversations: Sequence[Conversation], system: str) -> tuple[list[Conversation], int]:
    """Return the conversations with a system turn before each that has none, and how many got it."""
    first = {"role": "system", "content": system}
    bare = [messages[0]["role"] != "system" for messages, _ in conversations]
    told = [
        ([first, *messages] if needs else messages, answer)
        for (messages, answer), needs in zip(conversations, bare, strict=True)
    ]
    return told, sum(bare)


def hold_out(
    conversations: Sequence[Conversation], fraction: float, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """Return what is learned and what is kept back; rows with the same prompt stay together.

    Parameters
    ----------
    fraction
        Of the different prompts, how many are kept back: at least one, and never all.
    seed
        Of the draw.

    Raises
    ------
    ValueError
        There is but one prompt.
    """
    prompts = list(dict.fromkeys(map(prompt_of, conversations)))
    if len(prompts) < 2:
        raise ValueError(
            f"validation_fraction must have two different prompts to share out, got {len(prompts)} in "
            f"{len(conversations)} rows"
        )
    count = min(len(prompts) - 1, max(1, round(fraction * len(prompts))))
    kept = set(random.Random(seed).sample(prompts, count))
    learned = [c for c in conversations if prompt_of(c) not in kept]
    return learned, [c for c in conversations if prompt_of(c) in kept]


def prompt_of(conversation: Conversation) -> str:
    """Return what a conversation asks, as text by which two are compared; the system turn is no part of it."""
    messages, _ = conversation
    return json.dumps([[m["role"], m["content"].strip()] for m in messages if m["role"] != "system"])


def also_in(conversations: Sequence[Conversation], others: Sequence[Conversation]) -> list[int]:
    """Return which conversations ask what one of the others asks, counted from 0."""
    known = set(map(prompt_of, others))
    return [i for i, conversation in enumerate(conversations) if prompt_of(conversation) in known]
