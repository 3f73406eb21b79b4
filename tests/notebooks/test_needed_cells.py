"""What the browser tests leave out of a notebook: only what no slider needs."""

import pytest

from tests.browser.needed import needed_cells

SLIDER = "def draw(ax, r):\n    return shown(ax, found[r])\n\nexplore(draw, r=ranks)"


@pytest.mark.parametrize(
    ("cells", "needed"),
    [
        (["found = {1: 2}; ranks = [1]", "a = 3"], [0]),
        (
            ["import math", "found, ranks = {}, range(3)", "for r in ranks:\n    found[r] = math.pi"],
            [0, 1, 2],
        ),
        (
            ["x = 1", "y = x + 1", "ranks = [y]", "x = 5"],
            [0, 1, 2],
        ),  # from below, x is read before it is made
        (["found, ranks = [], [0, 1]", "found.append(1)", "len(found)"], [0, 1]),
        (["from data import load, fit\n\nmodel = load()", "_ = fit(model)", "found = model(1)"], [0, 1, 2]),
        (
            [
                "from data import load, fit\n\nmodel = load()",
                "def again():\n    fit(model)",
                "found = model(1)",
            ],
            [0, 2],
        ),
        (["import figures", "found = [1]", "figures.lines(found)"], [1]),
        (
            ["torch.manual_seed(0)\nx = torch.rand(1)", "y = torch.rand(1)", "found = torch.rand(1)"],
            [0, 1, 2],
        ),
        (["import torch", "y = torch.rand(1)", "torch.manual_seed(0)\nfound = torch.rand(1)"], [0, 2]),
        (["def scaled(x):\n    return x", "def shown(ax, x):\n    x = scaled(x)", "x = 7"], [0, 1]),
    ],
)
def test_a_cell_runs_if_a_slider_below_needs_what_it_makes_or_changes(cells, needed):
    assert needed_cells([*cells, SLIDER, "after = 1"], lambda code: "explore(" in code) == [
        *needed,
        len(cells),
    ]
