"""From llama.cpp's GGUF to a folder that transformers reads fast: bfloat16 safetensors, configuration, tokenizer.

torch, transformers and gguf are imported where they are used: with the model in place, `make` asks for it often
and should not wait seconds for imports.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_edu.llm.files import save_tensors
from lora_edu.llm.gguf_layout import module_path, separate_rows

if TYPE_CHECKING:
    import torch
    from gguf import ReaderTensor
    from tokenizers import Tokenizer


def convert(gguf_file: Path, folder: Path) -> None:
    """Write the GGUF file as a transformers folder.

    Not ``from_pretrained(gguf_file=...)``: what it returns (packed or dense weights), and how its tokenizer
    splits numbers, depends on the version of transformers; the course's model must not.
    """
    from gguf import GGUFReader

    reader = GGUFReader(gguf_file)
    metadata = {key: field.contents() for key, field in reader.fields.items()}
    tensors = dict(_hf_tensor(tensor, metadata) for tensor in reader.tensors)
    _save_configs(metadata, folder)
    _save_tokenizer(metadata, folder)
    save_tensors(tensors, folder / "model.safetensors")


def _hf_tensor(tensor: "ReaderTensor", metadata: dict[str, Any]) -> tuple[str, "torch.Tensor"]:
    """Name in transformers and bfloat16 values of one GGUF tensor."""
    import torch
    from gguf import dequantize

    path = module_path(tensor.name)
    values = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
    heads = {"q_proj": "llama.attention.head_count", "k_proj": "llama.attention.head_count_kv"}
    if count := heads.get(path.rpartition(".")[2]):
        values = separate_rows(values, metadata[count])
    return f"{path}.weight", values.to(torch.bfloat16)


def _save_configs(metadata: dict[str, Any], folder: Path) -> None:
    from transformers import GenerationConfig, LlamaConfig

    llama = {key.removeprefix("llama."): value for key, value in metadata.items() if key.startswith("llama.")}
    token_ids = {
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "pad_token_id": metadata["tokenizer.ggml.padding_token_id"],
    }
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
        vocab_size=llama["vocab_size"],
        hidden_size=llama["embedding_length"],
        intermediate_size=llama["feed_forward_length"],
        num_hidden_layers=llama["block_count"],
        num_attention_heads=llama["attention.head_count"],
        num_key_value_heads=llama["attention.head_count_kv"],
        max_position_embeddings=llama["context_length"],
        rms_norm_eps=llama["attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": llama["rope.freq_base"]},
        tie_word_embeddings=True,  # the file has no output.weight
        **token_ids,
    )
    config.save_pretrained(folder)
    GenerationConfig(**token_ids).save_pretrained(folder)


def _save_tokenizer(metadata: dict[str, Any], folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    tokens = metadata["tokenizer.ggml.tokens"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_level_bpe(metadata),
        bos_token=tokens[metadata["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[metadata["tokenizer.ggml.eos_token_id"]],
        unk_token=tokens[metadata["tokenizer.ggml.unknown_token_id"]],
        pad_token=tokens[metadata["tokenizer.ggml.padding_token_id"]],
        model_max_length=metadata["llama.context_length"],
        clean_up_tokenization_spaces=False,
        chat_template=metadata["tokenizer.chat_template"],
    )
    tokenizer.save_pretrained(folder)


def _byte_level_bpe(metadata: dict[str, Any]) -> "Tokenizer":
    """GPT-2's byte-level BPE, with each digit a token of its own (what GGUF calls ``smollm``)."""
    from gguf import TokenType
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = metadata["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return tokenizer
