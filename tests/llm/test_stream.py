"""A turn that is read while it is written is the turn that `generate_turns` writes."""

import itertools
import threading

import pytest
import torch

from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.data.extraction import generate_turns, stream_turn

ASK = [{"role": "user", "content": "What is a rank?"}]


@pytest.fixture
def talker(tiny_folder):
    model, tokenizer = load_base_model(str(tiny_folder))
    model.generation_config.repetition_penalty = 1.3  # a model's own settings count here, too
    return model, tokenizer


@pytest.mark.parametrize("at_once", [1, 3, 50])
def test_the_text_grows_to_what_is_generated_at_once(talker, at_once):
    talker[0].train()
    texts = list(stream_turn(*talker, ASK, max_new_tokens=10, at_once=at_once))
    (whole,) = generate_turns(*talker, [ASK], max_new_tokens=10)
    assert texts[-1] == f"{whole} ... (cut at 10 tokens)"
    assert len(texts) == -(-10 // at_once) + 1
    for earlier, later in itertools.pairwise(texts):
        assert later.startswith(earlier)
    assert talker[0].training


def say(model, tokens, prompt):
    """Make a model write these tokens after so many."""

    def write(module, args, kwargs, output):
        place = int(kwargs["position_ids"][0, -1]) + 1 - prompt
        output.logits[:, -1, tokens[place]] = torch.inf

    model.register_forward_hook(write, with_kwargs=True)


def test_it_stops_at_the_end_of_a_turn_and_no_half_of_a_character_is_shown(talker):
    model, tokenizer = talker
    prompt = len(tokenizer.apply_chat_template(ASK, add_generation_prompt=True, return_dict=False))
    smile = tokenizer.encode("Hi \U0001f642\U0001f9ea", add_special_tokens=False)
    assert len(smile) > 4
    say(model, [*smile, tokenizer.eos_token_id], prompt)
    texts = list(stream_turn(model, tokenizer, ASK, max_new_tokens=40, at_once=1))
    assert texts[-1] == "Hi \U0001f642\U0001f9ea" and len(texts) == len(smile) + 2
    assert not any("\ufffd" in text for text in texts)


def test_who_stops_reading_stops_the_model(talker):
    model, tokenizer = talker
    calls, threads = [], threading.active_count()
    model.register_forward_hook(lambda *_: calls.append(1))
    stream = stream_turn(model, tokenizer, ASK, max_new_tokens=1000, at_once=2)
    assert next(stream) and len(calls) == 2
    stream.close()
    assert len(calls) == 2 and threading.active_count() == threads


def test_an_error_is_raised_where_the_text_is_read(talker):
    model, tokenizer = talker

    def fail(*_):
        raise RuntimeError("out of memory")

    model.train()
    model.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        next(stream_turn(model, tokenizer, ASK))
    assert model.training


def test_the_mark_of_a_cut_is_not_read_to_the_model(talker):
    def told(answer):
        talk = [*ASK, {"role": "assistant", "content": answer}, *ASK]
        return list(stream_turn(*talker, talk, max_new_tokens=3))[-1]

    assert told("A number ... (cut at 1,256 tokens)") == told("A number")
    assert told("A number ... (cut at 3 tokens)").endswith(" ... (cut at 3 tokens)")


def test_the_models_context_cuts_a_turn(talker):
    model, tokenizer = talker
    prompt = len(tokenizer.apply_chat_template(ASK, add_generation_prompt=True, return_dict=False))
    model.config.max_position_embeddings = prompt + 2
    assert list(stream_turn(model, tokenizer, ASK))[-1].endswith(" ... (cut at 2 tokens)")
