"""`--fused on`, as far as a CPU can tell: what is refused, by name and before anything is loaded, and what is not."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lora_edu.llm.checkpoint import save_adapter
from lora_edu.llm.finetune import FinetuneConfig, finetune
from lora_edu.llm.finetune.fusing import require_fusable, require_fusable_model
from lora_edu.llm.surgery import add_qlora
from lora_edu.methods.lora import LoRALinear

FITTING = {"backend": "scratch", "dtype": "bfloat16", "fused": "on"}


def config(**settings):
    return FinetuneConfig(**{"output": "unused"} | FITTING | settings)


@pytest.fixture
def installed(monkeypatch):
    """What is installed is asked of the import system: call it with what that should find."""

    def pretend(*names):
        find = importlib.util.find_spec
        asked = {name: find("torch") if name in names else None for name in ("triton", "liger_kernel")}
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *more: asked[name] if name in asked else find(name, *more),
        )

    return pretend


@pytest.mark.parametrize(
    ("settings", "compute", "reason"),
    [
        ({"method": "lora"}, torch.bfloat16, "method is lora: it must be qlora"),
        ({"method": "full"}, torch.bfloat16, "method is full: it must be qlora"),
        ({"backend": "peft"}, torch.bfloat16, "backend is peft: it must be scratch"),
        ({"lora_dropout": 0.1}, torch.bfloat16, "lora_dropout is 0.1: it must be 0"),
        ({"gradient_checkpointing": True}, torch.bfloat16, "gradient_checkpointing is on"),
        ({}, torch.float32, "dtype is float32: it must be bfloat16 or float16"),
    ],
)
def test_settings_that_cannot_be_fused_are_named(installed, settings, compute, reason):
    installed("triton", "liger_kernel")
    with pytest.raises(ValueError, match=rf"^fused must be off where {reason}.*; got 'on'$"):
        require_fusable(config(**settings), compute, on_gpu=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_can_be_fused_is_if_the_kernels_are_there(installed, dtype):
    installed("triton", "liger_kernel")
    require_fusable(config(), dtype, on_gpu=True)
    installed("triton")
    with pytest.raises(
        ValueError, match=r"fused must be off where liger_kernel is missing: run `pip install"
    ):
        require_fusable(config(), dtype, on_gpu=True)
    installed()
    with pytest.raises(ValueError, match="fused must be off where triton, liger_kernel is missing"):
        require_fusable(config(), dtype, on_gpu=True)


def test_other_families_and_runs_that_need_checkpointing_are_named():
    for family in ("llama", "mistral", "qwen2"):
        require_fusable_model(family, gradient_checkpointing=False)
    with pytest.raises(ValueError, match="is of the family gemma2: it must be one of llama, mistral, qwen2"):
        require_fusable_model("gemma2", gradient_checkpointing=False)
    with pytest.raises(ValueError, match="fused must be off where gradient checkpointing is needed to fit"):
        require_fusable_model("llama", gradient_checkpointing=True)


def test_without_a_gpu_it_is_refused_before_a_model_or_a_folder_is_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="fused must be off where there is no CUDA GPU; got 'on'"):
        finetune(config(output=str(tmp_path / "run"), model="nobody/has-this"))
    assert not (tmp_path / "run").exists()


def test_it_is_on_or_off_and_off_unless_asked_for():
    assert FinetuneConfig(output="unused").fused == "off"
    with pytest.raises(ValueError, match=r"fused must be one of \['on', 'off'\], got True"):
        FinetuneConfig(output="unused", fused=True)


def test_a_run_goes_on_as_it_began(tiny_folder, few_to_learn, tmp_path):
    settings = {
        "output": str(tmp_path),
        "model": str(tiny_folder),
        "train_file": str(few_to_learn),
        "backend": "scratch",
        "steps": 1,
        "before_events": 0,
        "test_events": 1,
    }
    record = finetune(FinetuneConfig(**settings)).record
    assert record["config"]["fused"] == "off"
    identity = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(identity | {"fused": "on"}))
    with pytest.raises(
        ValueError, match=r"resume needs the settings of the run in .*, which has fused = 'on'"
    ):
        finetune(FinetuneConfig(**settings, resume=True))
    del identity["fused"]  # a run of before the setting
    (tmp_path / "config.json").write_text(json.dumps(identity))
    assert finetune(FinetuneConfig(**settings, resume=True)).record["losses"] == record["losses"]


def test_adapters_of_a_class_derived_from_ours_are_saved_as_ours(tiny, tmp_path):
    """A fused layer is a `LoRALinear` whose class was exchanged."""
    add_qlora(tiny, ["q_proj"], r=2, lora_alpha=4)
    plain = save_adapter(tiny, tmp_path / "plain")
    for module in tiny.modules():
        if isinstance(module, LoRALinear):
            module.__class__ = type("Derived", (LoRALinear,), {})
    derived = save_adapter(tiny, tmp_path / "derived")
    for file in plain.iterdir():
        assert file.read_bytes() == (derived / file.name).read_bytes()


def test_compiled_code_is_not_imported_unless_asked_for():
    code = "import sys, lora_edu.llm.finetune.run; print(any('lora_edu.accel' in m for m in sys.modules))"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "False"
