"""Record on a GPU which losses the steps of ``benchmarks.qlora_step`` have if nothing in them is rounded to 16 bits.

    python -m tools.record_float32_losses --output data/runs/float32_losses.json --revision REVISION

The same random weights, rounded to NF4, the same adapters, tokens and rate; products, norms and logits in float32. So
the record says which of the benchmark's sides comes nearest to what the step means. ``losses``: three steps a shape.
"""

import argparse
import gc
from pathlib import Path
from typing import Any

import torch

from benchmarks._harness import Settings
from benchmarks.qlora_step import SIZES, scratch_model
from lora_edu import accel
from lora_edu.llm.files import write_json
from lora_edu.llm.provenance import provenance
from lora_edu.methods.qlora import NF4Linear

STEPS = 3


def losses(name: str, settings: Settings) -> list[float]:
    """Three steps of a shape in float32."""
    model: Any = accel.use_kernels(scratch_model(name, settings)).float().train()
    for module in model.modules():
        if isinstance(module, NF4Linear):
            module.compute_dtype = torch.float32
    ids = torch.randint(3, 99, SIZES[name], generator=torch.Generator().manual_seed(0)).to(settings.device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    found = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--revision", required=True, help="git revision of this checkout")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    settings, found = Settings(torch.device("cuda"), False, 1, None), {}
    for name in SIZES:
        found[name] = losses(name, settings)
        gc.collect()
        torch.cuda.empty_cache()
    head = {
        "command": "python -m tools.record_float32_losses",
        **provenance(),
        "revision": arguments.revision,
    }
    write_json(arguments.output, head | {"losses": found})


if __name__ == "__main__":
    main()
