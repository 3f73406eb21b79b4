"""The merge lab: three bases, one model in memory at a time, and what of an update arrives."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lora_edu.classroom.experiments import merging
from lora_edu.llm.base_model import fetch_base_model, load_base_model
from lora_edu.llm.data import load_events
from lora_edu.llm.data.extraction import encode_example

IDS = torch.arange(3, 40).unsqueeze(0)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A very small Llama on disk, beside the course's tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = AutoTokenizer.from_pretrained(fetch_base_model())
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, pad_token_id=2, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    """An adapter as if trained: B is not zero, the update a few per cent of the weight."""
    folder = tmp_path_factory.mktemp("adapter")
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(load_base_model(base)[0], config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.002)
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def unmerged(base, adapter):
    return PeftModel.from_pretrained(load_base_model(base, quantization="nf4")[0], str(adapter))


@torch.no_grad()
def logits_of(model):
    return model(IDS).logits


def test_over_the_wide_4_bit_weights_a_merge_gives_the_trained_model_and_else_not(base, adapter, unmerged):
    logits = merging.measure_merged(base, adapter, logits_of)
    gaps = {way: (found - logits_of(unmerged)).abs().max().item() for way, found in logits.items()}
    assert list(gaps) == ["W16", "dequant(W4)", "NF4"]
    assert gaps["dequant(W4)"] < 1e-5 < 1e-3 < min(gaps["W16"], gaps["NF4"])


def test_peft_rounds_the_sum_to_nf4_again(base, adapter, unmerged):
    def weight_of(model):
        return model.model.layers[1].mlp.up_proj.weight

    layer = unmerged.get_base_model().model.layers[1].mlp.up_proj
    merged = merging.measure_merged(base, adapter, weight_of)["NF4"]
    from bitsandbytes.functional import dequantize_4bit

    W4 = dequantize_4bit(layer.base_layer.weight.data, layer.base_layer.weight.quant_state)
    by_hand = merging.nf4((W4 + layer.get_delta_weight("default")).detach())
    torch.testing.assert_close(dequantize_4bit(merged.data, merged.quant_state), by_hand)


def test_one_model_is_in_memory_at_a_time(base, adapter):
    seen = []

    def measure(model):
        assert all(earlier() is None for earlier in seen)
        seen.append(weakref.ref(model))

    merging.measure_merged(base, adapter, measure)
    assert len(seen) == 3


def test_what_does_not_fit_wide_is_left_out(base, adapter, monkeypatch):
    monkeypatch.setattr(merging, "available_bytes", lambda device: 1000)
    assert list(merging.measure_merged(base, adapter, type)) == ["NF4"]


def test_answer_logits_are_those_that_the_loss_is_made_of(base):
    model, tokenizer = load_base_model(base)
    example = load_events("train")[0]
    encoded = {key: torch.tensor([ids]) for key, ids in encode_example(tokenizer, example).items()}
    labels = encoded["labels"][encoded["labels"] != -100]
    with torch.no_grad():
        loss = model(**encoded).loss
    logits = merging.answer_logits(model, tokenizer, [example])
    torch.testing.assert_close(F.cross_entropy(logits, labels), loss)


@given(share=st.floats(-2, 2), noise=st.floats(-10, 10), seed=st.integers(0, 99))
def test_the_kept_share_is_the_movement_along_the_update(share, noise, seed):
    generator = torch.Generator().manual_seed(seed)
    W, update, other = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64)
    across = other - update * (other * update).sum() / update.square().sum()
    assert merging.kept_share(W, W + share * update + noise * across, update) == pytest.approx(
        share, abs=1e-9
    )


def test_a_small_update_does_not_survive_nf4_and_a_large_one_does():
    torch.manual_seed(0)
    W, direction = merging.nf4(torch.randn(64, 128)), torch.randn(64, 128)
    kept = [merging.kept_share(W, merging.nf4(W + s * direction), s * direction) for s in (0.003, 0.03, 1)]
    assert kept[0] < 0.02 and kept[1] < 0.1 and kept[2] > 0.9
