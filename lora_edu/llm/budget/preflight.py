"""Does it fit? Asked before a byte is loaded, answered with numbers and with what to change."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from lora_edu.llm.budget.ledger import DEVICES, Ledger
from lora_edu.llm.machine import GIB, free_gpu_bytes
from lora_edu.methods import _validate

MARGIN = {"cpu": 1.15, "cuda": 1.10}
"""What the ledger may be wrong by, and memory that an allocator holds without using it."""

CGROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
"""Limit, usage, and the line of memory.stat that says how much of the usage can be dropped: versions 2 and 1."""


def preflight(
    ledger: Ledger, device: str = "cpu", available: int | None = None, smaller: tuple[str, ...] = ()
) -> Ledger:
    """Accept a fine-tune as it is, or with less at once in memory, or refuse it.

    What may be changed changes no result but rounding: first gradient checkpointing is switched on, then fewer
    sequences are put into memory at once.

    Parameters
    ----------
    ledger
        The prediction, from `memory_ledger`.
    device
        ``"cpu"`` or ``"cuda"``.
    available
        Bytes that the fine-tune may take; None asks the device (`available_bytes`).
    smaller
        Names of recorded shapes to suggest where nothing else helps.

    Returns
    -------
    Ledger
        The prediction of what fits: `ledger` itself, or one with other ``settings``.

    Raises
    ------
    MemoryError
        Nothing fits. The message says what is needed, what is there, and what each other choice would need.
    ValueError
        `device` is not one of the two.
    """
    _validate.require(device in DEVICES, "device", f"one of {', '.join(DEVICES)}", repr(device))
    limit = (available_bytes(device) if available is None else available) / MARGIN[device]
    for candidate in (ledger, *_lighter(ledger)):
        if candidate.total <= limit:
            return candidate
    raise MemoryError(_refusal(ledger, device, limit, smaller))


def available_bytes(device: str = "cpu") -> int:
    """Return the bytes that this process may still fill, those that it holds already included.

    On a CPU that is the machine's available memory or what the container's limit (cgroup) leaves, whichever is less,
    and this process's resident memory. On a GPU it is free memory and what PyTorch's allocator holds unused.
    """
    if device == "cuda":
        return free_gpu_bytes()
    free = min([psutil.virtual_memory().available, *_cgroup_free()])
    return free + psutil.Process().memory_info().rss


def changes(before: Ledger, after: Ledger) -> str:
    """Return in words what `preflight` changed; empty if nothing."""
    parts = []
    if after.settings["gradient_checkpointing"] and not before.settings["gradient_checkpointing"]:
        parts.append("gradient checkpointing on")
    if after.settings["batch"] != before.settings["batch"]:
        parts.append(f"{after.settings['batch']} sequences at once instead of {before.settings['batch']}")
    return ", ".join(parts)


def _lighter(ledger: Ledger) -> Iterator[Ledger]:
    yield ledger.but(gradient_checkpointing=True)
    batch = ledger.settings["batch"]
    for fewer in range(batch - 1, 0, -1):
        if batch % fewer == 0:
            waits = ledger.settings["micro_batches"] * batch // fewer
            yield ledger.but(gradient_checkpointing=True, batch=fewer, micro_batches=waits)


def _refusal(ledger: Ledger, device: str, limit: float, smaller: tuple[str, ...]) -> str:
    *_, lightest = ledger, *_lighter(ledger)
    terms = ", ".join(f"{name} {size / GIB:.2f}" for name, size in ledger.items() if size >= GIB / 100)
    lines = [
        f"this fine-tune needs {ledger.total / GIB:.2f} GiB and {limit / GIB:.2f} GiB can be used on {device}. "
        f"Its terms: {terms}.",
        f"With gradient checkpointing and {lightest.settings['batch']} sequence at once it needs "
        f"{lightest.total / GIB:.2f} GiB. What else could change, with both:",
    ]
    s = lightest.settings
    shorter = {"seq": max(1, s["seq"] // 2), "validation": s["validation"] // 2}
    knobs: dict[str, dict[str, Any]] = {f"sequences of {s['seq'] // 2} tokens (max_length)": shorter}
    if s["answers"] > 1:
        half = s["answers"] // 2
        knobs[f"{half} answers at once (eval_batch_size)"] = {"answers": half}
    if s["method"] != "qlora":
        knobs["method qlora"] = {"method": "qlora"}
    knobs |= {f"a smaller model, such as {name}": {"config": name} for name in smaller}
    lines += [f"  {knob}: {lightest.but(**change).total / GIB:.2f} GiB" for knob, change in knobs.items()]
    return "\n".join(lines)


def _cgroup_free(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """What the container's memory limit leaves, if there is one; cached files do not count as used."""
    for limit_file, usage_file, cached in CGROUPS:
        try:
            limit = (root / limit_file).read_text().strip()
            if not limit.isdigit():  # "max"
                continue
            usage = int((root / usage_file).read_text())
            stat = dict(
                line.split() for line in (root / usage_file).with_name("memory.stat").read_text().splitlines()
            )
        except (OSError, ValueError):
            continue
        return [int(limit) - usage + int(stat.get(cached, 0))]
    return []
