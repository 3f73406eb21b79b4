"""Pictures drawn before they are asked for: the same as those drawn when asked, and nothing that draws is lost.

A loop is all that these need of a kernel. The file also runs under ipywidgets 7.7.1 and IPython 7.34 (Colab).
"""

import asyncio
import io
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from lora_edu.classroom import figures
from lora_edu.classroom.widgets import ahead, explore
from lora_edu.classroom.widgets.ahead import Ahead, neighbours

SECONDS = 20


@pytest.fixture
def cells(monkeypatch):
    """A count of cells that have run, in a list of one number; the loop of `in_a_kernel` is the kernel's."""
    count = [1]
    monkeypatch.setattr(ahead, "kernel_loop", asyncio.get_running_loop)
    monkeypatch.setattr(ahead, "cells_run", lambda: count[0])
    return count


def in_a_kernel(steps):
    """Run a generator of steps in a loop; what it yields is waited for until it holds."""

    async def run():
        for holds in steps:
            for _ in range(int(SECONDS / 0.01)):
                if holds():
                    break
                await asyncio.sleep(0.01)
            else:
                raise AssertionError("it never came to hold")

    # In a thread of its own: the browser's tests leave a loop running in this one.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, run()).result()


def idle(made):
    return lambda: not made._planned


def counted(drawn):
    def draw(ax, rank, noise):
        drawn.append((rank, noise))
        return figures.lines({"error": [noise + 1 / (step + rank) for step in range(20)]}, ax=ax)

    return draw


def counted_explorer(drawn):
    return explore(counted(drawn), rank=range(1, 9), noise=[0.0, 0.5], start={"rank": 3})


def test_what_the_reader_goes_to_next_is_ready(cells):
    drawn = []

    def steps():
        ours = counted_explorer(drawn)
        ours.sliders["rank"].value = 4
        assert drawn == [(3, 0), (4, 0)], "the move itself waits for one picture"
        yield idle(ours._live)
        # On, further on, (back is the start, which is kept,) further on; the other slider.
        assert drawn[2:] == [(5, 0), (6, 0), (7, 0), (4, 0.5)]
        before = len(drawn)
        ours.sliders["rank"].value = 5
        assert len(drawn) == before and ours.caption.value.startswith("error")

    in_a_kernel(steps())


def test_a_picture_drawn_ahead_is_the_one_that_a_move_draws(cells):
    def steps():
        ahead_of, direct = counted_explorer([]), counted_explorer([])
        ahead_of.sliders["rank"].value = 4
        yield idle(ahead_of._live)
        assert len(ahead_of._live._made) > 4
        for rank, noise in [(5, 0.0), (7, 0.0), (4, 0.0), (4, 0.5)]:
            for ours in (ahead_of, direct):
                ours.sliders["noise"].value, ours.sliders["rank"].value = noise, rank
            assert ahead_of.image.value == direct.image.value
            assert ahead_of.caption.value == direct.caption.value

    in_a_kernel(steps())


def test_nothing_is_drawn_ahead_where_no_loop_runs():
    drawn = []
    counted_explorer(drawn).sliders["rank"].value = 4
    assert drawn == [(3, 0), (4, 0)]


def test_what_was_drawn_before_a_cell_ran_is_drawn_again(cells):
    height = [1.0]

    def steps():
        ours = explore(
            lambda ax, x: figures.lines({"y": [0, x * height[0]]}, ax=ax, ylim=(0, 9)), x=[1, 2, 3, 4]
        )
        ours.sliders["x"].value = 2
        yield idle(ours._live)
        height[0] = 2.0
        cells[0] += 1
        ours.sliders["x"].value = 3
        assert "6 at 2" in ours.caption.value
        ours.sliders["x"].value = 2
        assert "4 at 2" in ours.caption.value

    in_a_kernel(steps())


@pytest.mark.parametrize("end", ["close", "cell"])
def test_drawing_ahead_ends_with_the_widget_and_with_the_next_cell(cells, end):
    drawn = []

    def steps():
        ours = counted_explorer(drawn)
        ours.sliders["rank"].value = 4
        yield lambda: len(drawn) > 2
        if end == "close":
            ours.widget.close()
        else:
            cells[0] += 1
        now = len(drawn)
        yield idle(ours._live)
        assert len(drawn) == now

    in_a_kernel(steps())


def say(key):
    print("said", key)
    return key


def warn(key):
    warnings.warn(f"warned {key}", stacklevel=1)
    return key


def fail(key):
    raise ZeroDivisionError(key)


@pytest.mark.parametrize("make", [say, warn, fail])
def test_what_a_reader_should_see_waits_for_the_move(make, capsys, cells, recwarn):
    def steps():
        made = Ahead(make, is_over=lambda: False)
        made.plan([7, 8])
        yield idle(made)
        assert not made._made and capsys.readouterr().out == "" and not recwarn.list
        if make is fail:
            with pytest.raises(ZeroDivisionError, match="7"):
                made(7)
        else:
            assert made(7) == 7
            assert capsys.readouterr().out + "".join(str(w.message) for w in recwarn.list)

    in_a_kernel(steps())


def test_a_new_plan_takes_the_place_of_the_old_one(cells):
    asked = []

    def steps():
        made = Ahead(asked.append, is_over=lambda: False)
        made.plan(range(5))
        made.plan([7, 8])
        yield idle(made)

    in_a_kernel(steps())
    assert asked == [7, 8]


def test_moves_in_another_thread_never_share_a_figure_with_what_is_drawn_ahead(cells):
    drawing, together = threading.Lock(), []

    def draw(ax, rank):
        together.append(not drawing.acquire(blocking=False))
        time.sleep(0.005)
        picture = figures.lines({"error": [rank, rank + 1]}, ax=ax)
        if not together[-1]:
            drawing.release()
        return picture

    def move(ours):
        for rank in [*range(2, 40), *range(39, 1, -1)]:
            ours.sliders["rank"].value = rank
            assert f"{rank + 1} at 2" in ours.caption.value
            time.sleep(0.03 if rank % 5 == 0 else 0)

    def steps():
        ours = explore(draw, rank=range(1, 41))
        with ThreadPoolExecutor(1) as thread:
            moved = thread.submit(move, ours)
            yield moved.done
            moved.result()

    in_a_kernel(steps())
    assert not any(together)


def test_neighbours_are_the_next_steps_inside_the_sliders():
    assert neighbours([9, 3], [4, 1], 0, 1) == [(5, 1), (6, 1), (3, 1), (7, 1), (4, 2), (4, 0)]
    assert neighbours([9, 3], [1, 0], 0, -1) == [(0, 0), (2, 0), (1, 1)]


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (40, 70)])
def test_the_quick_png_holds_every_pixel(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 4), dtype=np.uint8)
    image = Image.open(io.BytesIO(figures.quick_png(pixels)))
    image.verify()
    assert (np.asarray(Image.open(io.BytesIO(figures.quick_png(pixels)))) == pixels).all()
