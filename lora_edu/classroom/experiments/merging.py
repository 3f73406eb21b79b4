"""Notebook 10's merge lab: where an adapter can be merged to, and how much of it is left there.

Nothing is loaded a second time. Each way changes the layers of the model that is in memory for as long as a block
lasts, and puts back what was there.
"""

import gc
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import psutil
import torch
from bitsandbytes.functional import dequantize_4bit
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import linear

from lora_edu.llm.base_model import return_freed_memory, weight_files
from lora_edu.llm.base_model.download import CONSENT_BYTES
from lora_edu.llm.budget import available_bytes
from lora_edu.llm.data.extraction import IGNORE, encode_example, exact_match
from lora_edu.llm.export.model_folder import weights_of
from lora_edu.llm.machine import GIB
from lora_edu.methods.nf4 import dequantize_nf4, quantize_nf4

SIZES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
RANK = 8
BFLOAT16, FLOAT32 = 2, 4  # bytes
_Result = TypeVar("_Result")


class Measured(NamedTuple):
    """A model beside the adapter apart: the largest difference of a logit, and its answers."""

    gap: float
    answers: list[str]


class Update(NamedTuple):
    """An adapter's update of one weight, merged into NF4: |update| / |W|, and how much of it was kept."""

    size: float
    kept: float


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


def changed_share(before: Tensor, after: Tensor) -> float:
    """Return the share (0 to 1) of numbers that differ."""
    return (after != before).double().mean().item()


def free_memory() -> None:
    """Give back what deleted models have held, on the CPU and on the GPU."""
    gc.collect()
    return_freed_memory()
    torch.cuda.empty_cache()


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """Return the layers over a 4-bit weight that carry an adapter, by their names in the base.

    Raises
    ------
    ValueError
        There is none.
    """
    base = cast(Any, model).get_base_model()
    layers = {
        name: layer
        for name, layer in base.named_modules()
        if isinstance(layer, LoraLayer) and hasattr(layer.get_base_layer().weight, "quant_state")
    }
    if not layers:
        raise ValueError(
            "model must be peft's, with LoRA over weights in 4 bits, got one without such layers"
        )
    return layers


@torch.no_grad()
def wide(layer: Any) -> Tensor:
    """Return W4, what a layer over a 4-bit weight computes with, (out, in), in float32."""
    weight = layer.get_base_layer().weight
    return dequantize_4bit(weight.data, weight.quant_state).float()


@torch.no_grad()
def update_of(layer: Any) -> Tensor:
    """Return a layer's update, alpha / r times B A, (out, in), in float32."""
    return layer.get_delta_weight(layer.active_adapters[0]).float()


def trained_updates(model: nn.Module) -> list[Update]:
    """Merge each layer's update into its weight by `nf4`, one layer at a time, and measure what is kept."""
    found = []
    for layer in adapted_layers(model).values():
        W4, update = wide(layer), update_of(layer)
        if update.any():
            found.append(Update((update.norm() / W4.norm()).item(), kept_share(W4, nf4(W4 + update), update)))
    return found


def random_updates(W4: Tensor, sizes: Sequence[float] = SIZES, seed: int = 0) -> list[float]:
    """Return what `nf4` keeps of a random update of rank 8, added at several sizes, |update| / |W4|."""
    generator = torch.Generator().manual_seed(seed)
    B, A = (torch.randn(shape, generator=generator) for shape in ((W4.shape[0], RANK), (RANK, W4.shape[1])))
    direction = (B @ A).to(W4.device)
    direction *= W4.norm() / direction.norm()
    return [kept_share(W4, nf4(W4 + size * direction), size * direction) for size in sizes]


