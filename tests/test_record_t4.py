"""The record of a capped GPU, as far as a CPU shows it: a folder of random weights loads, and a notebook is watched."""

import json

import pytest
import torch
from transformers import LlamaConfig, Qwen2Config

from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.budget.count import meta_model
from tools import random_model, record_t4
from tools.build_notebooks import SETUP_TITLE

SIZES = {
    "vocab_size": 49_152,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
NOTEBOOK = """\
# %% [markdown]
# # 10 · A trial

# %%
import os

# %%
from lora_edu.llm.finetune import FinetuneConfig, finetune

run = finetune(
    FinetuneConfig(
        os.environ["LORA_EDU_RUNS"] + "/trial", os.environ["LORA_EDU_MODEL"], steps=2, test_events=20, before_events=0
    )
)
run.record["n"]

# %%
raise ValueError("a sentence that is false")

# %%
os.environ["LORA_EDU_COMPUTE_CAPABILITY"], os.environ["LORA_EDU_GPU_GIB"]
"""


@pytest.mark.parametrize("config", [LlamaConfig(**SIZES, tie_word_embeddings=True), Qwen2Config(**SIZES)])
def test_random_weights_in_a_shape_load_as_a_model_does(tmp_path, config):
    folder = random_model.write_random_model(config, tmp_path / "model")
    model, tokenizer = load_base_model(str(folder), dtype="float32")
    assert sum(p.numel() for p in model.parameters()) == meta_model(config).num_parameters()
    weights = dict(model.named_parameters())
    assert weights["model.layers.0.mlp.up_proj.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert weights["model.norm.weight"].mean().item() == pytest.approx(1, abs=0.02)
    assert model(torch.tensor([tokenizer.encode("a word")])).logits.isfinite().all()


@pytest.mark.slow
def test_a_notebook_is_executed_to_its_end_and_its_trainings_are_noted(tmp_path, monkeypatch):
    small = LlamaConfig(**SIZES, tie_word_embeddings=True)
    monkeypatch.setattr(random_model, "resolve_config", lambda shape: small)
    source = tmp_path / "notebooks" / "src" / "10_trial.py"
    source.parent.mkdir(parents=True)
    source.write_text(NOTEBOOK)
    (tmp_path / "lora_edu").symlink_to(record_t4.ROOT / "lora_edu")  # the set-up looks for it
    entry = record_t4.record_model("SmolLM2-1.7B", tmp_path / "record", source)
    assert (entry["cells"], entry["ran"]) == (4, 3)
    [error] = entry["errors"]
    assert error.endswith("ValueError: a sentence that is false")
    [training] = entry["trainings"]
    assert training["steps"] == 2 and training["batch"] == 2 and training["learning_rate"] == 1e-3
    assert training["predicted_bytes"] > 0 and training["cuda_graphs"] is False
    [run] = entry["runs"]
    assert run["run"] == "trial" and run["predicted_bytes"] > training["predicted_bytes"] / 2
    executed = json.loads((tmp_path / "record" / "10_trial_SmolLM2-1.7B.ipynb").read_text())
    shown = [
        "".join(cell["outputs"][-1].get("data", {}).get("text/plain", ""))
        for cell in executed["cells"][1:]
        if cell["cell_type"] == "code" and cell["outputs"]
    ]
    assert "{'before': 0, 'seen': 8, 'unseen': 8}" in shown and "('7.5', '14.5')" in shown
    assert SETUP_TITLE in "".join(executed["cells"][2]["source"])
