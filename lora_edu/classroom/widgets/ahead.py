"""Pictures that a slider will probably show next, drawn while the kernel has nothing else to do.

A picture takes a tenth of a second or more. A reader looks at one for longer than that and then moves on by a step, so
the next ones can be ready. This begins with the first move of a slider, and only in a kernel: a test or a script draws
nothing ahead. One picture is drawn at a time, between two cells, and whatever came in meanwhile (the next move, the
next cell) is served before the next picture.

JupyterLab may serve the moves of sliders in a thread of their own, while cells run in the main one. So whatever draws
for a widget holds `DRAWING`, and pictures are drawn ahead in the main thread alone.

``draw`` may look at names of the notebook, which a cell can change. So a picture is used only while no cell has run
since it was drawn. Drawing ahead shows nothing: a ``draw`` that then fails, warns or prints is left to the move itself,
where a reader sees it.
"""

from __future__ import annotations

import asyncio
import io
import threading
import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Generic, TypeVar

from IPython.core.getipython import get_ipython

DRAWING = threading.RLock()
"""Held while a widget's picture is drawn: two threads would write into one figure."""
SECONDS_BEFORE = 0.1
"""For the picture that was asked for: the thread that sends it needs Python, too."""
SECONDS_BETWEEN = 0.02
"""For what came in meanwhile."""

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Ahead(Generic[K, T]):
    """What `make` returns for a key, kept until another cell has run, and made before it is asked for.

    Parameters
    ----------
    make : callable
        ``make(key)``.
    is_over : callable
        Whether nobody can ask any more: nothing is made ahead then.
    """

    def __init__(self, make: Callable[[K], T], is_over: Callable[[], bool]):
        self._make, self._is_over, self._loop = make, is_over, kernel_loop()
        self._made: dict[K, T] = {}
        self._cells_run = cells_run()
        self._planned: list[K] = []

    def __call__(self, key: K) -> T:
        """What belongs to the key, made now if need be."""
        with DRAWING:
            self._forget_what_is_old()
            if key not in self._made:
                self._made[key] = self._make(key)
            return self._made[key]

    def plan(self, keys: Iterable[K]) -> None:
        """Make these soon, the first one first, in place of what was planned until now."""
        if self._loop is None:
            return
        with DRAWING:
            self._forget_what_is_old()
            is_waiting = bool(self._planned)
            self._planned = [key for key in keys if key not in self._made]
            if self._planned and not is_waiting:
                self._loop.call_soon_threadsafe(self._loop.call_later, SECONDS_BEFORE, self._make_one)

    def _make_one(self) -> None:
        with DRAWING:
            self._forget_what_is_old()
            if self._is_over():
                self._planned = []
            if not self._planned:
                return
            made = _silently(self._make, self._planned.pop(0))
            self._made.update(made)
            if not made:
                self._planned = []
            if self._planned and self._loop:
                self._loop.call_later(SECONDS_BETWEEN, self._make_one)

    def _forget_what_is_old(self) -> None:
        if self._cells_run != cells_run():
            self._cells_run = cells_run()
            self._made, self._planned = {}, []


def kernel_loop() -> asyncio.AbstractEventLoop | None:
    """The loop between whose steps cells run; None outside a kernel."""
    try:
        return asyncio.get_running_loop() if hasattr(get_ipython(), "kernel") else None
    except RuntimeError:
        return None


def cells_run() -> int:
    """How many cells have run in this kernel."""
    shell = get_ipython()
    return shell.execution_count if shell else 0


def _silently(make: Callable[[K], T], key: K) -> dict[K, T]:
    """What was made, by its key; nothing if it would have been seen: an error, a warning, a text."""
    said = io.StringIO()
    with warnings.catch_warnings(record=True) as warned, redirect_stdout(said), redirect_stderr(said):
        try:
            made = make(key)
        except Exception:  # the move makes it again, and raises what this was
            return {}
    return {} if warned or said.getvalue() else {key: made}


def neighbours(sizes: Sequence[int], at: Sequence[int], moved: int, step: int) -> list[tuple[int, ...]]:
    """Places that a reader probably goes to next, the likeliest first.

    Parameters
    ----------
    sizes, at : sequence of int
        Number of values of each slider, and where each stands.
    moved, step : int
        Which slider moved last, and which way: 1 or -1.

    Returns
    -------
    list of tuple of int
        On in the same direction, back, further on; then one step of every other slider.
    """
    moves = [(moved, by * step) for by in (1, 2, -1, 3)]
    moves += [(other, by) for other in range(len(sizes)) if other != moved for by in (1, -1)]
    reached = [tuple(place + by * (k == slider) for k, place in enumerate(at)) for slider, by in moves]
    return [places for places in reached if all(0 <= p < size for p, size in zip(places, sizes, strict=True))]
