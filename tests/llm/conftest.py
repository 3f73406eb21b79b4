"""A real but very small Llama with the base model's tokenizer: each step takes milliseconds."""

import json

import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from lora_edu.llm.base_model import fetch_base_model, load_tokenizer
from lora_edu.llm.base_model.convert import _save_tokenizer
from lora_edu.llm.data import load_events


def make_tiny(seed: int = 0, vocabulary: int = 256) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,  # a multiple of the block size: bitsandbytes dequantizes 96 wrongly on the CPU
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def tiny() -> LlamaForCausalLM:
    return make_tiny()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """The small model on disk, beside the base model's tokenizer."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(fetch_base_model())
    make_tiny(vocabulary=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory):
    """A folder with a tokenizer of the base model's kind, read and written in no time: 256 bytes, 3 special tokens."""
    folder = tmp_path_factory.mktemp("tokenizer")
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġt", "Ġth"]
    _save_tokenizer(
        {
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [3] * len(specials) + [1] * (len(tokens) - len(specials)),
            "tokenizer.ggml.merges": ["Ġ t", "Ġt h"],
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.unknown_token_id": 0,
            "tokenizer.ggml.padding_token_id": 2,
            "llama.context_length": 2048,
            "tokenizer.chat_template": load_tokenizer().chat_template,
        },
        folder,
    )
    return folder


@pytest.fixture(scope="session")
def few_events(tmp_path_factory):
    """A test file of three seen-pattern and two unseen-pattern events, so that answering takes seconds."""
    lines = load_events("test")
    few = [line for line in lines if not line["unseen_pattern"]][:3]
    few += [line for line in lines if line["unseen_pattern"]][:2]
    return write_events(tmp_path_factory.mktemp("events") / "few.jsonl", few)


@pytest.fixture(scope="session")
def few_to_learn(tmp_path_factory):
    """A train file of 40 events: each run tokenizes its train file, and all 1,600 take seconds."""
    return write_events(tmp_path_factory.mktemp("events") / "learn.jsonl", load_events("train")[:40])


def write_events(file, lines):
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file
