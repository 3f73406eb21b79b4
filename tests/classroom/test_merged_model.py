"""A merged model in 16 bits: transformers loads it alone, and nothing half-written is left."""

import json
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from lora_edu.classroom.experiments import merged_model, merging
from lora_edu.classroom.experiments.merged_model import save_merged
from lora_edu.llm.base_model import fetch_base_model, load_base_model

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
def tokenizer():
    return AutoTokenizer.from_pretrained(fetch_base_model())


@pytest.fixture(scope="module", params=KINDS)
def base(request, tokenizer, tmp_path_factory):
    """A very small model on disk, beside the course's tokenizer."""
    model, config, more = KINDS[request.param]
    folder = tmp_path_factory.mktemp("base")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    made = model(config(vocab_size=len(tokenizer), pad_token_id=2, **SIZES, **more))
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)  # it begins as zero, which nobody would miss
    made.save_pretrained(folder)
    return str(folder)


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
        update = (logits_of(model) - (without := logits_of(model))).abs().max()
        assert update == 0
    gap, effect = (logits_of(alone) - logits_of(model)).abs().max(), (logits_of(model) - without).abs().max()
    assert gap < 0.05 * effect
    assert alone.config.dtype == torch.float32 and not hasattr(alone.config, "quantization_config")
    assert {p.dtype for p in AutoModelForCausalLM.from_pretrained(folder).parameters()} == {torch.bfloat16}


def test_each_weight_is_base_plus_update_in_16_bits(base, tokenizer, tmp_path):
    model = adapted(base)
    alone = AutoModelForCausalLM.from_pretrained(save_merged(model, tokenizer, tmp_path / "merged"))
    for name, layer in merging.adapted_layers(model).items():
        W = (merging.wide(layer) + merging.update_of(layer)).bfloat16()
        torch.testing.assert_close(alone.get_submodule(name).weight, W)
    original = load_base_model(base)[0].state_dict()
    others = [key for key in alone.state_dict() if "proj.weight" not in key]
    assert any("bias" in key for key in others) == any("bias" in key for key in original)
    for key in others:
        torch.testing.assert_close(alone.state_dict()[key], original[key].bfloat16())


def test_a_process_without_peft_and_bitsandbytes_loads_it(base, tokenizer, tmp_path):
    folder = save_merged(adapted(base), tokenizer, tmp_path / "merged")
    program = (
        "import sys; sys.modules['peft'] = sys.modules['bitsandbytes'] = None\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "AutoModelForCausalLM.from_pretrained(sys.argv[1]); AutoTokenizer.from_pretrained(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True)


def test_a_large_model_is_written_in_several_files(base, tokenizer, tmp_path, monkeypatch):
    model = adapted(base)
    one = save_merged(model, tokenizer, tmp_path / "one")
    monkeypatch.setattr(merged_model, "SHARD_BYTES", 100_000)
    several = save_merged(model, tokenizer, tmp_path / "several")
    files = sorted(several.glob("*.safetensors"))
    index = json.loads((several / "model.safetensors.index.json").read_text())
    assert len(files) > 1 and set(index["weight_map"].values()) == {file.name for file in files}
    a, b = (logits_of(AutoModelForCausalLM.from_pretrained(folder)) for folder in (one, several))
    assert torch.equal(a, b)


def test_a_folder_of_others_is_kept(base, tokenizer, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for overwrite in (True, False):
        with pytest.raises(FileExistsError, match="folder must be new or empty"):
            save_merged(adapted(base), tokenizer, tmp_path, overwrite=overwrite)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_and_with_overwrite_its_own_are_taken(base, tokenizer, tmp_path):
    (folder := tmp_path / "merged").mkdir()
    model = adapted(base)
    save_merged(model, tokenizer, folder)
    (folder / "old.txt").write_text("from before")
    with pytest.raises(FileExistsError):
        save_merged(model, tokenizer, folder)
    save_merged(model, tokenizer, folder, overwrite=True)
    assert not (folder / "old.txt").exists() and (folder / "model.safetensors").exists()


def test_nothing_half_written_is_left(base, tokenizer, tmp_path, monkeypatch):
    def fail(*arguments, **keywords):
        raise OSError("no more")

    monkeypatch.setattr(merged_model, "write_json", fail)
    with pytest.raises(OSError, match="no more"):
        save_merged(adapted(base), tokenizer, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_said_first(base, tokenizer, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(merged_model.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="the merged model takes"):
        save_merged(adapted(base), tokenizer, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "all"}])
def test_what_is_more_than_b_and_a_is_refused(base, tokenizer, tmp_path, settings):
    with pytest.raises(ValueError, match="B and A alone"):
        save_merged(adapted(base, None, **settings), tokenizer, tmp_path / "merged")


def test_other_models_and_formats_are_refused(base, tokenizer, tmp_path):
    with pytest.raises(TypeError, match="peft's"):
        save_merged(load_base_model(base)[0], tokenizer, tmp_path / "merged")
    with pytest.raises(ValueError, match="dtype must be"):
        save_merged(adapted(base), tokenizer, tmp_path / "merged", dtype=torch.float32)


def test_the_model_stays_as_it_was(base, tokenizer, tmp_path):
    model = adapted(base)
    before = logits_of(model)
    save_merged(model, tokenizer, tmp_path / "merged")
    assert torch.equal(logits_of(model), before) and model.get_base_model().config.quantization_config
