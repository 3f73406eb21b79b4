"""What a fine-tune becomes on each class of machine: dtype, optimizer, model, and how much is in memory at once.

A GPU that this machine lacks is pretended: `recipe` asks PyTorch for its compute capability and its free memory.
"""

import itertools
import math

import psutil
import pytest
import torch
from transformers import AutoConfig, GPT2Config, LlamaConfig

from lora_edu.llm.base_model import DEFAULT_NAME, SHAPES, TIERS, load_tokenizer
from lora_edu.llm.budget import count_parameters
from lora_edu.llm.data.asking import NEW_TOKENS, answers_at_once
from lora_edu.llm.data.extraction import longest_prompt
from lora_edu.llm.finetune import FinetuneConfig
from lora_edu.llm.finetune.memory import Asking, choose_model, fit, predict_memory
from lora_edu.llm.finetune.plan import make_plan
from lora_edu.llm.finetune.recipe import choose_optimizer, compute_dtype, make_recipe

GIB = 2**30
SMOL_135M, SMOL_1B7, QWEN = TIERS
SEQ = 512


@pytest.fixture
def gpu(monkeypatch):
    """Pretend a GPU: call it with its compute capability and its free bytes."""

    def pretend(capability=(8, 0), free=80 * GIB, reserved=0, allocated=0):
        for name, answer in {
            "is_available": True,
            "is_bf16_supported": True,  # as PyTorch says of every GPU, a T4 that only emulates it among them
            "get_device_capability": capability,
            "get_device_name": "pretended",
            "mem_get_info": (int(free), 140 * GIB),
            "memory_reserved": reserved,
            "memory_allocated": allocated,
        }.items():
            monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)

    return pretend


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def config(**settings) -> FinetuneConfig:
    return FinetuneConfig(**{"output": "unused"} | settings)


def recipe(processes=1, **settings):
    return make_recipe(config(**settings), processes)


@pytest.fixture
def folder(tmp_path):
    """A model's folder with its configuration alone: nothing is loaded before memory has been asked."""

    def save(model_config) -> str:
        model_config.save_pretrained(tmp_path)
        return str(tmp_path)

    return save


def needed(asked) -> int:
    """The fewest bytes with which a run is accepted: a tenth is left free on a GPU, and capturing graphs may fail."""
    s = asked.settings
    lightest = asked.but(gradient_checkpointing=True, batch=1, micro_batches=s["micro_batches"] * s["batch"])
    return math.ceil(1.1 * max(lightest.total, lightest.but(cuda_graphs=False).total)) + 1


# --- dtype and optimizer ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((6, 0), torch.float16),
        ((7, 0), torch.float16),
        ((7, 5), torch.float16),  # T4
        ((8, 0), torch.bfloat16),
        ((8, 9), torch.bfloat16),
        ((9, 0), torch.bfloat16),
        ((12, 0), torch.bfloat16),
    ],
)
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_adapters_compute_in_16_bits_that_the_gpu_can(gpu, method, capability, expected):
    gpu(capability)
    assert compute_dtype(config(method=method)) == expected


@pytest.mark.parametrize("capability", [(7, 5), (9, 0)])
def test_a_model_that_trains_whole_stays_in_float32(gpu, capability):
    gpu(capability)
    assert compute_dtype(config(method="full")) == torch.float32


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_a_cpu_computes_in_float32_with_adamw(method):
    assert compute_dtype(config(method=method)) == torch.float32
    assert choose_optimizer(config(method=method)) == "adamw"


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_what_is_asked_for_is_taken(gpu, method):
    gpu((7, 5))
    assert compute_dtype(config(method=method, dtype="bfloat16")) == torch.bfloat16
    assert choose_optimizer(config(method=method, optimizer="adamw")) == "adamw"
    assert choose_optimizer(config(method=method, optimizer="paged_adamw_8bit")) == "paged_adamw_8bit"


@pytest.mark.parametrize(
    ("method", "optimizer"), [("qlora", "paged_adamw_8bit"), ("lora", "adamw"), ("full", "adamw")]
)
def test_on_a_gpu_qlora_pages_its_optimizer(gpu, method, optimizer):
    gpu()
    assert choose_optimizer(config(method=method)) == optimizer


