import statistics

import pytest
import torch

from lora_edu.classroom import records


def test_a_run_is_found_by_its_settings_and_defaults():
    by_name = records.runs("events_gpu_final", method="lora", r=8)
    assert [run["seed"] for run in by_name] == [0, 1, 2]
    assert all("r" not in run for run in by_name)  # r = 8 is the default, which the record leaves out
    assert len(records.runs("events_gpu_final", method="qlora", backend="scratch")) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: records.read("events_gpu"), "name must be one of .*'classifier'.*, got 'events_gpu'"),
        (lambda: records.runs("events_gpu_final", r=3), r"settings must be those of a run .* got \{'r': 3\}"),
        (lambda: records.delta_w("lm_head"), "path must be one of .*q_proj.*, got 'lm_head'"),
    ],
)
def test_what_was_not_recorded_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_kept_updates_have_the_recorded_singular_values():
    spectra = records.delta_w_spectra()
    assert len(spectra) == 2 * 210
    for block in (0, 15, 29):
        path = f"model.layers.{block}.self_attn.q_proj"
        expected, got = spectra[f"{path}.dW"], torch.linalg.svdvals(records.delta_w(path))
        assert (got - expected).norm() < 1e-4 * expected.norm()  # float16 keeps three digits of each entry


@pytest.mark.parametrize("r", [1, 2, 4, 8, 16, 64])
def test_the_records_hold_three_seeds_a_rank(r):
    runs = records.runs("events_gpu_final", method="lora", r=r)
    assert [run["seed"] for run in runs] == [0, 1, 2]
    assert {run["trainable_parameters"] for run in runs} == {r * 305_280}  # counted by notebook 03


@pytest.mark.parametrize("name", ["scaling_135m", "scaling_7b"])
def test_data_parallel_runs_kept_the_loss_of_one_gpu(name):
    """Within 1 %: each GPU took half of the same sentences."""
    runs = records.read(name)["runs"]
    alone = {run["backend"]: run for run in runs if run["gpus"] == 1}
    for run in runs:
        if run["way"] == "ddp":
            one = alone[run["backend"]]
            assert statistics.mean(run["losses"]) == pytest.approx(statistics.mean(one["losses"]), rel=0.01)
            assert one["seconds"]["step"] > 1.5 * run["seconds"]["step"]


def test_processes_that_shared_a_gpu_kept_the_loss_of_one():
    """Within 1 %, DDP and FSDP, at both sizes; and FSDP took less memory."""
    runs = records.read("scaling_one_gpu")["runs"]
    alone = {run["shape"]: run for run in runs if run["processes"] == 1}
    assert {(run["shape"], run["way"]) for run in runs if run["processes"] == 2} == {
        (shape, way) for shape in alone for way in ("ddp", "fsdp")
    }
    for run in runs:
        one = alone[run["shape"]]
        assert run["losses"] == pytest.approx(one["losses"], rel=0.01)
        if run["way"] == "fsdp":
            assert max(run["training_peak_gpu_memory_bytes"]) < max(one["training_peak_gpu_memory_bytes"])
