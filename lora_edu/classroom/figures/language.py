"""What a language model says."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.ticker import PercentFormatter

from lora_edu.classroom.figures._canvas import Picture, drawing
from lora_edu.classroom.figures._marks import label
from lora_edu.classroom.figures._sentences import listed, sentence
from lora_edu.classroom.figures.palette import HATCHES, PAPER, ROLES, SOFT, mix


def next_token(
    probabilities: Mapping[str, float],
    *,
    right: str,
    alt: str | None = None,
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw how probable a model finds some next tokens, one lying bar each, and mark the right one.

    Parameters
    ----------
    probabilities : mapping of str to float
        Token, as it is to be read, to its probability (0 to 1); the first is drawn on top.
    right : str
        The token of the text, one of `probabilities`.
    alt, title, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty, or `right` is not among the tokens.
    """
    if right not in probabilities:
        raise ValueError(f"right must be one of the tokens {list(probabilities)}, got {right!r}")
    with drawing(alt, ax) as picture:
        for row, (token, probability) in enumerate(probabilities.items()):
            index = int(token == right)
            container = picture.barh(
                row,
                probability,
                color=ROLES["activations"] if index else mix(SOFT, 0.45),
                hatch=HATCHES[index],
                edgecolor=PAPER,
            )
            picture.bar_label(container, fmt="{:.1%}".format, padding=3)
        names = [f"{token} (right)" if token == right else token for token in probabilities]
        picture.set_yticks(range(len(names)), names, parse_math=False)
        picture.invert_yaxis()
        picture.set_xlim(0, 1.15)
        label(picture, "probability", "", title)
        picture.set_yticks(range(len(names)), names, parse_math=False)
        picture.set_xticks([0, 0.25, 0.5, 0.75, 1])
        picture.xaxis.set_major_formatter(PercentFormatter(xmax=1))
        picture.grid(axis="y", visible=False)
        rank = sorted(probabilities.values(), reverse=True).index(probabilities[right]) + 1
        picture.alt = sentence(
            f"Probabilities of the next token: {listed(f'{token} {p:.1%}' for token, p in probabilities.items())}",
            f"The right one is {right}, number {rank} of those shown",
        )
    return picture
