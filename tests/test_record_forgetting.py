"""What the record of forgetting is made of, with a very small model: one run, its adapter read again, the choice."""

import time

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lora_edu.classroom.experiments import forgetting
from lora_edu.llm.base_model import fetch_base_model
from lora_edu.llm.data import load_events
from tools import record_forgetting as tool

LINES = [{"question": f"What is {i}?", "answer": f"It is {i}."} for i in range(4)]
GENERAL = {"measured": LINES[:2], "mixed_in": LINES[2:]}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tokenizer = AutoTokenizer.from_pretrained(fetch_base_model())
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, pad_token_id=2, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def job(base, folder, deadline=None, **setting):
    setting = tool.Setting(learning_rate=1e-2, event_steps=3) if not setting else tool.Setting(**setting)
    return tool.Job(setting, 0, GENERAL, 1, str(folder), deadline or time.time() + 600, base)


def test_a_run_is_measured_and_its_adapter_can_be_asked_again(base, tmp_path):
    done = tool.train(one := job(base, tmp_path, learning_rate=1e-2, event_steps=2, general_lines=2))
    assert len(done["losses"]) == done["steps"] == 3 and done["prose"] > 0 and done["own_answers"] > 0
    model, tokenizer, _ = tool.attached(one)
    tool.PeftBackend().restore(model, one.adapter)
    again = tool.measured(model, tokenizer, GENERAL, 1)
    assert again["own_answers"] == pytest.approx(done["own_answers"], rel=1e-4)
    assert tool.test(one)["test_unseen"] == 0


def test_general_lines_come_on_top_of_the_events(base, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(base)
    plain, mixed = (
        tool.examples_of(job(base, tmp_path, learning_rate=1e-3, event_steps=2, general_lines=n), tokenizer)
        for n in (0, 3)
    )
    wanted = [forgetting.encode_answer(tokenizer, line) for line in GENERAL["mixed_in"]]
    assert mixed[:4] == plain and len(mixed) == 7
    assert all(example in wanted for example in mixed[4:])


def test_a_run_that_would_be_late_is_said_to_be(base, tmp_path):
    assert "not begun" in tool.train(job(base, tmp_path, deadline=1.0))["failed"]


def run(rate, score, loss, **more):
    setting = {"learning_rate": rate, "event_steps": 120, "general_lines": 0} | more
    return setting | {"validation": score, "validation_unseen": score, "prose": loss, "own_answers": loss}


def test_the_choice_is_the_best_and_the_gentlest_that_is_as_good():
    runs = [run(1e-3, 0.90, 2.0), run(3e-3, 0.91, 3.0), run(1e-4, 0.80, 1.0), {"failed": "late"}]
    chosen = tool.chosen_of(runs)
    assert (chosen["best"]["learning_rate"], chosen["gentle"]["learning_rate"]) == (3e-3, 1e-3)


def test_settings_are_tried_once_and_rows_suffice():
    settings = tool.settings_of(tiny=False)
    assert len(set(settings)) == len(settings) == 11
    assert max(s.event_steps for s in settings) * tool.BATCH_SIZE <= len(load_events("fit"))
