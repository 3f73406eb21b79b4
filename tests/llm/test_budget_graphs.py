"""The ledger of steps that are replayed from CUDA graphs, against what PyTorch allocates and what a GPU held."""

import json

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from lora_edu.classroom.experiments.in_memory import checkpoint_blocks
from lora_edu.classroom.live_tensors import LiveTensors
from lora_edu.llm import surgery
from lora_edu.llm.budget import memory_ledger
from lora_edu.llm.budget.moments import CUBLAS_BYTES, TOKENS_AT_ONCE, FineTune
from lora_edu.llm.data import DATA
from lora_edu.llm.finetune import FinetuneConfig
from lora_edu.llm.finetune.graph_shapes import padded_length
from lora_edu.llm.finetune.plan import make_plan
from lora_edu.llm.finetune.scored_loss import scored_loss

# What PyTorch says of Intel GPUs when oneDNN is switched.
pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")

FINETUNES = json.loads((DATA / "runs" / "cuda_graphs.json").read_text("utf-8"))["runs"]


def llama(**changes) -> LlamaConfig:
    sizes = {"vocab_size": 4000, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1}
    return LlamaConfig(**sizes | {"num_attention_heads": 4, "num_key_value_heads": 4} | changes)


def replayed(config="SmolLM2-135M", method="qlora", **changes):
    settings = {"dtype": torch.bfloat16, "device": "cuda", "cuda_graphs": True}
    return memory_ledger(config, method, **settings | changes)


def most_allocated(work) -> int:
    """The most bytes that PyTorch's CPU allocator has given out at once while `work` runs, within operations too.

    Without oneDNN, whose products take a workspace that differs from processor to processor.
    """
    watching = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with torch.backends.mkldnn.flags(enabled=False), watching as watched:
        work()
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        ("qlora", torch.bfloat16),  # the norms answer in float32, the head computes in 16 bits
        ("qlora", torch.float16),
        ("lora", torch.bfloat16),
        ("lora", torch.float16),
        ("lora", torch.float32),
    ],
)
@pytest.mark.parametrize(
    ("batch", "seq", "scored"), [(2, 64, 20), (2, 512, 128), (2, 512, 400), (8, 256, 255)]
)
def test_the_loss_by_parts_holds_what_the_ledger_says(method, dtype, batch, seq, scored):
    config = llama()
    plan = FineTune(**replayed(config, method, batch=batch, seq=seq, scored=scored, dtype=dtype).settings)
    hidden = torch.randn(
        batch, seq, 64, dtype=torch.float32 if method == "qlora" else dtype, requires_grad=True
    )
    weight = torch.randn(4000, 64).to(dtype)
    labels = torch.full((batch, seq), -100)
    labels[:, 1 : scored + 1] = 7
    held = most_allocated(
        lambda: scored_loss(hidden * 1, weight, labels, torch.tensor(float(batch * scored)), batch * scored)
    )
    assert sum(plan.loss_by_parts().values()) == pytest.approx(held, rel=0.01)


def test_the_logits_of_one_part_are_there_at_a_time():
    def logits(batch, scored):
        # So few weights that the moment of the loss holds most.
        return replayed(llama(vocab_size=50_000), "lora", batch=batch, seq=512, scored=scored, r=1)["logits"]

    assert logits(1, 10) == 2 * 4 * 10 * 50_000
    assert logits(2, 10) == 2 * logits(1, 10)
    assert logits(1, 500) == logits(8, 500) == logits(8, None) == 2 * 4 * TOKENS_AT_ONCE * 50_000


def test_gradients_stay_and_what_ran_before_keeps_a_workspace():
    graphs = replayed(batch=8, seq=256)
    assert graphs["gradients"] == graphs["adapters"] and graphs.but(cuda_graphs=False)["gradients"] == 0
    loss = FineTune(**graphs.settings).loss_by_parts()["workspace"]
    casts = graphs["adapters"] // 2
    assert graphs["workspace"] == loss + casts + 3 * CUBLAS_BYTES


