"""Counts against real models, the ledger against tensors that PyTorch holds and against measured peaks."""

import json
import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import GPT2Config, LlamaConfig, LlamaForCausalLM, T5Config

from lora_edu.llm import surgery
from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.budget import (
    SHAPES,
    available_bytes,
    count_parameters,
    lora_parameter_count,
    memory_ledger,
    parameters_by_kind,
    preflight,
)
from lora_edu.llm.budget.moments import HEAP_FACTOR
from lora_edu.llm.budget.preflight import _cgroup_free, changes
from lora_edu.llm.data import DATA
from lora_edu.methods.lora import LoRALinear
from tools.record_gpu_memory import REAL, measure_apart

GIB = 2**30
MEASURED = json.loads((DATA / "runs" / "gpu_memory.json").read_text("utf-8"))["cases"]
# The larger models were random and quantized layer by layer; with our layers `finetune` loads a model whole first.
COMPARABLE = [
    case
    for case in MEASURED
    if "measured_bytes" in case and (case["case"]["backend"] == "peft" or case["case"]["model"] == REAL)
]


def llama(**changes) -> LlamaConfig:
    sizes = {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3}
    return LlamaConfig(**sizes | {"num_attention_heads": 4, "num_key_value_heads": 4} | changes)


# --- counts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "published"),
    [
        # What the models' safetensors files hold, by their cards on the hub; GPT-3 is "175B".
        ("SmolLM2-135M", 134_515_008),
        ("SmolLM2-1.7B", 1_711_376_384),
        ("Llama-2-7B", 6_738_415_616),
        ("Mistral-7B", 7_241_732_096),
        ("Qwen2.5-7B", 7_615_616_512),
        ("gpt-3", pytest.approx(175e9, rel=3e-3)),
    ],
)
def test_recorded_shapes_have_the_published_parameters(name, published):
    assert count_parameters(name) == published


def test_the_real_model_has_the_parameters_of_its_configuration():
    model, _ = load_base_model()
    assert count_parameters(model) == count_parameters(model.config) == count_parameters("SmolLM2-135M")


@pytest.mark.parametrize("tied", [True, False])
def test_a_configuration_and_its_model_count_the_same(tied):
    config = llama(tie_word_embeddings=tied)
    model = LlamaForCausalLM(config)
    assert count_parameters(config) == count_parameters(model) == sum(p.numel() for p in model.parameters())
    kinds = parameters_by_kind(model)
    assert kinds["embeddings"] == 512 * 128
    assert kinds["head"] == (0 if tied else 512 * 128)
    assert kinds["attention"] == 3 * 4 * 128 * 128
    assert kinds["mlp"] == 3 * 3 * 128 * 384
    assert kinds["norms"] == 7 * 128


def test_a_model_with_biases_and_learned_positions_counts_them():
    config = GPT2Config(vocab_size=100, n_positions=20, n_embd=8, n_layer=2, n_head=2)
    attention, mlp = 4 * 8 * 8 + 4 * 8, 2 * 4 * 8 * 8 + 5 * 8
    assert count_parameters(config) == 120 * 8 + 2 * (attention + mlp + 4 * 8) + 2 * 8


def test_weights_of_four_bits_are_not_counted_by_their_bytes(tiny, tiny_folder):
    whole = count_parameters(tiny)
    assert count_parameters(surgery.quantize_linear_layers(tiny)) == whole
    in_bitsandbytes, _ = load_base_model(str(tiny_folder), quantization="nf4")
    dense, _ = load_base_model(str(tiny_folder))
    assert count_parameters(in_bitsandbytes) == count_parameters(dense)


