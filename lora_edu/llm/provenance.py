"""Where a recorded number comes from: versions, device and commit, for every JSON in data/."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "bitsandbytes",
    "tokenizers",
    "numpy",
    "lora_edu",
)


def provenance() -> dict[str, Any]:
    """Return ``revision``, ``versions`` and ``device``, the head of a record."""
    return {"revision": revision(), "versions": versions(), "device": device()}


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str | None]:
    """Return the version of Python and of each package; None for one that is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in packages}


def device() -> dict[str, Any]:
    """Return what computes: a GPU's name and count, or the CPU's kind and the number of threads."""
    if torch.cuda.is_available():
        return {"type": "cuda", "name": torch.cuda.get_device_name(), "count": torch.cuda.device_count()}
    return {
        "type": "cpu",
        "name": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
    }


def revision() -> str | None:
    """Return the repository's commit, marked if files differ from it; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
