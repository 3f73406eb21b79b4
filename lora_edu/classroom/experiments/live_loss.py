"""A loss that is seen while it falls: a callback for transformers' Trainer that splits it and draws it (notebook 10).

The task's answers are JSON. Some of their tokens are the same in every answer, the *form*: braces, keys, quotes, the
end of the turn. The others are *copied* from the sentence. A forward hook on the model reads both from the logits that
the step computes anyway, so the training itself is Trainer's own, to the last bit.
"""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Sequence
from typing import Any

import torch
from IPython.core.getipython import get_ipython
from IPython.display import display
from torch import Tensor, nn
from torch.nn import functional

from lora_edu.classroom import figures
from lora_edu.llm.data.extraction import IGNORE
from lora_edu.llm.finetune.callbacks import GiveBack

SECONDS = 1.0
"""Between two drawings, at least."""
DRAWING_SHARE = 0.05
"""Of the time, at most, goes into drawing."""

_VALUE = re.compile(r'": "((?:[^"\\]|\\.)*)"')


def copied_tokens(tokenizer: Any, answer: Sequence[int]) -> list[bool]:
    """For each token of a JSON answer whether it holds some of a value: then it is copied, else it is form.

    Parameters
    ----------
    answer
        The answer's token ids, as its labels have them.
    """
    ends = [len(_text(tokenizer, answer[:count])) for count in range(len(answer) + 1)]
    values = [found.span(1) for found in _VALUE.finditer(_text(tokenizer, answer))]
    return [
        any(low < end and start < high for low, high in values) for start, end in itertools.pairwise(ends)
    ]


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def draw_scored(tokenizer: Any, example: dict[str, list[int]], before: int = 8) -> figures.Picture:
    """Draw the end of a prompt and the answer, whose tokens are scored: form in one colour, copied ones in another.

    Parameters
    ----------
    example
        ``input_ids`` and ``labels``, as `lora_edu.llm.data.extraction.encode_example` makes them.
    before
        How many tokens of the prompt are shown.
    """
    ids, labels = example["input_ids"], example["labels"]
    start = next(place for place, label in enumerate(labels) if label != IGNORE)
    shown = slice(max(0, start - before), None)
    copied = [False] * (start - shown.start) + copied_tokens(tokenizer, ids[start:])
    form = len(ids) - start - sum(copied)
    return figures.scored_example(
        [tokenizer.decode(token) for token in ids[shown]],
        labels[shown],
        copied=copied,
        title=f"{len(ids) - start} of {len(ids)} tokens are scored: {form} of the form, {sum(copied)} copied",
    )


class LiveLoss(GiveBack):
    """Draws the loss while a Trainer trains; keeps what it has seen, and no memory that is not needed.

    Attributes
    ----------
    losses : list of float
        Nats a scored token, one an optimizer step: what Trainer logs.
    form, copied : list of float
        The same over the tokens of either kind.
    validation : dict of int to float
        Trainer's loss on its evaluation data, by the step after which it was taken.
    seconds : float
        That the training took.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self.losses: list[float] = []
        self.form: list[float] = []
        self.copied: list[float] = []
        self.validation: dict[int, float] = {}
        self.seconds = 0.0
        self._sums = torch.zeros(2, 2, dtype=torch.float64)
        self._handle, self._next = None, 0.0

    def picture(self, steps: int | None = None, *, title: str = "") -> figures.Picture:
        """The curves so far, on an axis of so many steps."""
        return figures.form_and_copied(self.form, self.copied, self.validation, steps=steps, title=title)

    def _ipython_display_(self) -> None:
        self.picture()._ipython_display_()

    # ------------------------------------------------------------ what Trainer calls

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self._start = time.perf_counter()
        self._hook = model.register_forward_hook(self._look, with_kwargs=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        form, copied = (self._sums[:, 0] / self._sums[:, 1]).tolist()
        self.form.append(form)
        self.copied.append(copied)
        self._sums.zero_()
        finite = math.isfinite(form + copied)  # what is not has no place on an axis
        if finite and time.perf_counter() >= self._next and _in_a_kernel():
            self._draw(state.max_steps)
        super().on_step_end(args, state, control)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        if "loss" in (logs or {}):
            self.losses.append(logs["loss"])  # type: ignore[index]

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict | None = None, **kwargs: Any
    ) -> None:
        self.validation[state.global_step] = (metrics or {})["eval_loss"]

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._hook.remove()
        self.seconds = time.perf_counter() - self._start
        if _in_a_kernel():
            picture = self.picture()
            self._show(figures.to_png(picture), picture.alt)

    # ------------------------------------------------------------ the split, and the drawing

    @torch.no_grad()
    def _look(self, model: nn.Module, inputs: Any, named: dict[str, Any], output: Any) -> None:
        """Add a training batch's losses to the sums, one row of the batch at a time: logits are large."""
        if not model.training or named.get("labels") is None:
            return
        for labels, logits in zip(named["labels"][:, 1:], output.logits[:, :-1], strict=True):
            scored = labels != IGNORE
            self._add(labels[scored], logits[scored])

    def _add(self, answer: Tensor, logits: Tensor) -> None:
        losses = functional.cross_entropy(logits.float(), answer, reduction="none").double().cpu()
        copied = torch.tensor(copied_tokens(self._tokenizer, answer.tolist()))
        for row, kind in enumerate((~copied, copied)):
            self._sums[row] += torch.tensor([losses[kind].sum(), kind.sum()], dtype=torch.float64)

    def _draw(self, steps: int) -> None:
        start = time.perf_counter()
        left = (start - self._start) * (steps / len(self.form) - 1)
        picture = self.picture(steps, title=f"Step {len(self.form)} of {steps}, {left:.0f} s left")
        self._show(figures.to_quick_png(picture), picture.alt)
        now = time.perf_counter()
        self._next = now + max(SECONDS, (now - start) / DRAWING_SHARE)

    def _show(self, png: bytes, alt: str) -> None:
        """Put a picture in the place of the last one."""
        data, metadata = figures.png_output(png, alt)
        if self._handle is None:
            self._handle = display(data, metadata=metadata, raw=True, display_id=True)
        else:
            self._handle.update(data, metadata=metadata, raw=True)


def _in_a_kernel() -> bool:
    """Whether something shows pictures: a script and a plain console do not."""
    return getattr(get_ipython(), "kernel", None) is not None
