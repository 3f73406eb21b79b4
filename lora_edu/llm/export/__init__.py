"""Out of the notebook: an adapter in the formats that other programs run.

``export_gguf_adapter`` writes the adapter alone for llama.cpp, to be laid over a GGUF file of its base.
``export_merged`` adds it to the base's weights, a folder that transformers (and vLLM) loads alone; ``save_merged`` does
so with a model of peft's that is in memory, in 4 bits or not, and writes no card.
``export_gguf_model`` turns such a folder into one GGUF file. Each of the three exports brings a model card.
``write_modelfile`` tells Ollama what to run. On the command line: ``python -m lora_edu.llm.export --help``.

``source`` reads an adapter and its base's configuration, ``card`` says what a file is; the other files are one format
each.
"""

from lora_edu.llm.export.adapter import export_gguf_adapter
from lora_edu.llm.export.merged import export_merged, save_merged
from lora_edu.llm.export.model import QUANTIZATIONS, export_gguf_model
from lora_edu.llm.export.modelfile import write_modelfile
from lora_edu.llm.export.source import Adapter, read_adapter

__all__ = [
    "QUANTIZATIONS",
    "Adapter",
    "export_gguf_adapter",
    "export_gguf_model",
    "export_merged",
    "read_adapter",
    "save_merged",
    "write_modelfile",
]
