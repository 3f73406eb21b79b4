"""Forward and backward through a LoRA layer: what is kept, where a gradient flows, what is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import Picture
from lora_edu.classroom.figures._sentences import number, numbers, sentence
from lora_edu.classroom.figures.schematic.parts import area, arrow, column, matrix, named, numbered, tag
from lora_edu.classroom.figures.schematic.sheet import CELL, Block, Point, chain_of, sheet, word
from lora_edu.classroom.language import say, to_translate

TALLEST = 2.2  # inches for the longer side of W
[FINDING] = to_translate("Gradients flow through W, but only A and B get one of their own")


def forward_backward(
    x: ArrayLike,
    W: ArrayLike,
    A: ArrayLike,
    B: ArrayLike,
    alpha: float,
    grad_y: ArrayLike,
    *,
    title: str = FINDING,
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw both passes for one input: what the forward pass keeps, and the gradients in the order they are made.

    Parameters
    ----------
    x, W, A, B, alpha
        As in `lora_layer`.
    grad_y : array
        Gradient of the loss with respect to the layer's outputs, shape (out,).
    title, alt, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If the shapes do not chain or a number is not finite.
    """
    x, W, A, B, g = (np.asarray(values, dtype=float) for values in (x, W, A, B, grad_y))
    chain_of([("W", W, (None, None))])
    out, into = W.shape
    chain_of([("x", x, (into,)), ("A", A, (None, into)), ("B", B, (out, A.shape[0])), ("grad_y", g, (out,))])
    r, s = A.shape[0], alpha / A.shape[0]
    hidden, grad_hidden = A @ x, s * (B.T @ g)
    y, grad_x = W @ x + s * (B @ hidden), W.T @ g + A.T @ grad_hidden
    grad_A, grad_B = np.outer(grad_hidden, x), s * np.outer(g, hidden)

    cell = min(CELL, TALLEST / max(out, into))
    rank, pair = r * cell, 2 * cell + 0.08
    places = np.cumsum([0.5, pair + 1.15, into * cell + 0.95, pair + 0.95, max(rank, 0.5) + 1.3])
    made = 0.75 + max(out * cell, 0.9)  # the middle of L_B's lane is half of it
    low = made + 0.55 + max(out, into) * cell / 2
    high = low + max(out, into) * cell / 2 + 0.75 + out * cell / 2
    middle = (high + low) / 2
    with sheet(places[4] + pair + 0.55, high + out * cell / 2 + 0.95, title=title, alt=alt, ax=ax) as picture:
        flow = max(1e-12, *(np.abs(v).max() for v in (x, hidden, y)))
        back = max(1e-12, *(np.abs(v).max() for v in (g, grad_hidden, grad_x, grad_A, grad_B)))

        def station(
            place: float, around: float, vectors: Sequence[np.ndarray], names: Sequence[str]
        ) -> Block:
            """A vector and, beside it, the gradient of the loss with respect to it."""
            corner = around - len(vectors[0]) * cell / 2
            put: dict[str, Any] = {"cell": cell}
            matrix(
                picture,
                (place, corner),
                column(vectors[0]),
                "activations",
                name=names[0],
                strongest=flow,
                **put,
            )
            at = place + cell + 0.08, corner
            matrix(picture, at, column(vectors[1]), "gradients", name=names[1], strongest=back, **put)
            return Block(place, corner, pair, len(vectors[0]) * cell)

        from_x = station(places[0], middle, (x, grad_x), ("x", "Lₓ"))
        inner = station(places[2], low, (hidden, grad_hidden), ("h", "Lₕ"))
        to_y = station(places[4], middle, (y, g), ("y", "g"))
        wide = area(
            picture,
            Block(
                (from_x.right[0] + to_y.x - into * cell) / 2, high - out * cell / 2, into * cell, out * cell
            ),
            "frozen",
        )
        named(picture, wide, "W", say("no gradient of W is made"), "frozen", True)
        strongest = max(np.abs(m).max() for m in (A, B))
        put: dict[str, Any] = {"cell": cell, "strongest": strongest}
        reads = matrix(picture, (places[1], low - rank / 2), A, "trained", name="A", **put)
        writes = matrix(picture, (places[3], low - out * cell / 2), B, "trained", name="B", **put)
        put = {"cell": cell, "strongest": back}
        ground = low - max(out * cell, 0.9) / 2 - 0.55
        made_A = matrix(
            picture, (places[1], ground - rank), grad_A, "gradients", note=say("gradient of A: Lₕ xᵀ"), **put
        )
        made_B = matrix(
            picture,
            (places[3], ground - out * cell),
            grad_B,
            "gradients",
            note=say("gradient of B: s g hᵀ"),
            **put,
        )
        there_and_back(picture, from_x.right, wide.left, bend=-0.2, leave=0.4)
        there_and_back(picture, wide.right, to_y.left, bend=-0.2, reach=0.4)
        there_and_back(picture, from_x.right, reads.left, bend=0.2, leave=-0.4)
        there_and_back(picture, writes.right, to_y.left, bend=0.2, reach=-0.4)
        there_and_back(picture, reads.right, inner.left)
        there_and_back(picture, inner.right, writes.left)
        for block, made_of in [(reads, made_A), (writes, made_B)]:
            arrow(picture, block.bottom, made_of.top, "gradients", dashed=True)
        for vector in (from_x, inner):
            tag(picture, (vector.x + cell / 2, vector.y - 0.22), say("kept"), "activations")
        second = 1.5 * cell + 0.08  # from a station's left edge to the middle of its gradient
        for step, at in [
            (1, (to_y.x + second, to_y.top[1] + 0.52)),
            (2, (inner.x + second, inner.top[1] + 0.52)),
            (3, (from_x.x + second, from_x.top[1] + 0.52)),
            (2, (made_B.x + made_B.width + 0.26, made_B.right[1])),
            (3, (made_A.x - 0.26, made_A.left[1])),
        ]:
            numbered(picture, at, step)
        arrow(picture, (0.4, 0.75), (1.15, 0.75), "activations")
        word(picture, (1.22, 0.75), say("forward"), role="activations", ha="left")
        arrow(picture, (1.15, 0.42), (0.4, 0.42), "gradients", dashed=True)
        word(picture, (1.22, 0.42), say("backward"), role="gradients", ha="left")
        picture.alt = sentence(
            say(
                "Forward, x passes W and, by A and B, a second way; x and h = Ax = {hidden} are kept",
                hidden=numbers(hidden),
            ),
            say(
                "Backward, step 1: the gradient of the outputs is {g}. Step 2: B gets a gradient of {out} × {r} "
                "numbers, and h gets {grad_hidden}",
                g=numbers(g),
                out=out,
                r=r,
                grad_hidden=numbers(grad_hidden),
            ),
            say(
                "Step 3: A gets a gradient of {r} × {into} numbers, and x gets {grad_x}, through W and through A",
                r=r,
                into=into,
                grad_x=numbers(grad_x),
            ),
            say(
                "No gradient of W is made: {saved:,} numbers are saved, {made:,} are made, with s = {s}",
                saved=out * into,
                made=r * (out + into),
                s=number(s),
            ),
        )
    return picture


def there_and_back(
    picture: Picture, start: Point, end: Point, *, bend: float = 0.0, leave: float = 0.0, reach: float = 0.0
) -> None:
    """Draw the way forward and, below it, the way back; `leave` and `reach` move an end up or down."""
    (x0, y0), (x1, y1) = start, end
    y0, y1 = y0 + leave, y1 + reach
    arrow(picture, (x0, y0 + 0.12), (x1, y1 + 0.12), "activations", curve=bend)
    arrow(picture, (x1, y1 - 0.12), (x0, y0 - 0.12), "gradients", curve=-bend, dashed=True)
