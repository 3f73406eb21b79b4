"""Figures: the numbers that they draw, the texts that they carry, the one house style."""

import base64
import inspect
import io
import re

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display
from IPython.utils.capture import capture_output
from matplotlib.colors import to_rgb
from PIL import Image

from lora_edu.classroom import figures
from lora_edu.classroom.figures import palette
from lora_edu.classroom.figures._marks import spread, tick

ALT = "Two lines fall."
LAYER = {
    "x": [1, 2, -1, 0, 1],
    "W": [[1, 2, 0, 1, 3], [0, 1, 1, -1, 2], [2, 3, -1, 3, 4], [1, 3, 1, 0, 5]],
    "A": [[1, 0, 0, -1, 0], [0, 1, 0, 0, 1]],
    "B": [[1, 0], [0, 2], [-1, 1], [0, 1]],
    "alpha": 4,
}
# Of [[4, 0, 0], [0, 3, 0]]: two terms, of 16 and of 9 squared.
DIAGONAL = np.eye(2), [4, 3], np.eye(2, 3)
FIGURES = {
    "adapter_files": lambda **options: figures.adapter_files(
        {"f": [("text", 9), ("q A", 30), ("q B", 40), ("v A", 30), ("v B", 10), ("w A", 30)]}, **options
    ),
    "routes": lambda **options: figures.routes(
        ("mine", "1 MB"),
        {("folder", "1 MB"): {"peft": True, "vLLM": False}, ("gguf", "2 MB"): {"Ollama": False}},
        **options,
    ),
    "woven_rows": lambda **options: figures.woven_rows(6, **options),
    "circle_to_ellipse": lambda **options: figures.circle_to_ellipse([[2, 0], [0, 1]], 90, **options),
    "copy_and_rest": lambda **options: figures.copy_and_rest(*DIAGONAL, 1, reach=4, **options),
    "error_by_rank": lambda **options: figures.error_by_rank({"a": [4, 3, 0]}, rank=1, last=5, **options),
    "spectrum": lambda **options: figures.spectrum({"a": [4, 3, 0]}, rank=1, last=5, **options),
    "terms": lambda **options: figures.terms(*DIAGONAL, count=2, **options),
    "course_map": lambda **options: figures.course_map(**options),
    "break_even": lambda **options: figures.break_even({"v": (192, 576)}, **options),
    "log_log": lambda **options: figures.log_log({"a": [1, 100], "b": [10, 10]}, x=[1, 100], **options),
    "share_by_rank": lambda **options: figures.share_by_rank({"a": [0.5, 1]}, ranks=[1, 8], **options),
    "update_to_scale": lambda **options: figures.update_to_scale(30, 40, 2, **options),
    "update_map": lambda **options: figures.update_map(
        {"q_proj": [1, 4, float("nan")], "v_proj": [2, 0, 3]}, {"q_proj": 5.5, "v_proj": 3}, r=8, **options
    ),
    "lines": lambda **options: figures.lines({"a": [3, 1], "b": [2, 1]}, **options),
    "loss_curve": lambda **options: figures.loss_curve({"QLoRA": [3, 1]}, **options),
    "bars": lambda **options: figures.bars({"a": [1, 2], "b": [2, 3]}, groups=["x", "y"], **options),
    "bit_fields": lambda **options: figures.bit_fields(
        {"a": ({"sign": "1", "rest": "010"}, "-2")}, **options
    ),
    "energy_by_rank": lambda **options: figures.energy_by_rank({"a": [0.5, 1]}, rank=1, **options),
    "equal_shares": lambda **options: figures.equal_shares(4, **options),
    "error_budget": lambda **options: figures.error_budget(
        {"a": ([4, 5], [0.2, 0.1]), "b": ([4.5, 6], [0.3, 0.1])}, chosen=(5, 0.1), **options
    ),
    "error_by_bits": lambda **options: figures.error_by_bits(
        {"a": ([4, 5], [0.2, 0.1]), "b": ([4.5, 6], [0.3, 0.1])}, **options
    ),
    "level_use": lambda **options: figures.level_use([-1, 0, 1], [0.2, 0.5, 0.3], **options),
    "shaded_table": lambda **options: figures.shaded_table(
        {"4 bits": {"a": [0.1, 0.5], "b": [0.2, 0.4]}},
        columns=["x", "y"],
        limits=[(0, 1)] * 2,
        formats=["{:.1f}"] * 2,
        **options,
    ),
    "stored_bytes": lambda **options: figures.stored_bytes(64, **options),
    "image": lambda **options: figures.image([[0, 0.5], [0.2, 1]], **options),
    "form_and_copied": lambda **options: figures.form_and_copied(
        [2, 0.05, 0.01], [1, 0.8, 0.6], {2: 0.5}, steps=9, **options
    ),
    "next_token": lambda **options: figures.next_token({"a": 0.7, "b": 0.2}, right="b", **options),
    "numbered_levels": lambda **options: figures.numbered_levels([-1, 0, 0.5, 1], 0.6, **options),
    "original_and_copy": lambda **options: figures.original_and_copy(
        [[0, 0.6], [0.8, 9]], [[0, 0], [0.8, 9]], **options
    ),
    "roof_by_tokens": lambda **options: figures.roof_by_tokens(
        {"wide": [(1e9, 1e9, 1e-3), (1e12, 2e9, 0.1)], "narrow": [(1e9, 2.5e8, 1e-3), (1e12, 1e9, 0.2)]},
        tokens=[1, 512],
        bandwidth=1e12,
        peak=1e14,
        **options,
    ),
    "speed_by_tokens": lambda **options: figures.speed_by_tokens(
        {"a": [3, 0.5], "b": [0.1, 0.2]}, tokens=[1, 512], cited={"T4": 2.2, "H100": 4.0}, **options
    ),
    "product": lambda **options: figures.product([[1], [2]], [[3, 4, -1]], **options),
    "rank_error": lambda **options: figures.rank_error({"a": [1, 0.5, 0]}, rank=1, **options),
    "roofline": lambda **options: figures.roofline(
        {"a": (1e9, 2e9, 0.1)}, bandwidth=1e12, peak=1e13, **options
    ),
    "running_time": lambda **options: figures.running_time({"a": [1, 8]}, sizes=[2, 4], **options),
    "drift": lambda **options: figures.drift(
        {"a": [1e-3, 2e-3, 4e-3], "b": [1e-8, 1e-8, 1e-8]}, update=0.02, **options
    ),
    "memory_at_peak": lambda **options: figures.memory_at_peak(
        {"full": {"W": 1, "g": 2}, "LoRA": {"W": 1, "g": 0}},
        roles={"W": "frozen", "g": "gradients"},
        **options,
    ),
    "score_by_rate": lambda **options: figures.score_by_rate(
        {"r = 1": [0.2, 0.7, 0.5], "r = 8": [0.2, 0.3, 0.6]}, rates=[0.01, 0.1, 1], **options
    ),
    "score_by_step": lambda **options: figures.score_by_step(
        {"a": {"r = 1": (2, [0.5, 0.6, 0.7]), "r = 8": (16, 0.8)}, "b": {"r = 4": (16, 0.4)}}, **options
    ),
    "kept_by_size": lambda **options: figures.kept_by_size(
        {"a": [[0, 0.9], [0.1, 1]], "b": [0, 0.8]}, sizes=[0.01, 1], updates=[[0.02, 0.01]], **options
    ),
    "trade_off": lambda **options: figures.trade_off(
        {"rates": {"low": [[1, 0.2], [1.1, 0.3]], "high": [[2, 0.9]]}, "steps": {"30": [[1.5, 0.4]]}},
        base=(0.9, 0),
        **options,
    ),
    "stacked": lambda **options: figures.stacked({"a": {"b": 1}}, limit=("full", 2), largest=3, **options),
    "forward_backward": lambda **options: figures.forward_backward(
        **LAYER, grad_y=[1, -2, 0.5, -1], **options
    ),
    "lora_layer": lambda **options: figures.lora_layer(**LAYER, **options),
    "one_base": lambda **options: figures.one_base(
        ("base", 269), {"robot": 0.9, "events": 4.8}, rows=["robot", None], **options
    ),
    "one_job": lambda **options: figures.one_job(
        "Ada sings at noon.", "What a fine day!", '{"who": "Ada"}', base=112, adapter=9.8, **options
    ),
    "scored_example": lambda **options: figures.scored_example(
        ["Hi", " you", "{", "a", "}"], [-100, -100, 5, 6, 7], probabilities=[0, 0, 0.05, 0.5, 1], **options
    ),
    "scored_rows": lambda **options: figures.scored_rows(
        {"short": (["Hi", "yes"], [-100, 5]), "long": (["a"] * 8 + ["b"] * 4, [-100] * 8 + [1] * 4)},
        **options,
    ),
    "shaded_tokens": lambda **options: figures.shaded_tokens(
        ["{", "a", "}"], {"base": [0.05, 0.5, 0.9], "tuned": [1, 0.9, 0.95]}, **options
    ),
    "transformer_block": lambda **options: figures.transformer_block(["q_proj", "down_proj"], **options),
    "weight_life": lambda **options: figures.weight_life(3, layers=30, wide=1.3, stored=72.4, **options),
    "column_times_row": lambda **options: figures.column_times_row([[1, 2]], [[3, 0, -1]], **options),
    "nearby_levels": lambda **options: figures.nearby_levels(
        {"a": [-1, 0, 1], "b": [-2, 0, 2]}, change=0.75, **options
    ),
    "rank_panels": lambda **options: figures.rank_panels(
        {"seen": {"a": ([1, 8], [0.5, 1])}, "unseen": {"a": ([1, 8], [0.2, 0.4])}}, **options
    ),
    "update_sizes": lambda **options: figures.update_sizes(
        [[0.2, 0.4]], [[0.001, 0.001]], groups=["q"], marked=("block 0", 0), **options
    ),
    "held_over_time": lambda **options: figures.held_over_time(
        {"at rest": {"W": 1, "g": 0}, "after": {"W": 1, "g": 2}},
        roles={"W": "frozen", "g": "gradients"},
        now=1,
        **options,
    ),
}


