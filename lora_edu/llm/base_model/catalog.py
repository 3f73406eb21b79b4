"""The models that the course proposes, and the shapes of models that it speaks of: what is known without a network."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_edu.llm.base_model.fetch import DEFAULT_NAME
from lora_edu.llm.base_model.revisions import REVISIONS

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def _llama_like(
    kind: str, vocabulary: int, hidden: int, mlp: int, layers: int, heads: int, kv: int, tied: bool
) -> dict[str, Any]:
    return {
        "model_type": kind,
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "tie_word_embeddings": tied,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "SmolLM2-135M": _llama_like("llama", 49_152, 576, 1_536, 30, 9, 3, tied=True),
    "SmolLM2-360M": _llama_like("llama", 49_152, 960, 2_560, 32, 15, 5, tied=True),
    "SmolLM2-1.7B": _llama_like("llama", 49_152, 2_048, 8_192, 24, 32, 32, tied=True),
    "Llama-3.2-3B": _llama_like("llama", 128_256, 3_072, 8_192, 28, 24, 8, tied=True),
    "Llama-2-7B": _llama_like("llama", 32_000, 4_096, 11_008, 32, 32, 32, tied=False),
    "Mistral-7B": _llama_like("mistral", 32_000, 4_096, 14_336, 32, 32, 8, tied=False),
    "Qwen2.5-7B": _llama_like("qwen2", 152_064, 3_584, 18_944, 28, 28, 4, tied=False),
    "GPT-3": {
        "model_type": "gpt2",
        "vocab_size": 50_257,
        "n_positions": 2_048,
        "n_embd": 12_288,
        "n_layer": 96,
        "n_head": 96,
    },
}
"""Shapes that need no network: as each model's config.json gives them, and for GPT-3, which is built as GPT-2
is, Brown et al. 2020 (arXiv 2005.14165), table 2.1."""


@dataclass(frozen=True)
class Tier:
    """A model that the course proposes.

    Attributes
    ----------
    name
        As `load_base_model` takes it.
    title
        As it is called.
    licence
        Of the weights, by the model's card.
    parameters
        How many.
    download
        Bytes that the first use fetches.
    shape
        The name of its recorded shape, in `SHAPES`.
    half
        What is known of it in float16, the 16 bits of a GPU before compute capability 8.0.
    risky_in_float16
        Whether a run in float16 may well fail.
    source
        Where licence, size and shape were read.
    """

    name: str
    title: str
    licence: str
    parameters: int
    download: int
    shape: str
    half: str
    risky_in_float16: bool
    source: str

    @property
    def revision(self) -> str | None:
        """The hub's commit that is loaded; None: the newest (tools/pin_revisions.py asks the hub)."""
        return REVISIONS.get(self.name)

    @property
    def hub_id(self) -> str:
        """What the model hub calls it, which has the small one too: ``owner/model``."""
        return self.source.removeprefix("https://huggingface.co/")

    @property
    def on_hub(self) -> bool:
        """Whether a model hub holds it; the small one comes from the package index."""
        return self.name != DEFAULT_NAME


TIERS: dict[str, Tier] = {
    tier.name: tier
    for tier in (
        Tier(
            DEFAULT_NAME,
            "SmolLM2-135M-Instruct",
            "Apache-2.0",
            134_515_008,
            93_000_000,
            "SmolLM2-135M",
            "Fine-tuned in float16 by this course.",
            False,
            "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
        Tier(
            "HuggingFaceTB/SmolLM2-1.7B-Instruct",
            "SmolLM2-1.7B-Instruct",
            "Apache-2.0",
            1_711_376_384,
            3_430_000_000,
            "SmolLM2-1.7B",
            # Of another of this size, Qwen2-1.5B, not-a-numbers from the second layer on are reported:
            # https://github.com/QwenLM/Qwen3/issues/826. TinyLlama, a Llama as this is, trained on a T4 in float16
            # once a fault of unsloth's copy was mended: https://github.com/unslothai/unsloth/issues/911
            "Trained in bfloat16 by its authors. No report of trouble in float16 was found, and none of success.",
            False,
            "https://huggingface.co/HuggingFaceTB/SmolLM2-1.7B-Instruct",
        ),
        Tier(
            "Qwen/Qwen2.5-7B-Instruct",
            "Qwen2.5-7B-Instruct",
            "Apache-2.0",
            7_615_616_512,
            15_230_000_000,
            "Qwen2.5-7B",
            # https://github.com/artidoro/qlora#known-issues-and-limitations, point 3;
            # https://github.com/QwenLM/Qwen3/issues/868, of Qwen2-7B-Instruct on a V100
            "Risky: of the QLoRA authors' runs of a 7B LLaMA in float16, 80 % finished; Qwen's authors say of Qwen2-7B "
            "that numerical instabilities are to be expected there.",
            True,
            "https://huggingface.co/Qwen/Qwen2.5-7B-Instruct",
        ),
    )
}
"""The smallest first, by name."""


def require_recorded_shape(name: str, config: "PretrainedConfig") -> None:
    """Refuse a model of the course that is no longer what the course recorded, before a weight is read.

    Parameters
    ----------
    name
        As `load_base_model` takes it; of other models than `TIERS` nothing is recorded.
    config
        What its config.json says.

    Raises
    ------
    ValueError
        The shape is another. The message names each number that differs.
    """
    if name not in TIERS:
        return
    recorded = SHAPES[TIERS[name].shape]
    found = {key: getattr(config, key, None) for key in recorded}
    if TIERS[name].on_hub:  # twice the bytes would be fetched otherwise
        recorded, found = recorded | {"dtype": "bfloat16"}, found | {"dtype": _stored_dtype(config)}
    different = [
        f"{key} {found[key]!r}, not {value!r}" for key, value in recorded.items() if found[key] != value
    ]
    if different:
        raise ValueError(
            f"{name} is not the model that this course recorded: {'; '.join(different)}. Its memory was not predicted "
            "for this shape. Pin a revision (tools/pin_revisions.py), or load it from a folder"
        )


def _stored_dtype(config: "PretrainedConfig") -> str:
    """The dtype of the file's weights; its name became ``dtype`` in transformers 4.56."""
    return str(getattr(config, "dtype", None)).removeprefix("torch.")
