"""Every turn of the assistant is scored, each to its end, under templates as models have them."""

import copy

import pytest
from transformers import AutoTokenizer

from lora_edu.llm.base_model import fetch_base_model
from lora_edu.llm.data.conversations import encode_conversations
from lora_edu.llm.data.dialogue import encode_dialogue
from lora_edu.llm.data.extraction import IGNORE, encode_turn

TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "What is a rank?\nAnd why?"},
    {"role": "assistant", "content": "A number. Paris, \U0001f600."},
]


def marked(body, prompt):
    """A template that marks what the assistant says, as TRL's training templates do."""
    return (
        "{% for m in messages %}"
        + body
        + "{% endfor %}{% if add_generation_prompt %}"
        + prompt
        + "{% endif %}"
    )


# Shapes of real templates, each with `{% generation %}` around the assistant's turn and its end. (Llama 3's has two
# newlines before a turn, which this tokenizer joins at the end of a prompt alone.)
FAMILIES = {
    "chatml": (
        "<|im_end|>",
        marked(
            "<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|im_end|>"
            "{% endgeneration %}{% else %}{{ m['content'] }}<|im_end|>{% endif %}\n",
            "<|im_start|>assistant\n",
        ),
    ),
    "llama-3": (
        "<|eot_id|>",
        marked(
            "<|start_header|>{{ m['role'] }}<|end_header|>\n{% if m['role'] == 'assistant' %}{% generation %}"
            "{{ m['content'] | trim }}<|eot_id|>{% endgeneration %}{% else %}{{ m['content'] | trim }}<|eot_id|>"
            "{% endif %}",
            "<|start_header|>assistant<|end_header|>\n",
        ),
    ),
    "llama-2": (
        "</s>",
        marked(
            "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% elif m['role'] == 'assistant' %}"
            "{% generation %} {{ m['content'] }} </s>{% endgeneration %}{% else %}<<SYS>>{{ m['content'] }}<</SYS>>"
            "{% endif %}",
            "",
        ),
    ),
}


@pytest.fixture(scope="module")
def course():
    return AutoTokenizer.from_pretrained(fetch_base_model())


@pytest.fixture(params=FAMILIES)
def family(request, course):
    tokenizer = copy.deepcopy(course)
    end, tokenizer.chat_template = FAMILIES[request.param]
    tokenizer.add_special_tokens({"extra_special_tokens": [end]})
    return tokenizer, end


def stretches(tokenizer, example):
    """The scored stretches as text."""
    texts, scored = [], False
    for token, label in zip(example["input_ids"], example["labels"], strict=True):
        if label != IGNORE:
            assert label == token
            texts = texts if scored else [*texts, []]
            texts[-1].append(token)
        scored = label != IGNORE
    return [tokenizer.decode(tokens) for tokens in texts]


def test_all_turns_are_scored_where_the_template_marks_them(family):
    """By transformers' own mask, from the template's marks."""
    tokenizer, end = family
    example = encode_dialogue(tokenizer, TALK[:-1], TALK[-1]["content"])
    theirs = tokenizer.apply_chat_template(
        TALK, return_assistant_tokens_mask=True, return_dict=True, tokenize=True
    )
    ours = [int(label != IGNORE) for label in example["labels"]]
    reach = len(example["input_ids"])  # what follows the last end of turn is left out
    assert example["input_ids"] == theirs["input_ids"][:reach] and ours == theirs["assistant_masks"][:reach]
    assert not any(theirs["assistant_masks"][reach:])
    said = stretches(tokenizer, example)
    assert [text.strip() for text in said] == [
        text.strip() for text in (f"{TALK[i]['content']}{end}" for i in (2, 4))
    ] or end == "</s>"
    assert len(said) == 2 and all(text.endswith(end) for text in said)


def test_the_course_template_scores_both_turns_to_their_ends(course):
    example = encode_dialogue(course, TALK[:-1], TALK[-1]["content"])
    assert stretches(course, example) == [f"{TALK[i]['content']}<|im_end|>" for i in (2, 4)]


def test_with_one_turn_all_is_the_last(family, course):
    for tokenizer in (family[0], course):
        one = (TALK[:2], TALK[2]["content"])
        assert encode_dialogue(tokenizer, *one) == encode_turn(tokenizer, *one)


def test_last_and_all_read_the_same_and_differ_in_what_is_scored(family):
    tokenizer, _ = family
    rows = [(TALK[:-1], TALK[-1]["content"])]
    (last,), (every,) = (encode_conversations(tokenizer, rows, 500, learn=learn) for learn in ("last", "all"))
    assert last["input_ids"] == every["input_ids"]
    assert len(stretches(tokenizer, last)) == 1 and stretches(tokenizer, every)[-1:] == stretches(
        tokenizer, last
    )


def test_a_template_that_rewrites_earlier_turns_is_refused(course):
    """As those do that drop the thoughts of all turns but the last."""
    tokenizer = copy.deepcopy(course)
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['role'] == 'assistant' and not loop.last %}{{ m['content'].split('</think>')[-1] }}"
        "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    thinking = [turn | {"content": "<think>so</think>Hi."} if i == 2 else turn for i, turn in enumerate(TALK)]
    with pytest.raises(
        ValueError, match=r"example 1: learn must be 'last' with the chat template of .* turn 3"
    ):
        encode_conversations(tokenizer, [(thinking[:-1], "A number.")], 500, learn="all")
    assert encode_conversations(tokenizer, [(thinking[:-1], "A number.")], 500)