def test_every_figure_is_tried_here():
    functions = inspect.getmembers(figures, inspect.isfunction)
    verbs = {name for name, f in functions if inspect.signature(f).return_annotation == "Picture"}
    assert verbs == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_describes_itself_unless_told_how(name):
    own = FIGURES[name]().alt
    assert re.search(r"\d", own) and own.endswith(".") and "  " not in own and "nan" not in own
    assert FIGURES[name](alt=ALT).alt == ALT
    for empty in ("", "  ", 3):
        with pytest.raises(ValueError, match="alt must say"):
            FIGURES[name](alt=empty)


# What a sentence must hold, worked out by hand from the numbers in FIGURES.
TOLD = {
    "adapter_files": ["f: 149 bytes, of which 9 of text, then 5 tensors", "q A 30, q B 40, v A 30, v B 10"],
    "routes": [
        "mine, 1 MB, becomes 2 files",
        "folder (1 MB): peft, run here and vLLM, a recipe",
        "gguf (2 MB): Ollama, a",
    ],
    "woven_rows": ["0 with 3, 1 with 4 and 2 with 5", "order 0, 3, 1, 4, 2, 5"],
    "circle_to_ellipse": ["half axes of 2.00 and 1.00", "0.00 along v₁ and 1.00 along v₂", "y is 1.00 long"],
    "copy_and_rest": ["5 numbers in place of 6", "error 60.0%", "missing reach 3"],
    "error_by_rank": ["rank 1: a 60%"],
    "spectrum": ["a 0.8", "beyond term 1"],
    "terms": ["2 × 3", "64% and 36%"],
    "break_even": ["50% of", "99% where", "v, 192 × 576, breaks even at rank 144 of 192"],
    "log_log": ["a: 1 at 1, 100 at 100", "b: 10 at 1"],
    "share_by_rank": ["50% at 1, 100% at 8"],
    "update_to_scale": ["30 × 40", "1,200", "140", "11.67%"],
    "update_map": [
        "q_proj: norm 2.5, at most 4 in block 1",
        "rank 5.5 of 8; 1 block without, 2",
        "rank 3 of 8.",
    ],
    "lines": ["a: 3 at 1, 1 at 2", "b: 2 at 1, 1 at 2"],
    "loss_curve": ["3 at 1, 1 at 2"],
    "bars": ["a: x 1 and y 2", "b: x 2 and y 3"],
    "bit_fields": ["a: 1 010, -2"],
    "energy_by_rank": ["0.5 at 1, 1 at 2", "rank 1"],
    "equal_shares": ["4 slices", "0.674"],
    "course_map": ["03 leads to 04 and 07", "10 is the goal"],
    "error_budget": ["0.2 at 4, 0.1 at 5", "0.3 at 4.5, 0.1 at 6"],
    "error_by_bits": ["0.2 at 4, 0.1 at 5"],
    "forward_backward": ["are kept", "1, 3", "4 × 2", "2 × 5", "20 numbers are saved, 18 are made", "1, -9"],
    "level_use": ["the level 0, by 50%", "least -1, by 20%: 2.5 times", "33.3 %"],
    "shaded_table": ["4 bits: x a (0.1) and y b (0.4)"],
    "stored_bytes": ["8,192 bytes of codes", "1,024 bytes: 4.500", "4.12695"],
    "image": ["2 × 2", "0 to 1"],
    "lora_layer": ["8, 3, 13, 11", "1, 3", "= 2", "2, 12, 4, 6", "10, 15, 17, 17", "18 numbers", "20"],
    "next_token": ["a 70.0% and b 20.0%", "number 2"],
    "numbered_levels": ["4 levels, numbered 0 to 3", "0.6 is stored as 2", "off by 0.1", "gap is 0.25"],
    # Of the numbers from 0 to 1, 0.6 of 0.6 and 0.8 is lost.
    "original_and_copy": ["2 of 4 numbers are read back as 0", "largest is 9", "error of 60.0%"],
    # 1 and 4 operations a byte of 1e12 bytes a second; 500 and 1000, of 1e14 operations.
    "roof_by_tokens": ["bends at 100", "wide: 100% of", "10% of", "narrow: 25% of", "5% of"],
    "speed_by_tokens": ["a: 3 at 1 and 0.5 at 512", "b: 0.1 at 1", "T4 2.2 and H100 4"],
    # Means: 2, 1.025, 0.687; 1, 0.9, 0.8.
    "form_and_copied": ["form: 2 at step 1, 0.687 at step 3", "copied: 1 at step 1, 0.8", "0.5 after 2"],
    "kept_by_size": ["a: 5.0% at 1 %, 95% at 100 %", "b: 0% at 1 %, 80% at 100 %"],
    "trade_off": ["low 25% at 1.05 and high 90% at 2.00", "30 40% at 1.50", "The base: 0% at 0.90"],
    "one_job": ["112 MB in 4 bits", "Ada sings", "alone answers: What a", '9.8 MB: {"who": "Ada"}'],
    "one_base": ["269 MB", "robot 0.9 MB", "2.1%", "row 2 by the base alone"],
    "product": ["2 × 1", "1 × 3", "-2 and 8"],
    "rank_error": ["1 at 0, 0 at 2", "rank 1"],
    "roofline": ["bends at 10", "a reaches 2%"],
    "running_time": ["1 at 2, 8 at 4"],
    "shaded_tokens": ["base: 1 of them below 50%", "48% on average", "at {: 5.0%", "tuned: 0 of them"],
    "scored_rows": ["short: 1 of 2 tokens are scored", "long: 4 of 12"],
    "scored_example": ["5 tokens", "3 are scored", "52% on average", "at {: 5.0%"],
    "drift": ["Updates of 2 % of W", "after 3 swaps: a 0.4 % and b 1e-06 %"],
    "memory_at_peak": ["full: W 1.00 and g 2.00, together 3.00", "LoRA: W 1.00, together 1.00"],
    "score_by_rate": ["r = 1 70% at 0.1 and r = 8 60% at 1."],
    "score_by_step": ["a: r = 1 60% and r = 8 80%", "b: r = 4 40%"],
    "stacked": ["a 1 (fits)", "full, is 2 GB"],
    "column_times_row": ["1, 2 times the row 3, 0, -1", "2 × 3", "rank 1"],
    "nearby_levels": ["A change of 0.75", "a: at 1 from the start", "b: back at the start"],
    "rank_panels": ["Seen: a 50% at 1, 100% at 8", "Unseen: a 20% at 1, 40% at 8"],
    "update_sizes": ["2 weights", "0.2 to 0.4, a factor of 2", "dW / W: 0.0025 to 0.005", "q, block 0"],
    "held_over_time": ["Now, after: 3 MiB, of W 1 and g 2", "1 at rest and 3 after"],
    # q: 8 (576 + 576), down: 8 (576 + 1536)
    "transformer_block": ["q and down carry A and B of rank 8: 26,112", "3,538,944", "k, v, o, gate and up"],
    "weight_life": ["30 blocks", "72.4 MB", "block 4", "1.3 MB"],
}


