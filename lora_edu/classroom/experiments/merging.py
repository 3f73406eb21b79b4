"""Notebook 10's merge lab: where an adapter can be merged to, and how much of it is left there."""

import gc
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from peft import PeftModel
from torch import Tensor, nn

from lora_edu.llm.base_model import load_base_model, load_config, resolve_dtype, return_freed_memory
from lora_edu.llm.budget import available_bytes, count_parameters
from lora_edu.llm.data.extraction import IGNORE, encode_example
from lora_edu.llm.surgery import linear_layers
from lora_edu.methods.nf4 import dequantize_nf4, quantize_nf4

_Result = TypeVar("_Result")


def nf4(W: Tensor) -> Tensor:
    """Round a weight (out, in) to what NF4 with double quantization can hold: 4.127 bits, made wide again."""
    return dequantize_nf4(*quantize_nf4(W, double_quant=True))


def kept_share(before: Tensor, after: Tensor, update: Tensor) -> float:
    r"""Return how much of an update a weight has taken up: 1 all of it, 0 nothing.

    .. math:: \frac{\langle W_\text{after} - W_\text{before},\; \Delta W \rangle}{\lVert \Delta W \rVert_F^2}

    What moved in other directions, such as rounding, does not count.

    Parameters
    ----------
    before, after
        The weight before and after the merge, (out, in).
    update
        What was to be added, of the same shape, not all zero.
    """
    return ((after - before) * update).sum().item() / update.square().sum().item()


def free_memory() -> None:
    """Give back what deleted models have held, on the CPU and on the GPU."""
    gc.collect()
    return_freed_memory()
    torch.cuda.empty_cache()


def measure_merged(
    name: str, adapter: str | Path, measure: Callable[[nn.Module], _Result]
) -> dict[str, _Result]:
    """Merge an adapter into three bases, with peft, and measure each result; one model is in memory at a time.

    ``"W16"``: the weights as they came. ``"dequant(W4)"``: those weights rounded to NF4 and made wide, over which
    the adapter was trained. ``"NF4"``: the 4-bit base itself, where peft rounds the sum to NF4 again.

    Parameters
    ----------
    name
        Of the base, as in `load_base_model`.
    adapter
        Folder of an adapter in PEFT's format.
    measure
        Called with each merged model.

    Returns
    -------
    dict
        What `measure` returned, by the way. The first two ways hold every weight in 16 or 32 bits; where memory
        does not reach for that, they are left out.
    """
    ways: dict[str, Callable[[], nn.Module]] = {
        "W16": lambda: load_base_model(name)[0],
        "dequant(W4)": lambda: _rounded_to_nf4(load_base_model(name)[0]),
        "NF4": lambda: load_base_model(name, quantization="nf4")[0],
    }
    if not _fits_wide(name):
        ways = {"NF4": ways["NF4"]}
    results = {}
    for way, load in ways.items():
        results[way] = measure(_merged(load(), adapter))
        free_memory()
    return results


@torch.no_grad()
def answer_logits(model: nn.Module, tokenizer: Any, examples: Sequence[dict]) -> Tensor:
    """Return the logits before each token of the right answers, (tokens, vocabulary), float32 on the CPU."""
    rows = []
    for example in examples:
        encoded = encode_example(tokenizer, example)
        ids = torch.tensor([encoded["input_ids"]], device=cast(Any, model).device)
        scored = torch.tensor(encoded["labels"][1:]) != IGNORE
        rows.append(model(input_ids=ids).logits[0, :-1].float().cpu()[scored])
    return torch.cat(rows)


def _merged(base: nn.Module, adapter: str | Path) -> nn.Module:
    with warnings.catch_warnings():
        # That a 4-bit merge rounds is what the page is about.
        warnings.filterwarnings("ignore", message="Merge lora module to 4-bit linear")
        return cast(Any, PeftModel.from_pretrained(cast(Any, base), str(adapter))).merge_and_unload()


@torch.no_grad()
def _rounded_to_nf4(model: nn.Module) -> nn.Module:
    for layer in linear_layers(model).values():
        weight = cast(nn.Linear, layer).weight
        weight.copy_(nf4(weight))
    return model


def _fits_wide(name: str) -> bool:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = count_parameters(load_config(name)) * resolve_dtype(None).itemsize
    return 1.2 * weights < available_bytes(device)