def test_an_adapter_counts_what_it_holds():
    lora = LoRALinear(nn.Linear(48, 32), r=5, lora_alpha=8)
    trained = lora.lora_A.numel() + lora.lora_B.numel()
    assert lora_parameter_count(48, 32, 5) == trained
    assert lora_parameter_count(8192, 8192, 8) * 512 == 8192**2


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear"])
def test_adapters_of_a_model_equal_pefts_count(targets):
    with torch.device("meta"):
        model = get_peft_model(
            LlamaForCausalLM(llama()), LoraConfig(r=8, target_modules=targets, task_type="CAUSAL_LM")
        )
    ledger = memory_ledger(llama(), "lora", r=8, target_modules=targets)
    assert ledger["adapters"] == 4 * model.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: count_parameters(7),
            TypeError,
            "config must be a transformers configuration or one of .*got int",
        ),
        (lambda: count_parameters("bert"), ValueError, "config must be .*Mistral-7B.*got 'bert'"),
        (
            lambda: count_parameters(T5Config()),
            ValueError,
            "config must be a causal language model's, got T5Config",
        ),
        (lambda: lora_parameter_count(0, 8, 1), ValueError, "d_in must be an integer of at least 1, got 0"),
        (lambda: lora_parameter_count(8, 1.5, 1), TypeError, "d_out must be an integer"),
        (lambda: lora_parameter_count(8, 4, 5), ValueError, r"r must be an integer in 1 … 4, got 5"),
        (
            lambda: memory_ledger(llama(), "dora"),
            ValueError,
            "method must be one of full, lora, qlora, got 'dora'",
        ),
        (
            lambda: memory_ledger(llama(), batch=0),
            ValueError,
            "batch must be an integer of at least 1, got 0",
        ),
        (lambda: memory_ledger(llama(), seq=1.0), TypeError, "seq must be an integer"),
        (lambda: memory_ledger(llama(), r=129), ValueError, "r must be between 1 and 128"),
        (
            lambda: memory_ledger(llama(), target_modules=["x"]),
            ValueError,
            "target_modules must name linear layers",
        ),
        (lambda: memory_ledger(llama(), optimizer="sgd"), ValueError, "optimizer must be one of adamw"),
        (lambda: memory_ledger(llama(), backend="jax"), ValueError, "backend must be one of peft, scratch"),
        (lambda: memory_ledger(llama(), device="tpu"), ValueError, "device must be one of cpu, cuda"),
        (lambda: memory_ledger(llama(), dtype=torch.int8), TypeError, "dtype must be a floating-point"),
        (lambda: memory_ledger("GPT-3"), ValueError, "config must be of an architecture .*llama.* got gpt2"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- the ledger, term by term -------------------------------------------------------------------------


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_weights_adapters_and_optimizer_are_what_a_model_holds(method, targets):
    config = llama()
    model = LlamaForCausalLM(config)
    add = surgery.add_lora if method == "lora" else surgery.add_qlora
    add(model, targets, r=4, lora_alpha=8)
    adapters = list(surgery.lora_parameters(model))
    for parameter in adapters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.AdamW(adapters)
    optimizer.step()
    moments = [m for state in optimizer.state.values() for m in (state["exp_avg"], state["exp_avg_sq"])]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    buffers = [b for name, b in model.named_buffers() if "inv_freq" not in name]

    ledger = memory_ledger(
        config, method, seq=8, r=4, target_modules=targets, backend="scratch", device="cuda"
    )
    training = ledger.but(seq=4096)  # so that training, not loading, is the peak
    held = sum(t.nbytes for t in [*frozen, *buffers])
    assert training["weights"] + training["quantization constants"] == pytest.approx(held, rel=0.01)
    assert training["adapters"] == sum(p.nbytes for p in adapters)
    assert training["optimizer"] == sum(m.nbytes for m in moments)
    assert training.but(micro_batches=2)["gradients"] == sum(p.grad.nbytes for p in adapters)


def saved_bytes(config, method, dtype, targets="all-linear", tokens=(2, 64), autocast=True) -> int:
    """Bytes that PyTorch saves for backward in one forward, weights and logits left out."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(dtype)
    if method == "qlora":
        for module in model.modules():
            if type(module).__name__.endswith("Norm"):
                module.float()
        surgery.add_qlora(model, targets, r=4, lora_alpha=8, compute_dtype=dtype)
        model.lm_head.register_forward_pre_hook(lambda head, inputs: (inputs[0].to(dtype),))
    elif method == "lora":
        surgery.add_lora(model, targets, r=4, lora_alpha=8)
    ids = torch.randint(0, config.vocab_size, tokens)
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    saved = {}

    def keep(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with (
        torch.autocast("cpu", torch.bfloat16, enabled=autocast and dtype == torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    assert loss.requires_grad
    log_probabilities = 4 * ids.numel() * config.vocab_size
    casts = {t.untyped_storage().data_ptr() for t in saved.values() if t.numel() in _adapter_sizes(model)}
    return (
        sum(t.untyped_storage().nbytes() for at, t in saved.items() if at not in own | casts)
        - log_probabilities
    )


def _adapter_sizes(model) -> set[int]:
    """Autocast's copies of the adapters are counted elsewhere, as workspace."""
    return {p.numel() for p in surgery.lora_parameters(model)}


@pytest.mark.parametrize(
    ("method", "dtype", "targets"),
    [
        ("full", torch.float32, "all-linear"),
        ("full", torch.bfloat16, "all-linear"),
        ("lora", torch.float32, "all-linear"),
        ("lora", torch.float32, ["q_proj", "v_proj"]),
        ("lora", torch.bfloat16, "all-linear"),
        ("qlora", torch.float32, "all-linear"),
        ("qlora", torch.bfloat16, "all-linear"),
        ("qlora", torch.bfloat16, ["o_proj", "down_proj"]),
    ],
)
def test_activations_are_the_tensors_that_autograd_saves(method, dtype, targets):
    config = llama(num_hidden_layers=8)
    ledger = memory_ledger(
        config, method, 2, 64, 4, targets, dtype, backend="scratch", device="cuda", micro_batches=2
    )
    # The first norm's input needs no gradient, so one of seventeen norms keeps nothing.
    assert ledger["activations"] == pytest.approx(saved_bytes(config, method, dtype, targets), rel=0.04)


@pytest.mark.parametrize(
    ("method", "targets"),
    [
        ("full", "all-linear"),
        ("lora", "all-linear"),
        ("lora", ["q_proj", "v_proj", "gate_proj"]),
        ("qlora", "all-linear"),
        ("qlora", ["o_proj", "down_proj"]),
    ],
)
def test_on_a_cpu_16_bits_go_without_autocast(method, targets):
    config, dtype = llama(num_hidden_layers=8), torch.bfloat16
    ledger = memory_ledger(config, method, 2, 64, 4, targets, dtype, backend="scratch", micro_batches=2)
    saved = saved_bytes(config, method, dtype, targets, autocast=False)
    assert ledger["activations"] / (1 + HEAP_FACTOR) == pytest.approx(saved, rel=0.04)


def test_grouped_keys_and_values_are_counted_once_a_group():
    config = llama(num_hidden_layers=8, num_key_value_heads=1)
    ledger = memory_ledger(config, "lora", 2, 64, 4, dtype=torch.bfloat16, backend="scratch", device="cuda")
    assert ledger["activations"] == pytest.approx(saved_bytes(config, "lora", torch.bfloat16), rel=0.04)


def test_checkpointing_keeps_each_layers_input_alone():
    config = llama(num_hidden_layers=8)
    ledger = memory_ledger(config, "lora", 2, 64, 4, gradient_checkpointing=True, device="cuda")
    assert ledger["activations"] == (8 + 1) * 2 * 64 * 128 * 4  # and that of the last norm


def test_the_terms_move_as_they_should():
    base = memory_ledger("SmolLM2-1.7B", "lora", 4, 512, dtype=torch.bfloat16, device="cuda")
    assert base.but(method="qlora")["weights"] < base["weights"] / 3
    assert base.but(batch=8)["logits"] == 2 * base["logits"]
    assert base.but(optimizer="paged_adamw_8bit")["optimizer"] < base["optimizer"] / 3
    assert base.but(gradient_checkpointing=True).total < base.total
    assert base.but(method="full").total > base.total
    assert (
        base.but(backend="scratch", method="qlora", batch=1, seq=8)["weights"] == base["weights"]
    )  # loaded whole


# --- measured -----------------------------------------------------------------------------------------


def predicted(case):
    """The ledger of a recorded case."""
    settings = {key: value for key, value in case.items() if key not in ("model", "dtype")}
    optimizer = "paged_adamw_8bit" if case["method"] == "qlora" else "adamw"
    dtype = getattr(torch, case["dtype"])
    return memory_ledger(case["model"], dtype=dtype, optimizer=optimizer, device="cuda", **settings)


@pytest.mark.parametrize("measured", COMPARABLE, ids=lambda m: "-".join(map(str, m["case"].values())))
def test_the_ledger_is_within_a_tenth_of_what_a_gpu_held(measured):
    assert predicted(measured["case"]).total == pytest.approx(measured["measured_bytes"], rel=0.1)


def test_what_did_not_fit_a_t4_is_refused():
    [failed] = [case["case"] for case in MEASURED if "measured_bytes" not in case]
    with pytest.raises(MemoryError, match="method qlora"):
        preflight(predicted(failed), "cuda", available=int(14.5 * GIB))


@pytest.mark.slow
@pytest.mark.usefixtures("base_model_folder")
@pytest.mark.parametrize(
    ("method", "backend", "batch", "seq"),
    [
        ("qlora", "peft", 4, 64),
        ("qlora", "scratch", 4, 64),
        ("full", "peft", 2, 64),
    ],
)
def test_the_ledger_is_within_15_percent_of_what_this_cpu_held(method, backend, batch, seq):
    """Resident memory of a process of its own, which trains the base model for three steps."""
    case = {"model": "SmolLM2-135M", "method": method, "backend": backend, "batch": batch, "seq": seq}
    case |= {"dtype": "float32", "r": 8, "gradient_checkpointing": False}
    result = measure_apart(case, seconds=600)
    assert result.get("ratio") == pytest.approx(1, abs=0.15), result


# --- preflight ----------------------------------------------------------------------------------------


@pytest.fixture
def mistral():
    """LoRA without checkpointing, four sequences of 512: 14.5 GiB of weights and as much again."""
    return memory_ledger("Mistral-7B", "lora", 4, 512, dtype=torch.bfloat16, device="cuda")


def test_what_fits_is_left_alone(mistral):
    assert preflight(mistral, "cuda", available=80 * GIB) is mistral
    assert changes(mistral, mistral) == ""


def test_first_checkpointing_then_a_smaller_batch(mistral):
    checkpointed = preflight(
        mistral, "cuda", available=int(1.11 * mistral.but(gradient_checkpointing=True).total)
    )
    assert changes(mistral, checkpointed) == "gradient checkpointing on"
    tighter = preflight(mistral, "cuda", available=int(1.09 * checkpointed.total))
    assert changes(mistral, tighter) == "gradient checkpointing on, 2 sequences at once instead of 4"
    assert tighter.settings["micro_batches"] == 2
    assert tighter.total < checkpointed.total


def test_a_refusal_says_what_to_change_with_numbers(mistral):
    with pytest.raises(MemoryError) as refused:
        preflight(mistral, "cuda", available=14 * GIB, smaller=("SmolLM2-1.7B",))
    message = str(refused.value)
    lightest = mistral.but(gradient_checkpointing=True, batch=1, micro_batches=4)
    assert f"needs {mistral.total / GIB:.2f} GiB and {14 / 1.1:.2f} GiB can be used on cuda" in message
    changed = "gradient checkpointing on, 1 sequence at once instead of 4"
    assert f"It needs {lightest.total / GIB:.2f} GiB with this: {changed}." in message
    assert f"method qlora: {lightest.but(method='qlora').total / GIB:.2f} GiB" in message
    assert f"SmolLM2-1.7B: {lightest.but(config='SmolLM2-1.7B').total / GIB:.2f} GiB" in message
    assert "sequences of 256 tokens (max_length):" in message


@pytest.fixture
def answering():
    """SmolLM2-1.7B in 4 bits on a T4: 25 answers at once take more than training does."""
    at_once = {"batch": 2, "seq": 124, "answers": 25, "prompt": 78}
    half = {"dtype": torch.float16, "device": "cuda", "flash_attention": False}
    return memory_ledger("SmolLM2-1.7B", optimizer="paged_adamw_8bit", **at_once, **half)


def test_fewer_answers_at_once_before_training_changes(answering):
    def changed(gib):
        return changes(answering, preflight(answering, "cuda", available=int(1.1 * gib * GIB) + 1))

    training = answering.but(answers=0)
    assert answering["key-value cache"] and answering.total > training.total
    assert changed(answering.total / GIB) == ""
    assert changed(training.total / GIB) == "12 answers at once instead of 25"
    checkpointed = answering.but(gradient_checkpointing=True, answers=6)
    assert changed(checkpointed.total / GIB) == "gradient checkpointing on, 6 answers at once instead of 25"
    # What is accepted is the training that changes least, and the most answers that fit beside it.
    assert checkpointed.total < training.total < answering.but(gradient_checkpointing=True).total


def test_a_refusal_names_nothing_that_does_not_help(answering):
    with pytest.raises(MemoryError) as refused:
        preflight(answering, "cuda", available=GIB, smaller=("SmolLM2-1.7B", "SmolLM2-135M"))
    lines = str(refused.value).splitlines()
    changed = "gradient checkpointing on, 1 sequence at once instead of 2, 1 answer at once instead of 25"
    assert lines[1].endswith(f"GiB with this: {changed}.")
    # The same model is no smaller one.
    assert [line.strip().partition(":")[0] for line in lines[3:]] == [
        "sequences of 62 tokens (max_length)",
        "a smaller model, such as SmolLM2-135M",
    ]
    totals = [float(re.search(r"([\d.]+) GiB", line)[1]) for line in lines if "GiB" in line]
    assert totals[0] > totals[1] > max(totals[2:])


def test_where_loading_takes_most_less_at_once_is_not_offered():
    ledger = memory_ledger("SmolLM2-1.7B", batch=4, seq=32, answers=25, prompt=16)
    assert ledger["process"] and not ledger["logits"]  # the moment of loading
    with pytest.raises(
        MemoryError, match=r"does not lower that\.\nWhat is left is a smaller model, or more memory\.$"
    ):
        preflight(ledger, "cpu", available=GIB)


def test_this_machine_has_memory_for_a_small_model_and_none_for_a_large_one():
    tiny = memory_ledger(llama(), "lora", 1, 16)
    assert preflight(tiny, "cpu") is tiny
    # Trained whole in float32, 16 bytes a parameter.
    huge = memory_ledger(
        llama(num_hidden_layers=2, hidden_size=65536, intermediate_size=2**20), "full", 1, 16
    )
    assert huge.total > available_bytes("cpu")
    with pytest.raises(MemoryError, match="method qlora"):
        preflight(huge, "cpu")


@pytest.mark.parametrize(("model", "gib"), [("Mistral-7B", 6), ("Qwen2.5-7B", 8)])
def test_a_7b_fits_a_t4_as_qlora(model, gib):
    settings = {"method": "qlora", "batch": 1, "seq": 512, "r": 16, "gradient_checkpointing": True}
    ledger = memory_ledger(
        model, dtype=torch.float16, optimizer="paged_adamw_8bit", device="cuda", **settings
    )
    assert ledger.total < gib * GIB
    assert preflight(ledger, "cuda", available=int(14.5 * GIB)) is ledger


def test_the_device_is_checked():
    with pytest.raises(ValueError, match="device must be one of cpu, cuda, got 'tpu'"):
        preflight(memory_ledger(llama()), "tpu")


@pytest.mark.parametrize(
    ("names", "limit", "free"),
    [
        (("memory.max", "memory.current", "inactive_file"), "2000", [2000 - 1500 + 300]),
        (("memory.max", "memory.current", "inactive_file"), "max", []),
        (
            ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
            "2000",
            [2000 - 1500 + 300],
        ),
    ],
)
def test_a_containers_limit_counts_without_cached_files(tmp_path, names, limit, free):
    limit_file, usage_file, cached = names
    (tmp_path / limit_file).parent.mkdir(exist_ok=True)
    (tmp_path / limit_file).write_text(f"{limit}\n")
    (tmp_path / usage_file).write_text("1500\n")
    (tmp_path / usage_file).with_name("memory.stat").write_text(f"anon 1200\n{cached} 300\n")
    assert _cgroup_free(tmp_path) == free


def test_without_a_container_there_is_no_limit(tmp_path):
    assert _cgroup_free(tmp_path) == []


def test_every_recorded_shape_builds():
    assert all(count_parameters(name) > 0 for name in SHAPES)
