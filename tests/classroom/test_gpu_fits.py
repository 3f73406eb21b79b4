"""Which model fits which GPU: the sliders say what `preflight` decides, the table what a GPU held."""

import re

import pytest

from lora_edu.classroom.experiments import gpu_fits
from lora_edu.classroom.widgets import explore
from lora_edu.llm.budget import preflight

SEQ = 124


@pytest.fixture(scope="module")
def explorer():
    return gpu_fits.explore_fits(SEQ)


def test_every_value_of_every_slider_draws_its_own_picture(explorer):
    swept = explorer.sweep()
    for name, values in explorer.controls.items():
        pictures = {explorer.frame(**{**explorer.start, name: value})[0] for value in values}
        assert len(pictures) == len(values)
    assert all(re.search(r"as asked \d+\.\d+ GiB, preflight \d+\.\d+ GiB", text) for _, text in swept)


@pytest.mark.parametrize("gib", gpu_fits.GPU_GIB)
@pytest.mark.parametrize("method", gpu_fits.METHODS)
@pytest.mark.parametrize("model", gpu_fits.MODELS)
def test_what_is_said_to_fit_passes_preflight_as_it_is(model, method, gib):
    ledger, decision = gpu_fits.verdict(model, method, gib, SEQ)
    available = int(gib * 2**30)
    if decision.startswith("refused"):
        with pytest.raises(MemoryError):
            preflight(ledger, "cuda", available=available)
    else:
        assert preflight(ledger, "cuda", available=available) is ledger
        assert ("checkpointing" in decision) == ledger.settings["gradient_checkpointing"]


def test_the_table_sets_predictions_beside_what_was_measured():
    columns = gpu_fits.measured_columns()
    rows = list(zip(*columns.values(), strict=True))
    assert {(model, method) for model, method, *_ in rows} == {
        (model, method)
        for model in ("SmolLM2-1.7B", "Mistral-7B", "Qwen2.5-7B")
        for method in ("lora", "qlora")
    }
    for model, method, predicted, measured in rows:
        if measured == "out of memory":
            assert (model, method) == ("Qwen2.5-7B", "lora") and float(predicted) > 14.5
        else:
            assert float(predicted) == pytest.approx(float(measured), rel=0.1)


def test_the_ways_that_are_said_to_fit_are_those_whose_numbers_do():
    explorer = explore(gpu_fits.draw_ways, GPU_GiB=gpu_fits.WAYS_GIB)
    swept = explorer.sweep()
    assert len({explorer.frame(**values)[0] for values, _ in swept}) == len(gpu_fits.WAYS_GIB)
    for values, text in swept:
        verdict, _, numbers = text.partition(". Training Mistral-7B takes: ")
        needed = dict(re.findall(r"(full fine-tune|LoRA|QLoRA) (\d+\.\d+) GiB", numbers))
        fitting = [way for way, gib in needed.items() if float(gib) <= values["GPU_GiB"]]
        assert list(needed) == list(gpu_fits.WAYS)
        told = {0: "nothing fits", 1: f"{fitting[0]} fits" if fitting else "", 3: "all three fit"}
        assert verdict.endswith(told.get(len(fitting), f"{' and '.join(fitting)} fit"))


def test_full_training_holds_four_float32_numbers_a_weight():
    """The weight, its gradient, and Adam's two averages."""
    ledger = gpu_fits.gpu_ledger("Mistral-7B", "full", 512, 1)
    assert ledger.total == pytest.approx(16 * 7_241_732_096, rel=0.001)
