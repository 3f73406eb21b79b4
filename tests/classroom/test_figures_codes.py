"""Figures of codes and of what a format stores: what stands where, and that axes stand still."""

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from lora_edu.classroom import figures

CODES = np.linspace([-1, 0.1, 1], [-1, 0.5, 1], 5)  # three levels, four steps
ERRORS = np.linspace(0.3, 0.1, 5)
TARGET = {"target": [-1, 0.55, 1], "target_error": 0.09}
ROWS = {"4 bits": {"a": [0.1, 0.5], "b": [0.2, 0.4]}, "5 bits": {"c": [0.05, 0.3]}}
TABLE = {"columns": ["x", "y"], "limits": [(0, 0.2)] * 2, "formats": ["{:.2f}", "{:.0%}"]}


def settled(step, pictures=None, **options):
    pictures = pictures or figures.new_pictures(2)
    figures.settling(*pictures, CODES, ERRORS, step=step, title="They settle", **TARGET | options)
    figures.to_quick_png(pictures[0])
    return pictures


def test_levels_walk_down_to_the_step_and_the_axes_stand_still():
    walk, error = settled(2)
    assert [line.get_xdata().tolist() for line in walk.lines] == [
        [-1] * 3,
        [0.1, 0.2, pytest.approx(0.3)],
        [1] * 3,
    ]
    assert walk.yaxis_inverted() and error.lines[-1].get_ydata().tolist() == ERRORS[:3].tolist()
    limits = [picture.axis() for picture in (walk, error)]
    assert [picture.axis() for picture in settled(4)] == limits
    assert figures.to_png(settled(1, settled(4))[0]) == figures.to_png(settled(1)[0])


def test_a_level_that_none_uses_is_no_times_rarer():
    picture = figures.level_use([-1, 0, 1], [0.0, 0.5, 0.5], title="One lies idle")
    assert "least -1, by none." in picture.alt and "inf" not in picture.alt


def test_the_sentence_says_how_far_the_levels_are():
    [walk, _] = settled(4)
    assert walk.alt.startswith(
        "After 4 of 4 steps no level lies farther than 0.05 from NF4's. The error is 0.1000"
    )


def test_stems_stand_at_their_levels_and_a_line_at_equal_use():
    picture = figures.level_use([-1, 0, 1], [0.2, 0.5, 0.3], title="No equal use")
    stems = {s[0, 0]: s[1, 1] for s in picture.collections[0].get_segments()}
    assert stems == {-1: 20, 0: 50, 1: 30}
    assert picture.lines[0].get_ydata()[0] == pytest.approx(100 / 3)
    assert "2.5 times" in picture.alt and "Most used is the level 0, by 50%" in picture.alt


def test_the_least_of_each_group_is_framed_and_larger_is_deeper():
    picture = figures.shaded_table(ROWS, title="A table", **TABLE)
    cells = [p for p in picture.patches if p.get_fill()]
    frames = [p.get_xy() for p in picture.patches if not p.get_fill()]
    assert len(cells) == 6 and len(frames) == 2  # no frame where a group has one row
    shade = {cell.get_xy(): np.mean(cell.get_facecolor()[:3]) for cell in cells}
    written = [text.get_text() for text in picture.texts]
    assert {"0.10", "50%", "4 bits", "5 bits", "a", "b", "c", "x", "y"} <= set(written)
    xs, ys = (sorted({xy[i] for xy in shade}) for i in (0, 1))
    assert frames == [pytest.approx((xs[0], ys[2])), pytest.approx((xs[1], ys[1]))]
    assert shade[xs[0], ys[0]] > shade[xs[0], ys[2]] > shade[xs[0], ys[1]]


@pytest.mark.parametrize("blocksize", [16, 64, 128])
def test_every_byte_has_the_same_area(blocksize):
    picture = figures.stored_bytes(blocksize, title="Bytes")
    areas = [p.get_width() * p.get_height() for p in picture.patches if isinstance(p, Rectangle)][:5]
    codes = 256 * blocksize // 2
    sizes = np.array([codes, 1024, codes, 256, 4])
    assert np.array(areas) / sizes == pytest.approx(areas[0] / codes)
    assert f"{4 + 8 / blocksize + 32 / blocksize / 256:.5f}" in picture.alt


@pytest.mark.parametrize("blocksize", [16, 32, 64, 128])
def test_nothing_collides(blocksize):
    for picture in (figures.stored_bytes(blocksize, title="Bytes"), settled(3)[0]):
        figures.to_quick_png(picture)
        assert figures.collisions(picture) == [] and not figures.is_cut_off(picture)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: settled(5), "step lie in 0 … 4"),
        (lambda: settled(1, target=[0.0]), "errors and target must fit codes"),
        (lambda: figures.level_use([0, 1], [1.0]), r"got \(2,\) and \(1,\)"),
        (lambda: figures.shaded_table({"g": {"a": [1.0]}}, **TABLE), "rows of 2 numbers"),
        (lambda: figures.shaded_table({}, **TABLE), "rows of 2 numbers"),
        (
            lambda: figures.shaded_table(ROWS, **TABLE | {"limits": [(0, 1), (2, 2)]}),
            "limits must be pairs that ascend",
        ),
        (lambda: figures.stored_bytes(130), "blocksize must be an even number from 16 to 128, got 130"),
        (lambda: figures.stored_bytes(17), "blocksize must be an even number from 16 to 128, got 17"),
    ],
)
def test_what_cannot_be_drawn_is_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