# --- the model ----------------------------------------------------------------------------------------


def test_the_tiers_ascend_from_the_model_of_this_course_and_say_how_large_they_are():
    sizes = [count_parameters(tier.shape) for tier in TIERS.values()]
    assert sizes == sorted(sizes) == [tier.parameters for tier in TIERS.values()]
    assert {tier.shape for tier in TIERS.values()} <= SHAPES.keys()
    assert SMOL_135M == DEFAULT_NAME


@pytest.mark.parametrize(
    ("capability", "gib", "choices"),
    [
        ((7, 5), 1.0, {"qlora": SMOL_135M, "lora": SMOL_135M, "full": SMOL_135M}),
        ((7, 5), 3.6, {"qlora": SMOL_1B7, "lora": SMOL_135M, "full": SMOL_135M}),  # a laptop's 4 GB
        # A T4 could hold the 7B, but computes in float16, in which it is risky.
        ((7, 5), 14.5, {"qlora": SMOL_1B7, "lora": SMOL_1B7, "full": SMOL_135M}),
        ((8, 9), 22.0, {"qlora": QWEN, "lora": QWEN, "full": SMOL_135M}),  # L4
        ((8, 0), 39.4, {"qlora": QWEN, "lora": QWEN, "full": SMOL_1B7}),  # A100, 40 GB
        ((9, 0), 139.7, {"qlora": QWEN, "lora": QWEN, "full": QWEN}),  # H200
    ],
)
def test_each_gpu_gets_the_largest_model_that_it_can_train(gpu, capability, gib, choices):
    gpu(capability, gib * GIB)
    assert {method: choose_model(recipe(method=method), SEQ) for method in choices} == choices


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_a_cpu_gets_the_smallest_model(method):
    assert choose_model(recipe(method=method), SEQ) == SMOL_135M


@pytest.mark.parametrize(
    ("name", "smaller", "capability"),
    [(larger, smaller, (8, 0)) for smaller, larger in itertools.pairwise(TIERS)]
    + [(SMOL_1B7, SMOL_135M, (7, 5))],
)
def test_a_model_is_chosen_from_the_byte_on_that_it_needs(gpu, name, smaller, capability):
    gpu(capability)
    least = needed(predict_memory(recipe(), TIERS[name].shape, SEQ))
    gpu(capability, least)
    assert choose_model(recipe(), SEQ) == name
    gpu(capability, least - 8)
    assert choose_model(recipe(), SEQ) == smaller


def test_memory_that_pytorch_holds_unused_counts_as_free(gpu):
    gpu()
    least = needed(predict_memory(recipe(), TIERS[QWEN].shape, SEQ))
    gpu(free=least - GIB, reserved=3 * GIB, allocated=2 * GIB)
    assert choose_model(recipe(), SEQ) == QWEN
    gpu(free=least - GIB, reserved=3 * GIB, allocated=3 * GIB)
    assert choose_model(recipe(), SEQ) != QWEN


def test_longer_examples_ask_for_a_smaller_model(gpu):
    gpu()
    gpu(free=needed(predict_memory(recipe(), TIERS[QWEN].shape, SEQ)))
    assert choose_model(recipe(), 4 * SEQ) != QWEN


