"""What CourseTrainer leaves out of Trainer's steps changes nothing but their time."""

import copy
import json

import pytest
import torch
from torch import nn

from lora_edu.llm.finetune import FinetuneConfig, finetune
from lora_edu.llm.finetune.trainer import CourseTrainer

OURS = ("train", "_clip_grad_norm", "floating_point_ops")


@pytest.fixture
def train(tiny_folder, few_events, few_to_learn, tmp_path):
    def run(name, steps=6, **settings):
        config = FinetuneConfig(
            model=str(tiny_folder), train_file=str(few_to_learn), test_file=str(few_events), steps=steps,
            output=str(tmp_path / name), batch_size=4, micro_batch_size=2, save_every=steps, before_events=0,
            test_events=1, **settings,
        )  # fmt: skip
        return finetune(config)

    return run


@pytest.mark.parametrize(
    ("settings", "clipped"),
    [({"learning_rate": 1e-2}, False), ({"method": "full", "learning_rate": 1e-3}, True)],
)
def test_the_same_numbers_as_by_trainer_itself(train, monkeypatch, settings, clipped):
    def found(run):
        state = json.loads(next(run.folder.glob("checkpoints/*/trainer_state.json")).read_text())
        weights = [path.read_bytes() for path in sorted(run.folder.glob("[am]*/*.safetensors"))]
        norms = [entry["grad_norm"] for entry in state["log_history"] if "grad_norm" in entry]
        return run.record["losses"], norms, state["total_flos"], weights

    ours = found(train("ours", **settings))
    for name in OURS:
        monkeypatch.delattr(CourseTrainer, name)
    assert ours == found(train("theirs", **settings))
    _, norms, operations, weights = ours
    assert (max(norms) > 1) == clipped and len(norms) == 6, "1 is where Trainer clips"
    assert operations > 0 and len(weights) == 1


def test_no_step_walks_through_all_parameters(train, monkeypatch):
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


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_a_model_in_training_can_be_copied_and_is_itself_afterwards(train, monkeypatch, error):
    step, seen = CourseTrainer.training_step, []

    def watched(self, model, inputs, count=None):
        loss = step(self, model, inputs, count)
        if not seen:
            seen.extend([model, copy.deepcopy(model)])
        if error and self.state.global_step == 2:
            raise error
        return loss

    monkeypatch.setattr(CourseTrainer, "training_step", watched)
    if error:
        with pytest.raises(error):
            train("run")
    else:
        train("run")
    model, copied = seen
    assert "zero_grad" not in vars(model)
    first, *_ = (p for p in copied.parameters() if p.requires_grad)
    first.grad = torch.ones_like(first)
    copied.zero_grad(set_to_none=False)
    assert first.grad.abs().sum() == 0
    copied.zero_grad()
    assert first.grad is None
