"""Fused steps in a fine-tune: they learn what others learn, go on bit for bit, and leave an adapter like any other."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from lora_edu.llm.budget.preflight import MARGIN
from lora_edu.llm.checkpoint import load_adapter
from lora_edu.llm.data.extraction import parse_event
from lora_edu.llm.finetune import FinetuneConfig, finetune
from lora_edu.llm.finetune.backends import backend_of
from lora_edu.llm.finetune.plan import make_plan
from lora_edu.llm.finetune.trainer import CourseTrainer
from lora_edu.methods.lora import LoRALinear

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def settings(base_model_folder, few_events, tmp_path):
    return {
        "backend": "scratch",
        "dtype": "bfloat16",
        "test_file": str(few_events),
        "output": str(tmp_path / "run"),
        "steps": 20,
        "batch_size": 4,
        "micro_batch_size": 4,
        "save_every": 5,
        "before_events": 0,
        "test_events": 1,
    }


def train(settings, **changes):
    return finetune(FinetuneConfig(**settings | changes))


@pytest.mark.parametrize(
    ("dtype", "rounding", "at_once"), [("bfloat16", 2**-7, 4), ("bfloat16", 2**-7, 2), ("float16", 0.005, 4)]
)
def test_fused_steps_learn_what_others_learn(settings, tmp_path, dtype, rounding, at_once):
    settings |= {"dtype": dtype, "micro_batch_size": at_once}
    plain = train(settings, cuda_graphs="off").record
    losses = torch.tensor(plain["losses"])
    assert losses[-1] < losses[0] / 2, "20 steps must teach something, or the comparison says little"
    for way in ("off", "on"):
        record = train(settings, fused="on", cuda_graphs=way, output=str(tmp_path / way)).record
        assert record["config"]["fused"] == "on" and bool(record["cuda_graphs"]["lengths"]) == (way == "on")
        found = torch.tensor(record["losses"])
        assert abs(found[0] - losses[0]) / losses[0] < rounding
        assert ((found - losses).abs() / losses)[:8].max() < 0.1
        assert abs(found.mean() - losses.mean()) / losses.mean() < 0.05
        base = record["base"]
        assert base["weights_sha256_after"] == base["weights_sha256_before"]
        assert base["weights_sha256_before"] == plain["base"]["weights_sha256_before"]
        assert base["adapter_off_difference"] == 0.0
        assert any(parse_event(entry["answer"]) for entry in record["answers"])


@pytest.mark.parametrize("graphs", ["off", "on"])
def test_a_stopped_run_goes_on_bit_for_bit(settings, tmp_path, graphs, monkeypatch):
    """With attention by plain products: the backward of the faster ones adds in no fixed order."""
    settings |= {"fused": "on", "cuda_graphs": graphs, "steps": 10}
    step = CourseTrainer.training_step

    def stop(self, *arguments):
        if self.state.global_step == 6:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with sdpa_kernel(SDPBackend.MATH):
        whole = train(settings, output=str(tmp_path / "whole")).record
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(CourseTrainer, "training_step", stop)
            train(settings)
        resumed = train(settings, resume=True).record
    assert resumed["resumed_from_step"] == 5
    assert resumed["losses"] == whole["losses"]


@torch.no_grad()
def loss_of(model, examples):
    model.eval()
    losses = [
        model(**{key: torch.tensor([values], device="cuda") for key, values in example.items()}).loss.item()
        for example in examples
    ]
    return sum(losses) / len(losses)


def test_the_adapter_is_one_like_any_other(settings, tmp_path):
    """Loaded over a plain base it gives the same loss; loaded into a fused model, the very same."""
    config = FinetuneConfig(**settings, fused="on", validation_fraction=0.01)
    examples = make_plan(config).examples[:8]
    run = finetune(config)
    layers = [module for module in run.model.modules() if isinstance(module, LoRALinear)]
    assert layers and all(type(layer) is not LoRALinear for layer in layers)
    trained = loss_of(run.model, examples)
    finished = train(settings, fused="on", validation_fraction=0.01, resume=True)
    assert loss_of(finished.model, examples) == trained

    recipe, way = make_plan(FinetuneConfig(**settings)).recipe, backend_of("qlora", "scratch")
    plain = way.attach(way.load(recipe)[0], recipe)
    untrained = loss_of(plain, examples)
    load_adapter(plain, run.folder / "adapter")
    loaded = loss_of(plain, examples)
    assert abs(loaded - trained) < 0.02 * untrained and trained < untrained / 2


def test_memory_that_asks_for_checkpointing_is_refused(settings, monkeypatch):
    """As much as the run needs with gradient checkpointing, and not enough without."""
    settings |= {"fused": "on", "cuda_graphs": "off"}
    ledger = make_plan(FinetuneConfig(**settings)).ledger
    between = (ledger.but(gradient_checkpointing=True).total + ledger.total) / 2 * MARGIN["cuda"]
    monkeypatch.setattr("lora_edu.llm.finetune.memory.available_bytes", lambda device: between)
    with pytest.raises(ValueError, match="fused must be off where gradient checkpointing is needed"):
        finetune(FinetuneConfig(**settings))
