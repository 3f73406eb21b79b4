"""What the scripts share: a fair race, a gauge of memory, a table, and a record.

Seconds differ from machine to machine and from hour to hour. So both sides run in one process, in turns, and what
counts is the ratio within a round: a busy moment slows both.
"""

import argparse
import ctypes
import gc
import json
import logging
import math
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.utils.benchmark import timer  # waits for the GPU before it looks at the clock

MIN_SECONDS = 0.05
"""A quick call is repeated for at least so long, so that the clock's own error does not count."""

Contestants = Mapping[str, Callable[[], Any]]


@dataclass(frozen=True)
class Settings:
    """What the command line asks for."""

    device: torch.device
    quick: bool
    rounds: int
    peer: str | None = None


@dataclass
class Result:
    """One contestant against one other.

    Attributes
    ----------
    case
        What was done.
    ours, peer
        Who did it.
    ratios
        Time of ours over time of the peer, one a round; empty where no time was taken.
    seconds, peer_seconds
        Median time of one call.
    memory, peer_memory
        Most bytes taken beyond what was there before the call, as a multiple of the matrix in float32.
    agreement
        How the two answers compare.
    """

    case: str
    ours: str
    peer: str
    agreement: str
    ratios: list[float] = field(default_factory=list)
    seconds: float | None = None
    peer_seconds: float | None = None
    memory: float | None = None
    peer_memory: float | None = None

    def cells(self) -> list[str]:
        """The row of the table."""
        times = ["", ""]
        if self.ratios:
            low, high = min(self.ratios), max(self.ratios)
            times = [f"{statistics.median(self.ratios):.3g}", f"{low:.3g} … {high:.3g}"]
        memory = ["" if m is None else f"{m:.2f}" for m in (self.memory, self.peer_memory)]
        return [self.case, self.ours, self.peer, *times, *memory, self.agreement]


HEADER = ["case", "ours", "peer", "ours/peer", "spread", "memory", "peer's", "agreement"]


class Race:
    """Contestants at one task, run in turns.

    Parameters
    ----------
    contestants
        A function without arguments for each name.
    settings
        Number of rounds, and the device.
    unit_bytes
        Bytes that count as 1 in the memory column; None: memory is not measured.

    Attributes
    ----------
    outputs
        What each returned when it ran first, to warm up.
    seconds
        Time of one call of each, one value a round.
    memory
        Extra peak bytes of each over ``unit_bytes``.
    """

    def __init__(self, contestants: Contestants, settings: Settings, unit_bytes: int | None = None) -> None:
        names = list(contestants)
        self.outputs: dict[str, Any] = {}
        calls: dict[str, int] = {}
        for name, run in contestants.items():
            self.outputs[name] = run()  # the first call may compile
            start = timer()
            run()
            calls[name] = max(1, math.ceil(MIN_SECONDS / (timer() - start)))
        self.seconds: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(settings.rounds):
            first = turn % len(names)  # nobody always runs first
            for name in names[first:] + names[:first]:
                self.seconds[name].append(_seconds(contestants[name], calls[name]))
        self.memory: dict[str, float | None] = dict.fromkeys(names)
        if unit_bytes is not None:
            for name, run in contestants.items():
                extra = extra_peak_bytes(run, settings.device)
                self.memory[name] = None if extra is None else extra / unit_bytes

    def result(self, case: str, ours: str, peer: str, agreement: str) -> Result:
        """Compare two of the contestants."""
        mine, theirs = self.seconds[ours], self.seconds[peer]
        return Result(
            case,
            ours,
            peer,
            agreement,
            [a / b for a, b in zip(mine, theirs, strict=True)],
            statistics.median(mine),
            statistics.median(theirs),
            self.memory[ours],
            self.memory[peer],
        )


def _seconds(run: Callable[[], Any], calls: int) -> float:
    """Time of one call, the mean over ``calls``; the garbage of others is collected before."""
    gc.collect()
    start = timer()
    for _ in range(calls):
        run()
    return (timer() - start) / calls


