"""What is read from a record lands in the right column; what is timed acts as itself."""

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lora_edu.classroom.experiments.adapters import (
    METHODS,
    clear_questions,
    errors_by_rank,
    method_columns,
    milliseconds_a_token,
    one_after_the_other,
    says_twice,
    scores_by_rate,
    style_rates,
    timed,
)
from lora_edu.llm.surgery import adapter_names, add_bottleneck, add_lora, add_prefix
from lora_edu.llm.surgery.switch import find_choice
from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.lowrank import rank_error_curve

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


def test_rates_stand_in_the_order_of_the_rules():
    record = {"base": styles(0, 0, 0.1), "personas": {"robot": styles(0, 1, 0.2)}}
    assert style_rates(record) == {"base": [0, 0, 0.1], "robot": [0, 1, 0.2]}


def test_a_sentence_that_comes_twice_is_seen():
    assert says_twice("LOG 051: No sound. no sound.") and not says_twice("No sound. No pictures. Sound.")


def test_a_question_is_clear_if_all_keep_their_rule_and_none_repeats_itself():
    good = {
        "captain": "Aye. Fair winds!",
        "robot": "LOG 001: Done.",
        "gardener": "Plant a daisy.",
    }
    bad = good | {"robot": "LOG 001: Done. Done."}, good | {"gardener": "Plant it."}
    replies = [good, *bad]
    record = {
        "questions": ["one", "two", "three"],
        "personas": {name: {"replies": [reply[name] for reply in replies]} for name in good},
    }
    assert clear_questions(record) == ["one"]


def test_a_method_is_its_median_and_range():
    rates = {"prefix": (0, 0, 0.3), "full": (1,) * 3, "lora": (0.9, 0.5, 0.7), "bottleneck": (0.1,) * 3}
    runs = [
        {"method": name, "seed": seed, "exact_match": rate, "exact_match_unseen": rate / 2}
        | {"trainable_parameters": 1000 + seed, "learning_rate": 0.002}
        for name, seeds in rates.items()
        for seed, rate in enumerate(seeds)
    ]
    columns = method_columns({"runs": runs}, dict(zip(METHODS, (2.4, 3, 4, 1), strict=True)))
    assert columns["method"] == list(METHODS.values())
    assert columns["learning_rate"] == ["0.002"] * 4
    assert columns["ms_a_token"] == ["2", "3", "4", "1"]
    assert columns["seen_patterns"][::2] == ["70% (50% to 90%)", "0% (0% to 30%)"]
    assert columns["unseen_patterns"][0] == "35% (25% to 45%)"
    assert columns["numbers_that_train"] == ["1,000"] * 4
    assert columns["merges_into_W"][:3] == ["yes", "no", "no"]


def test_rates_are_told_in_multiples_of_the_one_that_was_chosen():
    tried = {"lora": {0.1: 0.5, 0.2: 0.6}, "full": {0.01: 0.9, 0.005: 0.8}}
    tuning = [
        {"method": method, "learning_rate": rate, "exact_match": right, "exact_match_unseen": right - 0.2}
        for method, scores in tried.items()
        for rate, right in scores.items()
    ]
    runs = [{"method": "lora", "learning_rate": 0.2}, {"method": "full", "learning_rate": 0.01}]
    multiples, scores = scores_by_rate({"tuning": tuning, "runs": runs})
    assert multiples == [0.5, 1]
    assert scores["LoRA"] == pytest.approx([0.4, 0.5]) and scores["full fine-tuning"] == pytest.approx(
        [0.7, 0.8]
    )
    assert all(map(math.isnan, scores["prefix"]))


def test_two_updates_one_after_the_other_are_their_sum():
    layers = [LoRALinear(torch.nn.Linear(6, 5), r=r, lora_alpha=3) for r in (2, 1)]
    for layer in layers:
        torch.nn.init.normal_(layer.lora_B)
    with torch.no_grad():
        B, A = one_after_the_other(layers)
        total = sum(layer.delta_weight() for layer in layers)
        assert torch.allclose(B @ A, total, atol=1e-6)
        assert torch.allclose(errors_by_rank(B, A), rank_error_curve(total.double())[:4], atol=1e-6)


def test_timing_returns_the_result():
    result, seconds = timed(lambda: 7)
    assert result == 7 and seconds >= 0
