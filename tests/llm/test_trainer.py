"""What CourseTrainer leaves out of Trainer's steps changes nothing but their time."""

import pytest
from torch import nn

from lora_edu.llm.finetune import FinetuneConfig, finetune
from lora_edu.llm.finetune.trainer import CourseTrainer


@pytest.fixture
def train(tiny_folder, few_events, few_to_learn, tmp_path):
    def run(name, steps=6):
        config = FinetuneConfig(
            model=str(tiny_folder), train_file=str(few_to_learn), test_file=str(few_events), steps=steps,
            output=str(tmp_path / name), batch_size=4, micro_batch_size=2, save_every=1000, before_events=0,
            test_events=1, learning_rate=1e-2,
        )  # fmt: skip
        return finetune(config)

    return run


def test_the_same_losses_and_adapter_as_by_trainer_itself(train, monkeypatch):
    ours = train("ours")
    for name in ("train", "_clip_grad_norm", "floating_point_ops"):
        monkeypatch.delattr(CourseTrainer, name)
    theirs = train("theirs")
    assert ours.record["losses"] == theirs.record["losses"]
    saved = [(run.folder / "adapter" / "adapter_model.safetensors").read_bytes() for run in (ours, theirs)]
    assert saved[0] == saved[1]
    assert "zero_grad" not in vars(ours.model)


def test_no_step_walks_through_the_model(train, monkeypatch):
    walk, walks = nn.Module.named_parameters, []

    def counted(self, *arguments, **named):
        walks.append(self)
        return walk(self, *arguments, **named)

    monkeypatch.setattr(nn.Module, "named_parameters", counted)
    counts = []
    for steps in (3, 9):
        walks.clear()
        train(str(steps), steps)
        counts.append(len(walks))
    assert counts[0] == counts[1] > 0
