"""Run built notebooks as Binder would, on one core, and fail when the memory they need is more than it gives.

    python -m tools.binder_limit [--limit-mb MB] [NN ...]

Binder stops a container above 2 GB. Of that, 100 MB are left as a margin and the JupyterLab server takes 94 MB.
What counts here is the resident memory of the kernel and of the processes that it starts; a page that several of them
share counts once, as it does for the container. Linux only.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import psutil

from tools import build_notebooks

LIMIT_BYTES = 1_900_000_000 - 94_000_000
SECONDS_BETWEEN_LOOKS = 0.05
ONE_CORE = {"OMP_NUM_THREADS": "1"}  # as binder/start sets it


def peak_of(process: psutil.Process) -> int:
    """The most resident memory that a process ever had, in bytes; 0 when it has just ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    peaks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(peaks[0]) * 1024 if peaks else 0


def resident(process: psutil.Process) -> int:
    """The resident memory of a process now, in bytes, its share of shared pages; 0 when it has just ended."""
    try:
        return process.memory_full_info().pss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def watch_children(done: threading.Event) -> int:
    """The peak memory, in bytes, of all processes below this one until `done` is set.

    The sum over the processes may miss a peak between two looks. Each process's own record misses none, but
    knows nothing of the others. So the larger one counts. The sum walks all pages, on the core that the kernel
    computes on: it is taken only where there are several.
    """
    this = psutil.Process()
    peak = 0
    while not done.wait(SECONDS_BETWEEN_LOOKS):
        children = this.children(recursive=True)
        together = sum(map(resident, children)) if len(children) > 1 else 0
        peak = max([peak, together, *map(peak_of, children)])
    return peak


def measure(path: Path) -> int:
    """The peak memory, in bytes, that executing the notebook `path` needs.

    Raises
    ------
    build_notebooks.BuildError
        When a cell fails or the kernel dies.
    """
    done = threading.Event()
    with ThreadPoolExecutor(max_workers=1) as pool:
        peak = pool.submit(watch_children, done)
        try:
            build_notebooks.execute(nbformat.read(path, as_version=4), path.name, path.parent)
        finally:
            done.set()
    return peak.result()


def main(arguments: Sequence[str] | None = None, root: Path = build_notebooks.ROOT) -> int:
    parser = argparse.ArgumentParser(description="Run built notebooks within Binder's core and memory.")
    parser.add_argument("numbers", nargs="*", metavar="NN", help="two digits each; all notebooks if none")
    parser.add_argument("--limit-mb", type=float, default=LIMIT_BYTES / 1e6, help="10^6 bytes; %(default)s")
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # the kernels inherit it
    over = []
    with tempfile.TemporaryDirectory() as runs:
        os.environ.update(ONE_CORE, LORA_EDU_RUNS=runs)
        try:
            for source in build_notebooks.selected_sources(options.numbers, root):
                start = time.monotonic()
                megabytes = measure(root / "notebooks" / f"{source.stem}.ipynb") / 1e6
                seconds = time.monotonic() - start
                print(f"{source.stem}: {seconds:.0f} s, peak {megabytes:.0f} of {options.limit_mb:.0f} MB")
                over += [source.stem] if megabytes > options.limit_mb else []
        except (build_notebooks.BuildError, FileNotFoundError) as error:
            print(f"\n{error}", file=sys.stderr)
            return 1
    if over:
        print(f"More memory than Binder gives: {', '.join(over)}", file=sys.stderr)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
