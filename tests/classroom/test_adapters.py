"""What is read from a record lands in the right column; what is timed acts as itself."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lora_edu.classroom.experiments.adapters import (
    METHODS,
    method_columns,
    milliseconds_a_token,
    style_rates,
    timed,
)
from lora_edu.llm.surgery import adapter_names, add_bottleneck, add_lora, add_prefix
from lora_edu.llm.surgery.switch import find_choice

PROMPT = torch.tensor([[5, 6, 7]])


@pytest.fixture
def model():
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32, pad_token_id=0, eos_token_id=1, **sizes)).eval()
    add_lora(model, ["q_proj"], r=2, lora_alpha=2, adapter_name="lora")
    add_bottleneck(model, bottleneck=2, adapter_name="bottleneck")
    return add_prefix(model, num_virtual_tokens=2, adapter_name="prefix")


def test_each_candidate_generates_as_itself(model):
    acted = []
    model.register_forward_hook(
        lambda *_: acted.append(find_choice(model).active if find_choice(model).enabled else "base")
    )
    names = adapter_names(model)
    times = milliseconds_a_token(model, PROMPT, names, tokens=3, repeats=2)
    assert list(times) == ["base", *names] and min(times.values()) > 0
    assert acted == [name for name in ("base", *names) for _ in range(3)] * 2


def test_an_unknown_adapter_is_named(model):
    with pytest.raises(ValueError, match="'stranger'"):
        milliseconds_a_token(model, PROMPT, ["stranger"])


def styles(captain, robot, gardener):
    return {"styles": {"captain": captain, "robot": robot, "gardener": gardener}}


def run(method, seed, rate):
    return {
        "method": method,
        "seed": seed,
        "persona": "gardener",
        "trainable_parameters": 1000 + seed,
    } | styles(0.9, 0.9, rate)


def test_rates_stand_in_the_order_of_the_rules():
    record = {"base": styles(0, 0, 0.1), "personas": {"robot": styles(0, 1, 0.2)}}
    assert style_rates(record) == {"base": [0, 0, 0.1], "robot": [0, 1, 0.2]}


def test_a_method_is_its_median_and_range():
    methods = ("prefix", "full", "lora", "bottleneck")
    rates = {
        "lora": (0.9, 0.5, 0.7),
        "lora_all": (0.2,) * 3,
        "bottleneck": (0.1,) * 3,
        "prefix": (0, 0, 0.3),
        "full": (1,) * 3,
    }
    record = {"methods": [run(method, seed, rates[method][seed]) for seed in range(3) for method in methods]}
    columns = method_columns(record, dict(zip(METHODS, (2.4, 3, 4, 1), strict=True)))
    assert columns["method"] == list(METHODS.values())
    assert columns["ms_a_token"] == ["2", "3", "4", "1"]
    assert columns["keeps_the_style"][::2] == ["70% (50% to 90%)", "0% (0% to 30%)"]
    assert columns["numbers_that_train"] == ["1,000"] * 4
    assert columns["merges_into_W"][:3] == ["yes", "no", "no"]


def test_timing_returns_the_result():
    result, seconds = timed(lambda: 7)
    assert result == 7 and seconds >= 0
