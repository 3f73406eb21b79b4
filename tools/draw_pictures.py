"""Draw the pictures of docs/pictures.md anew: `.venv/bin/python -m tools.draw_pictures`.

One picture for each element of the language, all from the figures that notebooks call. The page's sentences below
the pictures are those that the figures make.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lora_edu.classroom import figures
from lora_edu.methods.codebook import uniform_code

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "pictures.md"
LAYER = {
    "x": [1, 2, -1, 0, 1],
    "W": [[1, 2, 0, 1, 3], [0, 1, 1, -1, 2], [2, 3, -1, 3, 4], [1, 3, 1, 0, 5]],
    "A": [[1, 0, 0, -1, 0], [0, 1, 0, 0, 1]],
    "B": [[1, 0], [0, 2], [-1, 1], [0, 1]],
    "alpha": 4,
}
TOKENS = ["When", " is", " it", "?", '{"', "when", '":', ' "', "Monday", '"}', "\n"]
BEFORE = [0, 0, 0, 0, 0.02, 0.01, 0.9, 0.7, 0.35, 0.6, 0.03]
AFTER = [0, 0, 0, 0, 1, 1, 1, 1, 0.93, 1, 1]
STEPS = np.arange(1, 41)
DRAWN: dict[str, Callable[[], figures.Picture]] = {
    "lora_layer": lambda: figures.lora_layer(**LAYER),
    "forward_backward": lambda: figures.forward_backward(**LAYER, grad_y=[1, -2, 0.5, -1]),
    "transformer_block": lambda: figures.transformer_block(["q_proj", "v_proj"]),
    "scored_example": lambda: figures.scored_example(
        TOKENS,
        [-100] * 4 + list(range(7)),
        probabilities={"base": BEFORE, "with adapter": AFTER},
        title="The adapter is sure where the base guessed",
    ),
    "weight_life": lambda: figures.weight_life(13, layers=30, wide=1.77, stored=54.8),
    "one_base": lambda: figures.one_base(
        ("SmolLM2-135M", 269.0),
        {"robot": 0.92, "pirate": 0.92, "events": 4.88},
        rows=["robot", "events", None, "robot"],
    ),
    "lines": lambda: figures.lines(
        {"with adapter": 0.35 + 2.2 * np.exp(-STEPS / 9), "base": np.full(40, 2.5)},
        xlabel="optimizer step",
        ylabel="loss, nats a token",
        title="Most of the loss is gone after 20 steps",
        roles={"with adapter": "trained", "base": "frozen"},
        mark={"20 steps": (20, None)},
    ),
    "bars": lambda: figures.bars(
        {
            "base": [[0.0, 0.0], [0.02, 0.01], [0.0, 0.0]],
            "with adapter": [[0.9, 0.4], [0.97, 0.7], [0.94, 0.58]],
        },
        groups=["seen patterns", "unseen patterns"],
        number_format="{:.0%}",
        ylabel="exact match",
        title="What was never seen is harder, and differs from seed to seed",
        roles={"base": "frozen", "with adapter": "trained"},
    ),
    "numbered_levels": lambda: figures.numbered_levels(
        uniform_code(4), 0.23456, title="Sixteen levels, and where 0.23456 goes"
    ),
    "update_to_scale": lambda: figures.update_to_scale(576, 576, 8, title="A and B are slivers beside W"),
}


def page_with(page: str, sentences: dict[str, str]) -> str:
    """The page, with the sentence of each picture below it."""
    for name, text in sentences.items():
        pattern = rf"!\[[^\]]*\]\(pictures/{name}\.png\)\n\n\*[^\n]*\*"
        shown = f"![{text}](pictures/{name}.png)\n\n*{text}*".replace("\\", "\\\\")
        page, found = re.subn(pattern, shown, page)
        if found != 1:
            raise ValueError(
                f"{PAGE.name} must show pictures/{name}.png once with a line of text, found {found}"
            )
    return page


def main() -> None:
    sentences = {}
    for name, draw in DRAWN.items():
        picture = draw()
        (PAGE.parent / "pictures" / f"{name}.png").write_bytes(figures.to_png(picture))
        sentences[name] = picture.alt
    PAGE.write_text(page_with(PAGE.read_text("utf-8"), sentences), "utf-8")


if __name__ == "__main__":
    main()
