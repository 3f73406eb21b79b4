"""What this machine has, what it can run, and the packages that it still lacks.

Imported before anything is installed, so the module itself needs only the standard library.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

import lora_edu.llm  # noqa: F401  so that peft works beside Colab's torchao, in every notebook
from lora_edu.classroom.language import label, say, to_translate

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
GIB = 1024**3

_TOLD = to_translate(
    "SmolLM2-135M is fine-tuned with QLoRA on the CPU in a few minutes. Every notebook runs.",
    "T4-class: a model of 1.7 billion weights. A 7B is too large here, or risky in float16.",
    "Newer than a T4: a 7B model, in bfloat16.",
)
TIERS = dict(zip(("cpu", "t4", "large"), _TOLD, strict=True))
"""By the model that `lora_edu.llm.tiers.propose` proposes, the smallest first."""
to_translate(  # what `lora_edu.llm.threads` says
    "1 thread, as OMP_NUM_THREADS says",
    "{count} threads, as OMP_NUM_THREADS says",
    "1 thread: {free} cores are free of {cores} that may be used",
    "{count} threads: {free} cores are free of {cores} that may be used",
)


# ---------------------------------------------------------------- packages


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0]


def _requirements(names: Iterable[str]) -> list[str]:
    """The course's own dependencies and the named ones, with the bounds that pyproject.toml gives them."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    optional = {_name(r): r for extra in project["optional-dependencies"].values() for r in extra}
    return project["dependencies"] + [optional.get(name, name) for name in names]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _installed_versions() -> list[str]:
    """One ``name==version`` for each installed distribution, as pip's constraints."""
    pins = {}
    for distribution in importlib.metadata.distributions():
        name, version = distribution.metadata["Name"], distribution.version
        # A broken installation may have neither; pip stops at a version that does not begin with a number.
        if name and version and re.fullmatch(r"\d[A-Za-z0-9.!+_-]*", version):
            pins.setdefault(name.lower(), f"{name}=={version}")
    return sorted(pins.values())


def ensure_packages(*names: str) -> None:
    """Install what the course needs and this Python lacks; silent when nothing is missing.

    Every distribution that is already installed is held at its present version, so nothing changes that
    a running kernel may have imported.

    Parameters
    ----------
    *names : str
        Packages needed beyond the course's own dependencies, such as ``"bitsandbytes"``.

    Raises
    ------
    RuntimeError
        If the installation fails: no network, or no version that fits what is installed.
    """
    missing = [requirement for requirement in _requirements(names) if _version(_name(requirement)) is None]
    if not missing:
        return
    wanted = ", ".join(map(_name, missing))
    print(f"Installing {wanted}. Nothing that is already installed changes.")
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(_installed_versions()), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        result = subprocess.run(
            [*command, "--constraint", str(constraints), *missing],
            capture_output=True,
            text=True,
            check=False,
        )
    if result.returncode != 0:
        reason = "\n".join(result.stderr.strip().splitlines()[-5:])
        raise RuntimeError(f"Could not install {wanted}. Is there a network connection? pip says:\n{reason}")
    importlib.invalidate_caches()


# ---------------------------------------------------------------- the machine


def _memory_bytes() -> int:
    """Memory that this process may use, in bytes: the machine's, or its container's (Binder) if lower."""
    import psutil

    limits = [psutil.virtual_memory().total]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if Path(path).is_file() and (text := Path(path).read_text().strip()).isdigit():
            limits.append(int(text))
    return min(limits)


def _gpu() -> dict | None:
    import torch

    from lora_edu.llm.machine import compute_capability, gpu_bytes

    if not torch.cuda.is_available():
        return None
    return {
        "name": torch.cuda.get_device_properties(0).name,
        "memory_bytes": gpu_bytes(),
        "capability": compute_capability(),
    }


def tier(model: str) -> str:
    """``"cpu"``, ``"t4"`` or ``"large"``, by the model that `lora_edu.llm.tiers.propose` proposes for the capstone."""
    from lora_edu.llm.base_model import TIERS as MODELS

    return dict(zip(MODELS, TIERS, strict=True))[model]


def _describe_gpu(gpu: dict | None) -> str:
    if gpu is None:
        return say("none")
    # torch.cuda.is_bf16_supported() says yes on a T4 too, where bfloat16 is emulated and slow.
    dtype = "bfloat16" if gpu["capability"] >= (8, 0) else "float16"
    size = f"{gpu['memory_bytes'] / GIB:.1f}"
    return say("{name}, {size} GiB, computes in {dtype}", name=gpu["name"], size=size, dtype=dtype)


def doctor() -> dict:
    """Print what this machine has and which tier of the course runs here; from then on, share its cores.

    Returns
    -------
    dict
        ``python``, ``torch``, ``bitsandbytes`` (versions; None if not installed), ``cpus``, ``threads`` (the number
        that PyTorch now computes with, one for each free core: `lora_edu.llm.threads`), ``memory_bytes``,
        ``gpu`` (None, or name, memory_bytes and capability), ``model`` (what notebook 10 proposes here) and ``tier``
        (see `tier`).
    """
    import torch

    from lora_edu.llm.threads import use_free_cores
    from lora_edu.llm.tiers import propose

    gpu, sharing, model = _gpu(), use_free_cores(), propose().name
    report = {
        "python": platform.python_version(),
        "torch": _version("torch"),
        "bitsandbytes": _version("bitsandbytes"),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": _memory_bytes(),
        "gpu": gpu,
        "model": model,
        "tier": tier(model),
    }
    lacking = say("not installed; the notebooks that need it install it")
    lines = {
        "Python": report["python"],
        "torch": report["torch"],
        "bitsandbytes": report["bitsandbytes"] or lacking,
        "CPU": say("{count} cores", count=report["cpus"]),
        say("computes with"): label(sharing),
        say("memory"): f"{report['memory_bytes'] / GIB:.1f} GiB",
        "GPU": _describe_gpu(gpu),
        say("tier"): f"{report['tier']}. {label(TIERS[report['tier']])}",
    }
    for name, told in lines.items():
        print(f"{name:<13} {told}")
    return report
