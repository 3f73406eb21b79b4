"""What a forward pass keeps: a small model against counts on paper, the record of SmolLM2 against the ledger."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lora_edu.classroom import records
from lora_edu.classroom.experiments.kept import BASES, WAYS, kept_bytes, recorded_mebibytes
from lora_edu.llm.budget import memory_ledger
from lora_edu.llm.surgery import add_lora

TOKENS, HIDDEN, INNER, LAYERS, R = 6, 16, 24, 2, 3


def small_model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).requires_grad_(False)


def kept_by(targets, dtype=torch.float32):
    model = add_lora(small_model().to(dtype), targets, r=R, lora_alpha=8)
    return kept_bytes(model, torch.arange(TOKENS)[None])


def test_another_adapter_keeps_its_input_and_a_few_numbers():
    """The lowest adapter decides where a backward begins, so down_proj is adapted in both."""
    alone, both = kept_by(["q_proj", "down_proj"]), kept_by(["q_proj", "down_proj", "o_proj"])
    assert both - alone == LAYERS * TOKENS * R * 4  # attention keeps its own output, which is o's input
    assert (
        kept_by(["q_proj", "v_proj", "down_proj"]) - alone == LAYERS * TOKENS * R * 4
    )  # q and v share theirs


def test_over_a_16_bit_base_each_adapter_keeps_a_wide_copy_of_its_input():
    alone, both = (kept_by(["q_proj", *more], torch.bfloat16) for more in ([], ["v_proj"]))
    assert both - alone == LAYERS * TOKENS * (HIDDEN + R) * 4


def test_weights_are_left_out_and_a_frozen_model_keeps_nothing():
    assert kept_bytes(small_model(), torch.arange(TOKENS)[None]) == 0


# (base, way) of what the ledger's formulas for a CPU follow
LEDGER = {
    "LoRA on q and v": {"method": "lora", "target_modules": ["q_proj", "v_proj"]},
    "LoRA on all linear": {"method": "lora"},
    "full fine-tuning": {"method": "full"},
}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("way", LEDGER)
def test_the_record_is_what_the_ledger_predicts(base, way):
    kept = recorded_mebibytes()[BASES[base]][WAYS.index(way)] * 2**20
    asked = {"batch": 8, "seq": 256, "dtype": getattr(torch, base)}  # enough tokens for the peak to hold them
    predicted = memory_ledger("SmolLM2-135M", **LEDGER[way], **asked)["activations"] / (8 * 256)
    assert kept == pytest.approx(predicted / 2, rel=0.02)  # on a CPU the ledger adds holes, as large again


def test_the_record_knows_every_way():
    cases = records.read("kept_activations")["cases"]
    assert {(case["base"], case["way"]) for case in cases} == {(base, way) for base in BASES for way in WAYS}
