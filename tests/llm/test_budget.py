"""Bytes and numbers from a configuration alone, against real models, peft, and peaks measured on a GPU."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from lora_edu.llm import budget
from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.datasets import DATA

MEASURED = json.loads((DATA / "runs" / "gpu_memory.json").read_text("utf-8"))["cases"]
# The script quantizes random layers one by one; with our layers `finetune` loads a model whole first.
COMPARABLE = [case for case in MEASURED if "measured_bytes" in case and case["case"]["backend"] == "peft"]


def predicted(case):
    """The ledger of a recorded case."""
    settings = {key: value for key, value in case.items() if key not in ("model", "dtype")}
    optimizer = "paged_adamw_8bit" if case["method"] == "qlora" else "adamw"
    dtype = getattr(torch, case["dtype"])
    return budget.memory_ledger(case["model"], dtype=dtype, optimizer=optimizer, device="cuda", **settings)


@pytest.mark.parametrize("measured", COMPARABLE, ids=lambda m: "-".join(map(str, m["case"].values())))
def test_the_ledger_is_within_a_tenth_of_what_a_gpu_held(measured):
    assert predicted(measured["case"]).total == pytest.approx(measured["measured_bytes"], rel=0.1)


def test_what_did_not_fit_a_t4_is_refused():
    [failed] = [case["case"] for case in MEASURED if "measured_bytes" not in case]
    with pytest.raises(MemoryError, match="method qlora"):
        budget.preflight(predicted(failed), "cuda", available=int(14.5 * 2**30))


@pytest.mark.parametrize(("model", "gib"), [("Mistral-7B", 6), ("Qwen2.5-7B", 8)])
def test_a_7b_fits_a_t4_as_qlora(model, gib):
    settings = {"method": "qlora", "batch": 1, "seq": 512, "r": 16, "gradient_checkpointing": True}
    ledger = budget.memory_ledger(
        model, dtype=torch.float16, optimizer="paged_adamw_8bit", device="cuda", **settings
    )
    assert ledger.total < gib * 2**30
    assert budget.preflight(ledger, "cuda", available=int(14.5 * 2**30)) is ledger


def test_parameters_of_the_real_model_and_of_its_configuration():
    model, _ = load_base_model()
    assert (
        budget.count_parameters(model)
        == budget.count_parameters(model.config)
        == budget.count_parameters("SmolLM2-135M")
        == sum(p.numel() for p in model.parameters())
    )


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear"])
def test_adapters_of_a_model_equal_pefts_count(targets):
    config = budget.resolve_config("SmolLM2-135M")
    with torch.device("meta"):
        model = get_peft_model(
            AutoModelForCausalLM.from_config(config),
            LoraConfig(r=8, target_modules=targets, task_type="CAUSAL_LM"),
        )
    ledger = budget.memory_ledger(config, "lora", r=8, target_modules=targets)
    assert ledger["adapters"] == 4 * model.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": "no-such-model"}, "config must be .* got 'no-such-model'"),
        ({"method": "prompt"}, "method must be .* got 'prompt'"),
        ({"batch": 0}, "batch must be .* got 0"),
        ({"seq": 0}, "seq must be .* got 0"),
        ({"r": 0}, "r must be .* got 0"),
        ({"optimizer": "sgd"}, "optimizer must be .* got 'sgd'"),
        ({"device": "tpu"}, "device must be .* got 'tpu'"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        budget.memory_ledger(**{"config": "SmolLM2-135M"} | change)


def test_too_little_memory_changes_what_changes_no_result_first():
    ledger = budget.memory_ledger("SmolLM2-135M", "qlora", batch=8, seq=256)
    lighter = ledger.but(gradient_checkpointing=True)
    assert lighter.total < ledger.total
    fitted = budget.preflight(ledger, "cpu", available=int(1.2 * lighter.total))
    assert fitted.settings["gradient_checkpointing"] and fitted.settings["batch"] == 8
