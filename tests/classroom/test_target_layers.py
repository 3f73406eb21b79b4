"""The choices of layers of notebook 06: their size, and that a test score is never chosen by."""

import json

import numpy as np
import pytest

from lora_edu.classroom import figures, records
from lora_edu.classroom.experiments import target_layers
from lora_edu.llm.data import DATA


def recorded(name):
    return json.loads((DATA / "runs" / f"{name}.json").read_text("utf-8"))["runs"]


@pytest.mark.parametrize("name", target_layers.CHOICES)
def test_a_choice_is_as_large_as_the_recorded_run_says(name):
    choice = target_layers.CHOICES[name]
    targets = [
        run for run in recorded("events_gpu_targets") if run["target_modules"] == choice.target_modules
    ]
    everything = records.runs("events_gpu_final", method="lora", r=8)
    found = targets if choice.target_modules else everything
    assert {run["trainable_parameters"] for run in found if run.get("r", 8) == choice.r} == {choice.numbers}


def test_three_choices_are_of_one_size():
    *three, small = [choice.numbers for choice in target_layers.CHOICES.values()]
    assert max(three) / min(three) < 1.03 and small < min(three) / 5


def test_the_chosen_rate_is_the_best_on_validation():
    for name, rate in target_layers.chosen_rates().items():
        choice = target_layers.CHOICES[name]
        runs = [
            run
            for run in recorded("events_gpu_targets_tune")
            if run["r"] == choice.r
            and run.get("target_modules", ["all-linear"]) == (choice.target_modules or ["all-linear"])
        ]
        [chosen] = [run for run in runs if run["learning_rate"] == rate]
        assert len(runs) >= 3 and chosen["exact_match"] == max(run["exact_match"] for run in runs)


@pytest.mark.parametrize("part", target_layers.PARTS)
def test_a_choice_is_scored_by_three_seeds(part):
    scores = target_layers.test_scores(part)
    assert list(scores) == list(target_layers.CHOICES)
    assert all(len(seeds) == 3 and 0 <= min(seeds) <= max(seeds) <= 1 for seeds in scores.values())
    small = target_layers.CHOICES["q and v, r = 8"]
    by_hand = [
        run[target_layers.PARTS[part]]
        for run in recorded("events_gpu_targets")
        if (run["r"], run["target_modules"]) == (small.r, small.target_modules)
        and run["learning_rate"] == target_layers.chosen_rates()["q and v, r = 8"]
    ]
    assert sorted(scores["q and v, r = 8"]) == sorted(by_hand)


def test_a_rate_without_a_run_is_named(monkeypatch):
    monkeypatch.setattr(target_layers, "chosen_rates", lambda: dict.fromkeys(target_layers.CHOICES, 0.123))
    with pytest.raises(ValueError, match=r"'all linear, r = 8' at learning rate 0\.123"):
        target_layers.test_scores("seen patterns")


def test_a_line_that_ends_early_is_led_to_its_name_by_dots_behind_the_lines():
    picture = figures.lines({"early": [1, 2, np.nan, np.nan], "late": [3, 2, 1, 0]})
    figures.to_quick_png(picture)
    leaders = [text for text in picture.texts if text.arrow_patch]
    assert [leader.arrow_patch.get_linestyle() for leader in leaders] == [(0, (1, 2)), "solid"]
    assert leaders[0].get_zorder() < min(line.get_zorder() for line in picture.lines)


def test_rates_that_were_not_run_are_left_out_of_the_picture():
    rates, scores = target_layers.validation("seen patterns")
    assert rates == sorted(rates) and any(np.isnan(row).any() for row in scores.values())
    picture = figures.beside(target_layers.draw_rates, part=list(target_layers.PARTS))
    figures.to_quick_png(picture)
    assert figures.collisions(picture) == [] and "nan" not in picture.alt
