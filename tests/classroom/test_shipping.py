"""What notebook 05b weighs and swaps."""

import pytest
import torch
from torch import nn

from lora_edu.classroom.experiments import shipping
from lora_edu.classroom.experiments.step_sizes import scaling_columns, unseen_by_step
from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.checkpoint import load_adapter
from lora_edu.llm.data import DATA
from lora_edu.methods.lora import LoRALinear


def test_the_parts_add_up_to_the_recorded_peak():
    for method, bar in zip(("full", "lora"), shipping.peaks().values(), strict=True):
        [run] = shipping.records.runs("events_gpu_alone", method=method, cuda_graphs="off")
        assert set(bar) == set(shipping.ROLES)
        assert sum(bar.values()) == pytest.approx(run["peak_gpu_memory_bytes"] / 2**30)
        assert bar["Adam's averages"] == pytest.approx(8 * run["trainable_parameters"] / 2**30)
        weights = bar["frozen weights"] + bar["trained weights"]
        adapters = run["trainable_parameters"] if method == "lora" else 0
        assert weights == pytest.approx(4 * (run["base"]["parameters"] + adapters) / 2**30)


def test_the_sizes_of_updates_are_those_of_the_loaded_layers(base_model_folder):
    model, _ = load_base_model(dtype="float32")
    load_adapter(model, DATA / "adapters" / "robot", adapter_name="robot")
    layers = [layer for layer in model.modules() if isinstance(layer, LoRALinear)]
    sizes = [(layer.delta_weight().norm() / layer.base_layer.weight.norm()).item() for layer in layers]
    found = shipping.update_sizes()
    assert found.shape == (180,) and len(sizes) == 60
    known = found.float().tolist()
    assert all(any(abs(size - other) < 1e-5 for other in known) for size in sizes)


def test_a_swap_without_rounding_leaves_no_error():
    W = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    assert shipping.swapped(W, [torch.ones(2, 2), 2 * torch.ones(2, 2)]) == [0, 0]
    lost = torch.tensor([[1e-9, 0], [0, 1.0]])  # pushed out by an update of 1
    assert shipping.swapped(lost, [torch.ones(2, 2)])[0] == pytest.approx(1e-9)


def test_updates_have_the_size_that_is_asked_for_and_the_same_one_drifts_once():
    W = torch.randn(16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    curves = shipping.drift(W, size=0.5, r=2)
    assert len(curves) == 4 and {len(curve) for curve in curves.values()} == {shipping.SWAPS}
    same, other = curves["bfloat16, the same again"], curves["bfloat16, another each time"]
    assert same[1:] == same[:-1] and other[0] == same[0] and other[-1] > 3 * other[0]
    assert max(curves["float32, another each time"]) < 1e-3 * max(other)


def test_times_are_written_for_each_layer():
    times = shipping.microseconds({"a": nn.Identity(), "b": nn.Linear(2, 2)}, torch.ones(1, 2), rounds=2)
    assert len(times) == 2 and all(int(time) >= 0 for time in times)


def test_the_step_is_scaling_times_rank():
    points = unseen_by_step()
    assert points["s = 2"]["64"][0] == 128 and points["s = 16 / √r"]["4"][0] == 32
    assert {x for x, _ in points["s = 16 / r"].values()} == {16}
    assert all(len(shares) == 3 for line in points.values() for _, shares in line.values())
    assert scaling_columns()["α / r, seen"] == ["96.0%", "96.0%", "96.0%"]
