"""A folder of random weights in a published shape: as large and as slow as the model, with nothing downloaded."""

import itertools
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lora_edu.llm.base_model import load_tokenizer
from lora_edu.llm.budget import resolve_config
from lora_edu.llm.budget.count import meta_model
from lora_edu.llm.files import write_json
from lora_edu.llm.machine import GIB

SHARD_BYTES = 2 * GIB


def write_random_model(shape: str | Any, folder: Path, seed: int = 0) -> Path:
    """Write a model of a recorded shape with random float16 weights, and the course's tokenizer, as a hub holds them.

    Parameters
    ----------
    shape
        Its name, or a configuration.

    Returns
    -------
    Path
        ``folder``. Matrices and biases are normal with a deviation of 0.02, norms lie around 1.
    """
    config, tokenizer = resolve_config(shape), load_tokenizer()
    config.dtype = torch.float16
    config.architectures = [type(meta_model(config)).__name__]
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id, config.max_position_embeddings = tokenizer.pad_token_id, 8192
    folder.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(seed)
    shard: dict[str, torch.Tensor] = {}
    weight_map: dict[str, str] = {}
    names = itertools.count(1)

    def flush() -> None:
        name = f"model-{next(names):05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, parameter in meta_model(
        config
    ).named_parameters():  # a head that shares the embedding is not named
        values = torch.empty(parameter.shape, dtype=torch.float16, device=device)
        values.normal_(float("norm" in name and name.endswith("weight")), 0.02, generator=generator)
        shard[name] = values.cpu()
        if sum(tensor.nbytes for tensor in shard.values()) > SHARD_BYTES:
            flush()
    if shard:
        flush()
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