def test_autocast_holds_its_copies_of_checkpointed_adapters_until_the_loss():
    config = llama(hidden_size=128, num_hidden_layers=4)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).bfloat16().train()
    surgery.add_lora(model, "all-linear", r=32, lora_alpha=8)
    checkpoint_blocks(model)
    with LiveTensors() as live:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.model(input_ids=torch.tensor([[1, 2, 3, 4]]), use_cache=False).last_hidden_state
            inside = live.now
        assert hidden.requires_grad
        held = inside - live.now
    checkpointed = replayed(config, "lora", seq=4, r=32, gradient_checkpointing=True)
    _, at_the_loss, *_ = FineTune(**checkpointed.settings).moments()
    states = FineTune(**checkpointed.settings).loss_by_parts()["workspace"]
    assert at_the_loss["workspace"] - states - 3 * CUBLAS_BYTES == pytest.approx(held, rel=0.01)


def test_a_head_that_trains_has_whole_logits():
    graphs = replayed(method="full", batch=8, seq=256, dtype=torch.float32)
    assert graphs["logits"] == graphs.but(cuda_graphs=False)["logits"] == 3 * 4 * 8 * 256 * 49_152


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_validation_row_has_whole_logits_without_gradients(dtype):
    config = llama(vocab_size=20_000)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(dtype)
    ids = torch.randint(20_000, (1, 200))

    @torch.no_grad()
    def validate():
        model(input_ids=ids, labels=ids, use_cache=False)

    validate()
    plan = FineTune(**replayed(config, "lora", validation=200, dtype=dtype).settings)
    assert plan.validation_logits() == pytest.approx(most_allocated(validate), rel=0.05)


def test_validation_is_the_peak_where_its_row_is_long_and_those_of_training_are_few():
    ledger = replayed(
        "Qwen2.5-7B", batch=1, seq=512, gradient_checkpointing=True, optimizer="paged_adamw_8bit"
    )
    watched = ledger.but(validation=512)
    assert watched["logits"] == (2 + 4 + 4) * 512 * 152_064 and watched.total > ledger.total
    assert watched["activations"] == 0
    plain = ledger.but(cuda_graphs=False)
    assert plain.but(validation=512).total == plain.total


@pytest.fixture(scope="module")
def capstone(base_model_folder, tmp_path_factory):
    """Tokens of the longest sentence and of the answers that are scored, as notebook 10's fine-tune has them."""
    plan = make_plan(FinetuneConfig(str(tmp_path_factory.mktemp("runs"))))
    return max(len(example["input_ids"]) for example in plan.examples), plan.ledger.settings["scored"]


@pytest.mark.parametrize("way", ["off", "on"])
@pytest.mark.parametrize("case", FINETUNES)
def test_the_ledger_is_near_whole_fine_tunes_on_a_gpu(case, way, capstone):
    """The capstone, and the 1.7B's shape on a GPU that stood for a T4; PyTorch does not count paged optimizer state."""
    run, (seq, scored) = FINETUNES[case][way], capstone
    capped = case.startswith("capped")
    ledger = replayed(
        "SmolLM2-1.7B" if capped else "SmolLM2-135M",
        batch=run["micro_batch_size"],
        seq=padded_length(seq) if way == "on" else seq,
        scored=scored,
        dtype=torch.float16 if capped else torch.bfloat16,
        optimizer="adamw" if "AdamW" in case else "paged_adamw_8bit",
        backend=case.split(", ")[1],
        flash_attention=not capped,
        cuda_graphs=way == "on",
    )
    [peak] = run["peak_gpu_memory_bytes"]
    counted = ledger.total - (ledger["optimizer"] if ledger.settings["optimizer"] != "adamw" else 0)
    if "fused" in case:
        assert peak < counted
    else:
        assert peak == pytest.approx(counted, rel=0.04)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"cuda_graphs": "on"}, TypeError, "cuda_graphs must be True or False, got 'on'"),
        ({"device": "cpu"}, ValueError, "cuda_graphs must be False where device is not cuda, got True"),
        ({"scored": 0}, ValueError, "scored must be an integer of at least 1, got 0"),
        ({"scored": 1.5}, TypeError, "scored must be an integer"),
        ({"validation": -1}, ValueError, "validation must be an integer of at least 0, got -1"),
        ({"validation": None}, TypeError, "validation must be an integer"),
    ],
)
def test_bad_input_is_named(changes, error, message):
    with pytest.raises(error, match=message):
        replayed(llama(), **changes)