@pytest.mark.parametrize("name", FIGURES)
def test_the_sentence_holds_the_numbers_drawn(name):
    assert [words for words in TOLD[name] if words not in FIGURES[name]().alt] == []


@pytest.mark.parametrize("name", FIGURES)
def test_text_is_legible_on_a_projector_and_nothing_collides(name):
    picture = FIGURES[name](
        title="What a figure found out, in a sentence that takes more than a line of the card"
    )
    figures.to_quick_png(picture)
    assert figures.collisions(picture) == []
    texts = [picture.title, *picture.texts]
    if picture.axison:
        texts += [picture.xaxis.label, *picture.get_xticklabels()]
        texts += [picture.yaxis.label, *picture.get_yticklabels()]
    assert min(text.get_fontsize() for text in texts) >= 13


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_shows_a_png_and_its_text(name):
    InteractiveShell.instance()
    with capture_output() as captured:
        display(FIGURES[name](alt="a < b"))
    picture, text = captured.outputs
    assert base64.b64decode(picture.data["image/png"]).startswith(b"\x89PNG")
    metadata = picture.metadata["image/png"]
    assert metadata["alt"] == "a < b"
    width, height = Image.open(io.BytesIO(base64.b64decode(picture.data["image/png"]))).size
    # Sharp on a screen of double density. What is cut out may be an odd number of pixels wide.
    assert (metadata["width"], metadata["height"]) == (width // 2, height // 2)
    assert text.data == {"text/html": "<p>a &lt; b</p>", "text/plain": "a < b"}


@pytest.mark.parametrize("name", FIGURES)
def test_redrawing_gives_the_picture_that_drawing_gives(name):
    [used] = figures.new_pictures()
    figures.lines({"old": [5, 4, 3]}, ax=used, alt=ALT, log_y=True)
    figures.to_quick_png(used)
    redrawn = FIGURES[name](ax=used, alt=ALT)
    assert redrawn is used
    assert figures.to_quick_png(redrawn) == figures.to_quick_png(FIGURES[name](alt=ALT))


def test_series_differ_without_colour():
    names = "abcdefg"
    picture = figures.lines({name: [1, 2] for name in names}, alt=ALT)
    assert len({line.get_marker() for line in picture.lines}) == len(names)
    bars = figures.bars({name: [1, 2] for name in names}, groups=["x", "y"], alt=ALT)
    assert len({container.patches[0].get_hatch() for container in bars.containers[: len(names)]}) > 1
    assert len({c.patches[0].get_hatch() for c in bars.containers if hasattr(c, "patches")}) == len(names)


def test_repeats_become_median_and_range():
    repeats = np.array([[1.0, 2.0], [3.0, 6.0], [2.0, 10.0]])
    picture = figures.lines({"three seeds": repeats, "one": [0.0, 0.0]}, alt=ALT)
    np.testing.assert_array_equal(picture.lines[0].get_ydata(), [2, 6])
    [band] = picture.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (1, 10)


def test_bars_that_a_slider_moves_can_keep_one_axis():
    axes = [figures.bars({"a": [x, 0]}, groups=["x", "y"], top=1.15, alt=ALT).get_ylim() for x in (0.2, 1)]
    assert axes == [(0, 1.15)] * 2


def test_an_image_cuts_off_beyond_its_limits():
    picture = figures.image([[-9, 0], [2, 9]], limits=(-1, 3), alt=ALT)
    assert picture.images[0].get_clim() == (-1, 3)
    np.testing.assert_array_equal(picture.images[0].get_array(), [[-9, 0], [2, 9]])


def test_a_product_stands_in_the_rows_and_columns_it_is_made_of():
    picture = figures.product([[1, 2], [0, -1], [3, 0]], [[1, 5], [2, 0]], names=("P", "Q"), alt=ALT)
    at = {text.get_position(): text.get_text() for text in picture.texts}
    # P begins at (0, 3.5), Q at (3.5, 0) and the result at (3.5, 3.5); texts are in the middle of a cell.
    assert (at[0.5, 4.0], at[1.5, 4.0], at[0.5, 6.0]) == ("1", "2", "3")
    assert (at[4.0, 0.5], at[5.0, 0.5], at[4.0, 1.5]) == ("1", "5", "2")
    assert [[at[4.0 + j, 4.0 + i] for j in range(2)] for i in range(3)] == [
        ["5", "5"],
        ["-2", "0"],
        ["3", "15"],
    ]
    assert {"P: 3 × 2", "Q: 2 × 2", "PQ: 3 × 2"} < set(at.values())


def test_an_error_curve_begins_at_rank_0_and_marks_a_rank():
    picture = figures.rank_error({"a": [1, 0.5, 0.1], "b": [1, 0.9, 0.8]}, rank=2, alt=ALT)
    first, _, mark = picture.lines
    assert list(first.get_xdata()) == [0, 1, 2] and set(mark.get_xdata()) == {2}
    assert len(figures.rank_error({"a": [1, 0.5]}, alt=ALT).lines) == 1


def test_a_power_law_of_running_time_is_straight():
    sizes = np.array([512, 1024, 2048])
    picture = figures.running_time({"cubic": sizes**3 / 1e9}, sizes=sizes, alt=ALT)
    points = picture.transData.transform(np.column_stack(picture.lines[0].get_data()))
    slopes = np.diff(points[:, 1]) / np.diff(points[:, 0])
    assert slopes[0] == pytest.approx(slopes[1])
    assert [tick.get_text() for tick in picture.get_xticklabels()] == ["512", "1,024", "2,048"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.lines({"a": [1, 2]}, x=[1, 2, 3], alt=ALT), r"a must have shape \(3,\).*got \(2,\)"),
        (lambda: figures.lines({"a": []}, alt=ALT), r"a must have shape \(n,\)"),
        (lambda: figures.lines({"a": np.zeros((2, 2, 2))}, alt=ALT), r"got \(2, 2, 2\)"),
        (lambda: figures.bars({"a": [1]}, groups=["x", "y"], alt=ALT), r"a must have shape \(2,\)"),
        (lambda: figures.image([1, 2], alt=ALT), r"values must have shape \(rows, columns\), got \(2,\)"),
        (lambda: figures.image(np.zeros((0, 3)), alt=ALT), r"values must have shape .*got \(0, 3\)"),
        (lambda: figures.product([[1, 2]], [[1, 2]], alt=ALT), r"must chain.*got \(1, 2\) and \(1, 2\)"),
        (lambda: figures.product([1], [[1]], alt=ALT), r"left must have shape"),
        (lambda: figures.rank_error({"a": [1, 0]}, rank=2, alt=ALT), r"rank must be in 0 … 1, got 2"),
        (lambda: figures.rank_error({"a": [1, 0], "b": [1]}, alt=ALT), r"b must have shape \(2,\)"),
        (lambda: figures.running_time({"a": [1]}, sizes=[2, 4], alt=ALT), r"a must have shape \(2,\)"),
    ],
)
def test_a_wrong_shape_is_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_a_picture_is_a_light_card_with_transparent_corners():
    picture = figures.lines({"a": [3, 1]})
    pixels = np.asarray(Image.open(io.BytesIO(figures.to_png(picture))).convert("RGBA"))
    paper = [*(round(255 * part) for part in to_rgb(palette.PAPER)), 255]
    assert [pixels[y, x, 3] for y in (0, -1) for x in (0, -1)] == [0, 0, 0, 0]
    assert pixels[12, 700].tolist() == pixels[12, 100].tolist() == paper  # on a dark page too


