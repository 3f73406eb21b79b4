"""Run every notebook as a learner gets it on a machine with a CUDA device, and record what it took.

    python -m tools.run_on_gpu --output data/runs/notebooks_gpu.json [--revision HASH] [NN ...]

CI has no GPU, and `load_base_model` puts the model on one wherever there is one. So a tensor that a notebook makes on
the CPU, or a sentence that holds on a CPU alone, shows here first. All notebooks run, in order, each in a kernel of its
own, also after one has failed. The executed copies lie in build/notebooks_gpu/.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import torch

from lora_edu.llm.files import write_json, write_text
from lora_edu.llm.provenance import provenance
from tools.build_notebooks import ROOT, BuildError, execute, normalise, selected_sources

EXECUTED = ROOT / "build" / "notebooks_gpu"


def learner_notebooks(numbers: Sequence[str], root: Path = ROOT) -> list[Path]:
    """The notebooks of these numbers ("00" to "13"), all if none is given, in the course's order.

    Raises
    ------
    BuildError
        There is no notebook of such a number.
    """
    return [root / "notebooks" / f"{source.stem}.ipynb" for source in selected_sources(numbers, root)]


def run(path: Path, folder: Path) -> dict[str, Any]:
    """Execute one notebook where it stands and keep the executed copy in `folder`, also of one that failed.

    Returns
    -------
    dict
        ``notebook``, ``seconds`` (the kernel's start included) and ``error``: None, or the cell and what it raised.
    """
    notebook = nbformat.read(path, as_version=4)
    error = None
    start = time.perf_counter()
    try:
        execute(notebook, path.name, path.parent)
    except BuildError as failure:
        where, *_, what = str(failure).splitlines()
        error = f"{where} {what}"
    seconds = time.perf_counter() - start
    normalise(notebook)
    write_text(folder / path.name, nbformat.writes(notebook) + "\n")
    return {"notebook": path.name, "seconds": round(seconds, 1), "error": error}


def run_all(paths: Sequence[Path], folder: Path) -> list[dict[str, Any]]:
    """Run the notebooks one after the other, and say after each how it went.

    Parameters
    ----------
    paths
        Of the notebooks.
    folder
        For the executed copies, and for what the fine-tunes leave behind.
    """
    os.environ["LORA_EDU_RUNS"] = str(folder / "runs")
    results = []
    for path in paths:
        result = run(path, folder)
        print(f"{path.name}: {result['error'] or 'ran'}, {result['seconds']:.1f} s", flush=True)
        results.append(result)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("numbers", nargs="*", metavar="NN", help="two digits each; all notebooks if none")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--revision", help="git revision, for a copy of the checkout without git")
    options = parser.parse_args()
    try:
        paths = learner_notebooks(options.numbers)
    except BuildError as error:
        parser.error(str(error))
    if not torch.cuda.is_available():
        sys.exit("PyTorch finds no CUDA device here; `make course` runs the notebooks on a CPU")
    results = run_all(paths, EXECUTED)
    # Only now: to ask for the device's name takes GPU memory, which the notebooks might have needed.
    source = provenance()
    source["revision"] = options.revision or source["revision"]
    command = " ".join(["python -m tools.run_on_gpu", *options.numbers])
    seconds = round(sum(result["seconds"] for result in results), 1)
    write_json(options.output, {"command": command} | source | {"seconds": seconds, "notebooks": results})
    failed = sum(result["error"] is not None for result in results)
    print(f"{len(results) - failed} of {len(results)} notebooks ran, {seconds:.0f} s: {options.output}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