def random_curves(model: nn.Module, seeds: int = 3) -> dict[str, list[list[float]]]:
    """Return `random_updates` of the first, the middle and the last layer, by their names, a row a seed."""
    layers = adapted_layers(model)
    names = list(layers)
    chosen = dict.fromkeys((names[0], names[len(names) // 2], names[-1]))
    return {
        _short(name): [random_updates(wide(layers[name]), seed=seed) for seed in range(seeds)]
        for name in chosen
    }


@contextmanager
def merged_by_peft(model: Any) -> Iterator[None]:
    """Within the block the adapter is merged into the 4-bit weights by peft, which rounds each sum to NF4 again."""
    weights = {layer: layer.get_base_layer().weight for layer in adapted_layers(model).values()}
    try:
        with warnings.catch_warnings():
            # That a 4-bit merge rounds is what the page is about.
            warnings.filterwarnings("ignore", message="Merge lora module to 4-bit linear")
            model.merge_adapter()
        yield
    finally:
        for layer, weight in weights.items():
            weight.bnb_quantized = True  # peft unsets it in the weight that it replaces
            layer.get_base_layer().weight = weight
            layer.merged_adapters.clear()
        return_freed_memory()  # up to 500 MiB: a weight that was rounded anew leaves holes


@contextmanager
def merged_into(model: nn.Module, base_of: Callable[[str], Tensor], hold: bool) -> Iterator[None]:
    """Within the block each adapted layer computes with one weight, base plus update, in its own dtype.

    Parameters
    ----------
    base_of
        Takes the name of a layer in the base and returns the weight (out, in) to add to.
    hold
        Whether all sums are held in memory; else each is made anew at each call, which is slower.
    """

    def merged(name: str, layer: Any) -> Tensor:
        base, update = layer.get_base_layer(), update_of(layer)
        W = base_of(name).to(update.device).float() + update
        return W.to(base.compute_dtype or torch.float32)

    def forward(name: str, layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        W = merged(name, layer) if held is None else held[name]
        bias = layer.get_base_layer().bias
        return linear(x.to(W.dtype), W, None if bias is None else bias.to(W.dtype)).to(x.dtype)

    layers = adapted_layers(model)
    held = {name: merged(name, layer) for name, layer in layers.items()} if hold else None
    with ExitStack() as undo:
        for name, layer in layers.items():
            layer.forward = partial(forward, name, layer)  # hides the method of its class
            undo.callback(delattr, layer, "forward")
        yield


@contextmanager
def update_of_zero(model: nn.Module) -> Iterator[None]:
    """Within the block every update is multiplied by zero: what merging does when there is nothing to merge."""
    scalings = [layer.scaling for layer in adapted_layers(model).values()]
    before = [dict(scaling) for scaling in scalings]
    for scaling in scalings:
        scaling.update(dict.fromkeys(scaling, 0.0))
    try:
        yield
    finally:
        for scaling, values in zip(scalings, before, strict=True):
            scaling.update(values)


def changed_by_peft(model: nn.Module) -> float:
    """Return the share (0 to 1) of all adapted 4-bit weights that peft's merge changes."""
    layers = adapted_layers(model).values()
    weights = [layer.get_base_layer().weight for layer in layers]
    changed, numbers = 0, 0
    with merged_by_peft(model):
        for layer, weight in zip(layers, weights, strict=True):
            before = dequantize_4bit(weight.data, weight.quant_state)
            after = layer.get_base_layer().weight
            changed += int((dequantize_4bit(after.data, after.quant_state) != before).sum())
            numbers += before.numel()
    return changed / numbers


def is_light(model: Any) -> bool:
    """Whether a model's base in 16 bits is at most as large as what is fetched unasked; if not, a line says so."""
    size = BFLOAT16 * sum(weight.numel for weight in weights_of(model.get_base_model()))
    if size > CONSENT_BYTES:
        print(f"{size / 1e9:.1f} GB in 16 bits: not read again, and not written merged, until you say so.")
    return size <= CONSENT_BYTES


def measure_ways(
    model: Any, measure: Callable[[nn.Module], _Result], again: bool = True
) -> dict[str, _Result | str]:
    """Measure the adapter apart, no adapter, and the adapter merged into three bases; nothing is loaded again.

    ``"W16"``: the weights as they are stored, which the adapter has never seen. ``"dequant(W4)"``: the 4-bit weights
    made wide, over which it was trained. ``"NF4"``: the 4-bit weights, where peft rounds the sum to NF4 again.

    Parameters
    ----------
    model
        peft's, with LoRA over weights in 4 bits.
    measure
        Called with the model in each of these ways.
    again
        Whether the base's files are read once more, for ``"W16"``.

    Returns
    -------
    dict
        What `measure` returned, by the way; or why it was not called.
    """
    found: dict[str, _Result | str] = {"not merged": measure(model)}
    with model.disable_adapter():
        found["base alone"] = measure(model)
    found["W16"] = _measure_stored(model, measure) if again else "left out: not asked for"
    layers = adapted_layers(model)
    hold = _numbers(layers) * FLOAT32 < _free_bytes(model)
    with merged_into(model, lambda name: wide(layers[name]), hold=hold):
        found["dequant(W4)"] = measure(model)
    free_memory()
    with merged_by_peft(model):
        found["NF4"] = measure(model)
    return found


def columns(ways: Mapping[str, Measured | str], events: Sequence[dict[str, str]]) -> dict[str, list[str]]:
    """Return the columns of a table: each way, its logit gap, and the share of events that it gets right."""
    found = {way: result for way, result in ways.items() if isinstance(result, Measured)}
    left_out = {way: reason for way, reason in ways.items() if isinstance(reason, str)}
    return {
        "model": list(ways),
        "logit_gap": [f"{found[way].gap:.2g}" if way in found else left_out[way] for way in ways],
        "right": [f"{exact_match(found[way].answers, events):.0%}" if way in found else "" for way in ways],
    }


def fits_beside(model: Any, folder: str | Path) -> bool:
    """Whether a model of this folder fits into memory beside `model`, in its dtype; if not, a line says so."""
    stored = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
    needed, free = stored * model.dtype.itemsize // BFLOAT16, _free_bytes(model)
    if needed > free:
        print(f"Not loaded: it takes {needed / GIB:.1f} GiB more, {free / GIB:.1f} are free.")
    return needed <= free


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


def _measure_stored(model: Any, measure: Callable[[nn.Module], _Result]) -> _Result | str:
    """Measure the merge into the weights that the base's files hold, or say why that is left out."""
    layers = adapted_layers(model)
    needed, free = BFLOAT16 * _numbers(layers), _free_bytes(model)
    if needed > free:
        return f"left out: it takes {needed / GIB:.1f} GiB more, {free / GIB:.1f} are free"
    stored = _stored_weights(model, layers)
    if missing := layers.keys() - stored.keys():
        return f"left out: the base's files do not hold {len(missing)} of its weights"
    with merged_into(model, stored.__getitem__, hold=False):
        return measure(model)


def _stored_weights(model: Any, names: Iterable[str]) -> dict[str, Tensor]:
    """Return the weights of these layers as the base's files hold them, on the model's device; what is found."""
    wanted, found = {f"{name}.weight": name for name in names}, {}
    try:
        files = weight_files(model.get_base_model().config.name_or_path)
    except (OSError, ValueError):  # neither a folder with weights nor a model of the hub's cache
        return found
    for file in files:
        with safe_open(file, "pt", device=str(model.device)) as tensors:
            for key in wanted.keys() & tensors.keys():
                found[wanted[key]] = tensors.get_tensor(key)
    return found


def _short(name: str) -> str:
    """Block and layer of a long name: ``"block 0, q_proj"`` of ``"model.layers.0.self_attn.q_proj"``."""
    parts = name.split(".")
    return ", ".join([*(f"block {part}" for part in parts if part.isdigit()), parts[-1]])


def _numbers(layers: Mapping[str, Any]) -> int:
    """Count the numbers of all adapted weights."""
    return sum(math.prod(layer.get_base_layer().weight.quant_state.shape) for layer in layers.values())


def _free_bytes(model: Any) -> int:
    """Return what the model's device still holds, less a tenth of it for what a step needs.

    What deleted models have held is given back first: it counts as used until then.
    """
    free_memory()
    if model.device.type == "cuda":
        return int(0.9 * available_bytes("cuda"))
    return int(0.9 * (available_bytes("cpu") - psutil.Process().memory_info().rss))
