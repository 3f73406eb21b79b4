"""An adapter alone as GGUF, for llama.cpp and what is built on it: ``llama-cli --lora FILE``, Ollama, a browser."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lora_edu.llm.export.card import adapter_card
from lora_edu.llm.export.source import Adapter, read_adapter
from lora_edu.llm.files import whole
from lora_edu.llm.gguf_layout import architecture, gguf_name, interleave_rows, rotary_heads


def export_gguf_adapter(folder: str | Path, out: str | Path, base: str | None = None) -> Path:
    r"""Write an adapter as GGUF, and a model card beside it; return the file.

    The file holds, for each adapted layer, ``lora_A`` as ``<weight>.lora_a`` and ``lora_B`` as ``<weight>.lora_b``,
    both in float32, which holds every number of a 16-bit file exactly. Three things differ from PEFT's file:

    * names: ``model.layers.3.self_attn.q_proj`` is ``blk.3.attn_q.weight``;
    * the rows of ``lora_B`` of queries and keys, which llama.cpp keeps interleaved (`interleave_rows`);
    * the scaling. llama.cpp multiplies by ``alpha / r`` and knows no other rule, so that ``alpha`` in the file is
      ``scaling * r``: with rsLoRA :math:`\alpha \sqrt{r}`, otherwise :math:`\alpha`.

    Parameters
    ----------
    folder
        An adapter in PEFT's format, or the folder of a fine-tune.
    out
        The file, such as ``captain.gguf``; the card is ``captain.md``. Both appear whole, or neither. An earlier file
        is replaced.
    base
        As `load_base_model` takes it. None: what the adapter names. Its configuration alone is read.

    Raises
    ------
    FileNotFoundError, ValueError
        What `read_adapter` raises; or GGUF cannot hold it: another kind of adapter than plain LoRA (a prefix, a
        bottleneck, DoRA, trained biases or embeddings, a rank that differs by layer), an alpha of 0 (which llama.cpp
        reads as "no scaling"), another kind of base, or ``out`` that does not end in ``.gguf``.

    References
    ----------
    llama.cpp: ``convert_lora_to_gguf.py`` (names, ``adapter.lora.alpha``), ``src/llama-adapter.h`` (``get_scale``).
    Kalajdzievski 2023, arXiv 2312.03732, for rsLoRA.
    """
    out = require_gguf(out)
    adapter = read_adapter(folder, base)
    if adapter.lora_alpha == 0:
        raise ValueError("lora_alpha must not be 0 in GGUF, where 0 means that nothing is scaled")
    tensors = gguf_tensors(adapter)
    with whole(out, out.with_suffix(".md")) as [file, card]:
        _write(file, adapter, tensors)
        card.write_text(adapter_card(adapter, out), encoding="utf-8")
    return out


def gguf_tensors(adapter: Adapter) -> dict[str, np.ndarray]:
    """Return the tensors of an adapter as GGUF names and orders them, float32: A (r, in), B (out, r)."""
    tensors = {}
    for path, (A, B) in adapter.layers.items():
        name = gguf_name(path)
        if heads := rotary_heads(path, adapter.base.config):
            B = interleave_rows(B, heads)
        tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"] = as_array(A), as_array(B)
    return tensors


def as_array(tensor: Tensor) -> np.ndarray:
    """Return a tensor as float32 in one piece, which numpy and GGUF write as it is."""
    return tensor.to(torch.float32).contiguous().numpy()


def require_gguf(out: str | Path) -> Path:
    """Return `out`; raise ValueError unless it ends in ``.gguf`` and is no folder."""
    out = Path(out)
    if out.suffix != ".gguf" or out.is_dir():
        raise ValueError(
            f"out must be a file that ends in .gguf, got {out}{' (a folder)' if out.is_dir() else ''}"
        )
    return out


def _write(file: Path, adapter: Adapter, tensors: dict[str, np.ndarray]) -> None:
    from gguf import GGUFType, GGUFWriter, Keys

    writer = GGUFWriter(file, architecture(adapter.base.config).name)
    writer.add_type(GGUFType.ADAPTER)
    writer.add_name(adapter.folder.name)
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, adapter.base.title)
    writer.add_string(Keys.Adapter.TYPE, "lora")
    writer.add_float32(Keys.Adapter.LORA_ALPHA, adapter.scaling * adapter.r)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
