"""Run a notebook as it is, on a GPU for instance, and record the text that its cells print, as JSON.

    python -m tools.record_notebook notebooks/10_qlora_finetune.ipynb --output data/runs/notebook_10_gpu.json \
        --revision $(git rev-parse HEAD)
"""

import argparse
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from lora_edu.llm.files import write_json
from lora_edu.llm.provenance import provenance
from tools.build_notebooks import execute, normalise


def printed(notebook: NotebookNode) -> list[dict[str, str]]:
    """Source and text of each code cell that printed something or has a value; pictures are left out."""
    cells = []
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        texts = [o["text"] if o.output_type == "stream" else o.data.get("text/plain", "") for o in outputs]
        if text := "\n".join(filter(None, texts)):
            cells.append({"source": cell.source, "text": text})
    return cells


def record(notebook: NotebookNode, file: Path, revision: str) -> dict[str, Any]:
    """The record of a notebook that was executed."""
    normalise(notebook)
    command = f"python -m tools.record_notebook notebooks/{file.name}"
    return {"command": command} | provenance() | {"revision": revision, "cells": printed(notebook)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--revision", required=True, help="git revision of this checkout")
    arguments = parser.parse_args()
    notebook = nbformat.read(arguments.notebook, as_version=4)
    execute(notebook, arguments.notebook.name, arguments.notebook.parent)
    content = record(notebook, arguments.notebook, arguments.revision)
    write_json(arguments.output, content)


if __name__ == "__main__":
    main()
