"""The race of notebook 07: ratios and bytes from made-up rows, the record whole, and the formats on a CPU."""

import itertools

import pytest
import torch
from torch import nn

from lora_edu.classroom import figures
from lora_edu.classroom.experiments import cpu_race, layer_race
from lora_edu.methods.lowrank import relative_error

FASTER = {"bf16": 1.0, "bitsandbytes": 4.0, "lora_edu plain": 0.5, "lora_edu kernels": 0.8}  # than bf16


def rows():
    keys = itertools.product(layer_race.LAYERS.values(), layer_race.TOKENS, FASTER.items(), layer_race.PASSES)
    return [
        {
            "shape": list(shape),
            "tokens": tokens,
            "way": way,
            "passes": work,
            "ratios": [1.0, 2.0 if way == "bitsandbytes" else 1.0, 7.0],
            "kernel_seconds": 1e-3 * tokens / faster,
            "weight_bytes": shape[0] * shape[1] * (2 if way == "bf16" else 0.5),
        }
        for shape, tokens, (way, faster), work in keys
    ]


def test_speeds_are_times_of_bf16_over_those_of_a_way():
    for layer, work in itertools.product(layer_race.LAYERS, layer_race.PASSES):
        found = layer_race.speeds(rows(), layer, work)
        assert found["bitsandbytes"] == pytest.approx([4.0] * 4) and found["ours"] == pytest.approx([0.5] * 4)
        called = layer_race.speeds(rows(), layer, work, clock=layer_race.CALL)
        assert (
            called["bitsandbytes"] == [0.5] * 4 and called["ours"] == [1.0] * 4
        )  # by the median of the ratios


def test_a_token_takes_two_operations_a_weight_and_at_least_reads_the_weights():
    work = layer_race.work_of(rows(), "14,336 × 4,096")
    operations, moved, seconds = work["bf16"][0]
    weights = 14_336 * 4096
    assert (operations, seconds) == (2 * weights, 1e-3)
    assert moved == 2 * weights + 2 * (14_336 + 4096)  # bytes: bfloat16, with its inputs and outputs
    assert work["bitsandbytes"][3][1] == weights / 2 + 512 * 2 * (14_336 + 4096)


def test_a_missing_row_is_named():
    with pytest.raises(ValueError, match=r"lacks \[\('bitsandbytes', 8\)\]"):
        layer_race.rows_of(
            [row for row in rows() if (row["way"], row["tokens"]) != ("bitsandbytes", 8)], "4,096 × 4,096"
        )


def test_the_record_is_whole_and_drawn_without_a_collision():
    record = layer_race.recorded()
    assert record["copy_bytes_a_second"] > 0 and record["peak_operations_a_second"] > 0
    [used] = figures.new_pictures()
    limits = set()
    for layer, work, clock in itertools.product(layer_race.LAYERS, layer_race.PASSES, layer_race.CLOCKS):
        layer_race.draw_speeds(used, layer, work, clock)
        figures.to_quick_png(used)
        assert figures.collisions(used) == [] and not figures.is_cut_off(used)
        limits.add(used.get_ylim())
    assert len(limits) == 1
    roof = layer_race.draw_roof()
    figures.to_quick_png(roof)
    assert figures.collisions(roof) == []


def test_every_format_computes_the_layer_as_well_as_its_bits_allow():
    torch.manual_seed(0)
    wide, x = nn.Linear(128, 64, bias=False), torch.randn(20, 128)
    with torch.no_grad():
        errors = {name: relative_error(wide(x), layer(x)) for name, layer in cpu_race.layers(wide).items()}
    assert list(errors) == ["fp32", "bf16", "int8", "NF4"]
    assert errors["fp32"] == 0 < errors["bf16"] < 0.005 < errors["int8"] < 0.02 < errors["NF4"] < 0.12


def test_a_time_is_above_zero_and_a_bias_is_refused():
    assert 0 < cpu_race.seconds(nn.Linear(8, 8, bias=False), torch.randn(1, 8)) < 1
    with pytest.raises(ValueError, match="wide must have no bias"):
        cpu_race.layers(nn.Linear(8, 8))