def extra_peak_bytes(run: Callable[[], Any], device: torch.device) -> int | None:
    """Most memory that a call takes beyond what was in use, its result included.

    On a GPU: what PyTorch's allocator gave out. On a CPU: resident memory of the process, whose high-water mark
    Linux resets on request; None on other systems.
    """
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    if not sys.platform.startswith("linux"):
        return None
    # Memory that is free but still held by the process would hide what the call takes.
    _glibc("malloc_trim", 0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("VmRSS")
    run()
    return max(0, _status_bytes("VmHWM") - before)


def keep_freed_memory() -> None:
    """Let the process keep what it frees, where the C library is glibc.

    Else large tensors go back to the system at once, and each new one is handed out page by page: part of what a call
    costs, and up to a fifth of a training step. The memory column then counts holes between tensors too.
    """
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    _glibc("mallopt", m_trim_threshold, -1)
    _glibc("mallopt", m_mmap_max, 0)


def _glibc(function: str, *arguments: int) -> None:
    if sys.platform.startswith("linux"):
        getattr(ctypes.CDLL(None), function, lambda *_: None)(*arguments)


def _status_bytes(entry: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(entry)).split()[1])


def compiler(device: torch.device) -> str:
    """What makes the fast path of ``lora_edu.accel`` there."""
    return "numba" if device.type == "cpu" else "triton"


def relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Root mean square of the difference over that of the values: 0 for the same values."""
    return ((ours - theirs).float().norm() / theirs.float().norm()).item()


def main(
    question: str,
    measure: Callable[[Settings], Sequence[Any]],
    header: Sequence[str] = HEADER,
    also: Callable[[Settings], dict[str, float]] = lambda _: {},
) -> None:
    """Read the command line, measure, print the table, write the record.

    Parameters
    ----------
    question
        What the script asks.
    measure
        Returns dataclasses, each with ``cells()``: its row of the table.
    header
        Of the table.
    also
        What else the record says, such as what the machine can do at most.
    """
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record here")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: to see that it runs, not how fast")
    parser.add_argument("--rounds", type=int, default=5, help="each runs so many times (default 5)")
    parser.add_argument("--keep-memory", action="store_true", help="reuse what was freed (a CPU, glibc)")
    parser.add_argument("--revision", help="git revision, where the checkout does not know it")
    parser.add_argument(
        "--peer", choices=["unsloth"], help="one more to race in qlora_step, if it is installed"
    )
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # or the base model would load itself onto a GPU
        if options.keep_memory:
            keep_freed_memory()
    elif not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU that PyTorch sees, and there is none")
    settings = Settings(torch.device(options.device), options.quick, options.rounds, options.peer)
    for noisy in ("bitsandbytes.backends.cpu.ops", "torchao", "torch.utils._pytree"):
        logging.getLogger(noisy).setLevel(logging.ERROR)  # what they say at import concerns no one here
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # above 0.5 or so others are at work
    results, more = measure(settings), also(settings)
    print(f"{question}\n\n{table(results, header)}")
    if options.json:
        # The record names no folder of this machine.
        arguments = [options.json.name if a == str(options.json) else a for a in sys.argv[1:]]
        conditions = _conditions(settings, arguments) | {"load_average_before": load}
        if options.revision:
            conditions["revision"] = options.revision
        write_json(
            options.json,
            {"question": question, **conditions, **more, "results": [asdict(result) for result in results]},
        )


def table(results: Sequence[Any], header: Sequence[str] = HEADER) -> str:
    """The results as a Markdown table, its columns aligned."""
    rows = [list(header), *(result.cells() for result in results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    rows.insert(1, ["-" * width for width in widths])
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join("| " + " | ".join(row) + " |" for row in padded)


def write_json(file: Path, content: Any) -> None:
    """Write ``content`` to ``file`` in one step; its folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(file)


def _conditions(settings: Settings, arguments: Sequence[str]) -> dict[str, Any]:
    """Under which the results hold."""
    # Not before: importing anything of lora_edu.llm hides torchao, which a script may want to race against.
    from lora_edu.llm import provenance

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *arguments]),
        "revision": provenance.revision(),
        "versions": provenance.versions(
            (*provenance.PACKAGES, "torchao", "scipy", "numba", "liger_kernel", "triton", "unsloth")
        ),
        "device": provenance.device() | {"model": _cpu_model()},
        "rounds": settings.rounds,
        "quick": settings.quick,
    }


def _cpu_model() -> str | None:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), None)
