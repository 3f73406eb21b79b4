"""How a loss falls, split into what is learned and what is copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from lora_edu.classroom.figures import _sentences as say
from lora_edu.classroom.figures._canvas import Picture, drawing
from lora_edu.classroom.figures._marks import SIZE, label, name_lines
from lora_edu.classroom.figures.palette import COPIED, FORM, INK

OVER = 10
"""Steps that a line is the mean of: each step sees few sentences."""
LOW = 0.1
"""Nats; the right token then has a probability of 90 %."""


def form_and_copied(
    form: Sequence[float],
    copied: Sequence[float],
    validation: Mapping[int, float] | None = None,
    *,
    steps: int | None = None,
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw the loss of two kinds of tokens over optimizer steps, as means over ten, and the loss on held-out text.

    Parameters
    ----------
    form, copied : sequence of float
        Nats a token, one a step and at least one: of the tokens that every answer shares, and of the copied ones.
    validation : mapping of int to float, optional
        Step to the loss on held-out text, all tokens.
    steps : int, optional
        Where the axis ends, for a curve that still grows.
    title, alt, ax
        As in `lines`; without a title, one that says when either kind is below 0.1 nats.

    Raises
    ------
    ValueError
        If there is no step, or the two are not equally many.
    """
    if not form or len(form) != len(copied):
        raise ValueError(f"form and copied must be one a step, got {len(form)} and {len(copied)}")
    means = {"form": _running_mean(form), "copied": _running_mean(copied)}
    x = np.arange(1, len(form) + 1)
    with drawing(alt, ax) as picture:
        for values, mean, color, stroke in (
            (form, means["form"], FORM, "-"),
            (copied, means["copied"], COPIED, "--"),
        ):
            picture.plot(x, values, color=color, alpha=0.25, linewidth=1)
            picture.plot(x, mean, color=color, linestyle=stroke)
        ends = [(len(form), float(mean[-1])) for mean in means.values()]
        names, colors = ["form", "copied"], [FORM, COPIED]
        if validation:
            at, held_out = zip(*validation.items(), strict=True)
            picture.plot(at, held_out, color=INK, linestyle="", marker="D", markersize=6, clip_on=False)
            # Where a falling loss leaves room.
            corner = {"xycoords": "axes fraction", "ha": "right", "va": "top", "color": INK, "fontsize": SIZE}
            picture.annotate("◆ held out, all tokens", (0.98, 0.97), **corner)
        picture.set_xlim(0, max(steps or 0, len(form)) * 1.02)
        room = 1.2 if validation else 1.05  # for what the marks are
        picture.set_ylim(0, room * max(*form[:2], *copied[:2], *(validation or {0: 0.1}).values()))
        picture.xaxis.set_major_locator(MaxNLocator(integer=True))
        label(picture, "optimizer step", "loss, nats a token", title or _finding(means))
        name_lines(picture, names, ends, colors)
        picture.alt = _said(means, validation or {})
    return picture


def _running_mean(values: Sequence[float]) -> np.ndarray:
    """Means over the last `OVER` steps, over fewer at the start."""
    sums = np.concatenate([[0], np.cumsum(values)])
    last = np.arange(1, len(values) + 1)
    first = np.maximum(0, last - OVER)
    return (sums[last] - sums[first]) / (last - first)


def _finding(means: Mapping[str, np.ndarray]) -> str:
    """When either kind fell below `LOW` and stayed there."""
    form, copied = (_stays_below(mean) for mean in means.values())
    if form is None and copied is None:
        return "Neither form nor copied tokens are below 0.1 nats yet"
    if form is not None and copied is not None:
        return f"Below 0.1 nats: form from step {form}, copied tokens from step {copied}"
    soon, late = ("form", "copied tokens") if copied is None else ("copied tokens", "form")
    return f"Below 0.1 nats: {soon} from step {form or copied}, {late} not yet"


def _stays_below(mean: np.ndarray) -> int | None:
    above = np.flatnonzero(mean >= LOW)
    step = int(above[-1]) + 2 if len(above) else 1
    return step if step <= len(mean) else None


def _said(means: Mapping[str, np.ndarray], validation: Mapping[int, float]) -> str:
    parts = [
        f"{name}: {say.number(float(mean[0]))} at step 1, {say.number(float(mean[-1]))} at step {len(mean)}"
        for name, mean in means.items()
    ]
    if validation:
        held_out = [f"{say.number(loss)} after {step}" for step, loss in validation.items()]
        parts.append(f"Held out, all tokens: {say.listed(held_out)}")
    return say.sentence("Loss in nats a token, means over ten steps", *parts)
