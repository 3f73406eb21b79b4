"""Where a step's memory goes: parts that sum to the ledger, records, and the paper's case by a second route."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lora_edu.classroom import figures
from lora_edu.classroom.experiments import step_memory
from lora_edu.classroom.experiments.in_memory import cases, recorded_ledger
from lora_edu.llm.surgery import add_qlora, linear_layers

GIB = 2**30


def test_recorded_bars_sum_to_the_ledger_and_lie_near_what_was_measured():
    bars, found = step_memory.recorded_peaks()
    for bar, parts in bars.items():
        model, method = bar.split(", ")
        [entry] = cases("gpu_memory", model=model, method=method.lower(), **step_memory.USUAL)
        assert sum(parts.values()) == pytest.approx(recorded_ledger(entry["case"], "cuda").total / GIB)
        if found[bar] is None:
            assert entry["out_of_memory"] and sum(parts.values()) > 14.5
        else:
            assert sum(parts.values()) == pytest.approx(found[bar], rel=0.01)


def test_lora_and_qlora_are_compared_with_the_same_optimizer():
    lora, qlora, small = (step_memory.mistral(way, 16, 512, True) for way in step_memory.WAYS)
    assert lora["Adam's averages"] == qlora["Adam's averages"] > 3 * small["Adam's averages"]


def test_the_papers_case_is_that_of_the_models_own_layers():
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=8192,
        intermediate_size=22_016,
        num_hidden_layers=2,  # of 80, all alike
        num_attention_heads=64,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    shapes = [layer.weight.shape for layer in linear_layers(model).values()]
    numbers = 64 * 40 * sum(sum(shape) for shape in shapes)
    weights = 40 * sum(shape.numel() for shape in shapes)
    bar, paged = step_memory.llama_65b().values()
    assert bar["Adam's averages"] == 8 * numbers / GIB and bar["weights that train"] == 2 * numbers / GIB
    assert bar["4-bit weights"] == weights / 2 / GIB
    assert bar["4-bit weights"] + bar["their scales"] == pytest.approx(4.126953125 * weights / 8 / GIB)
    ends = model.get_input_embeddings().weight.numel() + model.get_output_embeddings().weight.numel()
    assert bar["frozen weights"] == 2 * ends / GIB
    assert paged == bar | {"Adam's averages": 0}


def test_a_measured_step_counts_what_stands_and_what_comes_and_goes():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = add_qlora(LlamaForCausalLM(config), "all-linear", r=4, lora_alpha=8).train()
    optimizer = step_memory.optimizer_of(model)
    ids = torch.randint(0, 128, (1, 32))
    parts = {name: size * GIB for name, size in step_memory.measured(model, optimizer, ids).items()}
    block = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 192
    trained = 4 * 4 * 3 * (2 * 128 + 2 * 96 + 3 * 256)
    assert parts["4-bit weights"] == 3 * block / 2
    assert (parts["weights that train"], parts["Adam's averages"]) == (trained, 2 * trained)
    assert parts["frozen weights"] >= 4 * 2 * 128 * 64
    assert parts["logits, short-lived"] >= 2 * 4 * 32 * 128  # logits and their log-probabilities
    waiting, seconds = step_memory.cost_of_a_step(model, ids)
    assert waiting * 2**20 == pytest.approx(parts["activations"] + 4 * 32 * 128, rel=0.05) and seconds > 0


def test_a_prediction_leaves_the_process_out():
    parts = step_memory.predicted(128)
    assert list(parts) == list(step_memory.ROLES) and 0.3 < sum(parts.values()) < 0.5


@pytest.mark.parametrize("r", [8, 256])
def test_the_slider_draws_its_ends(r):
    picture = figures.new_pictures()[0]
    for tokens, checkpointing in ((512, "on"), (2048, "off")):
        step_memory.draw_mistral(picture, r, tokens, checkpointing)
        figures.to_quick_png(picture)
        assert figures.collisions(picture) == [] and not figures.is_cut_off(picture)
