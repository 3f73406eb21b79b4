"""Run a notebook as it is, on a GPU for instance, and record the text that its cells print, as JSON.

    python -m tools.record_notebook --output data/runs/notebook_10_t4.json
    python -m tools.record_notebook --model HuggingFaceTB/SmolLM2-1.7B-Instruct --allow-download \
        --output data/runs/notebook_10_t4.json

Without a name it is notebook 10, with the model that the notebook takes by itself. The second line is what a T4 is for:
in Colab, in a clone of the repository, with ``!`` before it. No measured number of this course is from a T4 yet.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import nbformat
import torch
from nbformat import NotebookNode

from lora_edu.llm import machine
from lora_edu.llm.base_model.download import YES
from lora_edu.llm.files import write_json
from lora_edu.llm.provenance import provenance
from lora_edu.llm.tiers import MODEL
from tools.build_notebooks import ROOT, execute, normalise

CAPSTONE = ROOT / "notebooks" / "10_qlora_finetune.ipynb"


def printed(notebook: NotebookNode) -> list[dict[str, str]]:
    """Source and text of each code cell that printed something or has a value; pictures are left out."""
    cells = []
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        texts = [o["text"] if o.output_type == "stream" else o.data.get("text/plain", "") for o in outputs]
        if text := "\n".join(filter(None, texts)):
            cells.append({"source": cell.source, "text": text})
    return cells


def record(notebook: NotebookNode, command: str, revision: str | None) -> dict[str, Any]:
    """The record of a notebook that was executed; without a revision, git is asked."""
    normalise(notebook)
    source = provenance()
    source["revision"] = revision or source["revision"]
    return {"command": command} | source | {"gpu": gpu(), "cells": printed(notebook)}


def gpu() -> dict[str, Any] | None:
    """Compute capability and bytes of the GPU, as the notebook saw them; None without one."""
    capability = machine.compute_capability()
    if capability is None:
        return None
    return {"compute_capability": list(capability), "memory_bytes": machine.gpu_bytes()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("notebook", type=Path, nargs="?", default=CAPSTONE)
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--model", help="what notebook 10 loads, in place of what it would choose")
    parser.add_argument("--allow-download", action="store_true", help="fetch more than 1 GB from the hub")
    parser.add_argument("--revision", help="git revision, for a copy of the checkout without git")
    arguments = parser.parse_args()
    command = f"python -m tools.record_notebook notebooks/{arguments.notebook.name}"
    if arguments.model:
        os.environ[MODEL] = arguments.model
        command += f" --model {arguments.model}"
    if arguments.allow_download:
        os.environ[YES] = "1"
    notebook = nbformat.read(arguments.notebook, as_version=4)
    execute(notebook, arguments.notebook.name, arguments.notebook.parent)
    write_json(arguments.output, record(notebook, command, arguments.revision))
    print(
        f"{arguments.output}: {len(printed(notebook))} cells that printed, {torch.cuda.device_count()} GPUs"
    )


if __name__ == "__main__":
    main()