@pytest.mark.parametrize("seed", range(20))
def test_labels_are_spread_in_their_order_and_never_overlap(seed):
    random = np.random.default_rng(seed)
    tall = random.uniform(0.05, 0.2, 4)
    wanted = random.uniform(-0.2, 1.2, 4)
    placed = np.array(spread(wanted.tolist(), tall.tolist()))
    order = np.argsort(wanted)
    gaps = np.diff(placed[order]) - (tall[order][1:] + tall[order][:-1]) / 2
    assert gaps.min() > -1e-9
    assert (placed - tall / 2).min() > -1e-9 and (placed + tall / 2).max() < 1 + 1e-9


def test_labels_with_room_stand_where_their_lines_end():
    assert spread([0.2, 0.8, 0.5], [0.1, 0.1, 0.1]) == pytest.approx([0.2, 0.8, 0.5])


def test_a_number_stands_at_its_bar_and_not_at_its_whisker():
    picture = figures.bars({"a": [[0.5], [0.9], [0.1]]}, groups=["x"])
    figures.to_quick_png(picture)
    [number] = picture.texts
    assert number.get_text() == "0.5" and number.xy[1] == 0.5 and figures.collisions(picture) == []


def test_collisions_are_found():
    picture = figures.lines({"a": [3, 1]})
    picture.text(0.5, 0.5, "one", transform=picture.transAxes)
    picture.text(0.5, 0.5, "two", transform=picture.transAxes)
    picture.text(1.2, 0.5, "three", transform=picture.transAxes, clip_on=False).set_in_layout(False)
    figures.to_quick_png(picture)
    assert figures.collisions(picture) == ["'one' meets 'two'", "'three' leaves the card"]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (350000, "350,000"),
        (2.5e6, "2.5 million"),
        (7e9, "7 billion"),
        (2e-8, "2e-8"),
        (0.25, "0.25"),
        (0, "0"),
    ],
)
def test_ticks_have_separators_and_need_no_offset(value, written):
    assert tick(value) == written


def test_what_is_marked_is_named():
    marks = {"best": (2, 1), "chance": (None, 2), "warm-up": ((1, 1.5), None), "here": (2, None)}
    picture = figures.lines({"a": [3, 1]}, mark=marks)
    assert [text.get_text() for text in picture.texts] == list(marks)
    assert picture.alt.endswith("Marked: best, chance, warm-up and here.")


def test_a_label_stands_at_its_line_s_end_though_the_layout_is_kept():
    [picture] = figures.new_pictures()
    for steep in (1, 50):
        figures.lines({"steep": [0, steep], "flat": [0, 1 / 4]}, ax=picture)
        figures.to_quick_png(picture)
        figures.freeze_layout(picture)
    label = next(text for text in picture.texts if text.get_text() == "steep")
    box = label.get_window_extent()
    end = picture.transData.transform((2, 50))[1]
    assert box.y0 - 20 < end < box.y1 + 20
