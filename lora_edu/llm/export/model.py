"""A whole model as one GGUF file: weights, configuration and tokenizer, quantized on the way or not."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lora_edu.llm.base_model import load_tokenizer, weight_files
from lora_edu.llm.export.adapter import as_array, require_gguf
from lora_edu.llm.export.card import gguf_card
from lora_edu.llm.export.source import Base, find_base
from lora_edu.llm.files import whole
from lora_edu.llm.gguf_layout import architecture, gguf_name, interleave_rows, rotary_heads

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PretrainedConfig

QUANTIZATIONS = {
    "f32": ("F32", "F32"),
    "bf16": ("BF16", "BF16"),
    "f16": ("F16", "F16"),
    "q8_0": ("Q8_0", "Q8_0"),
    "q4_1": ("Q4_1", "Q8_0"),
    "q4_0": ("Q4_0", "Q8_0"),
}
"""Formats of the linear layers and of the embedding. Bits a weight: 32, 16, 16, 8.5, 5, 4.5 (blocks of 32 weights, one
16-bit scale, and in Q4_1 a 16-bit minimum). The embedding, which is the output head too, stays at 8 as in the course's
own file; norms are float32 always."""

# What tells llama.cpp which of its built-in rules splits text: here, each digit alone, then as GPT-2 does.
_SMOLLM = [("Digits", {"individual_digits": True}), ("ByteLevel", {"add_prefix_space": False})]


def export_gguf_model(folder: str | Path, out: str | Path, quantization: str = "q8_0") -> Path:
    """Write a model as one GGUF file, and a model card beside it; return the file.

    Parameters
    ----------
    folder
        A model, such as `export_merged` wrote, with weights in safetensors; or a name as `load_base_model` takes it.
    out
        The file, such as ``captain-q8_0.gguf``; the card is ``captain-q8_0.md``. Both appear whole, or neither. An
        earlier file is replaced.
    quantization
        One of `QUANTIZATIONS`.

    Raises
    ------
    ValueError
        An unknown quantization; a model or a tokenizer that is not written here, by name: this function knows llama's
        architecture with tied embeddings, plain positions and no biases, and SmolLM's tokenizer, a token for each row
        of the embedding (llama.cpp's own ``convert_hf_to_gguf.py`` reads the same folder and knows many more); a row
        that a block of 32 does not divide; or ``out`` that does not end in ``.gguf``.
    FileNotFoundError
        The folder holds no safetensors.

    References
    ----------
    The GGUF specification, ggml-org/ggml, ``docs/gguf.md``; the formats: ggml, ``src/ggml-common.h``.
    """
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization must be one of {', '.join(QUANTIZATIONS)}, got {quantization!r}")
    out = require_gguf(out)
    model = find_base(str(folder))
    require_plain_llama(model.config)
    vocabulary = tokenizer_fields(load_tokenizer(model.name))
    tokens, rows = len(vocabulary["token_list"]), model.config.vocab_size
    if tokens != rows:
        raise ValueError(
            f"folder must hold a tokenizer with a token for each row of the embedding, {rows:,}, got {tokens:,}"
        )
    with whole(out, out.with_suffix(".md")) as [file, card]:
        _write(file, model, quantization, vocabulary)
        card.write_text(gguf_card(model, out, quantization), encoding="utf-8")
    return out


def require_plain_llama(config: "PretrainedConfig") -> None:
    """Raise ValueError, with what is different, unless the model is a llama as `export_gguf_model` writes it."""
    rope: Any = getattr(config, "rope_parameters", None) or {}
    wanted = {
        "model_type": (config.model_type, "llama"),
        "tie_word_embeddings": (config.tie_word_embeddings, True),
        "rope_type": (rope.get("rope_type", "default"), "default"),
        "attention_bias": (getattr(config, "attention_bias", False), False),
        "mlp_bias": (getattr(config, "mlp_bias", False), False),
    }
    for key, (found, allowed) in wanted.items():
        if found != allowed:
            raise ValueError(
                f"folder must hold a model with {key} = {allowed!r}, got {found!r}. llama.cpp's convert_hf_to_gguf.py "
                "reads the same folder and knows more models"
            )


def model_tensors(files: list[Path], config: "PretrainedConfig") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a model as GGUF names and orders them, one in memory at a time."""
    from safetensors import safe_open

    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for key in sorted(tensors.keys()):
                path, tensor = key.removesuffix(".weight"), tensors.get_tensor(key)
                heads = rotary_heads(path, config)
                yield gguf_name(path), interleave_rows(tensor, heads) if heads else tensor


def tokenizer_fields(tokenizer: Any) -> dict[str, Any]:
    """Return what GGUF says of a tokenizer of SmolLM's kind, under the names of GGUFWriter's ``add_`` functions.

    Raises
    ------
    ValueError
        The tokenizer is of another kind.
    """
    from gguf import TokenType

    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    require_smollm(rules, tokenizer.name_or_path)
    special = {token["id"] for token in rules["added_tokens"] if token["special"]}
    ids = sorted(tokenizer.get_vocab().values())
    return {
        "tokenizer_model": "gpt2",
        "tokenizer_pre": "smollm",
        "add_space_prefix": False,
        "add_bos_token": False,
        "token_list": tokenizer.convert_ids_to_tokens(ids),
        "token_types": [TokenType.CONTROL if i in special else TokenType.NORMAL for i in ids],
        "token_merges": [" ".join(merge) for merge in rules["model"]["merges"]],
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "unk_token_id": tokenizer.unk_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "chat_template": tokenizer.chat_template,
    }


def require_smollm(rules: dict[str, Any], name: str) -> None:
    """Raise ValueError unless the rules of a tokenizer are those that llama.cpp calls ``smollm``."""
    steps = (rules["pre_tokenizer"] or {}).get("pretokenizers", [])
    same = len(steps) == len(_SMOLLM) and all(
        step["type"] == kind and settings.items() <= step.items()
        for step, (kind, settings) in zip(steps, _SMOLLM, strict=True)
    )
    if rules["model"]["type"] != "BPE" or not same:
        kinds = [rules["model"]["type"], *(step["type"] for step in steps)]
        raise ValueError(
            f"folder must hold a tokenizer of SmolLM's kind (BPE, Digits, ByteLevel), {name!r} has {', '.join(kinds)}. "
            "llama.cpp's convert_hf_to_gguf.py reads the same folder and knows more tokenizers"
        )


def _write(file: Path, model: Base, quantization: str, vocabulary: dict[str, Any]) -> None:
    from gguf import GGUFType, GGUFWriter
    from gguf.constants import GGML_QUANT_VERSION

    writer = GGUFWriter(file, architecture(model.config).name)
    writer.add_type(GGUFType.MODEL)
    writer.add_name(model.title)
    if model.licence:
        writer.add_license(model.licence)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    _add_shape(writer, model.config, quantization)
    for field, value in vocabulary.items():
        if value is not None:
            getattr(writer, f"add_{field}")(value)
    for name, tensor in model_tensors(weight_files(model.name), model.config):
        _add_tensor(writer, name, tensor, quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: "GGUFWriter", config: Any, quantization: str) -> None:
    from gguf import LlamaFileType

    mostly = "ALL_F32" if quantization == "f32" else f"MOSTLY_{quantization.upper()}"
    writer.add_file_type(LlamaFileType[mostly])
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(config.head_dim)


def _add_tensor(writer: "GGUFWriter", name: str, tensor: Tensor, quantization: str) -> None:
    from gguf import GGMLQuantizationType, QuantError, quantize

    linear, embedding = (GGMLQuantizationType[kind] for kind in QUANTIZATIONS[quantization])
    kind = embedding if name == "token_embd.weight" else linear
    if tensor.ndim == 1:
        kind = GGMLQuantizationType.F32
    try:
        writer.add_tensor(name, quantize(as_array(tensor), kind), raw_dtype=kind)
    except QuantError as error:
        raise ValueError(
            f"quantization must fit each row, {kind.name} does not that of {name} ({error})"
        ) from None
