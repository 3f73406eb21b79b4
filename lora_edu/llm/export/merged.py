"""Base and adapter as one model: a folder that transformers, and what reads its folders, loads alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from lora_edu.llm.base_model import load_base_model, resolve_dtype
from lora_edu.llm.budget import count_parameters
from lora_edu.llm.export.card import merged_card
from lora_edu.llm.export.source import Adapter, read_adapter
from lora_edu.llm.files import whole_folder
from lora_edu.llm.surgery import linear_layers
from lora_edu.methods.nf4 import dequantize_nf4, quantize_nf4

if TYPE_CHECKING:
    from jaxtyping import Float


def export_merged(
    folder: str | Path,
    out: str | Path,
    dtype: torch.dtype | str = "bfloat16",
    base: str | None = None,
    quantization: Literal["nf4"] | None = None,
) -> Path:
    r"""Write base and adapter as one model in transformers' format, with its tokenizer and a model card.

    .. math:: W' = W + s\, B A

    The sum is formed in float32 and rounded once, to `dtype`. What is merged cannot be switched off any more: keep the
    adapter.

    Parameters
    ----------
    folder
        An adapter in PEFT's format, or the folder of a fine-tune.
    out
        The model's folder: new or empty. It appears whole, or not at all.
    dtype
        Of the weights: bfloat16, float16 or float32, as a ``torch.dtype`` or its name.
    base
        As `load_base_model` takes it. None: what the adapter names.
    quantization
        Which W is merged into, and the card says it. None: the base's weights as they come. ``"nf4"``: first every
        linear layer is rounded to NF4 with double quantization, which is what an adapter of QLoRA has seen in training.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    FileExistsError
        ``out`` holds something.
    OSError
        The disk is full; nothing is left then.
    FileNotFoundError, TypeError, ValueError
        What `read_adapter` and `load_base_model` raise; another ``quantization``; or a sum that is not finite in
        `dtype`, with the layer's name.

    References
    ----------
    Hu et al. 2021, arXiv 2106.09685, section 4.1, "No Additional Inference Latency". Dettmers et al. 2023, arXiv
    2305.14314, section 3, for NF4.
    """
    if quantization not in (None, "nf4"):
        raise ValueError(f"quantization must be None or 'nf4', got {quantization!r}")
    adapter = read_adapter(folder, base)
    needed = count_parameters(adapter.base.config) * resolve_dtype(dtype).itemsize
    with whole_folder(out, needed) as partial:
        model, tokenizer = load_base_model(adapter.base.name, dtype=dtype)
        merge_into(model, adapter, quantization)
        cast(Any, model).save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        text = merged_card(adapter, Path(out), str(model.dtype).removeprefix("torch."), quantization)
        (partial / "README.md").write_text(text, encoding="utf-8")
    return Path(out)


@torch.no_grad()
def merge_into(model: nn.Module, adapter: Adapter, quantization: Literal["nf4"] | None = None) -> None:
    """Add an adapter to the weights of a model without adapters, in place; arguments as in `export_merged`."""
    for path, layer in linear_layers(model).items():
        weight = cast(nn.Linear, layer).weight
        if quantization == "nf4":
            weight.copy_(rounded_to_nf4(weight))
        if path in adapter.layers:
            A, B = (factor.to(weight.device, torch.float32) for factor in adapter.layers[path])
            weight.copy_(weight.float() + adapter.scaling * (B @ A))
            if not weight.isfinite().all():
                raise ValueError(f"dtype must hold every sum, {weight.dtype} does not that of {path}")


def rounded_to_nf4(weight: "Float[Tensor, 'out in']") -> "Float[Tensor, 'out in']":
    """Return a weight as NF4 with double quantization holds it (4.127 bits), in the dtype that it had."""
    return dequantize_nf4(*quantize_nf4(weight, double_quant=True))
