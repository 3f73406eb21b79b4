"""Record what SmolLM2 keeps on the way forward for the way back, trained in full and with LoRA.

    python -m tools.record_kept

Writes data/runs/kept_activations.json in about a minute. It needs 3 GB of memory.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lora_edu.classroom.experiments.kept import BASES, WAYS, kept_bytes
from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.files import write_json
from lora_edu.llm.provenance import provenance
from lora_edu.llm.surgery import add_lora, set_adapter

TARGET = Path(__file__).resolve().parents[1] / "data" / "runs" / "kept_activations.json"
TOKENS, RANK, DROPOUT = 64, 8, 0.05


def cases(base: str) -> Iterator[dict[str, Any]]:
    """Bytes kept in each of `WAYS`, one after the other in the same model, over one text."""
    model, _ = load_base_model(dtype=base)
    model.train()  # or dropout would do nothing
    ids = torch.arange(TOKENS)[None]
    full, attention, everywhere, dropped = WAYS
    yield {"base": base, "way": full, "kept_bytes": kept_bytes(model.requires_grad_(True), ids)}
    model.requires_grad_(False)
    for way, targets, dropout in (
        (attention, ["q_proj", "v_proj"], 0.0),
        (everywhere, "all-linear", 0.0),
        (dropped, "all-linear", DROPOUT),
    ):
        name = way.replace(" ", "_")
        add_lora(model, targets, r=RANK, lora_alpha=16, lora_dropout=dropout, adapter_name=name)
        set_adapter(model, name)  # the others are neither used nor trained
        yield {"base": base, "way": way, "kept_bytes": kept_bytes(model, ids)}


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    found = [case for base in BASES for case in cases(base)]
    for case in found:
        print(case)
    settings = {"tokens": TOKENS, "r": RANK, "lora_dropout": DROPOUT}
    write_json(TARGET, {"command": "python -m tools.record_kept", **provenance(), **settings, "cases": found})


if __name__ == "__main__":
    main()
