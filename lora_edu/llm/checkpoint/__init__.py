"""Adapters on disk, in PEFT's own two files, so that PEFT loads ours and we load PEFT's.

``adapter_config.json`` says what to build (rank, alpha, which layers); ``adapter_model.safetensors`` holds the
numbers, under the keys ``base_model.model.<path of the layer>.lora_A.weight`` and ``...lora_B.weight``, or, of a
prefix, ``prompt_embeddings``. The base model is not in either file: an adapter is only as good as the base that it
is laid over. PEFT has no bottleneck adapters: their files look the same, but only we load them.

``disk`` writes and reads the two files, ``fit`` compares what they hold with what they ask of a model, ``save`` and
``load`` go from a model to the files and back.
"""

from lora_edu.llm.checkpoint.disk import CONFIG_FILE, WEIGHTS_FILE, find_adapter, write_adapter_files
from lora_edu.llm.checkpoint.load import load_adapter, read_lora
from lora_edu.llm.checkpoint.save import save_adapter

__all__ = [
    "CONFIG_FILE",
    "WEIGHTS_FILE",
    "find_adapter",
    "load_adapter",
    "read_lora",
    "save_adapter",
    "write_adapter_files",
]
