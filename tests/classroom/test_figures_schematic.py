"""The drawings that return: their numbers by a second route, their scale, and what collides at other sizes."""

import re
from collections import Counter

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from test_figures import LAYER
from torch import nn

from lora_edu.classroom import figures
from lora_edu.classroom.figures.palette import ROLES
from lora_edu.classroom.figures.schematic import block
from lora_edu.methods.lora import LoRALinear

RNG = np.random.default_rng(0)


def layer_of(out, into, r, scale=1.0):
    return {
        "x": scale * RNG.standard_normal(into),
        "W": scale * RNG.standard_normal((out, into)),
        "A": scale * RNG.standard_normal((r, into)),
        "B": scale * RNG.standard_normal((out, r)),
        "alpha": 3,
    }


def test_the_layer_states_what_the_course_s_own_layer_computes():
    lora = LoRALinear(nn.Linear(5, 4, bias=False), r=2, lora_alpha=4)
    with torch.no_grad():
        for parameter, name in [(lora.base_layer.weight, "W"), (lora.lora_A, "A"), (lora.lora_B, "B")]:
            parameter.copy_(torch.tensor(LAYER[name]))
        y = lora(torch.tensor(LAYER["x"], dtype=torch.float32))
    picture = figures.lora_layer(**LAYER)
    assert f"The sum y is {', '.join(f'{value:g}' for value in y)}." in picture.alt
    drawn = {text.get_text() for text in picture.texts}
    assert {f"{value:g}" for value in y} < drawn and "× 2" in drawn


def test_the_gradients_are_autograd_s():
    x, W, A, B = (torch.tensor(LAYER[name], dtype=torch.float64) for name in "xWAB")
    for tensor in (x, A, B):
        tensor.requires_grad_()
    g = torch.tensor([1, -2, 0.5, -1], dtype=torch.float64)
    hidden = A @ x
    hidden.retain_grad()
    (W @ x + 2 * B @ hidden).backward(g)
    picture = figures.forward_backward(**LAYER, grad_y=g)
    for gradient in (hidden.grad, x.grad):
        assert ", ".join(f"{value:g}" for value in gradient.tolist()) in picture.alt
    drawn = [text.get_text() for text in picture.texts]
    for gradient in (A.grad, B.grad):
        assert {f"{value + 0:g}".replace("-", "–") for value in gradient.flatten().tolist()} < set(drawn)
    assert drawn.count("kept") == 2 and "no gradient of W is made" in drawn


@pytest.mark.parametrize(("out", "into", "r"), [(4, 5, 4), (2, 2, 1), (12, 16, 4), (5, 3, 2)])
def test_no_size_of_layer_collides(out, into, r):
    numbers = layer_of(out, into, r, scale=3)
    for picture in (
        figures.lora_layer(**numbers),
        figures.forward_backward(**numbers, grad_y=RNG.standard_normal(out)),
    ):
        figures.to_quick_png(picture)
        assert figures.collisions(picture) == []


def test_w_and_the_results_stand_still_while_the_rank_moves():
    def places(r):
        numbers = LAYER | {"A": np.ones((r, 5)), "B": np.ones((4, r))}
        picture = figures.lora_layer(**numbers)
        named = {text.get_text(): text.get_position() for text in picture.texts}
        return tuple(picture.canvas.figure.get_size_inches()), [named[name] for name in ("x", "W", "Wx", "y")]

    assert places(1) == places(2) == places(4)


def test_the_seven_layers_are_to_scale_and_carry_what_is_said():
    picture = figures.transformer_block(["v_proj"], r=64)
    filled = [patch for patch in picture.patches if getattr(patch, "get_hatch", str)()]
    sizes = sorted((round(p.get_height(), 4), round(p.get_width(), 4)) for p in filled)
    unit = block.LONGEST / 1536
    shapes = [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)]
    assert sizes == sorted((round(rows * unit, 4), round(columns * unit, 4)) for rows, columns in shapes)
    strips = [p for p in picture.patches if to_hex(p.get_facecolor()) == ROLES["trained"].lower()]
    assert sorted((round(p.get_height(), 4), round(p.get_width(), 4)) for p in strips) == sorted(
        [(round(192 * unit, 4), block.STRIP), (block.STRIP, round(576 * unit, 4))]
    )


