"""The two files of an adapter: written together or not at all, read and checked without a model."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lora_edu.llm.files import parse_json, save_tensors, whole

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

PREFIX = "base_model.model."
"""What PEFT puts before the path of a layer."""
PROMPT = "prompt_embeddings"
"""What PEFT calls the numbers of a prefix."""

KINDS = ("LORA", "PREFIX_TUNING", "BOTTLENECK")
# What an adapter's float32 takes without loss.
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

Files = tuple[dict[str, Any], dict[str, Tensor]]
"""What the two files hold: the configuration, and the tensors by their keys."""


def write_adapter_files(folder: str | Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    """Write the two files of an adapter, both or neither; return the folder.

    Raises
    ------
    TypeError, ValueError
        `config` holds what JSON does not know, such as a number of numpy, NaN or an infinity. What stood there before
        is unchanged.
    OSError
        The disk is full. What stood there before is unchanged.
    """
    folder = Path(folder)
    text = json.dumps(config, indent=2, sort_keys=True, allow_nan=False) + "\n"
    with whole(folder / WEIGHTS_FILE, folder / CONFIG_FILE) as [weights, described]:
        save_tensors(tensors, weights)
        described.write_text(text, encoding="utf-8")
    return folder


def find_adapter(folder: str | Path) -> Path:
    """Return the folder of an adapter: the given one, or ``adapter`` in the given folder of a fine-tune."""
    inside = Path(folder) / "adapter"
    return inside if inside.is_dir() else Path(folder)


def open_adapter_files(folder: Path) -> Files:
    """Return what the two files hold, whatever kind of adapter and numbers that is.

    Raises
    ------
    FileNotFoundError
        If one of the two is missing.
    ValueError
        If one is damaged.
    """
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / file).is_file():
            raise FileNotFoundError(
                f"folder must hold {CONFIG_FILE} and {WEIGHTS_FILE}; {folder} has no {file}"
            )
    # Bytes that are no UTF-8 become halves of characters, which the parser refuses with the file's name.
    text = (folder / CONFIG_FILE).read_bytes().decode("utf-8", errors="surrogateescape")
    config = parse_json(text, str(folder / CONFIG_FILE))
    if not isinstance(config, dict):
        raise ValueError(f"{folder / CONFIG_FILE} must be one JSON object, got {type(config).__name__}")
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
    except SafetensorError as error:
        raise ValueError(
            f"{folder / WEIGHTS_FILE} must be safetensors, got a damaged file ({error})"
        ) from None
    return config, tensors


def read_adapter_files(folder: Path) -> Files:
    """Return what the two files hold.

    Raises
    ------
    FileNotFoundError
        If one of the two is missing.
    ValueError
        If one is damaged or of a kind that is not known here, or holds numbers that are not finite or no floats.
    """
    config, tensors = open_adapter_files(folder)
    kind = config.get("peft_type")
    if kind not in KINDS:
        raise ValueError(
            f"{folder / CONFIG_FILE} must describe a LoRA adapter, a prefix or a bottleneck "
            f"(peft_type {', '.join(KINDS)}), got {kind!r}"
        )
    for key, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise ValueError(
                f"{folder / WEIGHTS_FILE} must hold float32, bfloat16 or float16, got {tensor.dtype} in {key}"
            )
        if not tensor.isfinite().all():
            raise ValueError(f"{folder / WEIGHTS_FILE} must hold finite numbers, got others in {key}")
    return config, tensors
