"""What a language model expects, token by token of an answer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lora_edu.classroom import figures

MOST_SHOWN = 28  # characters of what was said before


def draw_next(
    ax: figures.Picture, tokenizer: Any, text: Tensor, probabilities: Tensor, start: int, token: int
) -> None:
    """Draw which tokens a model expects at one place of an answer, and the right one.

    Parameters
    ----------
    ax
        Where to draw.
    tokenizer
        Turns the number of a token into text.
    text
        The whole example, shape (tokens,).
    probabilities
        Shape (tokens, vocabulary); row t judges token t + 1.
    start : int
        Place of the answer's first token.
    token : int
        Which token of the answer must come next, from 1.
    """
    place = start + token - 1
    row, right = probabilities[place - 1], text[place]
    found = {repr(tokenizer.decode(i)): row[i].item() for i in (*row.topk(5).indices, right)}
    before, name = tokenizer.decode(text[start:place]), repr(tokenizer.decode(right))
    shown = f"{'…' if len(before) > MOST_SHOWN else ''}{before[-MOST_SHOWN:]}"
    likeliest = next(iter(found))
    alt = f"Token {token} of the answer. Right is {name}, with a probability of {found[name]:.1%}. "
    alt += f"The likeliest, {likeliest}, has {found[likeliest]:.1%}."
    title = f"after {shown!r}" if before else "the start of the answer"
    figures.next_token(found, right=name, title=title, alt=alt, ax=ax)