@pytest.mark.parametrize(("processes", "forwards"), [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_processes_share_the_forwards_of_a_step(gpu, processes, forwards):
    gpu()
    asked = recipe(processes, batch_size=16, micro_batch_size=2)
    assert predict_memory(asked, "SmolLM2-1.7B", SEQ).settings["micro_batches"] == forwards


# --- what is predicted, and whether it fits -----------------------------------------------------------


@pytest.mark.parametrize(("capability", "flash"), [((7, 5), False), ((8, 0), True)])
def test_a_gpu_before_8_0_has_no_flash_attention(gpu, capability, flash):
    gpu(capability)
    settings = predict_memory(recipe(dtype="bfloat16"), "SmolLM2-1.7B", SEQ).settings
    assert settings["device"] == "cuda" and settings["flash_attention"] is flash


@pytest.mark.usefixtures("no_gpu")
def test_the_prediction_is_of_the_run_as_it_will_be():
    asked = recipe(method="lora", backend="scratch", r=4, target_modules=["q_proj"], batch_size=6)
    s = predict_memory(asked, "SmolLM2-135M", 77).settings
    told = {"method": "lora", "backend": "scratch", "r": 4, "target_modules": ["q_proj"], "seq": 77}
    told |= {"batch": 2, "micro_batches": 3, "dtype": torch.float32, "optimizer": "adamw", "device": "cpu"}
    assert {name: s[name] for name in told} == told


def test_what_fits_is_left_as_it_is(gpu, folder):
    gpu()
    asked = recipe(model=folder(AutoConfig.for_model(**SHAPES["SmolLM2-1.7B"])))
    fitted, ledger, notes = fit(asked, SEQ)
    assert (fitted, notes) == (asked, [])
    assert ledger.total == predict_memory(asked, "SmolLM2-1.7B", SEQ).total


def test_with_less_memory_less_is_in_it_at_once_and_the_learner_is_told(gpu, folder):
    gpu((7, 5))
    asked = recipe(
        model=folder(AutoConfig.for_model(**SHAPES["SmolLM2-1.7B"])), batch_size=8, micro_batch_size=8
    )
    whole = predict_memory(asked, "SmolLM2-1.7B", SEQ)
    checkpointed = whole.but(gradient_checkpointing=True)

    # Capturing graphs may fail: what must fit are steps without them, and what is predicted are steps with them.
    least = 1.1 * checkpointed.but(cuda_graphs=False).total
    gpu((7, 5), least + 8)
    fitted, ledger, notes = fit(asked, SEQ)
    assert (fitted.gradient_checkpointing, fitted.micro_batch_size) == (True, 8)
    assert ledger.total == checkpointed.total
    asked_for = whole.but(cuda_graphs=False)
    sizes = f"{ledger.total / GIB:.1f} GiB predicted, not {asked_for.total / GIB:.1f}"
    assert notes == [f"To fit memory: gradient checkpointing on ({sizes})."]

    gpu((7, 5), least - 8)
    fitted, ledger, notes = fit(asked, SEQ)
    assert (fitted.gradient_checkpointing, fitted.micro_batch_size, fitted.batch_size) == (True, 4, 8)
    assert ledger.total == predict_memory(fitted, "SmolLM2-1.7B", SEQ).total
    assert "gradient checkpointing on, 4 sequences at once instead of 8" in notes[0]


def test_a_gpu_that_is_too_small_is_refused_with_what_would_help(gpu, folder):
    gpu((7, 5))
    asked = recipe(model=folder(AutoConfig.for_model(**SHAPES["SmolLM2-1.7B"])), method="lora")
    least = needed(predict_memory(asked, "SmolLM2-1.7B", SEQ))
    gpu((7, 5), least)
    fit(asked, SEQ)
    gpu((7, 5), least - 8)
    with pytest.raises(MemoryError) as refused:
        fit(asked, SEQ)
    message = str(refused.value)
    ledger = predict_memory(asked, "SmolLM2-1.7B", SEQ).but(cuda_graphs=False)
    assert (
        f"needs {ledger.total / GIB:.2f} GiB and {(least - 8) / 1.1 / GIB:.2f} GiB can be used on cuda"
        in message
    )
    assert "method qlora:" in message
    assert "sequences of 256 tokens (max_length):" in message
    assert "a smaller model, such as SmolLM2-135M:" in message
    assert "Qwen" not in message and "such as SmolLM2-1.7B" not in message


@pytest.mark.usefixtures("no_gpu")
def test_a_cpu_refuses_what_no_cpu_holds(folder):
    huge = LlamaConfig(
        num_hidden_layers=2, hidden_size=2**16, intermediate_size=2**20, num_attention_heads=512
    )
    with pytest.raises(MemoryError, match=r"can be used on cpu(.|\n)*smaller model, such as Qwen2.5-7B"):
        fit(recipe(model=folder(huge), method="full"), SEQ)


@pytest.mark.usefixtures("no_gpu")
def test_of_an_architecture_that_the_ledger_does_not_know_it_says_so(folder):
    asked = recipe(model=folder(GPT2Config(n_embd=32, n_layer=1, n_head=2)))
    note = "Memory is not predicted for gpt2 models, only for llama, mistral, qwen2."
    assert fit(asked, SEQ) == (asked, None, [note])


@pytest.mark.parametrize(
    ("settings", "processes", "graphs"),
    [
        ({}, 1, True),
        ({"cuda_graphs": "on"}, 1, True),
        ({"cuda_graphs": "off"}, 1, False),
        ({"gradient_checkpointing": True}, 1, True),
        ({"lora_dropout": 0.1}, 1, True),
        ({"lora_dropout": 0.1, "gradient_checkpointing": True}, 1, False),
        ({"method": "full", "lora_dropout": 0.1, "gradient_checkpointing": True}, 1, True),
        ({"batch_size": 4}, 2, False),
    ],
)
def test_graphs_are_predicted_exactly_where_steps_are_replayed(gpu, settings, processes, graphs):
    gpu()
    asked = recipe(processes, **settings)
    s = predict_memory(asked, "SmolLM2-1.7B", 61, Asking(scored=20, validation=50)).settings
    assert s["cuda_graphs"] is graphs and s["seq"] == (64 if graphs else 61)
    assert (s["scored"], s["validation"]) == (20, 50)


@pytest.mark.usefixtures("no_gpu")
def test_no_graphs_are_predicted_on_a_cpu():
    assert not predict_memory(recipe(cuda_graphs="auto"), "SmolLM2-135M", SEQ).settings["cuda_graphs"]


def test_graphs_that_must_not_fail_need_no_room_for_whole_logits(gpu, folder):
    gpu()
    name = folder(AutoConfig.for_model(**SHAPES["SmolLM2-1.7B"]))
    eight = {"model": name, "batch_size": 8, "micro_batch_size": 8}
    replayed = predict_memory(recipe(**eight), "SmolLM2-1.7B", SEQ)
    assert 1.1 * replayed.total + 8 < 1.1 * replayed.but(cuda_graphs=False).total
    gpu(free=1.1 * replayed.total + 8)
    fitted, ledger, notes = fit(recipe(**eight, cuda_graphs="on"), SEQ)
    assert (fitted.gradient_checkpointing, ledger.total, notes) == (False, replayed.total, [])
    fitted, ledger, _ = fit(recipe(**eight), SEQ)
    assert fitted.gradient_checkpointing and ledger.settings["cuda_graphs"]
    fitted, ledger, _ = fit(recipe(**eight, lora_dropout=0.1), SEQ)
    assert fitted.gradient_checkpointing and not ledger.settings["cuda_graphs"]


# --- what is asked, and how fast it learns ------------------------------------------------------------


def test_a_base_that_is_loaded_does_not_count_as_used_by_another(gpu, folder):
    gpu()
    asked = recipe(model=folder(AutoConfig.for_model(**SHAPES["SmolLM2-1.7B"])))
    least = needed(ledger := predict_memory(asked, "SmolLM2-1.7B", SEQ))
    gpu(free=least - ledger["weights"])  # what the base, which is there, has left
    with pytest.raises(MemoryError):
        fit(asked, SEQ)
    assert fit(asked, SEQ, loaded=True)[1] is not None


def test_where_many_answers_do_not_fit_fewer_are_given_at_once(gpu, folder):
    gpu((7, 5))
    asked = recipe(model=folder(AutoConfig.for_model(**SHAPES["SmolLM2-1.7B"])))
    many = Asking(25, 100, 264)
    least = math.ceil(1.1 * predict_memory(asked, "SmolLM2-1.7B", 64, many).total)
    gpu((7, 5), least + 8)
    assert fit(asked, 64, many)[1]["key-value cache"] == 2 * 24 * 2048 * 4 * 25 * 364
    gpu((7, 5), least - GIB)
    same, ledger, [note] = fit(asked, 64, many)
    assert same == asked and ledger.settings["answers"] == 12
    assert "12 answers at once instead of 25" in note


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("before", [0, 50], ids=["plain", "with worked examples"])
def test_a_plan_asks_at_once_what_was_predicted(folder, monkeypatch, tmp_path, before):
    """A model of wide keys on a CPU: where memory is short, no kind of question holds more tokens than fit."""
    wide = SHAPES["SmolLM2-135M"] | {"hidden_size": 64, "intermediate_size": 64, "num_key_value_heads": 4}
    config = AutoConfig.for_model(**wide | {"num_attention_heads": 4}, head_dim=256)
    load_tokenizer().save_pretrained(folder(config))
    asked = FinetuneConfig(str(tmp_path / "run"), str(tmp_path), before_events=before, test_events=50)

    plan = make_plan(asked)
    assert plan.ledger is not None and plan.ledger["key-value cache"]  # answering takes most
    assert plan.questions.batch_size == 25 and not any("To fit memory" in note for note in plan.notes)
    least = int(1.15 * plan.ledger.total) - psutil.Process().memory_info().rss
    memory = psutil.virtual_memory()._replace(available=least - GIB // 8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)

    short = make_plan(asked)
    assert short.ledger is not None and short.recipe == plan.recipe and short.identity == plan.identity
    s = short.ledger.settings
    assert s["answers"] == plan.ledger.settings["answers"] // 2
    assert any(f"{s['answers']} answers at once instead of" in note for note in short.notes)
    for lines, worked in ((short.questions.seen, []), (short.questions.before, short.questions.worked)):
        if lines:
            prompt = longest_prompt(load_tokenizer(), [line["sentence"] for line in lines], worked)
            held = answers_at_once(short.questions.batch_size, worked) * (prompt + NEW_TOKENS)
            assert held <= s["answers"] * (s["prompt"] + s["new_tokens"])


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("family", ["gemma2", "phi3", "qwen3"])
def test_a_plan_says_of_another_family_that_memory_is_not_predicted(folder, tmp_path, family):
    shape = SHAPES["SmolLM2-135M"] | {"model_type": family, "head_dim": 64}
    load_tokenizer().save_pretrained(folder(AutoConfig.for_model(**shape)))
    plan = make_plan(FinetuneConfig(str(tmp_path / "run"), str(tmp_path), before_events=0))
    assert plan.ledger is None
    assert f"Memory is not predicted for {family} models, only for llama, mistral, qwen2." in str(plan)
    assert "GiB" not in str(plan)


@pytest.mark.usefixtures("no_gpu")
def test_a_plan_tells_memory_and_what_is_known_of_float16(tmp_path):
    plan = make_plan(FinetuneConfig(str(tmp_path / "run"), "auto", before_events=0))
    assert plan.ledger is not None
    first, *notes = str(plan).splitlines()
    assert first == f"{plan.ledger.total / GIB:.2f} GiB predicted; rows at once in memory: 2"
    assert notes == list(plan.notes) and not any("float16" in note for note in notes)
    half = make_plan(FinetuneConfig(str(tmp_path / "run"), "auto", dtype="float16", before_events=0))
    assert f"In float16: {TIERS[SMOL_135M].half}" in str(half)


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        ({}, 1e-3),
        ({"method": "lora"}, 1e-3),
        ({"model": "SmolLM2-1.7B"}, 2e-4),
        ({"model": QWEN}, 2e-4),
        ({"model": QWEN, "learning_rate": 5e-5}, 5e-5),
        ({"method": "full"}, 2e-5),
        ({"method": "full", "model": QWEN}, 2e-5),
        ({"model": "auto"}, 1e-3),  # until a model is chosen
    ],
)
def test_the_rate_follows_the_models_size_where_none_is_asked_for(settings, rate):
    assert recipe(**settings).learning_rate == rate


def test_the_rate_is_read_off_a_folders_configuration(folder):
    small = LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4)
    assert recipe(model=folder(small)).learning_rate == 1e-3
    assert recipe(model=folder(AutoConfig.for_model(**SHAPES["Qwen2.5-7B"]))).learning_rate == 2e-4
