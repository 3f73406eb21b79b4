"""The trainings behind notebook 05: a stack learns as one would, the ways differ as said, the record is theirs."""

import pytest
import torch

from lora_edu.classroom.experiments import digit_reader, digit_sweep, digits
from tools import record_digit_sweep

WAYS = (digit_sweep.SCRATCH, digit_sweep.FULL, digit_sweep.LORA, digit_sweep.RANDOM, digit_sweep.ALONE)


@pytest.fixture(scope="module")
def base():
    return digit_reader.base_network()


def test_the_tasks_move_pixels_and_lose_none():
    pixels = torch.arange(64.0).view(1, 8, 8)
    for change in digit_sweep.TASKS.values():
        assert sorted(change(pixels).flatten().tolist()) == pixels.flatten().tolist()
    swapped = digit_sweep.swap_columns(pixels)[0]
    assert torch.equal(swapped[:, 2], pixels[0, :, 5]) and torch.equal(swapped[:, 5], pixels[0, :, 2])
    assert torch.equal(digit_sweep.swap_columns(swapped), pixels[0])


@pytest.mark.parametrize("way", WAYS)
def test_in_a_stack_each_model_learns_as_it_would_alone(way):
    data = digits.load(digit_sweep.swap_columns)
    batches = [digits.few(data["adapt"], seed, 20) for seed in (0, 1)]
    together, alone = ([digit_sweep.new_model(way, seed, r=2) for seed in (0, 1)] for _ in range(2))
    digit_sweep.train_together(together, batches, 0.01, steps=5)
    for model, other, batch in zip(together, alone, batches, strict=True):
        digit_reader.train(other, batch, 0.01, steps=5)
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(tensor, other.state_dict()[name])


@pytest.mark.parametrize(("way", "trained"), zip(WAYS, (8970, 8970, 1024, 1024, 1024), strict=True))
def test_what_trains_and_what_lies_below(base, way, trained):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model = digit_sweep.new_model(way, seed=3, r=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained
    below = digit_reader.without_lora(model)
    assert torch.equal(below[0].weight, base[0].weight) == (way in (digit_sweep.FULL, digit_sweep.LORA))
    assert torch.equal(below[4].weight, base[4].weight) == (way != digit_sweep.SCRATCH)
    assert below[2].weight.any() == (way != digit_sweep.ALONE)


def test_an_unknown_way_is_named():
    with pytest.raises(ValueError, match=r"way must be one of from scratch, .*got 'half'"):
        digit_sweep.new_model("half", seed=0)


def test_the_record_holds_every_setting_and_its_numbers_come_out_again():
    recorded = digit_sweep.records.read(digit_sweep.RECORD)["runs"]
    scores = ("validation", "test")
    settings = [{key: value for key, value in run.items() if key not in scores} for run in recorded]
    assert settings == list(record_digit_sweep.settings())
    assert all(len(run[part]) == digit_sweep.SEEDS for run in recorded for part in scores)
    for run in (recorded[12], recorded[-3]):  # LoRA of rank 1 on few images, and rank 64 on many
        again = record_digit_sweep.recorded({key: run[key] for key in run if key not in scores}, seeds=2)
        for part in scores:  # another processor may round another way: one image
            assert again[part] == pytest.approx(run[part][:2], abs=0.0034)


def test_the_rate_is_chosen_by_the_validation_digits():
    settings = {"experiment": "ranks", "task": "turned", "way": digit_sweep.LORA, "r": 4}
    validation, test = digit_sweep.trials(**settings)
    ordered = validation.sort(dim=1).values[:, (digit_sweep.SEEDS - 1) // 2]
    assert torch.equal(digit_sweep.tuned_scores(**settings), test[ordered.argmax()])


def test_the_middle_half_holds_half_of_the_seeds():
    low, middle, high = digit_sweep.middle_half(torch.arange(20.0)[:, None])
    assert (low.item(), middle.item(), high.item()) == (4.75, 9.5, 14.25)
