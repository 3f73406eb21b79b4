"""A fine-tune over a base that is loaded already, and what a run says of its memory."""

import pytest
import torch

from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.finetune import FinetuneConfig, finetune
from lora_edu.llm.finetune.record import memory_lines

GIB = 2**30


@pytest.fixture
def settings(tiny_folder, few_events, few_to_learn, tmp_path):
    files = {"train_file": str(few_to_learn), "test_file": str(few_events), "output": str(tmp_path / "run")}
    return files | {"model": str(tiny_folder), "steps": 2, "before_events": 0, "preflight": False}


@pytest.mark.parametrize(("method", "quantization"), [("qlora", "nf4"), ("lora", None)])
def test_a_loaded_base_gives_the_run_that_loading_gives(settings, tmp_path, method, quantization):
    config = FinetuneConfig(**settings | {"method": method})
    expected = finetune(config).record["losses"]
    again = FinetuneConfig(**settings | {"method": method, "output": str(tmp_path / "again")})
    loaded = load_base_model(settings["model"], quantization=quantization)
    run = finetune(again, loaded=loaded)
    assert run.record["losses"] == expected
    assert run.record["config"]["learning_rate"] == 1e-3
    # And once more, over the base as peft gives it back.
    third = FinetuneConfig(**settings | {"method": method, "output": str(tmp_path / "third")})
    assert finetune(third, loaded=(run.model.unload(), run.tokenizer)).record["losses"] == expected


@pytest.mark.parametrize(
    ("changes", "loading"),
    [
        ({}, {}),  # QLoRA wants 4 bits
        ({"method": "lora"}, {"quantization": "nf4"}),
        ({"method": "lora"}, {"dtype": "bfloat16"}),
        ({"method": "full"}, {}),
        ({"backend": "scratch"}, {}),
    ],
)
def test_a_base_that_the_settings_do_not_ask_for_is_refused(settings, changes, loading):
    loaded = load_base_model(settings["model"], **loading)
    with pytest.raises(ValueError, match="loaded must be the base of a LoRA or QLoRA run"):
        finetune(FinetuneConfig(**settings | changes), loaded=loaded)


def test_a_base_that_holds_an_adapter_is_refused(settings):
    config = FinetuneConfig(**settings | {"steps": 1})
    run = finetune(config)
    with pytest.raises(ValueError, match="with an adapter"):
        finetune(FinetuneConfig(**settings | {"overwrite": True}), loaded=(run.model, run.tokenizer))


def test_memory_is_said_of_what_was_predicted():
    cpu = {
        "peak_memory_bytes": int(1.31 * GIB),
        "peak_gpu_memory_bytes": None,
        "peak_gpu_reserved_bytes": None,
    }
    cpu |= {"predicted_memory_bytes": {"weights": GIB, "logits": GIB // 4}}
    assert memory_lines(cpu) == ["peak memory 1.31 GiB; 1.25 GiB predicted"]
    gpu = cpu | {"peak_gpu_memory_bytes": GIB, "peak_gpu_reserved_bytes": 2 * GIB}
    assert memory_lines(gpu) == [
        "peak GPU memory 1.00 GiB allocated, 2.00 GiB reserved; 1.25 GiB predicted",
        "peak host memory 1.31 GiB",
    ]
    earlier = gpu | {"predicted_memory_bytes": None}
    del earlier["peak_gpu_reserved_bytes"]  # a record of before
    assert memory_lines(earlier)[0] == "peak GPU memory 1.00 GiB allocated"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_what_was_reserved_is_recorded(settings):
    record = finetune(FinetuneConfig(**settings)).record
    assert record["peak_gpu_reserved_bytes"] >= record["peak_gpu_memory_bytes"] > 0
