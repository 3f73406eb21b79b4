"""The merge lab: three bases in one loaded model, and what of an update arrives."""

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


def gaps_of(model):
    logits = merging.measure_ways(model, logits_of)
    apart = logits.pop("not merged")
    return {
        way: found if isinstance(found, str) else (found - apart).abs().max().item()
        for way, found in logits.items()
    }


def wide_merge(base, adapter, W):
    """Each weight of a wide model, merged by peft itself, as `measure_ways` never does it."""
    model = load_base_model(base)[0]
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and name != "lm_head":
            layer.weight.data = W(layer.weight.data)
    return logits_of(PeftModel.from_pretrained(model, str(adapter)).merge_and_unload())


def test_over_the_wide_4_bit_weights_a_merge_gives_the_trained_model_and_else_not(unmerged):
    gaps = gaps_of(unmerged)
    assert list(gaps) == ["base alone", "W16", "dequant(W4)", "NF4"]
    assert gaps["dequant(W4)"] < 1e-5 < 1e-3 < min(gaps["W16"], gaps["NF4"], gaps["base alone"])


@pytest.mark.parametrize("way, W", [("W16", lambda W: W), ("dequant(W4)", merging.nf4)])
def test_the_ways_are_peft_s_merges_into_whole_models(base, adapter, unmerged, way, W):
    torch.testing.assert_close(
        merging.measure_ways(unmerged, logits_of)[way], wide_merge(base, adapter, W), atol=1e-5, rtol=0
    )


def test_held_or_made_anew_a_merged_weight_is_the_same(unmerged):
    layers = merging.adapted_layers(unmerged)
    found = []
    for hold in (True, False):
        with merging.merged_into(unmerged, lambda name: merging.wide(layers[name]), hold=hold):
            found.append(logits_of(unmerged))
    assert torch.equal(*found)


def test_after_every_way_the_model_is_what_it_was(unmerged):
    before = logits_of(unmerged)
    merging.measure_ways(unmerged, type)
    merging.changed_by_peft(unmerged)
    assert torch.equal(logits_of(unmerged), before)
    with pytest.raises(KeyboardInterrupt), merging.merged_by_peft(unmerged):
        raise KeyboardInterrupt
    assert torch.equal(logits_of(unmerged), before)


def test_peft_rounds_the_sum_to_nf4_again(unmerged):
    layer = merging.adapted_layers(unmerged)["model.layers.1.mlp.up_proj"]
    by_hand = merging.nf4(merging.wide(layer) + merging.update_of(layer))
    with merging.merged_by_peft(unmerged):
        torch.testing.assert_close(merging.wide(layer), by_hand)


def test_a_merge_of_nothing_changes_as_many_weights_as_one_of_an_update(unmerged):
    with merging.update_of_zero(unmerged):
        assert not any(merging.update_of(layer).any() for layer in merging.adapted_layers(unmerged).values())
        without = merging.changed_by_peft(unmerged)
    assert without > 0.8 and abs(merging.changed_by_peft(unmerged) - without) < 0.1


def test_what_does_not_fit_is_left_out_and_said(unmerged, monkeypatch):
    monkeypatch.setattr(merging, "available_bytes", lambda device: 0)
    gaps = gaps_of(unmerged)
    assert gaps["W16"].startswith("left out: ") and "GiB" in gaps["W16"]
    assert gaps["dequant(W4)"] < 1e-5  # made anew, layer by layer: that needs no room


def test_a_large_base_is_not_read_again_unasked(unmerged, monkeypatch, capsys):
    assert merging.is_light(unmerged) and capsys.readouterr().out == ""
    monkeypatch.setattr(merging, "safe_open", None)  # nothing can be read
    assert merging.measure_ways(unmerged, type, again=False)["W16"].startswith("left out: ")
    numbers = sum(p.numel() for p in load_base_model(unmerged.config.name_or_path)[0].parameters())
    monkeypatch.setattr(merging, "CONSENT_BYTES", 2 * numbers)
    assert merging.is_light(unmerged)
    monkeypatch.setattr(merging, "CONSENT_BYTES", 2 * numbers - 1)
    assert not merging.is_light(unmerged) and "GB in 16 bits" in capsys.readouterr().out


def test_weights_that_the_files_do_not_hold_are_left_out_and_said(unmerged, tmp_path, monkeypatch):
    monkeypatch.setattr(unmerged.get_base_model().config, "_name_or_path", str(tmp_path))
    assert "do not hold 14 of its weights" in gaps_of(unmerged)["W16"]


def test_a_model_without_4_bit_weights_is_refused(base):
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    with pytest.raises(ValueError, match="weights in 4 bits"):
        merging.measure_ways(get_peft_model(load_base_model(base)[0], config), type)


def test_each_update_is_measured_against_its_own_weight(unmerged):
    updates = merging.trained_updates(unmerged)
    layers = merging.adapted_layers(unmerged).values()
    assert len(updates) == len(layers) == 14
    for layer, (size, kept) in zip(layers, updates, strict=True):
        W4, update = merging.wide(layer), merging.update_of(layer)
        assert size == pytest.approx((update.square().sum() / W4.square().sum()).sqrt().item(), rel=1e-5)
        assert kept == merging.kept_share(W4, merging.nf4(W4 + update), update)


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


def test_a_small_random_update_is_lost_and_a_large_one_is_kept():
    torch.manual_seed(0)
    kept = merging.random_updates(merging.nf4(torch.randn(64, 128)))
    small, *_, large = kept
    assert len(kept) == len(merging.SIZES) and small < 0.1 and large > 0.9


def test_what_was_freed_counts_as_free(unmerged, tmp_path, freed_by):
    assert freed_by(lambda: merging.fits_beside(unmerged, tmp_path)) > 150e6


def test_a_merge_that_is_over_leaves_no_holes(unmerged, freed_by):
    assert freed_by(lambda: merging.changed_by_peft(unmerged)) > 150e6
