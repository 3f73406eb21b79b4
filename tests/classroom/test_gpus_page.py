"""docs/gpus.md states what the records of GPU runs hold."""

import re
from statistics import median

import pytest

from lora_edu.classroom import records
from lora_edu.classroom.experiments import gpu_fits
from lora_edu.classroom.experiments.in_memory import cases
from tools import draw_gpus
from tools.draw_gpus import GIB, METHODS, alone, scores, shared_gpu, times_as_fast

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
    off, on = (list(alone(way).values()) for way in ("off", "on"))
    assert off[0]["GiB"] > off[1]["GiB"] > off[2]["GiB"]
    assert off[0]["seconds"] < off[1]["seconds"] < off[2]["seconds"]
    assert on[1]["ms"] == pytest.approx(on[0]["ms"], rel=0.05)
    more, more_replayed = (costs[2]["ms"] - costs[1]["ms"] for costs in (off, on))
    assert f"takes {more_replayed:.0f} ms more than LoRA's with graphs, and {more:.0f} without" in TEXT
    capstones = records.read("cuda_graphs")["runs"]
    paged, adamw = (capstones[case] for case in ("capstone, peft", "capstone, peft, AdamW"))
    more, more_replayed = (
        1000 * (paged[way]["seconds"]["step"] - adamw[way]["seconds"]["step"]) for way in ("off", "on")
    )
    assert f"it took {more_replayed:.0f} and {more:.0f} ms more than AdamW" in TEXT
    for method in METHODS:
        plain, replayed = records.runs("events_gpu_alone", method=method)
        assert plain["exact_match"] == replayed["exact_match"]
        assert plain["exact_match_unseen"] == replayed["exact_match_unseen"]


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
    seconds = {
        model: {way: run["seconds"]["step"] for way, run in ways.items()} for model, ways in by_model.items()
    }
    small, large = (
        seconds[model]["one GPU"] / seconds[model]["ddp"] for model in ("smollm2-135m", "Mistral-7B")
    )
    assert f"already took {small:.2f} and {large:.2f} times as many steps a second" in TEXT


def test_what_the_text_says_of_a_t4_is_in_the_records():
    asked = {
        "model": "Mistral-7B",
        "method": "qlora",
        "backend": "peft",
        "batch": 1,
        "gradient_checkpointing": True,
    }
    found = {
        (seq, attention): f"{entry['measured_bytes'] / GIB:.2f}"
        for seq in (512, 2048)
        for attention in (True, False)
        for entry in cases("gpu_memory", seq=seq, cuda_graphs=False, **asked)
        if entry["case"].get("flash_attention", True) == attention
        and entry["case"]["dtype"] == ("bfloat16" if attention else "float16")
    }
    assert (
        f"took {found[512, False]} GiB instead of {found[512, True]} for QLoRA of Mistral-7B, "
        f"and {found[2048, False]} instead of {found[2048, True]} at 2,048 tokens" in TEXT
    )


def peak_gib(run):
    return max(run["training_peak_gpu_memory_bytes"]) / GIB


def test_the_speeds_are_kept_with_their_revision():
    small, large = times_as_fast("scaling_135m"), times_as_fast("scaling_7b")
    for way in ("ddp", "fsdp"):
        assert re.search(rf"{small[way]:.2f} (?:times .* and|and) {large[way]:.2f}", TEXT), way
    for name in ("scaling_135m", "scaling_7b"):
        assert records.read(name)["revision"].startswith("2e0cc6c") and "revision `2e0cc6c`" in TEXT


def steps(cuda_graphs):
    """Milliseconds of a median step: full fine-tuning, LoRA, QLoRA."""
    return [f"{cost['ms']:.0f}" for cost in alone(cuda_graphs).values()]


def test_what_notebook_12_says_of_gpus_is_in_the_records():
    text = source_of("12")
    (full, lora, _), (full_replayed, lora_replayed, _) = steps("off"), steps("on")
    assert f"{lora} ms, full {full}; by [CUDA graphs][gpus] {lora_replayed}, {full_replayed} |" in text
    slower, slower_replayed = (
        100 * (costs["QLoRA, r = 8"]["seconds"] / costs["LoRA, r = 8"]["seconds"] - 1)
        for costs in (alone("off"), alone("on"))
    )
    [(earlier_lora, earlier_qlora)] = re.findall(r"has 21.5, ([\d.]+) and ([\d.]+) s without", TEXT)
    earlier = 100 * (float(earlier_qlora) / float(earlier_lora) - 1)
    assert (
        f"{earlier:.0f}, {slower:.0f} % for the 135M in two runs; by [CUDA graphs][gpus] {slower_replayed:.0f} %"
        in text
    )
    lora, qlora = list(alone("off").values())[1:]
    columns = gpu_fits.measured_columns()
    rows = zip(columns["model"], columns["method"], columns["measured_GiB"], strict=True)
    held = {method: float(gib) for model, method, gib in rows if model == "Mistral-7B"}
    large, small = 1 - held["qlora"] / held["lora"], 1 - qlora["GiB"] / lora["GiB"]
    assert f"{100 * large:.0f} % for a 7B shape, {100 * small:.0f} % for the 135M in float32" in text


def test_what_notebooks_05b_and_09_say_of_gpus_is_in_the_records():
    (full, lora, qlora), (full_replayed, lora_replayed, qlora_replayed) = steps("off"), steps("on")
    text = source_of("05b")
    assert f"A step took {lora} ms with LoRA and {full} with full fine-tuning:" in text
    assert f"starts all by one call: {lora_replayed} and {full_replayed}." in text
    text = source_of("09")
    assert f"a step of SmolLM2 took {lora} ms with LoRA and {qlora} with QLoRA" in text
    assert f"made it {lora_replayed} and {qlora_replayed}." in text


def test_what_notebook_10_says_of_a_gpu_that_stands_for_a_t4_is_in_the_record():
    assert "14.5 GiB, products in float16" in source_of("10")
    record = records.read("t4_capped")
    assert record["stands_for_a_T4"] == {"LORA_EDU_COMPUTE_CAPABILITY": "7.5", "LORA_EDU_GPU_GIB": "14.5"}
    for model in record["models"]:
        assert model["ran"] == model["cells"] and not model["errors"]
        assert [training["cuda_graphs"] for training in model["trainings"]] == [False, True]
        above, own = model["trainings"]
        assert above["batch"] == own["batch"] and above["seq"] > own["seq"]
        assert 1.05 < 1 / own["ratio"] < 1.08
    assert "*Your own data* took 5 to 8 % more" in TEXT


def source_of(number):
    [source] = (draw_gpus.ROOT / "notebooks" / "src").glob(f"{number}_*.py")
    return source.read_text("utf-8").replace("\n# ", " ")
