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

    What may be changed changes no result but rounding: fewer questions are answered at once, gradient checkpointing is
    switched on, then fewer sequences are put into memory at once. Of all that fits, the training that is changed least
    is taken, with the most answers at once.

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
    for candidate in _candidates(ledger):
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
    for setting, thing in (("batch", "sequence"), ("answers", "answer")):
        was, now = before.settings[setting], after.settings[setting]
        if now != was:
            parts.append(f"{now} {thing}{'' if now == 1 else 's'} at once instead of {was}")
    return ", ".join(parts)


def _candidates(ledger: Ledger) -> Iterator[Ledger]:
    """The fine-tune as it is, then with more and more changed; fewer answers where answering takes most."""
    for candidate in (ledger, *_lighter(ledger)):
        yield candidate
        while candidate["key-value cache"] and (answers := candidate.settings["answers"]) > 1:
            candidate = candidate.but(answers=answers // 2)
            yield candidate


def _lighter(ledger: Ledger) -> Iterator[Ledger]:
    yield ledger.but(gradient_checkpointing=True)
    batch = ledger.settings["batch"]
    for fewer in range(batch - 1, 0, -1):
        if batch % fewer == 0:
            waits = ledger.settings["micro_batches"] * batch // fewer
            yield ledger.but(gradient_checkpointing=True, batch=fewer, micro_batches=waits)


def _refusal(ledger: Ledger, device: str, limit: float, smaller: tuple[str, ...]) -> str:
    """What is needed, and what lowers that in the numbers that are shown."""
    terms = ", ".join(f"{name} {size / GIB:.2f}" for name, size in ledger.items() if size >= GIB / 100)
    lines = [
        f"this fine-tune needs {_gib(ledger)} GiB and {limit / GIB:.2f} GiB can be used on {device}. "
        f"Its terms: {terms}."
    ]
    lightest = min(_candidates(ledger), key=lambda candidate: float(_gib(candidate)))
    if _is_lower(lightest, ledger):
        lines.append(f"It needs {_gib(lightest)} GiB with this: {changes(ledger, lightest)}.")
    else:
        lightest = ledger
        lines.append("Less at once in memory does not lower that.")
    s = lightest.settings
    shorter = {"seq": max(1, s["seq"] // 2), "validation": s["validation"] // 2}
    knobs: dict[str, dict[str, Any]] = {f"sequences of {s['seq'] // 2} tokens (max_length)": shorter}
    if s["method"] != "qlora":
        knobs["method qlora"] = {"method": "qlora"}
    knobs |= {f"a smaller model, such as {name}": {"config": name} for name in smaller}
    changed = {knob: lightest.but(**change) for knob, change in knobs.items()}
    helps = [f"  {knob}: {_gib(after)} GiB" for knob, after in changed.items() if _is_lower(after, lightest)]
    lines += (
        ["What else would lower it:", *helps]
        if helps
        else ["What is left is a smaller model, or more memory."]
    )
    return "\n".join(lines)


def _is_lower(one: Ledger, other: Ledger) -> bool:
    return float(_gib(one)) < float(_gib(other))


def _gib(ledger: Ledger) -> str:
    return f"{ledger.total / GIB:.2f}"


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