@pytest.mark.parametrize("adapted", [(), block.LAYERS])
def test_a_block_collides_with_none_and_with_all_adapters(adapted):
    picture = figures.transformer_block(adapted)
    figures.to_quick_png(picture)
    assert figures.collisions(picture) == []


def test_labels_are_shifted_by_one_and_shaded_by_probability():
    tokens, labels = ["Q", "?", "yes", "!"], [-100, -100, 7, 8]
    picture = figures.scored_example(tokens, labels, probabilities=[0, 0, 0.02, 0.9])
    texts = [(text.get_text(), text.get_position()) for text in picture.texts]
    x = {text: [at[0] for name, at in texts if name == text] for text in tokens}
    (said, read), (next_said, _) = x["yes"], x["!"]
    assert said == x["?"][0] and next_said == read  # said in the place before the one where it is read
    assert len(x["Q"]) == len(x["?"]) == 1
    framed = [p for p in picture.patches if to_hex(p.get_edgecolor()) == ROLES["gradients"].lower()]
    assert len(framed) == 1
    assert any("label \N{MINUS SIGN}100" in text for text, _ in texts) and "the label -100" in picture.alt


def test_a_long_example_takes_more_lines_and_collides_nowhere():
    tokens = [" word", "\n", '":', " longer_token"] * 12
    labels = [-100] * 10 + [1] * 38
    p = RNG.uniform(0, 1, 48)
    picture = figures.scored_example(tokens, labels, probabilities={"base": p, "with adapter": p**0.1})
    figures.to_quick_png(picture)
    assert figures.collisions(picture) == []


def test_of_a_long_row_what_stands_around_the_first_scored_token_is_drawn_and_its_end():
    tokens = [f"w{i}" for i in range(300)]
    rows = {"short": (["Q", "yes"], [-100, 7]), "long": (tokens, [-100] * 200 + [1] * 100)}
    picture = figures.scored_rows(rows, most=40)
    shown = [text.get_text() for text in picture.texts if re.fullmatch(r"w\d+|…|Q|yes", text.get_text())]
    middle, end = range(187, 222), range(295, 300)
    assert shown == ["Q", "yes", "…", *(f"w{i}" for i in middle), "…", *(f"w{i}" for i in end)]
    assert picture.alt == "short: 1 of 2 tokens are scored. long: 100 of 300 tokens are scored."
    shades = Counter(to_hex(patch.get_facecolor()) for patch in picture.patches)
    assert sorted(shades.values()) == [1 + 13 + 2, 1 + 22 + 5]
    figures.to_quick_png(picture)
    assert figures.collisions(picture) == []


@pytest.mark.parametrize(("count", "first"), [(41, 40), (41, 0), (500, 499), (500, 0), (39, 3)])
def test_the_first_scored_token_and_the_last_token_are_always_drawn(count, first):
    rows = {"row": ([f"w{i}" for i in range(count)], [-100] * first + [1] * (count - first))}
    shown = [text.get_text() for text in figures.scored_rows(rows, most=40).texts]
    assert {f"w{first}", f"w{count - 1}"} <= set(shown)
    drawn = [text for text in shown if re.fullmatch(r"w\d+", text)]
    assert len(drawn) == len(set(drawn)) == min(count, 40)
    assert ("…" in shown) == (count > 40)


def test_a_low_probability_is_written_and_a_very_low_one_framed():
    p = [0.9, 0.5, 0.4999, 0.1, 0.0999, 0.004]
    picture = figures.shaded_tokens(list("abcdef"), {"base": p})
    written = [text.get_text() for text in picture.texts if re.fullmatch(r"<?\d+%", text.get_text())]
    assert written == ["50%", "10%", "10%", "<1%"]
    framed = [
        patch for patch in picture.patches if to_hex(patch.get_edgecolor()) == ROLES["gradients"].lower()
    ]
    assert len(framed) == 2
    shades = [sum(patch.get_facecolor()[:3]) for patch in picture.patches]
    assert shades == sorted(shades)  # the surer, the darker


