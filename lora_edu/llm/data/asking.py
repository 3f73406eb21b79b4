"""How many questions are asked, how long an answer may be, and the bar that says how far it is."""

import os
import re
from collections.abc import Sequence

from tqdm import tqdm

from lora_edu.llm.console import unfailing

NEW_TOKENS = 64
"""Length at which an answer is cut off, in tokens; the longest answer of the data has 49."""

ANSWERS = "LORA_EDU_ANSWERS"
"""The environment variable, meant for tests and records, that cuts what is asked: ``8x32`` is 8 answers of 32 tokens.
A model of random weights never ends an answer."""


def answers_cut() -> tuple[int, int] | None:
    """Return the most answers of one evaluation and the most tokens of an answer that ``LORA_EDU_ANSWERS`` allows.

    Raises
    ------
    ValueError
        It is set and is not two whole numbers above 0 with an x between.
    """
    if not (text := os.environ.get(ANSWERS)):
        return None
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text):
        raise ValueError(f"{ANSWERS} must be answers x tokens, such as 8x32, got {text!r}")
    answers, tokens = text.split("x")
    return int(answers), int(tokens)


def answers_at_once(batch_size: int, examples: Sequence[dict] = ()) -> int:
    """Return how many sentences are answered at once: with examples before each, about as many tokens as without."""
    return max(1, batch_size // (1 + len(examples)))


def progress_bar(total: int, title: str | None, initial: int = 0) -> tqdm:
    """Return a bar of plain text, the same in a terminal, a notebook and a log; no title, no bar."""
    return tqdm(
        total=total, desc=title, initial=initial, disable=title is None, file=unfailing(), ascii=" -#"
    )
