"""A conversation of several turns as one training example in which every turn of the assistant is scored."""

from typing import Any

from lora_edu.llm.data.chat_template import Messages, end_of_turn, render
from lora_edu.llm.data.extraction import encode_segments


def encode_dialogue(tokenizer: Any, messages: Messages, answer: str) -> dict[str, list[int]]:
    """Return a conversation as token ids, labels on every turn of the assistant, each to the token that ends it.

    Each turn is read as it is when the model is asked for it: no token reaches over the end of a prompt. With one turn
    of the assistant it is `lora_edu.llm.data.extraction.encode_turn`.

    Parameters
    ----------
    messages
        The conversation but for its last turn, dicts of ``role`` and ``content``.
    answer
        The last turn, the assistant's.

    Raises
    ------
    ValueError
        The chat template writes a turn otherwise once another follows, so that what is learned would not be what is
        asked; or it ends a turn with no special token.
    """
    turns = [*messages, {"role": "assistant", "content": answer}]
    whole = render(tokenizer, turns)
    segments, done = [], 0
    for place, turn in enumerate(turns):
        if turn["role"] == "assistant":
            start, end = _reach(tokenizer, turns, place, whole)
            segments += [(whole[done:start], False), (whole[start:end], True)]
            done = end
    return encode_segments(tokenizer, segments)


def _reach(tokenizer: Any, turns: Messages, place: int, whole: str) -> tuple[int, int]:
    """Return where in the whole text a turn of the assistant begins, and where it has ended."""
    prompt = render(tokenizer, turns[:place], add_generation_prompt=True)
    end, after = end_of_turn(tokenizer, turns[:place])
    told = render(tokenizer, turns[: place + 1]).removesuffix(after)
    if not (told.startswith(prompt) and whole.startswith(told) and told.endswith(end)):
        raise ValueError(
            f"learn must be 'last' with the chat template of {tokenizer.name_or_path!r}, got 'all': it writes turn "
            f"{place + 1} otherwise when it is asked for, or when another follows"
        )
    return len(prompt), len(told)