def test_a_long_answer_takes_more_lines_in_which_both_models_stand_above_each_other():
    tokens = [" word", "\n", '":', " longer_token"] * 12
    p = RNG.uniform(0, 1, 48)
    picture = figures.shaded_tokens(tokens, {"base": p, "with adapter": p**0.1})
    figures.to_quick_png(picture)
    assert figures.collisions(picture) == []
    left = sorted(patch.get_x() for patch in picture.patches)
    assert len(left) == 96 and left[::2] == left[1::2]
    assert sum(text.get_text() == "base" for text in picture.texts) > 1


@pytest.mark.parametrize(("step", "lit"), [(0, 1), (29, 30), (30, 30), (59, 1)])
def test_the_light_goes_there_and_back(step, lit):
    picture = figures.weight_life(step, layers=30, wide=1.3, stored=72.4)
    figures.to_quick_png(picture)
    assert figures.collisions(picture) == []
    way = "forward" if step < 30 else "back"
    assert f"On the way {way}, a weight of block {lit} is made wide" in picture.alt


def test_base_and_adapters_have_areas_in_proportion():
    picture = figures.one_base(("base", 256.0), {"large": 16.0, "small": 1.0}, rows=["small", None])
    sizes = [(p.get_width(), p.get_height()) for p in picture.patches if isinstance(p, Rectangle)]
    squares = sorted({round(width, 6) for width, height in sizes if width == height})
    assert [squares[-1] / squares[0], squares[-1] / squares[1]] == pytest.approx([16, 4])


def test_six_rows_and_six_adapters_collide_nowhere():
    adapters = {f"persona {i}": 0.9 + i for i in range(6)}
    picture = figures.one_base(("SmolLM2-135M", 269), adapters, rows=[*adapters])
    figures.to_quick_png(picture)
    assert figures.collisions(picture) == []


def test_a_schematic_takes_a_figure_of_its_own():
    left, _ = figures.new_pictures(2)
    with pytest.raises(ValueError, match="ax must be alone in its figure"):
        figures.lora_layer(**LAYER, ax=left)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.lora_layer(**LAYER | {"x": [1, 2]}), r"x must be finite numbers of shape \(5,\)"),
        (
            lambda: figures.lora_layer(**LAYER | {"B": [[1, 0]]}),
            r"B must be .* shape \(4, 2\), got shape \(1, 2\)",
        ),
        (lambda: figures.lora_layer(**LAYER | {"W": [[np.nan]]}), "W must be finite"),
        (lambda: figures.forward_backward(**LAYER, grad_y=[1]), r"grad_y must be .* shape \(4,\)"),
        (lambda: figures.transformer_block(["query"]), "adapted must name some of"),
        (lambda: figures.transformer_block(r=0), "at least 1"),
        (lambda: figures.scored_example(["a", "b"], [1]), "as many of each"),
        (lambda: figures.scored_rows({"a": (["a", "b"], [1])}), "as many labels as tokens"),
        (lambda: figures.scored_example(["a", "b"], [1, -100]), "one scored after the first"),
        (lambda: figures.scored_example(["a", "b"], [1, 1], probabilities=[1, 2]), "must be probabilities"),
        (lambda: figures.shaded_tokens(["a"], {}), "a token and a model, got 1 and 0"),
        (lambda: figures.shaded_tokens(["a"], {"base": [0.5, 0.5]}), r"base must be .* shape \(1,\)"),
        (lambda: figures.shaded_tokens(["a"], {"base": [1.5]}), "base must be probabilities"),
        (lambda: figures.weight_life(60, layers=30, wide=1, stored=1), r"step must be in 0 … 59, got 60"),
        (lambda: figures.weight_life(0, layers=1, wide=1, stored=1), r"layers must be in 2 … 60"),
        (lambda: figures.weight_life(0, layers=2, wide=0, stored=1), "wide and stored must be above 0"),
        (lambda: figures.one_base(("a", 1), {}), "adapters must be 1 to 6"),
        (lambda: figures.one_base(("a", 1), {"b": 0}), "sizes must be above 0"),
        (lambda: figures.one_base(("a", 1), {"b": 1}, rows=["c"]), r"rows must name some of \['b'\]"),
    ],
)
def test_what_cannot_be_drawn_is_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
