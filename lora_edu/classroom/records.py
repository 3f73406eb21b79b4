"""Recorded runs, for the notebooks: what tools/record_*.py wrote into data/."""

import json
from typing import Any

from safetensors import safe_open
from torch import Tensor

from lora_edu.llm.data import DATA

DEFAULTS = {"r": 8, "seed": 0, "backend": "peft"}
"""What a run of tools/record_gpu_runs.py had where its settings do not say so."""


def read(name: str) -> dict[str, Any]:
    """The record ``data/runs/<name>.json``.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    file = DATA / "runs" / f"{name}.json"
    if not file.is_file():
        names = sorted(path.stem for path in file.parent.glob("*.json"))
        raise ValueError(f"name must be one of {names}, got {name!r}")
    return json.loads(file.read_text(encoding="utf-8"))


def runs(name: str, **settings: object) -> list[dict[str, Any]]:
    """The runs of a record that had these settings, in order of their seeds.

    Parameters
    ----------
    name : str
        As in `read`; the record holds a list of ``runs``.
    **settings
        What a run must have had, such as ``method="lora", r=4``.

    Raises
    ------
    ValueError
        If no run had them.
    """
    found = [
        run
        for run in read(name)["runs"]
        if all((DEFAULTS | run).get(key) == value for key, value in settings.items())
    ]
    if not found:
        raise ValueError(f"settings must be those of a run in {name}, got {settings}")
    return sorted(found, key=lambda run: run.get("seed", 0))


def delta_w_spectra() -> dict[str, Tensor]:
    """Singular values, float64: ``<path>.dW`` and ``<path>.W`` for each linear layer of the base model's blocks."""
    with safe_open(DATA / "delta_w" / "spectra.safetensors", "pt") as file:
        return {name: file.get_tensor(name).double() for name in file.keys()}  # noqa: SIM118


def delta_w(path: str) -> Tensor:
    """One recorded update dW (out, in), float64; it was stored as float16 times a power of two.

    Raises
    ------
    ValueError
        If that layer's update was not kept.
    """
    folder = DATA / "delta_w"
    kept = sorted(file.stem for file in folder.glob("model.*.safetensors"))
    if path not in kept:
        raise ValueError(f"path must be one of {kept}, got {path!r}")
    with safe_open(folder / f"{path}.safetensors", "pt") as file:
        return file.get_tensor(path).double() / 2.0 ** int(file.metadata()[path].removeprefix("2**"))
