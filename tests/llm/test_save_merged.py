"""What peft has trained, merged in memory and written: transformers loads it alone, nothing half-written is left."""

import json
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from lora_edu.llm import export, files
from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.export import model_folder, save_merged

IDS = torch.arange(3, 40).unsqueeze(0)
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
KINDS = {
    "tied": (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": True}),
    "with biases and a head": (
        Qwen2ForCausalLM,
        Qwen2Config,
        {"num_key_value_heads": 1, "tie_word_embeddings": False},
    ),
}


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer):
    return AutoTokenizer.from_pretrained(small_tokenizer)


@pytest.fixture(scope="module")
def make_base(tokenizer, tmp_path_factory):
    """A function that writes a very small model of a kind, beside a small tokenizer."""

    def make(kind):
        model, config, more = KINDS[kind]
        folder = tmp_path_factory.mktemp("base")
        tokenizer.save_pretrained(folder)
        torch.manual_seed(0)
        made = model(config(vocab_size=len(tokenizer), pad_token_id=2, **SIZES, **more))
        for name, parameter in made.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter)  # it begins as zero, which nobody would miss
        made.save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="module", params=KINDS)
def base(request, make_base):
    return make_base(request.param)


@pytest.fixture(scope="module")
def tied(make_base):
    return make_base("tied")


def adapted(base, quantization="nf4", **settings):
    """An adapter as if trained: B is not zero."""
    torch.manual_seed(1)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings
    model = get_peft_model(load_base_model(base, quantization=quantization)[0], LoraConfig(**settings))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


@torch.no_grad()
def logits_of(model):
    return model(IDS).logits.float()


@pytest.mark.parametrize("quantization", ["nf4", None])
def test_transformers_alone_loads_what_was_trained(base, tokenizer, tmp_path, quantization):
    model = adapted(base, quantization)
    folder = save_merged(model, tokenizer, tmp_path / "merged")
    alone = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with model.disable_adapter():
        without = logits_of(model)
    gap, effect = (logits_of(alone) - logits_of(model)).abs().max(), (logits_of(model) - without).abs().max()
    assert gap < 0.05 * effect
    assert alone.config.dtype == torch.float32 and not hasattr(alone.config, "quantization_config")
    assert {p.dtype for p in AutoModelForCausalLM.from_pretrained(folder).parameters()} == {torch.bfloat16}


def test_each_weight_is_base_plus_update_in_16_bits(base, tokenizer, tmp_path):
    model = adapted(base)
    alone = AutoModelForCausalLM.from_pretrained(save_merged(model, tokenizer, tmp_path / "merged"))
    layers = {
        name: layer for name, layer in model.get_base_model().named_modules() if hasattr(layer, "lora_A")
    }
    assert len(layers) == 14
    for name, layer in layers.items():
        weight = layer.get_base_layer().weight
        W = dequantize_4bit(weight.data, weight.quant_state)
        update = layer.scaling["default"] * layer.lora_B.default.weight @ layer.lora_A.default.weight
        torch.testing.assert_close(alone.get_submodule(name).weight, (W + update).bfloat16())
    original = load_base_model(base)[0].state_dict()
    others = [key for key in alone.state_dict() if "proj.weight" not in key]
    assert any("bias" in key for key in others) == any("bias" in key for key in original)
    for key in others:
        torch.testing.assert_close(alone.state_dict()[key], original[key].bfloat16())


def test_nothing_in_the_folder_asks_for_peft_or_bitsandbytes(tied, tokenizer, tmp_path):
    folder = save_merged(adapted(tied), tokenizer, tmp_path / "merged")
    assert not (folder / "adapter_config.json").exists()  # by which transformers knows an adapter
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    written, plain = load_file(folder / "model.safetensors"), load_file(Path(tied, "model.safetensors"))
    assert {key: W.shape for key, W in written.items()} == {key: W.shape for key, W in plain.items()}


def test_a_large_model_is_written_in_several_files(base, tokenizer, tmp_path, monkeypatch):
    model = adapted(base)
    one = save_merged(model, tokenizer, tmp_path / "one")
    monkeypatch.setattr(model_folder, "SHARD_BYTES", 100_000)
    several = save_merged(model, tokenizer, tmp_path / "several")
    shards = sorted(several.glob("*.safetensors"))
    index = json.loads((several / "model.safetensors.index.json").read_text())
    assert len(shards) > 1 and set(index["weight_map"].values()) == {file.name for file in shards}
    a, b = (logits_of(AutoModelForCausalLM.from_pretrained(folder)) for folder in (one, several))
    assert torch.equal(a, b)


