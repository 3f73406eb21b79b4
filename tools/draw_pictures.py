"""Draw the pictures of docs/pictures.md anew: `.venv/bin/python -m tools.draw_pictures`.

One picture for each element of the language, all from the figures that notebooks call. The page's sentences below
the pictures are those that the figures make.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lora_edu.classroom import figures
from lora_edu.classroom.experiments import outside
from lora_edu.classroom.experiments.forgetting import trade_offs
from lora_edu.classroom.experiments.lloyd import Quotients, even_start, settle
from lora_edu.classroom.experiments.update_maps import updates_by_kind
from lora_edu.llm.data import DATA
from lora_edu.llm.inspect import inspect_adapter
from lora_edu.methods.codebook import nf4_code, uniform_code

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


def settling() -> figures.Picture:
    """Lloyd's steps on normal numbers in blocks of 64, beside NF4."""
    quotients = Quotients.of(torch.randn(2**16, generator=torch.Generator().manual_seed(0)), blocksize=64)
    codes, goal = settle(quotients, even_start(), steps=60), nf4_code().double()
    errors, least = [quotients.error_of(code) for code in codes], quotients.error_of(goal)
    walk, error = figures.new_pictures(2)
    options = {"target": goal, "target_error": least, "step": 60, "title": "The levels settle on NF4"}
    figures.settling(walk, error, codes, errors, **options)
    return walk


def captains_updates() -> figures.Picture:
    """The updates of the captain, as the inspector measures them."""
    report = inspect_adapter(DATA / "adapters" / "captain")
    by_kind = updates_by_kind(report, blocks=30)
    return figures.update_map(*by_kind, r=8, title="The captain changed the last blocks most")


def captains_file() -> figures.Picture:
    """The captain's file, byte by byte."""
    file = DATA / "adapters" / "captain" / "adapter_model.safetensors"
    title = "The file is A and B, layer after layer, behind a short text"
    return figures.adapter_files({"captain, 16 bits": outside.parts_of_peft(file)}, title=title)


def kept_by_size() -> figures.Picture:
    """A layer whose random updates are kept as NF4 keeps them, and trained ones that are too small."""
    trained = np.geomspace(0.0033, 0.025, 210)
    return figures.kept_by_size(
        {"15 q_proj": [0.004, 0.011, 0.093, 0.83, 0.99, 0.995]},
        sizes=[0.003, 0.01, 0.03, 0.1, 0.3, 1],
        updates=np.stack([trained, 1.6 * trained], axis=1),
    )


def trade_off() -> figures.Picture:
    """What recorded ways to train win on events, and lose on general answers."""
    series, base = trade_offs("own_answers")
    return figures.trade_off(
        series,
        base=base,
        xlabel="loss on the base's answers, nats a token",
        ylabel="exact match",
        title="General lines keep what a high rate loses",
    )


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
    "shaded_tokens": lambda: figures.shaded_tokens(
        TOKENS[4:],
        {"base": BEFORE[4:], "with adapter": AFTER[4:]},
        roles={"base": "frozen", "with adapter": "trained"},
        title="The adapter is sure where the base guessed",
    ),
    "weight_life": lambda: figures.weight_life(13, layers=30, wide=1.77, stored=54.8),
    "one_base": lambda: figures.one_base(
        ("SmolLM2-135M", 269.0),
        {"robot": 0.92, "pirate": 0.92, "events": 4.88},
        rows=["robot", "events", None, "robot"],
    ),
    "one_job": lambda: figures.one_job(
        "17 June, 19:30: film festival, training room (Minh Patel)",
        "The event was a fantastic one, and I'm glad to say that ...",
        '{"who": "Minh Patel", "what": "film festival", "where": "training room", "day": "17 June", "time": "19:30"}',
        base=111.8,
        adapter=9.77,
    ),
    "adapter_files": captains_file,
    "woven_rows": lambda: figures.woven_rows(8, title="llama.cpp holds the two rows of a pair side by side"),
    "routes": lambda: figures.routes(
        ("robot", "0.94 MB"),
        {
            ("PEFT's folder", "0.94 MB"): {"peft": True, "vLLM": False},
            ("GGUF adapter", "1.9 MB, over a base"): {"llama.cpp": True, "browser": True, "Ollama": False},
            ("merged folder", "16 bits, 269 MB"): {"transformers": True, "vLLM": False},
        },
        title="An adapter becomes three files",
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
    "form_and_copied": lambda: figures.form_and_copied(
        list(1.6 * np.exp(-STEPS / 3)), list(np.exp(-STEPS / 9)), {20: 0.12, 40: 0.04}
    ),
    "held_over_time": lambda: figures.held_over_time(
        {
            "at rest": {"codes": 8.25, "W in 16 bits": 0, "activations": 0},
            "forward": {"codes": 8.25, "W in 16 bits": 32, "activations": 8},
            "waiting": {"codes": 8.25, "W in 16 bits": 0, "activations": 8},
        },
        roles={"codes": "codes", "W in 16 bits": "frozen", "activations": "activations"},
        now=1,
        title="W is made in 16 bits for one product, and dropped",
    ),
    "kept_by_size": kept_by_size,
    "trade_off": trade_off,
    "settling": lambda: settling(),
    "stored_bytes": lambda: figures.stored_bytes(
        64, title="Double quantization leaves a quarter of the scales' bytes"
    ),
    "numbered_levels": lambda: figures.numbered_levels(
        uniform_code(4), 0.23456, title="Sixteen levels, and where 0.23456 goes"
    ),
    "update_to_scale": lambda: figures.update_to_scale(576, 576, 8, title="A and B are slivers beside W"),
    "update_map": captains_updates,
}


def page_with(page: str, sentences: dict[str, str], folder: str = "pictures") -> str:
    """The page, with the sentence of each picture, which lies in `folder` beside it, below the picture."""
    for name, text in sentences.items():
        pattern = rf"!\[[^\]]*\]\({folder}/{name}\.png\)\n\n\*[^\n]*\*"
        shown = f"![{text}]({folder}/{name}.png)\n\n*{text}*".replace("\\", "\\\\")
        page, found = re.subn(pattern, shown, page)
        if found != 1:
            raise ValueError(
                f"the page must show {folder}/{name}.png once with a line of text, found {found}"
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
