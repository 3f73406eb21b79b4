import json

import pytest
from transformers import AutoTokenizer

from lora_edu.llm.base_model import fetch_base_model
from lora_edu.llm.data import extraction, load_events

EVENT = {"who": "Ana", "what": "a talk", "where": "Room 1", "day": "Monday", "time": "3 pm"}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(fetch_base_model())


@pytest.mark.parametrize("line", load_events("train")[:5])
def test_labels_stand_on_the_answer_only_and_the_answer_ends(tokenizer, line):
    example = extraction.encode_example(tokenizer, line)
    labelled = [label for label in example["labels"] if label != extraction.IGNORE]
    assert labelled[-1] == tokenizer.eos_token_id
    assert json.loads(tokenizer.decode(labelled[:-1])) == line["event"]
    prompt = example["input_ids"][: -len(labelled)]
    assert example["input_ids"] == prompt + labelled
    assert example["labels"][: len(prompt)] == [extraction.IGNORE] * len(prompt)
    assert tokenizer.decode(prompt).endswith(f"{line['sentence']}<|im_end|>\n<|im_start|>assistant\n")


def test_the_prompt_of_training_is_the_prompt_of_the_question(tokenizer):
    line = load_events("train")[0]
    asked = tokenizer.apply_chat_template(
        extraction.chat(line["sentence"]), add_generation_prompt=True, return_dict=False
    )
    assert extraction.encode_example(tokenizer, line)["input_ids"][: len(asked)] == asked


def test_worked_examples_are_answered_turns():
    turns = extraction.chat("When?", [{"sentence": "Ana talks.", "event": EVENT}])
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert json.loads(turns[2]["content"]) == EVENT


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (json.dumps(EVENT), True),
        (json.dumps(EVENT, indent=2), True),
        (json.dumps(dict(reversed(EVENT.items()))), True),
        (f"Here it is:\n```json\n{json.dumps(EVENT)}\n```", True),
        (json.dumps(EVENT)[:-1], False),
        (json.dumps(EVENT | {"day": "Tuesday"}), False),
        (json.dumps(EVENT | {"note": ""}), False),
        (json.dumps({k: v for k, v in EVENT.items() if k != "day"}), False),
        (json.dumps({k: v.lower() for k, v in EVENT.items()}), False),
        ("", False),
        ("I cannot say.", False),
    ],
)
def test_an_answer_is_right_when_its_json_equals_the_event(answer, right):
    assert extraction.exact_match([answer], [EVENT]) == float(right)


def test_exact_match_is_a_fraction():
    assert extraction.exact_match([json.dumps(EVENT), "", "", ""], [EVENT] * 4) == 0.25


@pytest.mark.parametrize(("answers", "events"), [([], []), (["{}"], [EVENT, EVENT])])
def test_exact_match_wants_one_answer_an_event(answers, events):
    with pytest.raises(ValueError, match="answers must be as many as events, at least one, got"):
        extraction.exact_match(answers, events)


def test_answers_do_not_depend_on_the_batch(tiny_folder):
    from lora_edu.llm.base_model import load_base_model

    model, tokenizer = load_base_model(str(tiny_folder))
    sentences = [line["sentence"] for line in load_events("test")[:3]]
    together = extraction.generate_answers(model, tokenizer, sentences, max_new_tokens=8)
    alone = extraction.generate_answers(model, tokenizer, sentences, max_new_tokens=8, batch_size=1)
    assert together == alone


def test_generating_leaves_a_training_model_in_training(tiny_folder):
    from lora_edu.llm.base_model import load_base_model

    model, tokenizer = load_base_model(str(tiny_folder))
    model.train()
    extraction.generate_answers(model, tokenizer, ["When?"], max_new_tokens=2)
    assert model.training


def test_a_turn_follows_any_conversation(tokenizer):
    messages = [{"role": "user", "content": "Ahoy?"}, {"role": "assistant", "content": "Aye!"}]
    messages.append({"role": "user", "content": "Where to?"})
    example = extraction.encode_turn(tokenizer, messages, "Home.")
    labelled = [label for label in example["labels"] if label != extraction.IGNORE]
    assert tokenizer.decode(labelled) == "Home.<|im_end|>"
    assert "Aye!<|im_end|>" in tokenizer.decode(example["input_ids"][: -len(labelled)])


@pytest.fixture
def two_voices(tiny_folder):
    """The small model with two random adapters that say different things."""
    import torch

    from lora_edu.llm import surgery
    from lora_edu.llm.base_model import load_base_model

    model, tokenizer = load_base_model(str(tiny_folder))
    torch.manual_seed(0)
    for name in ("first", "second"):
        surgery.add_lora(model, "all-linear", r=4, lora_alpha=64, adapter_name=name)
    for parameter in surgery.lora_parameters(model):
        torch.nn.init.normal_(parameter, std=0.3)
    return model, tokenizer


def test_each_conversation_of_a_mixed_batch_is_answered_by_its_adapter(two_voices):
    from lora_edu.llm.surgery import set_adapter

    model, tokenizer = two_voices
    asked = [[{"role": "user", "content": text}] for text in ("Who?", "Where is it?", "When?")]
    alone = {}
    for name in ("first", "second"):
        set_adapter(model, name)
        alone[name] = extraction.generate_turns(model, tokenizer, asked, max_new_tokens=6)
    assert alone["first"] != alone["second"]
    names = ["second", "first", "second"]
    mixed = extraction.generate_turns(
        model, tokenizer, asked, batch_size=2, max_new_tokens=6, adapter_names=names
    )
    assert mixed == [alone[name][row] for row, name in enumerate(names)]


def test_a_mixed_batch_wants_one_adapter_a_conversation(two_voices):
    asked = [[{"role": "user", "content": "Who?"}]]
    with pytest.raises(ValueError, match="adapter_names must be one a conversation, 1, got 2"):
        extraction.generate_turns(*two_voices, asked, adapter_names=["first", "second"])