def test_a_folder_of_others_is_kept(tied, tokenizer, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for overwrite, unless in ((True, ", or one with merged.json"), (False, "")):
        with pytest.raises(FileExistsError, match=f"must be new or empty{unless}, got"):
            save_merged(adapted(tied), tokenizer, tmp_path, overwrite=overwrite)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_and_with_overwrite_its_own_are_taken(tied, tokenizer, tmp_path):
    (folder := tmp_path / "merged").mkdir()
    model = adapted(tied)
    save_merged(model, tokenizer, folder)
    (folder / "old.txt").write_text("from before")
    with pytest.raises(FileExistsError):
        save_merged(model, tokenizer, folder)
    save_merged(model, tokenizer, folder, overwrite=True)
    assert not (folder / "old.txt").exists() and (folder / "model.safetensors").exists()


def test_nothing_half_written_is_left(tied, tokenizer, tmp_path, monkeypatch):
    def fail(*arguments, **keywords):
        raise OSError("no more")

    model = adapted(tied)
    with monkeypatch.context() as patched:
        patched.setattr(model_folder, "write_json", fail)
        with pytest.raises(OSError, match="no more"):
            save_merged(model, tokenizer, tmp_path / "merged")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match=r"merged takes .* the disk of"):
        save_merged(model, tokenizer, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "settings", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "all"}, {"lora_bias": True}]
)
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings", "ignore:Model with")
def test_what_is_more_than_b_and_a_is_refused(tied, tokenizer, tmp_path, settings):
    if "lora_bias" in settings:
        settings = settings | {"target_modules": ["q_proj"]}
    with pytest.raises(ValueError, match=f"B and A alone, got LORA with {{'{next(iter(settings))}'"):
        save_merged(adapted(tied, None, **settings), tokenizer, tmp_path / "merged")


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings", "ignore:Model with")
@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_an_adapter_over_a_weight_that_two_layers_share_is_refused(tied, tokenizer, tmp_path, name):
    model = adapted(tied, None, target_modules=["q_proj", name])
    with pytest.raises(ValueError, match=f"over weights of their own, .*{name} shares its weight"):
        save_merged(model, tokenizer, tmp_path / "merged")


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_one_over_a_head_or_an_embedding_of_its_own_is_merged(make_base, tokenizer, tmp_path, name):
    model = adapted(make_base("with biases and a head"), None, target_modules=["q_proj", name])
    for key, parameter in model.named_parameters():
        if "lora_embedding" in key:
            torch.nn.init.normal_(parameter)
    folder = save_merged(model, tokenizer, tmp_path / "merged", dtype="float32")
    torch.testing.assert_close(logits_of(AutoModelForCausalLM.from_pretrained(folder)), logits_of(model))


def test_other_models_and_formats_are_refused(tied, tokenizer, tmp_path):
    with pytest.raises(TypeError, match="peft's"):
        save_merged(load_base_model(tied)[0], tokenizer, tmp_path / "merged")
    with pytest.raises(ValueError, match="dtype must be"):
        save_merged(adapted(tied), tokenizer, tmp_path / "merged", dtype=torch.int8)


def test_the_model_stays_as_it_was(tied, tokenizer, tmp_path):
    model = adapted(tied)
    before = logits_of(model)
    save_merged(model, tokenizer, tmp_path / "merged")
    assert torch.equal(logits_of(model), before) and model.get_base_model().config.quantization_config


def test_both_ways_write_the_same_model(tied, tokenizer, tmp_path):
    """From memory, with peft over bitsandbytes' NF4, and from the adapter's files over the course's."""
    model = adapted(tied)
    model.save_pretrained(tmp_path / "adapter")
    of_files = export.export_merged(tmp_path / "adapter", tmp_path / "a", "float32", tied, "nf4")
    of_memory = save_merged(model, tokenizer, tmp_path / "b", "float32")
    a, b = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (of_files, of_memory))
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key])
