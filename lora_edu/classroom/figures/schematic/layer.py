"""The LoRA layer: x goes two ways, and their results are added."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import Picture
from lora_edu.classroom.figures._sentences import number, numbers, sentence
from lora_edu.classroom.figures.schematic.parts import arrow, box, column, matrix, plus
from lora_edu.classroom.figures.schematic.sheet import CELL, chain_of, sheet
from lora_edu.classroom.language import say, to_translate

TALLEST = 2.2  # inches for the longer side of W
[FINDING] = to_translate("W stays as it is; only the thin A and B learn")


def lora_layer(
    x: ArrayLike,
    W: ArrayLike,
    A: ArrayLike,
    B: ArrayLike,
    alpha: float,
    *,
    title: str = FINDING,
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw y = W x + (alpha / r) B (A x) with its numbers, matrices to scale.

    What depends on the rank alone changes its size; x, W and the results stand still while a slider moves it.

    Parameters
    ----------
    x : array
        Shape (in,).
    W : array
        The frozen weight, shape (out, in). Digits are shown up to a longer side of 5.
    A, B : array
        The trained factors, shapes (r, in) and (out, r).
    alpha : float
        The update is multiplied by alpha / r.
    title, alt, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If the shapes do not chain or a number is not finite.

    References
    ----------
    Hu et al. 2021, arXiv 2106.09685, equation 3 and section 4.1.
    """
    x, W, A, B = (np.asarray(values, dtype=float) for values in (x, W, A, B))
    chain_of([("W", W, (None, None))])
    out, into = W.shape
    chain_of([("x", x, (into,)), ("A", A, (None, into)), ("B", B, (out, A.shape[0]))])
    r = A.shape[0]
    hidden, scaling = A @ x, alpha / r
    base, update = W @ x, scaling * (B @ hidden)
    cell = min(CELL, TALLEST / max(out, into))
    room = max(r, min(out, into)) * cell  # of B, so that nothing right of it moves with the rank
    tall = max(out * cell, 0.9)
    low, high = 0.5 + tall / 2, 1.45 + 1.5 * tall  # the middles of the two ways
    start = 0.45 + cell + 1.0
    places = np.cumsum([start, into * cell + 0.5, max(cell, 0.3) + 0.5, room + 0.35, 1.0 + 0.35, cell + 0.75])
    width, height = places[5] + cell + 0.5, high + tall / 2 + 0.95
    with sheet(width, height, title=title, alt=alt, ax=ax) as picture:
        middle = (low + high) / 2
        strongest = max(np.abs(m).max() for m in (W, A, B))
        flow = max(1e-12, *(np.abs(v).max() for v in (x, base, update, hidden, base + update)))
        put: dict[str, Any] = {"cell": cell, "strongest": strongest}
        live: dict[str, Any] = {"cell": cell, "strongest": flow}
        source = matrix(
            picture,
            (0.45, middle - into * cell / 2),
            column(x),
            "activations",
            name="x",
            note=f"{into}",
            **live,
        )
        frozen = matrix(
            picture,
            (start + 0.25, high - out * cell / 2),
            W,
            "frozen",
            name="W",
            note=say("frozen: {out:,} × {into:,} = {count:,} numbers", out=out, into=into, count=out * into),
            locked=True,
            **put,
        )
        reads = matrix(
            picture,
            (places[0], low - r * cell / 2),
            A,
            "trained",
            name="A",
            note=say("reads: {r} × {into}", r=r, into=into),
            **put,
        )
        inner = matrix(
            picture,
            (places[1], low - r * cell / 2),
            column(hidden),
            "activations",
            name="Ax",
            note=f"r = {r}",
            **live,
        )
        writes = matrix(
            picture,
            (places[2], low - out * cell / 2),
            B,
            "trained",
            name="B",
            note=say("writes: {out} × {r}", out=out, r=r),
            **put,
        )
        times = box(picture, (places[3] + 0.5, low), f"× {number(scaling)}", width=0.9)
        picture.text(times.top[0], times.top[1] + 0.1, "α / r", ha="center", va="bottom", fontsize=13)
        added = matrix(
            picture,
            (places[4], low - out * cell / 2),
            column(update),
            "activations",
            note=say("update"),
            **live,
        )
        kept = matrix(
            picture, (places[4], high - out * cell / 2), column(base), "activations", name="Wx", **live
        )
        total = plus(picture, (places[4] + cell / 2, middle))
        result = matrix(
            picture,
            (places[5], middle - out * cell / 2),
            column(base + update),
            "activations",
            name="y",
            note=f"{out}",
            **live,
        )
        arrow(picture, (source.right[0], middle + 0.2), frozen.left, curve=-0.25)
        arrow(picture, (source.right[0], middle - 0.2), reads.left, curve=0.25)
        for one, other in [(reads, inner), (inner, writes), (times, added), (frozen, kept), (total, result)]:
            arrow(picture, one.right, other.left)
        arrow(picture, writes.right, times.left)
        arrow(picture, kept.bottom, total.top)
        arrow(picture, added.top, total.bottom)
        picture.alt = sentence(
            say(
                "A LoRA layer with {out} outputs, {into} inputs and rank {r}. W, frozen, gives {base}",
                out=out,
                into=into,
                r=r,
                base=numbers(base),
            ),
            say(
                "A reads {hidden}, and B spreads them; times α / r = {scaling} they add {update}",
                hidden=numbers(hidden),
                scaling=number(scaling),
                update=numbers(update),
            ),
            say(
                "The sum y is {total}. A and B hold {thin:,} numbers, W holds {whole:,}",
                total=numbers(base + update),
                thin=r * (out + into),
                whole=out * into,
            ),
        )
    return picture
