"""docs/speed.md states what the records of the benchmarks hold."""

import io

import numpy as np
import pytest
from PIL import Image

from lora_edu.classroom import figures, records
from tools import draw_speed
from tools.draw_speed import layer_ratios, medians, nf4_seconds, step_ratios

PAGE = draw_speed.PAGE.read_text("utf-8")
TEXT = " ".join(PAGE.split())


def test_table_and_sentences_are_those_of_the_records():
    sentences = {name: draw().alt for name, draw in draw_speed.DRAWN.items()}
    assert draw_speed.page_of(PAGE, sentences) == PAGE, "run .venv/bin/python -m tools.draw_speed"
    stored = {path.stem for path in (draw_speed.PAGE.parent / draw_speed.FOLDER).glob("*.png")}
    assert stored == set(draw_speed.DRAWN)


@pytest.mark.parametrize("name", draw_speed.DRAWN)
def test_stored_pictures_are_up_to_date_and_nothing_collides(name):
    path = draw_speed.PAGE.parent / draw_speed.FOLDER / f"{name}.png"
    picture = draw_speed.DRAWN[name]()
    stored = np.asarray(Image.open(path).convert("RGBA"), int)
    drawn = np.asarray(Image.open(io.BytesIO(figures.to_png(picture))).convert("RGBA"), int)
    assert stored.shape == drawn.shape
    assert np.abs(stored - drawn).mean() < 0.5, "run .venv/bin/python -m tools.draw_speed"
    assert figures.collisions(picture) == [] and not figures.is_cut_off(picture)


def test_what_the_text_says_of_nf4_is_in_the_record():
    there, back = nf4_seconds()["quantize"], nf4_seconds()["dequantize"]
    assert f"our kernel takes {back['Triton'] / back['bitsandbytes']:.2f} of the time of bitsandbytes" in TEXT
    assert f"and {back['Triton'] / back['a copy']:.2f} times that of a copy" in TEXT
    faster, longer = there["bitsandbytes"] / there["Triton"], there["Triton"] / there["a copy"]
    assert f"it is {faster:.1f} times as fast as bitsandbytes, and takes {longer:.1f} times as long" in TEXT
    assert records.read("bench_gpu_nf4")["versions"]["bitsandbytes"] == "0.50.2"
    assert {
        row["agreement"] for row in records.read("bench_gpu_nf4")["results"] if row["peer"] != "a copy"
    } >= {"same bytes"}


def test_what_the_text_says_of_steps_is_in_the_record():
    plain = [float(ratio) for ratio in medians(step_ratios(), "plain")]
    assert f"cost {min(plain):.1f} to {max(plain):.1f} times as much" in TEXT
    kernels = [float(ratio) for ratio in medians(step_ratios(), "triton")]
    assert f"with the kernels {min(kernels):.2f} to {max(kernels):.2f} times" in TEXT
    rounds = [r for kinds in step_ratios().values() for kind in ("plain", "triton") for r in kinds[kind]]
    assert f"Single rounds lie between {min(rounds):.1f} and {max(rounds):.1f}" in TEXT
    assert f"{records.read('bench_gpu_qlora_step')['rounds']} rounds" in TEXT
    steps = draw_speed.whole_steps().values()
    quotients = [f"{sides['triton']['seconds'] / sides['peft']['seconds']:.2f}" for sides in steps]
    assert f"are {quotients[0]}, {quotients[1]} and {quotients[2]} with the kernels" in TEXT


