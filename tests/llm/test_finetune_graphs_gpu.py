"""Steps replayed from CUDA graphs learn what steps without them learn, whatever the dtype, batch, dropout, backend."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from lora_edu.llm.finetune import FinetuneConfig, finetune, graph_shapes
from lora_edu.llm.finetune.graph_shapes import GraphShape
from lora_edu.llm.finetune.graphs import StepGraphs
from lora_edu.llm.finetune.trainer import CourseTrainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def settings(base_model_folder, few_events, few_to_learn, tmp_path):
    return {
        "train_file": str(few_to_learn),
        "test_file": str(few_events),
        "output": str(tmp_path / "run"),
        "steps": 10,
        "batch_size": 4,
        "micro_batch_size": 4,
        "save_every": 5,
        "before_events": 0,
        "test_events": 1,
    }


def both(settings, tmp_path, **changes):
    """The records without graphs and with them."""
    return [
        finetune(
            FinetuneConfig(**settings | changes | {"cuda_graphs": way, "output": str(tmp_path / way)})
        ).record
        for way in ("off", "on")
    ]


CASES = {
    "bfloat16": {"dtype": "bfloat16"},
    "float16 and its scaler": {"dtype": "float16"},
    "float32": {"dtype": "float32"},
    "accumulation": {"dtype": "bfloat16", "micro_batch_size": 1},
    "rows left over": {"dtype": "bfloat16", "batch_size": 3, "micro_batch_size": 3, "steps": 15},
    "our layers": {"dtype": "bfloat16", "backend": "scratch"},
    "our layers in float16": {"dtype": "float16", "backend": "scratch"},
    "no 4 bits": {"dtype": "bfloat16", "method": "lora"},
    "AdamW": {"dtype": "bfloat16", "optimizer": "adamw"},
    "checkpointing": {"dtype": "bfloat16", "gradient_checkpointing": True},
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_losses_and_an_unchanged_base(settings, tmp_path, case):
    plain, graphed = both(settings, tmp_path, **CASES[case])
    assert plain["cuda_graphs"] == {"lengths": [], "reason": "cuda_graphs is off"}
    assert 1 <= len(graphed["cuda_graphs"]["lengths"]) <= 4 and graphed["cuda_graphs"]["reason"] is None
    # The first loss knows no update yet: what differs is how products of another padding are rounded.
    rounding = 1e-5 if CASES[case]["dtype"] == "float32" else 2**-8
    assert graphed["losses"][0] == pytest.approx(plain["losses"][0], rel=rounding)
    # Each update carries a difference on: in 16 bits single losses differed by 6 % (data/runs/cuda_graphs.json, too).
    single = 0.05 if CASES[case]["dtype"] == "float32" else 0.1
    assert graphed["losses"] == pytest.approx(plain["losses"], rel=single, abs=0.005)
    assert sum(graphed["losses"]) == pytest.approx(sum(plain["losses"]), rel=0.03)
    assert graphed["losses"][-1] < graphed["losses"][0]
    base = graphed["base"]
    assert (
        base["weights_sha256_after"]
        == base["weights_sha256_before"]
        == plain["base"]["weights_sha256_before"]
    )
    assert base["adapter_off_difference"] == 0.0


def test_the_same_losses_from_several_lengths(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(graph_shapes, "CAPTURE", 0)  # so few steps would not be worth a second one
    few = {"batch_size": 2, "micro_batch_size": 2, "dtype": "float32"}
    plain, graphed = both(settings, tmp_path, **few)
    assert len(graphed["cuda_graphs"]["lengths"]) > 1
    assert graphed["losses"] == pytest.approx(plain["losses"], rel=0.05, abs=0.005)


@pytest.mark.parametrize("backend", ["peft", "scratch"])
def test_dropout_is_drawn_anew_at_each_replay(settings, tmp_path, backend, monkeypatch):
    """The same batch twice and no update between: only what is dropped can tell one loss from the other."""
    step, twice = CourseTrainer.training_step, []

    def again(self, model, inputs, count=None):
        if self.graphs and self.state.global_step == 4:
            twice.extend(step(self, model, inputs, count).item() for _ in range(2))
        return step(self, model, inputs, count)

    one = tmp_path / "one.jsonl"
    one.write_text(Path(settings["train_file"]).read_text().splitlines()[0] + "\n")
    settings |= {"train_file": str(one), "batch_size": 1, "micro_batch_size": 1, "backend": backend}
    settings |= {
        "lora_dropout": 0.5,
        "dtype": "float32",
        "learning_rate": 1e-2,
        "warmup_steps": 0,
        "steps": 6,
    }
    monkeypatch.setattr(CourseTrainer, "training_step", again)
    dropped = finetune(FinetuneConfig(**settings, cuda_graphs="on")).record["losses"]
    monkeypatch.undo()
    assert len(twice) == 2 and twice[0] != twice[1]
    kept, replayed = both(settings | {"lora_dropout": 0.0}, tmp_path)
    assert replayed["losses"] == pytest.approx(kept["losses"], rel=0.02)
    assert all(math.isfinite(loss) for loss in dropped)
    assert dropped[0] == pytest.approx(kept["losses"][0], rel=1e-4), "B is zero at first: nothing to drop"
    assert abs(dropped[2] - kept["losses"][2]) > 0.05 * kept["losses"][2]


@pytest.mark.parametrize("backend", ["peft", "scratch"])
@pytest.mark.parametrize("ways", [("on", "on"), ("off", "on"), ("on", "off")])
def test_a_checkpoint_goes_on_with_graphs_or_without(settings, tmp_path, ways, backend, monkeypatch):
    """Float32, so that the same numbers are added in nearly the same order."""
    settings |= {"dtype": "float32", "backend": backend}
    whole = finetune(
        FinetuneConfig(**settings | {"output": str(tmp_path / "whole"), "cuda_graphs": ways[0]})
    ).record
    step = CourseTrainer.training_step

    def stop(self, *arguments):
        if self.state.global_step == 6:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(CourseTrainer, "training_step", stop)
    with pytest.raises(KeyboardInterrupt):
        finetune(FinetuneConfig(**settings, cuda_graphs=ways[0]))
    monkeypatch.undo()
    resumed = finetune(FinetuneConfig(**settings, cuda_graphs=ways[1], resume=True)).record
    assert resumed["resumed_from_step"] == 5
    assert resumed["losses"] == pytest.approx(whole["losses"], rel=1e-3)


def test_what_cannot_be_captured_runs_as_it_is_and_says_why(settings, monkeypatch, capsys):
    """A loss that asks the GPU for a number in the middle of a step."""
    loss = CourseTrainer.compute_loss

    def asks(self, *arguments, **named):
        value = loss(self, *arguments, **named)
        assert value.item() == value.item()
        return value

    monkeypatch.setattr(CourseTrainer, "compute_loss", asks)
    record = finetune(FinetuneConfig(**settings, dtype="bfloat16", cuda_graphs="auto")).record
    assert record["cuda_graphs"]["lengths"] == []
    assert record["cuda_graphs"]["reason"].startswith("capturing them failed")
    assert "Steps run without CUDA graphs: capturing them failed" in capsys.readouterr().out
    assert len(record["losses"]) == 10 and record["losses"][-1] < record["losses"][0]
    torch.manual_seed(0)
    once = torch.randn(3, device="cuda")
    torch.manual_seed(0)
    assert torch.equal(once, torch.randn(3, device="cuda")), "the GPU draws numbers as before"
    with pytest.raises(RuntimeError, match="cuda_graphs is on, but capturing them failed"):
        finetune(FinetuneConfig(**settings | {"overwrite": True}, dtype="bfloat16", cuda_graphs="on"))


def test_validation_between_replays_changes_nothing(settings, tmp_path):
    settings |= {"dtype": "float32"}
    alone = finetune(
        FinetuneConfig(**settings | {"output": str(tmp_path / "alone")}, cuda_graphs="on")
    ).record
    with_rows = settings | {"validation_file": settings["train_file"]}
    watched = finetune(FinetuneConfig(**with_rows, cuda_graphs="on")).record
    assert len(watched["eval_losses"]) == 3
    assert watched["losses"] == pytest.approx(alone["losses"], rel=1e-4)


def reserved(lengths):
    """The most bytes that PyTorch takes from the GPU while steps of these lengths are captured and replayed."""
    weight = nn.Parameter(torch.ones(1024, device="cuda"))

    def step(batch, count):
        loss = (batch["input_ids"][..., None].float() * weight).exp().mean() / count
        loss.backward()
        return loss.detach()

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    graphs = StepGraphs(step, [weight], [GraphShape(8, tokens, tokens) for tokens in lengths], padding=0)
    for tokens in lengths:
        batch = torch.ones(8, tokens, dtype=torch.long, device="cuda")
        loss = graphs({"input_ids": batch, "labels": batch}, torch.tensor(2.0, device="cuda"))
        assert loss.item() == pytest.approx(math.e / 2, rel=1e-5)
    return torch.cuda.max_memory_reserved() - before


def test_several_lengths_reserve_what_the_longest_needs():
    longest = reserved([4096])
    assert longest > 2 * 8 * 4096 * 1024 * 4
    assert reserved([3584, 3712, 3840, 4096]) < 1.1 * longest
