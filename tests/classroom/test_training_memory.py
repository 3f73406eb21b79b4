"""Models by name: adapters counted by peft, parts that sum to the ledger, and the ledger against the records."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoTokenizer

from lora_edu.classroom.experiments import training_memory as memory
from lora_edu.classroom.experiments.gpu_fits import WAYS
from lora_edu.llm.base_model import fetch_base_model
from lora_edu.llm.budget.count import meta_model
from lora_edu.llm.data import DATA, extraction, load_events


@pytest.mark.parametrize("targets", [memory.QUERY_VALUE, "all-linear"])
def test_adapters_are_counted_as_peft_counts_them(targets):
    asked = targets if isinstance(targets, str) else list(targets)
    by_peft = get_peft_model(meta_model("SmolLM2-360M"), LoraConfig(r=4, target_modules=asked))
    assert memory.adapter_numbers("SmolLM2-360M", targets, r=4) == by_peft.get_nb_trainable_parameters()[0]


def test_gpt3_has_two_square_layers_a_block_and_an_mlp_four_times_as_wide():
    width = 12_288
    with torch.device("meta"):
        layers = [nn.Linear(width, width) for _ in range(4)] + [
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
        ]
    units = [sum(layer.weight.shape) for layer in layers]
    assert memory.adapter_numbers("GPT-3", r=2) == 96 * 2 * sum(units)
    assert memory.adapter_numbers("GPT-3", memory.QUERY_VALUE, r=4) == 96 * 4 * sum(units[:2]) == 18_874_368


@pytest.mark.parametrize("way", WAYS)
def test_parts_sum_to_the_ledger(way):
    sizes = memory.parts("SmolLM2-135M", way, 512)
    assert list(sizes) == list(memory.PARTS) and min(sizes.values()) >= 0
    assert sum(sizes.values()) * 2**30 == pytest.approx(
        memory.training_ledger("SmolLM2-135M", way, 512).total
    )
    assert (sizes["4-bit weights"] > 0) == (sizes["their scales"] > 0) == (way == "QLoRA")
    assert (sizes["frozen weights"] == 0) == (way == "full fine-tune")


def test_full_training_takes_sixteen_bytes_a_weight_beside_activations():
    sizes = memory.parts("Mistral-7B", "full fine-tune", 512)
    standing = sum(sizes[name] for name in ("weights that train", "gradients", "Adam's averages"))
    assert standing * 2**30 == 16 * 7_241_732_096


def test_every_bar_fits_the_coarse_scale():
    longest = max(
        sum(memory.parts(model, way, max(memory.TOKENS)).values()) for model in memory.MODELS for way in WAYS
    )
    assert longest < memory.TOPS[0]


def test_the_ledger_is_near_what_was_recorded():
    errors = memory.errors_of_the_ledger()
    assert {name: len(found) for name, found in errors.items()} == {
        "GPU": 16,
        "CPU": 3,
        "whole fine-tunes, GPU": 3,
    }
    assert max(map(abs, errors["GPU"])) < 0.011
    assert max(map(abs, errors["whole fine-tunes, GPU"])) < 0.05
    assert max(map(abs, errors["CPU"])) < 0.15


def test_the_longest_event_has_that_many_tokens():
    tokenizer = AutoTokenizer.from_pretrained(fetch_base_model())
    events = load_events(path=DATA / "events" / "train.jsonl")  # all that the recorded runs were trained on
    texts = [" ".join([event["sentence"], *event["event"].values()]) for event in events]
    counts = [len(ids) for ids in tokenizer(texts)["input_ids"]]
    longest = sorted(range(len(events)), key=counts.__getitem__)[-40:]
    lengths = [len(extraction.encode_example(tokenizer, events[i])["input_ids"]) for i in longest]
    assert max(lengths) == memory.LONGEST_EVENT