def test_what_the_text_says_of_graphs_is_in_the_record():
    steps = draw_speed.whole_steps()
    for sides in steps.values():
        assert sides["graph"]["seconds"] < sides["triton"]["seconds"] / 2
        assert float(sides["graph"]["loss"]) == pytest.approx(float(sides["triton"]["loss"]), rel=1e-3)
    waits = [
        f"{100 - 100 * sides['peft']['kernel_seconds'] / sides['peft']['seconds']:.0f}"
        for sides in steps.values()
    ]
    assert f"with peft it waits {waits[0]}, {waits[1]} and {waits[2]} % of a step" in TEXT
    inside, outside = (steps["SmolLM2-135M, 8×256"][f"graph, fused{end}"] for end in ("", ", paged"))
    more, kernels = (1000 * (outside[key] - inside[key]) for key in ("seconds", "kernel_seconds"))
    assert f"costs the 135M {more:.1f} ms a step, of which kernels take {kernels:.1f}" in TEXT
    for sides in steps.values():  # "unsloth's step is the faster in all three shapes"
        assert sides["unsloth"]["seconds"] < sides["triton, fused"]["seconds"]
    assert (
        steps["Mistral-7B, 1×512"]["triton, fused"]["seconds"]
        > steps["Mistral-7B, 1×512"]["triton"]["seconds"]
    )


def test_what_the_text_says_of_fine_tunes_is_in_the_record():
    runs = records.read("cuda_graphs")["runs"]
    first, adamw = runs["capstone, peft"]["on"], runs["capstone, peft, AdamW"]["on"]
    starts = [run["seconds"]["train"] - run["steps"] * run["seconds"]["step"] for run in (first, adamw)]
    assert f"{starts[0]:.1f} s in the first row and by {starts[1]:.1f} s in the last" in TEXT
    assert (*runs,)[:: len(runs) - 1] == ("capstone, peft", "capstone, peft, AdamW")
    more = 1000 * (first["seconds"]["step"] - adamw["seconds"]["step"])
    assert f"a step takes {more:.0f} ms longer with the 8-bit optimizer than with AdamW" in TEXT
    peaks = [
        runs[case]["off"]["peak_gpu_memory_bytes"][0] for case in ("capstone, peft", "capstone, peft, AdamW")
    ]
    assert f"What it saves here is {(peaks[1] - peaks[0]) / 1e6:.0f} MB" in TEXT
    assert first["peak_gpu_memory_bytes"] == adamw["peak_gpu_memory_bytes"]


def test_what_the_text_says_of_losses_is_in_the_records():
    def above(kind):
        steps = draw_speed.whole_steps().items()
        return [
            float(found["loss"]) - draw_speed.exact_loss(case)
            for case, sides in steps
            for side, found in sides.items()
            if kind(side)
        ]

    fused = above(lambda side: "fused" in side)
    assert f"differs from it by {max(map(abs, fused)):.4f} at most" in TEXT
    others = above(lambda side: "fused" not in side and side != "dense limit")
    plain = above(lambda side: "fused" not in side and side not in ("dense limit", "unsloth"))
    assert f"others that train are {min(others):.2f} to {max(others):.2f} above it, unsloth's by most" in TEXT
    assert f"peft's and ours without `fuse` by {max(plain):.2f} at most" in TEXT


def test_what_the_text_says_of_one_token_is_in_the_record():
    ratios = {}
    for row in records.read("bench_gpu_decode_step")["results"]:
        ratios.setdefault(row["case"].rpartition(" ")[2], {}).setdefault(row["ours"], []).append(
            np.median(row["ratios"])
        )
    assert all(ratio > 1 for side in ratios["eager"].values() for ratio in side)
    fused, dense = np.array(ratios["graph"]["triton, fused"]), np.array(ratios["graph"]["bf16, fused"])
    assert f"answers {min(1 / fused):.1f} to {max(1 / fused):.1f} times as fast as bfloat16" in TEXT
    saved = [f"{100 * share:.0f} %" for share in 1 - fused / dense]
    assert f"{saved[0]} of the time of the 135M, {saved[1]} of the 1.7B's and {saved[2]} of the 7B's" in TEXT


def test_what_the_text_says_of_the_cpu_is_in_the_record():
    for kind in ("plain", "numba"):
        ratios = [float(ratio) for ratio in medians(layer_ratios(), kind)]
        assert ratios == sorted(ratios) and ratios[-1] < 1
    [kept] = [
        row
        for table in [records.read("bench_cpu_kept_memory")]
        for row in table["results"]
        if (row["case"], row["ours"], row["peer"]) == ("dequantize", "numba, out=", "bitsandbytes")
    ]
    assert 0.7 < np.median(kept["ratios"]) < 1.3
