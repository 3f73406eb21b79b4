"""What notebook 06 says of a classifier's head, from the records and by symmetry."""

import json

import numpy as np
import torch

from lora_edu.classroom.experiments import class_heads
from lora_edu.llm.data import DATA


def recorded(name):
    return json.loads((DATA / "runs" / f"{name}.json").read_text("utf-8"))


def test_a_row_a_seed_and_a_column_a_way():
    found = class_heads.right()
    assert found.shape == (class_heads.SEEDS, len(class_heads.WAYS))
    by_way = {"LoRA, head saved": found[:, 2], "LoRA, head not saved": found[:, 3]}
    for way, column in by_way.items():
        assert sorted(column) == sorted(
            run["loaded"] for run in recorded("classifier")["runs"] if run["way"] == way
        )


def test_the_block_is_chosen_on_validation_and_not_on_the_test():
    runs = [run for run in recorded("frozen_head")["runs"] if run["reading"] == "mean"]
    chosen = class_heads.head_alone("mean")
    assert chosen in runs and chosen["validation"] == max(run["validation"] for run in runs)
    last = class_heads.head_alone("last token", last_block=True)
    assert last["block"] == 30 and last["reading"] == "last token"


def test_new_heads_are_right_in_one_of_four_on_average_whatever_they_read():
    record = recorded("frozen_head")["fresh_heads"]
    error = 0.25 / record["draws"] ** 0.5  # a share's deviation is at most 0.5; here it is about 0.15
    assert abs(record["mean"] - 0.25) < 3 * error
    assert record["quartiles"] == sorted(record["quartiles"])
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, 16, generator=generator) + torch.randn(50, 16, generator=generator) / 10
    heads = torch.randn(4000, 4, 16, generator=generator)
    right = ((heads @ inputs.T).argmax(dim=1) == 0).double().mean(dim=1)  # every label is class 0
    assert (
        abs(right.mean() - 0.25) < 0.03 and np.quantile(right, 0.25) == 0
    )  # most draws name one class for all
