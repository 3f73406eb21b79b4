"""What a model and its tokenizer must agree on: how turns are written, where one ends, how much fits.

A chat template is a small program that comes with the tokenizer. It alone knows which token ends a turn: often not the
tokenizer's end of text. Gemma ends a turn with ``<end_of_turn>``, Phi-3 with ``<|end|>``, Llama 3 with ``<|eot_id|>``.
"""

from collections.abc import Sequence
from typing import Any

Messages = list[dict[str, str]]
"""Turns of a conversation, each with ``role`` and ``content``."""

_ANSWER = "An answer, by which its end is found."
# What configurations call the most tokens that a model reads: most of them; MPT; older ones.
_CONTEXT_NAMES = ("max_position_embeddings", "max_seq_len", "seq_length")


def render(tokenizer: Any, messages: Messages, **arguments: Any) -> str:
    """Return the text that the model's chat template makes of these turns.

    Raises
    ------
    ValueError
        There is no template, or it refuses these turns, such as a system turn, or writes nothing.
    """
    roles = ", ".join(message["role"] for message in messages)
    needed = f"model must have a chat template that takes the turns {roles}"
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **arguments)
    except Exception as error:  # whatever a program by others may raise
        raise ValueError(f"{needed}, {tokenizer.name_or_path!r} has not: {error}") from error
    if not text:
        raise ValueError(f"{needed}, that of {tokenizer.name_or_path!r} writes nothing")
    return text


def end_of_turn(tokenizer: Any, messages: Messages) -> tuple[str, str]:
    """Return what ends the assistant's turn after `messages`, and what the template writes after that.

    The end reaches to the first special token after the answer, the one at which generation is to stop. A template
    that writes none there leaves the end to the tokenizer's end of text.

    Raises
    ------
    ValueError
        The template leaves the answer out, or the tokenizer has no end of text either.
    """
    _, answer, after = render(tokenizer, [*messages, {"role": "assistant", "content": _ANSWER}]).rpartition(
        _ANSWER
    )
    if not answer:
        raise ValueError(
            "model must have a chat template that writes the assistant's turn, "
            f"that of {tokenizer.name_or_path!r} leaves it out"
        )
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.content.strip()]
    found = [(after.find(token), -len(token), token) for token in special if token in after]
    if found:
        start, _, token = min(found)
        return after[: start + len(token)], after[start + len(token) :]
    if tokenizer.eos_token is None:
        raise ValueError(
            f"model must have a tokenizer with an end of text, or a chat template that ends a turn with a special "
            f"token; {tokenizer.name_or_path!r} has neither"
        )
    return tokenizer.eos_token, after


def stop_tokens(model: Any, tokenizer: Any, messages: Messages) -> list[int]:
    """Return the tokens at which generation ends: the model's own list, the end of text, the end of a turn."""
    own = model.generation_config.eos_token_id
    end = tokenizer.encode(end_of_turn(tokenizer, messages)[0], add_special_tokens=False)[-1]
    ids = [*(own if isinstance(own, Sequence) else [own]), tokenizer.eos_token_id, end]
    return list(dict.fromkeys(token for token in ids if token is not None))


def context_length(config: Any) -> int | None:
    """Return the most tokens that a model can read, from its configuration; None if that sets no limit.

    Not ``tokenizer.model_max_length``, which many tokenizers leave at 10^30.
    """
    text = config.get_text_config()
    length = next((n for name in _CONTEXT_NAMES if (n := getattr(text, name, None))), None)
    rope = getattr(text, "rope_parameters", None) or {}
    if length is None or "factor" not in rope:
        return length
    # Stretched positions (YaRN): some configurations give the length before, some the one after.
    return max(length, int(rope["factor"] * (rope.get("original_max_position_embeddings") or length)))


def require_known_tokens(tokenizer: Any, config: Any, largest: int) -> None:
    """Raise ValueError unless the embedding has a row for the token that pads and for the `largest` token id."""
    rows = config.get_text_config().vocab_size
    for what, token in (("pad_token_id", tokenizer.pad_token_id), ("a token of the data", largest)):
        if token is not None and token >= rows:
            raise ValueError(
                f"tokenizer must have tokens of the model's embedding alone, 0 … {rows - 1} (vocab_size of "
                f"{tokenizer.name_or_path!r}), got {what} {token}, {tokenizer.convert_ids_to_tokens(token)!r}. Was a "
                "token added without model.resize_token_embeddings?"
            )
