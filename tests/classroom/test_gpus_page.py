"""docs/gpus.md states what the records of GPU runs hold."""

import re
from statistics import median

import pytest

from lora_edu.classroom import records
from lora_edu.classroom.experiments import gpu_fits
from tools import draw_gpus
from tools.draw_gpus import GIB, alone, scores, shared_gpu, times_as_fast

PAGE = draw_gpus.PAGE.read_text("utf-8")
TEXT = " ".join(PAGE.split())


def test_tables_are_those_of_the_records():
    assert draw_gpus.page_of(PAGE) == PAGE, "run .venv/bin/python -m tools.draw_gpus"


def test_what_the_text_says_of_three_methods_is_in_the_records():
    seen = {name: [100 * seed[0] for seed in seeds] for name, seeds in scores().items()}
    full, lora, qlora = seen.values()
    assert median(lora) - median(full) == pytest.approx(1) and max(full) < min(lora)
    assert min(qlora) <= median(full) and max(qlora) >= median(lora)
    unseen = [[seed[1] for seed in seeds] for seeds in scores().values()]
    assert max(map(min, unseen)) < min(map(max, unseen))  # the ranges meet
    full, lora, qlora = alone().values()
    assert full["GiB"] > lora["GiB"] > qlora["GiB"] and full["seconds"] < lora["seconds"] < qlora["seconds"]


def test_the_rates_are_the_best_on_validation_or_one_line_behind():
    right: dict[str, dict[float, float]] = {"full": {}, "lora": {}}
    for run in records.read("events_gpu_tune")["runs"]:
        right[run["method"]][run["learning_rate"]] = run["exact_match"]
    assert right["lora"][1e-3] == max(right["lora"].values())
    assert round(100 * (max(right["full"].values()) - right["full"][5e-5])) == 1


def test_what_the_text_says_of_two_gpus_is_in_the_records():
    by_model: dict[str, dict[str, dict]] = {}
    for run in shared_gpu():
        by_model.setdefault(run["shape"], {})[run["way"]] = run
    for ways in by_model.values():
        losses = [sum(run["losses"]) / len(run["losses"]) for run in ways.values()]
        assert max(losses) - min(losses) < 0.001
    saved = {
        model: 1 - peak_gib(ways["fsdp"]) / peak_gib(ways["one GPU"]) for model, ways in by_model.items()
    }
    assert 0.18 < saved["Mistral-7B"] < 0.22 and saved["smollm2-135m"] < 0.05
    assert {run["processes"] for run in shared_gpu()} == {1, 2}


def peak_gib(run):
    return max(run["training_peak_gpu_memory_bytes"]) / GIB


def test_the_speeds_are_kept_with_their_revision():
    small, large = times_as_fast("scaling_135m"), times_as_fast("scaling_7b")
    for way in ("ddp", "fsdp"):
        assert re.search(rf"{small[way]:.2f} (?:times .* and|and) {large[way]:.2f}", TEXT), way
    for name in ("scaling_135m", "scaling_7b"):
        assert records.read(name)["revision"].startswith("2e0cc6c") and "revision `2e0cc6c`" in TEXT


def test_what_notebook_12_says_of_gpus_is_in_the_records():
    [source] = (draw_gpus.ROOT / "notebooks" / "src").glob("12_*.py")
    text = source.read_text("utf-8")
    full, lora, qlora = alone().values()
    assert f"{lora['seconds']:.0f} s, full fine-tuning {full['seconds']:.0f} s" in text
    faster = qlora["seconds"] / lora["seconds"] - 1
    assert (
        f"{100 * faster:.0f} % for the 135M: {lora['seconds']:.1f} s against {qlora['seconds']:.1f}" in text
    )
    columns = gpu_fits.measured_columns()
    rows = zip(columns["model"], columns["method"], columns["measured_GiB"], strict=True)
    held = {method: float(gib) for model, method, gib in rows if model == "Mistral-7B"}
    large, small = 1 - held["qlora"] / held["lora"], 1 - qlora["GiB"] / lora["GiB"]
    assert f"{100 * large:.0f} % for a 7B shape, {100 * small:.0f} % for the 135M" in text
