"""The updates of an adapter, sorted for their picture."""

import math

import torch

from lora_edu.classroom.experiments.update_maps import updates_by_kind
from lora_edu.classroom.figures import update_map
from lora_edu.llm.inspect import Report, Update


def report_of(*updates):
    return Report({}, updates, {}, ("float32",), 0, 0, (), ())


def update(path, *singular_values):
    return Update(path, (9, 8), torch.tensor(singular_values, dtype=torch.float64))


def test_norms_stand_by_kind_and_block_and_gaps_are_nan():
    q = "model.layers.{}.self_attn.q_proj"
    norms, ranks = updates_by_kind(
        report_of(
            update(q.format(0), 3.0, 4.0),
            update(q.format(2), 1.0, 0.0),
            update("model.layers.1.mlp.up_proj", 2.0, 0.0),
            update("lm_head", 9.0),  # in no block
        ),
        blocks=3,
    )
    assert list(norms) == ["q_proj", "up_proj"]
    assert norms["q_proj"][0] == 5 and math.isnan(norms["q_proj"][1]) and norms["q_proj"][2] == 1
    assert norms["up_proj"][1] == 2 and ranks == {"q_proj": 1.5, "up_proj": 1}


def test_a_layer_without_an_update_keeps_its_cross_where_the_others_are_zero():
    crossed = update_map({"q_proj": [0.0, math.nan]}, {"q_proj": 0}, r=2, alt="Two layers")
    assert len(crossed.lines) == len(update_map({"q_proj": [1.0, math.nan]}, {"q_proj": 1}, r=2).lines) == 2
