"""Mistakes with chat templates, made on purpose (notebook 12)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing

BOS = "<|endoftext|>"
"""The token of SmolLM2's tokenizer that plays the beginning of text."""


@torch.no_grad()
def answer(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    eos_token_id: int | None = None,
    padding_side: str = "left",
    max_new_tokens: int = 40,
) -> list[str]:
    """Return what a model writes after each prompt, greedily, special tokens included, filling left out.

    Parameters
    ----------
    model, tokenizer
        A causal language model and its tokenizer.
    prompts
        Texts that the chat template has written.
    eos_token_id
        Where to stop; None: at the tokenizer's.
    padding_side
        Where short rows are filled up, ``"left"`` or ``"right"``.
    max_new_tokens
        Tokens after which an answer is cut off.
    """
    batch = tokenizer(
        list(prompts), return_tensors="pt", padding=True, padding_side=padding_side, add_special_tokens=False
    ).to(model.device)
    end = tokenizer.eos_token_id if eos_token_id is None else eos_token_id
    output = model.generate(
        **batch,
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=end,
        pad_token_id=tokenizer.pad_token_id,
    )
    written = output[:, batch["input_ids"].shape[1] :]
    return [tokenizer.decode(_without_filling(row, end)) for row in written]


def _without_filling(row: torch.Tensor, end: int) -> torch.Tensor:
    """The tokens up to the first that ends an answer."""
    found = (row == end).nonzero()
    return row[: int(found[0]) + 1] if len(found) else row


def writes_bos(tokenizer: Any) -> Any:
    """Return a copy that behaves as the tokenizers of Llama and Gemma: template and tokenizer both write `BOS`."""
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = BOS + tokenizer.chat_template
    special = [(BOS, tokenizer.convert_tokens_to_ids(BOS))]
    changed.backend_tokenizer.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=special)
    return changed
