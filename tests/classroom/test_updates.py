"""The recorded updates of notebook 02: sizes, formats and overlaps by a second route."""

import math

import numpy as np
import pytest
import torch

from lora_edu.classroom import records
from lora_edu.classroom.experiments import updates

Q15 = "model.layers.15.self_attn.q_proj"


def test_a_path_leads_back_to_its_kind():
    paths = [updates.path_of(kind, block) for kind in updates.KINDS for block in range(updates.BLOCKS)]
    assert {f"{path}.dW" for path in paths} < set(updates.spectra()) and len(set(paths)) == 210
    assert [updates.kind_of(path) for path in paths[:: updates.BLOCKS]] == list(updates.KINDS)


@pytest.mark.parametrize("block", [0, 15, 29])
def test_sizes_from_singular_values_are_those_of_the_numbers(block):
    path = updates.path_of("q", block)
    update, weight = records.delta_w(path), updates.base_weight(path)
    assert updates.sizes("dW")[0, block] == pytest.approx(update.square().mean().sqrt().item(), rel=1e-4)
    assert updates.sizes("W")[0, block] == pytest.approx(weight.square().mean().sqrt().item(), rel=1e-4)


def test_sizes_agree_with_the_recorded_ratios():
    recorded = records.read("delta_w_seed0")["relative_size"]
    ratios = updates.sizes("dW") / updates.sizes("W")
    for row, kind in enumerate(updates.KINDS):
        for block in range(updates.BLOCKS):
            assert ratios[row, block] == pytest.approx(recorded[updates.path_of(kind, block)], rel=1e-5)


@pytest.mark.parametrize("weight", [0.05, 0.1, 0.125, 0.2, 0.4, 3.0])
def test_the_levels_are_all_bfloat16_numbers_nearby(weight):
    [distances] = updates.bf16_levels(weight, reach=weight / 100).values()
    levels = distances + torch.tensor(weight).bfloat16().double().item()
    assert torch.equal(torch.tensor(levels).bfloat16().double(), torch.tensor(levels))
    step = 2.0 ** (math.floor(math.log2(weight)) - 7)  # 8 significant bits; half of it below a power of two
    assert set(np.diff(distances)) <= {step, step / 2} and {0.0, step} <= set(distances)


@pytest.mark.parametrize(("weights", "reach"), [((0.1, 0.001), 0.002), ((0.1,), 0.0)])
def test_levels_across_zero_are_refused(weights, reach):
    with pytest.raises(ValueError, match="reach must be above 0 and below all weights"):
        updates.bf16_levels(*weights, reach=reach)


def test_what_bfloat16_loses_agrees_with_the_gpu_s_record():
    recorded = records.read("delta_w_overlap")["layers"][Q15]["bf16_error"]
    tuned = updates.base_weight(Q15) + records.delta_w(Q15)
    lost = (tuned.float().bfloat16().double() - tuned).norm() / records.delta_w(Q15).norm()
    assert lost.item() == pytest.approx(recorded, rel=1e-3)


def test_scores_are_the_records():
    seen, unseen = updates.scores().values()
    ranks, shares = unseen["LoRA"]
    for column, rank in enumerate(ranks):
        runs = records.runs("events_gpu_final", method="lora", r=rank)
        assert [row[column] for row in shares] == [run["exact_match_unseen"] for run in runs]
    ranks, shares = seen["full, cut"]
    assert list(ranks) == [1, 2, 4, 8, 16, 32, 64] and np.shape(shares) == (3, 7)


@pytest.mark.parametrize("side", ["left", "right"])
def test_overlaps_are_shares_of_a_space(side):
    """Between 0 and 1; and a space of r directions inside one of 2r shares no less with it: r phi(r) grows."""
    ranks = np.array(records.read("delta_w_overlap")["ranks"])
    for kind in updates.KINDS:
        shared = updates.overlap(kind, side)
        assert shared.shape == (3 * updates.BLOCKS, len(ranks))
        assert shared.min() >= 0 and shared.max() <= 1
        assert (np.diff(shared * ranks) > -1e-6).all()
