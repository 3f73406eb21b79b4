"""What notebook 10 calls beside the libraries."""

import json
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from lora_edu.classroom.experiments import by_hand
from lora_edu.classroom.experiments.live_loss import LiveLoss
from lora_edu.llm import machine
from lora_edu.llm.base_model import fetch_base_model
from lora_edu.llm.budget import memory_ledger
from lora_edu.llm.export.source import base_name, find_base
from lora_edu.llm.finetune import summary

EVENT = {"who": "Ada", "what": "rowing", "where": "Ulm", "day": "Monday", "time": "9:00"}


def asked(answers, right):
    return {"exact_match": right / len(answers), "n": len(answers), "answers": answers, "seconds": 1.0}


def test_wrong_answers_say_what_would_be_right():
    lines = [{"sentence": f"sentence {i}", "event": EVENT} for i in range(5)]
    answers = [
        json.dumps(EVENT),
        json.dumps(EVENT | {"day": "Sunday"}),
        "I do not know",
        json.dumps(EVENT | {"x": "y"}),
    ]
    columns = by_hand.wrong_answers(asked(answers, 1), lines)
    assert columns["sentence"] == ["sentence 1", "sentence 2", "sentence 3"]
    assert columns["wrong_answer"] == answers[1:]
    assert columns["right_would_be"] == [
        "day: Monday",
        ", ".join(f"{k}: {v}" for k, v in EVENT.items()),
        "no other keys",
    ]


def test_a_record_is_summed_up_as_those_of_finetune(tmp_path):
    live = LiveLoss(None)
    live.losses, live.form, live.copied, live.validation = [2.0, 1.0], [1.0, 0.5], [3.0, 2.0], {2: 0.5}
    answers = {
        kind: asked(["x"] * n, right)
        for kind, n, right in (("before", 4, 0), ("few_shot", 4, 1), ("seen", 10, 9), ("unseen", 10, 5))
    }
    record = by_hand.record(tmp_path, answers, live, memory_ledger("SmolLM2-135M"))
    assert by_hand.shares(record) == [0, 0.25, 0.9, 0.5]
    assert json.loads((tmp_path / "run.json").read_text()) == record
    text = summary(record)
    assert "90%  of 10" in text and "50%  of 10" in text and "2.000 at the first step, 1.000" in text


def test_decisions_follow_the_memory_that_is_there():
    asked = memory_ledger("SmolLM2-135M", batch=2, seq=160)
    plenty, scarce, little = by_hand.decisions(asked, (3, 1.0, 0.2))
    assert plenty == f"3 times {asked.total / 2**30:.2f} GiB: as it is"
    assert not scarce.endswith("as it is")  # the reserve is missing
    assert ": refused: " in little


def test_where_memory_is_not_predicted_nothing_is_decided():
    [line] = by_hand.decisions(None, (1.5, 0.5))
    assert line.startswith("Memory is not predicted")


def test_counts_are_of_numbers_not_of_bytes():
    model = nn.ModuleDict({"a": nn.Linear(6, 4, bias=False), "b": nn.Linear(4, 2, bias=False)})
    assert by_hand.counts(model, r=3) == {"parameters": 24 + 8, "trained": 3 * (10 + 6)}


def test_a_program_elsewhere_gets_what_this_process_leaves_of_the_gpu(tmp_path, monkeypatch):
    """PyTorch's allocator is pretended here: it holds 11 GiB, 5 of them in use."""
    held = [11 * 2**30]
    monkeypatch.setenv(machine.MEMORY, "14.5")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda *_: held[-1])
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: held.append(5 * 2**30))
    program = f"import os; print(os.environ[{machine.MEMORY!r}])"
    assert float(by_hand.run_elsewhere(program, [], tmp_path)) == 9.5


def test_a_program_elsewhere_answers_or_says_why_not(tmp_path):
    assert by_hand.run_elsewhere("import sys; print('x'); print(sys.argv[1])", ["said"], tmp_path) == "said"
    with pytest.raises(RuntimeError, match="status 1"):
        by_hand.run_elsewhere("1 / 0", [], tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' heaps keep no holes of their own")
def test_a_program_elsewhere_gives_back_what_it_frees(tmp_path):
    """Blocks of 3.5 MB, as loading makes them, each with one that stays behind it: 175 MB would lie idle."""
    program = """
import psutil, torch

torch.ones(2**20).numpy()  # glibc raises its threshold to the first block that is freed
start = psutil.Process().memory_info().rss
blocks = [torch.ones(size) for _ in range(50) for size in (884_736, 20_000)]
del blocks[::2]
print(psutil.Process().memory_info().rss - start)
"""
    assert int(by_hand.run_elsewhere(program, [], tmp_path)) < 30e6


@pytest.mark.parametrize("own", [False, True], ids=["the course's model", "a folder"])
def test_an_adapter_for_others_names_its_base_as_they_find_it(tmp_path, own):
    shape = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 16}
    base = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=2))
    kept = tmp_path / "theirs" / "my-model" if own else fetch_base_model()
    if own:
        base.save_pretrained(kept)
    base.name_or_path = base.config.name_or_path = str(kept)  # as from_pretrained does
    get_peft_model(base, LoraConfig(r=1, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    card = tmp_path / "adapter" / "README.md"
    assert str(kept) in card.read_text(encoding="utf-8")  # peft's own

    by_hand.name_base(tmp_path / "adapter", str(kept) if own else "smollm2-135m")
    named = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == (str(kept) if own else "smollm2-135m")
    text = card.read_text(encoding="utf-8")
    assert str(kept.parent) not in text
    assert f"base_model: {'my-model' if own else 'HuggingFaceTB/SmolLM2-135M-Instruct'}\n" in text
    assert find_base(base_name(tmp_path / "adapter")).name == named


def test_a_new_folder_is_empty(tmp_path):
    old = by_hand.new_folder(str(tmp_path / "a" / "b"))
    (old / "file").touch()
    assert list(by_hand.new_folder(str(old)).iterdir()) == []
