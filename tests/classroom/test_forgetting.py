"""What a fine-tune costs elsewhere: losses as transformers counts them, lines that are whole, and the record."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lora_edu.classroom import records
from lora_edu.classroom.experiments import forgetting
from lora_edu.llm.base_model import load_tokenizer
from lora_edu.llm.data import load_events


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), pad_token_id=2, **sizes))


def test_the_loss_is_transformers_over_all_labels(model, tokenizer):
    short, long = "Water is wet.", forgetting.load_prose()[0]
    examples = [forgetting.encode_prose(tokenizer, text) for text in (short, long)]
    line = {"question": "What is ice?", "answer": "Ice is frozen water."}
    examples.append(forgetting.encode_answer(tokenizer, line))
    total, count = 0.0, 0
    for example in examples:
        labels = sum(label != -100 for label in example["labels"][1:])
        tensors = {key: torch.tensor([ids]) for key, ids in example.items()}
        total += labels * model(**tensors).loss.item()
        count += labels
    assert forgetting.mean_loss(model, examples) == pytest.approx(total / count, rel=1e-5)


def test_an_answer_is_scored_to_its_end_and_the_question_is_not(tokenizer):
    line = {"question": "What is ice?", "answer": "Ice is frozen water."}
    example = forgetting.encode_answer(tokenizer, line)
    scored = tokenizer.decode([label for label in example["labels"] if label != -100])
    assert scored.startswith(line["answer"]) and "<|im_end|>" in scored


def test_an_answer_that_was_cut_is_left_out(model, tokenizer, monkeypatch):
    answers = ["Short.", "word " * 200, ""]
    monkeypatch.setattr(forgetting, "generate_turns", lambda *a, **k: answers)
    assert forgetting.own_answers(model, tokenizer, ["a", "b", "c"]) == [
        {"question": "a", "answer": "Short."}
    ]


def test_answers_in_the_form_of_an_event_are_counted():
    assert forgetting.share_of_events(['{"who": "Bo"}', "Bo sings.", "[1]", "{broken"]) == 0.25


def test_general_text_is_whole_and_no_event():
    questions, prose = forgetting.load_questions(), forgetting.load_prose()
    assert len(questions) == len(set(questions)) == 120 and len(prose) == len(set(prose)) >= 30
    assert all(question.endswith(("?", ".")) for question in questions)
    assert all(28 <= len(text.split()) <= 100 for text in prose)
    assert not {line["sentence"] for line in load_events("train")} & {*questions, *prose}


def test_the_record_holds_every_setting_with_three_seeds():
    series, (loss, score) = forgetting.trade_offs()
    assert [list(named) for named in series.values()] == [
        ["1e-4", "3e-4", "1e-3", "3e-3"],
        ["3e-4", "1e-3"],
        ["1e-3", "3e-3"],
    ]
    assert all(len(points) == 3 for named in series.values() for points in named.values())
    assert loss > 0 and score < 0.05


def test_the_recorded_questions_are_measured_or_mixed_in_and_never_both():
    general = records.read("forgetting")["general"]
    asked = [{line["question"] for line in general[part]} for part in ("measured", "mixed_in")]
    assert not asked[0] & asked[1] and min(map(len, asked)) > 30
    assert asked[0] | asked[1] <= set(forgetting.load_questions())
