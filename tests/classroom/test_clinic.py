"""The mistakes with templates are those that notebook 12 tells of, and their cures work."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lora_edu.classroom.experiments import clinic, digit_reader, digits
from lora_edu.llm.base_model import DEFAULT_NAME, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(DEFAULT_NAME)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return (
        LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.5, **sizes))
        .double()
        .eval()
    )


def test_template_and_tokenizer_both_write_the_beginning(tokenizer):
    twice = clinic.writes_bos(tokenizer)
    text = twice.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    once = twice(text, add_special_tokens=False).input_ids
    assert twice(text).input_ids == [once[0], *once] and once[0] == tokenizer.convert_tokens_to_ids(
        clinic.BOS
    )
    plain = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert tokenizer(plain).input_ids == once[1:], "the tokenizer that was copied is as it was"


def test_a_row_that_is_filled_up_on_the_left_is_answered_as_if_alone(model, tokenizer):
    prompts = ["Hi", "A much longer question than that"]
    alone = [clinic.answer(model, tokenizer, [prompt], max_new_tokens=5)[0] for prompt in prompts]
    assert clinic.answer(model, tokenizer, prompts, max_new_tokens=5) == alone


def test_an_answer_ends_with_the_token_that_was_asked_for(model, tokenizer):
    first = tokenizer(clinic.answer(model, tokenizer, ["Hi"], max_new_tokens=1)[0]).input_ids
    assert len(clinic.answer(model, tokenizer, ["Hi"], eos_token_id=first[0])[0]) < 40


def test_what_flows_back_is_the_gradient_by_the_hidden_layer():
    base = digit_reader.base_network()
    X, y = digits.few(digits.load()["adapt"], seed=0)
    hidden = base[:2](X).detach()
    found = digit_reader.flowing_back(base, (X, y))
    loss = lambda h: torch.nn.functional.cross_entropy(base[2:](h), y)  # noqa: E731
    step = torch.zeros_like(hidden)
    step[0] = 1e-6
    slope = (loss(hidden + step) - loss(hidden - step)) / 2e-6
    by_hand = torch.autograd.functional.jacobian(loss, hidden)
    assert slope.item() == pytest.approx(by_hand[0].sum().item(), rel=1e-4, abs=1e-9)
    assert torch.equal(found, by_hand[by_hand != 0])
