"""Templates as models have them, over the base model's tokenizer: what is learned is what the template writes."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from lora_edu.llm.base_model import fetch_base_model
from lora_edu.llm.data import load_events, load_persona
from lora_edu.llm.data.chat_template import context_length, end_of_turn, stop_tokens
from lora_edu.llm.data.conversations import encode_conversations, event_conversation
from lora_edu.llm.data.extraction import IGNORE, encode_turn, generate_turns

ASK = [{"role": "user", "content": "What is the capital of France?"}]

# How a turn looks in each family: before a role, after it, the end, what follows the end.
FAMILIES = {
    "gemma": ("<start_of_turn>", "\n", "<end_of_turn>", "\n"),
    "phi": ("<|role|>", "\n", "<|end|>", "\n"),
    "llama-3": ("<|start_header|>", "<|end_header|>\n\n", "<|eot_id|>", ""),
    "spaced": ("[", "] ", " </s>", ""),
}


def loop(body: str, prompt: str) -> str:
    head = "{% for m in messages %}" + body + "{% endfor %}"
    return head + "{% if add_generation_prompt %}" + prompt + "{% endif %}"


@pytest.fixture(scope="module")
def course():
    return AutoTokenizer.from_pretrained(fetch_base_model())


@pytest.fixture
def base(course):
    return copy.deepcopy(course)


@pytest.fixture(params=FAMILIES)
def family(request, base):
    before, after, end, rest = FAMILIES[request.param]
    base.add_special_tokens({"extra_special_tokens": [end.strip()]})
    body = f"{before}{{{{ m['role'] }}}}{after}{{{{ m['content'] | trim }}}}{end}{rest}"
    base.chat_template = loop(body, f"{before}assistant{after}")
    return base, end, rest


def labelled(example):
    return [label for label in example["labels"] if label != IGNORE]


def test_the_course_learns_what_it_always_learned(course):
    """The rule for ChatML in plain words: the prompt, the answer, <|im_end|>, each read by itself."""
    conversations = [event_conversation(line) for line in load_events("train")[::40]]
    conversations += [
        ([{"role": "user", "content": turn["user"]}], turn["reply"]) for turn in load_persona("captain")[::10]
    ]
    for (messages, answer), example in zip(
        conversations, encode_conversations(course, conversations, 512), strict=True
    ):
        prompt = course.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        labels = course.encode(answer, add_special_tokens=False) + [course.eos_token_id]
        assert example["input_ids"] == prompt + labels
        assert example["labels"] == [IGNORE] * len(prompt) + labels
        assert example["attention_mask"] == [1] * len(prompt + labels)


@settings(max_examples=50, deadline=None)
@given(answer=st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.text(" \n\tab", min_size=1))
def test_so_is_any_answer(course, answer):
    labels = course.encode(answer, add_special_tokens=False) + [course.eos_token_id]
    assert labelled(encode_turn(course, ASK, answer)) == labels


def test_the_template_ends_a_turn_not_the_end_of_text(family):
    tokenizer, end, rest = family
    assert end_of_turn(tokenizer, ASK) == (end, rest)
    example = encode_turn(tokenizer, ASK, "Paris.")
    assert tokenizer.decode(labelled(example)) == f"Paris.{end}"
    # The second route: the whole conversation, as the template writes it.
    whole = tokenizer.apply_chat_template([*ASK, {"role": "assistant", "content": "Paris."}], tokenize=False)
    assert tokenizer.decode(example["input_ids"]) + rest == whole


def test_what_the_template_strips_is_not_learned(family):
    tokenizer, end, _ = family
    assert tokenizer.decode(labelled(encode_turn(tokenizer, ASK, "  Paris. \n"))) == f"Paris.{end}"


def test_what_the_template_writes_before_an_answer_is_learned(base):
    base.chat_template = loop(
        "<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}<think>\n</think>\n{% endif %}"
        "{{ m['content'] }}<|im_end|>\n",
        "<|im_start|>assistant\n",
    )
    assert base.decode(labelled(encode_turn(base, ASK, "Paris."))) == "<think>\n</think>\nParis.<|im_end|>"


def test_a_template_that_ends_a_turn_with_plain_text_leaves_the_end_to_the_tokenizer(base):
    base.chat_template = loop("{{ m['role'] }}: {{ m['content'] }}\n", "assistant: ")
    base.eos_token = "<|endoftext|>"
    assert base.decode(labelled(encode_turn(base, ASK, "Paris."))) == "Paris.<|endoftext|>"
    base.eos_token = None
    with pytest.raises(
        ValueError, match="an end of text, or a chat template that ends a turn with a special"
    ):
        encode_turn(base, ASK, "Paris.")


def test_an_answer_is_not_the_first_thing_read():
    """A tokenizer that puts a space before a text, as SentencePiece does, learns none before an answer."""
    letters = [chr(code) for code in range(32, 127)]
    vocabulary = {token: i for i, token in enumerate(["</s>", "▁", "\n", *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    spaced = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        chat_template=loop("{{ m['content'] }}\n</s>", "A:\n"),
    )
    assert spaced.tokenize("Paris")[0] == "▁"
    assert spaced.convert_ids_to_tokens(labelled(encode_turn(spaced, ASK, "Paris")))[:2] == ["P", "a"]


class Model:
    """What generation asks of a model before it runs."""

    def __init__(self, eos):
        self.generation_config = GenerationConfig(eos_token_id=eos)


@pytest.mark.parametrize(("own", "stops"), [([7, 2], [7, 2]), (7, [7, 2]), (None, [2])])
def test_the_models_own_stop_tokens_are_kept(course, own, stops):
    assert stop_tokens(Model(own), course, ASK) == stops


def test_generation_stops_where_the_template_ends_a_turn(tiny_folder):
    """The model is made to write one token for ever: the one that ends a turn, which is not the end of text."""
    import torch

    from lora_edu.llm.base_model import load_base_model

    model, tokenizer = load_base_model(str(tiny_folder))
    tokenizer.eos_token, model.generation_config.eos_token_id = "<|endoftext|>", [0]
    (end,) = tokenizer.encode("<|im_end|>")
    calls = []

    def write_the_end(module, args, output):
        calls.append(output.logits.shape)
        output.logits[..., end] = torch.inf

    model.register_forward_hook(write_the_end)
    assert generate_turns(model, tokenizer, [ASK], max_new_tokens=5) == [""]
    assert len(calls) == 1


# ---------------------------------------------------------------- what is refused


REFUSALS = {
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{{ m['content'] }}{% endfor %}": "takes the turns system, user.* has not: no system turn",
    "{{ messages[0]['content'] + 1 }}": "takes the turns system, user.* has not: can only concatenate str",
    "{% if": "takes the turns system, user.* has not: ",
    "{% if false %}x{% endif %}": "takes the turns system, user, that of .* writes nothing",
    "{{ messages[0]['content'] }}": "writes the assistant's turn, that of .* leaves it out",
}


@pytest.mark.parametrize("template", REFUSALS)
def test_a_template_that_does_not_serve_is_named(base, template):
    base.chat_template = template
    conversations = [([{"role": "system", "content": "Be brief."}, *ASK], "Paris.")]
    with pytest.raises(
        ValueError, match=f"example 1: model must have a chat template that {REFUSALS[template]}"
    ):
        encode_conversations(base, conversations, 512)


def test_no_template(base):
    base.chat_template = None
    with pytest.raises(ValueError, match="its tokenizer has no chat template"):
        encode_conversations(base, [(ASK, "Paris.")], 512)


def config(**changed):
    return LlamaConfig(**{"vocab_size": 49_152, **changed})


LONG = [{"role": "user", "content": "why " * 100}]


def test_examples_longer_than_the_context_are_counted(course):
    conversations = [(ASK, "Paris."), (LONG, "Because."), (LONG + ASK, "Because.")]
    with pytest.raises(
        ValueError,
        match=r"max_position_embeddings of '.*smollm2-135m'\) of .* got 64: 2 of 3 are longer, .*number 2",
    ):
        encode_conversations(course, conversations, 512, config(max_position_embeddings=64))
    with pytest.raises(ValueError, match=r"max_length must be at least .* got 64: 2 of 3 are longer"):
        encode_conversations(course, conversations, 64)
    assert len(encode_conversations(course, conversations, 512, config(max_position_embeddings=512))) == 3


@pytest.mark.parametrize(
    ("changed", "length"),
    [
        ({"max_position_embeddings": 64}, 64),
        ({"max_position_embeddings": 64, "rope_parameters": {"rope_type": "linear", "factor": 4.0}}, 256),
        (
            {
                "max_position_embeddings": 256,
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 64,
                },
            },
            256,
        ),
    ],
)
def test_a_stretched_context_counts_once(changed, length):
    assert context_length(config(**changed)) == length


def test_other_names_of_the_context():
    from transformers import GPT2Config, MambaConfig, MptConfig

    assert context_length(GPT2Config(n_positions=48)) == 48
    assert context_length(MptConfig(max_seq_len=48)) == 48
    assert context_length(MambaConfig()) is None


def test_a_pad_token_beyond_the_embedding_is_refused(base):
    base.add_special_tokens({"pad_token": "<|pad|>"})
    with pytest.raises(
        ValueError, match=r"0 … 49151 .*'.*smollm2-135m'\), got pad_token_id 49152, '<|pad|>'"
    ):
        encode_conversations(base, [(ASK, "Paris.")], 512, config())
    assert encode_conversations(base, [(ASK, "Paris.")], 512, config(vocab_size=49_153))


def test_a_token_beyond_the_embedding_is_refused(course):
    with pytest.raises(ValueError, match="got a token of the data"):
        encode_conversations(course, [(ASK, "Paris.")], 512, config(vocab_size=100))


def test_generation_stays_within_the_context(tiny_folder):
    from lora_edu.llm.base_model import load_base_model

    model, tokenizer = load_base_model(str(tiny_folder))
    prompt = tokenizer.apply_chat_template(ASK, add_generation_prompt=True, return_dict=False)
    model.config.max_position_embeddings = len(prompt) + 2
    model.generation_config.eos_token_id = None
    shortest = [generate_turns(model, tokenizer, [ASK], max_new_tokens=n) for n in (2, 40)]
    assert shortest[0] == shortest[1]
    model.config.max_position_embeddings = len(prompt)
    with pytest.raises(
        ValueError, match=f"the model's context of {len(prompt)} tokens, got one of {len(prompt)}"
    ):
        generate_turns(model, tokenizer, [ASK])
