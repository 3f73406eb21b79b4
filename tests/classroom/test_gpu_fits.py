"""Which model fits which GPU: the sliders say what `preflight` decides, the table what a GPU held."""

import re

import pytest

from lora_edu.classroom.experiments import gpu_fits
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
