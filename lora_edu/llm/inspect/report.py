"""From the two files of an adapter to a report, and from a report to text."""

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lora_edu.llm.base_model import load_config, weight_files
from lora_edu.llm.budget.count import SHAPES, resolve_config
from lora_edu.llm.checkpoint.disk import PREFIX, find_adapter, open_adapter_files
from lora_edu.llm.inspect.suspect import suspicions
from lora_edu.llm.inspect.update import Update, singular_values

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_FACTOR = re.compile(r"(?P<path>.+)\.lora_(?P<factor>[AB])\.weight")


@dataclass(frozen=True)
class Report:
    """What `inspect_adapter` found.

    Attributes
    ----------
    config
        What ``adapter_config.json`` says.
    updates
        One a layer, in the order of the blocks; none where the adapter is no LoRA.
    others
        Numbers a tensor that is no part of an update, by key.
    dtypes
        Of the file.
    numbers, bytes
        How many numbers the file holds, and what they take.
    fits
        The shapes of `SHAPES`, and the given base, into which every update fits.
    warnings
        What looks wrong, one sentence each.
    """

    config: dict[str, Any]
    updates: tuple[Update, ...]
    others: dict[str, int]
    dtypes: tuple[str, ...]
    numbers: int
    bytes: int
    fits: tuple[str, ...]
    warnings: tuple[str, ...]


@torch.no_grad()
def inspect_adapter(folder: str | Path, base: str | None = None) -> Report:
    """Look into the two files of an adapter.

    Parameters
    ----------
    folder
        An adapter in PEFT's format, or the folder of a fine-tune.
    base
        As `load_base_model` takes it, but on this machine: its weights are read one at a time and compared with the
        updates. None: no weight is read.

    Raises
    ------
    FileNotFoundError, ValueError
        A file is missing or cannot be read. Numbers that are not finite are reported, not refused.
    """
    config, tensors = open_adapter_files(find_adapter(folder))
    factors, others = _pairs(tensors)
    complete = {
        path: (pair["A"], pair["B"])
        for path, pair in factors.items()
        if len(pair) == 2 and len(pair["A"]) == pair["B"].shape[1]
    }
    norms = _weight_norms(base, complete) if base else {}
    updates = [
        Update(path, (len(B), A.shape[1]), _scaling(config, A) * singular_values(A, B), norms.get(path))
        for path, (A, B) in complete.items()
    ]
    updates.sort(key=lambda update: (update.block is None, update.block or 0, update.path))
    return Report(
        config,
        tuple(updates),
        {key: tensor.numel() for key, tensor in others.items()},
        tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})),
        sum(tensor.numel() for tensor in tensors.values()),
        sum(tensor.nbytes for tensor in tensors.values()),
        tuple(_fitting(updates, base)),
        tuple(suspicions(config, tensors, factors, updates, others)),
    )


def layer_shapes(config: "PretrainedConfig") -> dict[str, tuple[int, int]]:
    """Return (out, in) of the linear layers of a block of a llama, Mistral or Qwen2, by their names in the block."""
    hidden, mlp = config.hidden_size, config.intermediate_size
    head_dim = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    return {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (mlp, hidden),
        "mlp.up_proj": (mlp, hidden),
        "mlp.down_proj": (hidden, mlp),
    }


def describe(report: Report) -> str:
    """Return a report as text: a few lines about the whole, one a kind of layer, and what looks wrong."""
    config = report.config
    rule = "alpha / sqrt(r)" if config.get("use_rslora") else "alpha / r"
    lines = [
        f"{config.get('peft_type')}, rank {config.get('r')}, alpha {config.get('lora_alpha')}, scaled by {rule}",
        f"{report.numbers:,} numbers, {', '.join(report.dtypes)}, {report.bytes / 1e6:.2f} MB",
        f"base: {config.get('base_model_name_or_path')}; shapes fit {', '.join(report.fits) or 'none that is known'}",
    ]
    by_kind: dict[str, list[Update]] = defaultdict(list)
    for update in report.updates:
        by_kind[update.kind].append(update)
    if by_kind:
        lines += ["", f"{'layer':<22}{'layers':>7}{'out x in':>14}  {'norm':<24}rank that holds 99 %"]
    lines += [_kind_line(kind, updates) for kind, updates in by_kind.items()]
    lines += [f"{key}: {numbers:,} numbers" for key, numbers in report.others.items()]
    return "\n".join([*lines, "", *([f"! {text}" for text in report.warnings] or ["Nothing looks wrong."])])


def _kind_line(kind: str, updates: list[Update]) -> str:
    norms = [update.norm for update in updates]
    size = f"{median(norms):.3g} ({min(norms):.3g} to {max(norms):.3g})"
    shares = [update.relative_norm for update in updates if update.relative_norm is not None]
    ranks = [update.copy_rank() for update in updates]
    sizes = {update.shape for update in updates}
    shape = " x ".join(map(str, updates[0].shape)) if len(sizes) == 1 else "several"
    of_weight = f", {median(shares):.1%} of the weight" if shares else ""
    rank = f"{median(ranks):g} ({min(ranks)} to {max(ranks)}) of {updates[0].r}"
    return f"{kind:<22}{len(updates):>7}{shape:>14}  {size:<24}{rank}{of_weight}"


def _pairs(tensors: dict[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Sort the tensors: A and B by the path of their layer, and what is neither by its key."""
    factors: dict[str, dict[str, Tensor]] = defaultdict(dict)
    others = {}
    for key, tensor in tensors.items():
        found = _FACTOR.fullmatch(key.removeprefix(PREFIX))
        if found and tensor.ndim == 2:
            factors[found["path"]][found["factor"]] = tensor
        else:
            others[key] = tensor
    return dict(factors), others


def _scaling(config: dict[str, Any], A: Tensor) -> float:
    alpha, r = float(config.get("lora_alpha") or 0), len(A)
    return alpha / (math.sqrt(r) if config.get("use_rslora") else r)


def _weight_norms(base: str, wanted: dict[str, Any]) -> dict[str, float]:
    from safetensors import safe_open

    norms = {}
    for file in weight_files(base):
        with safe_open(file, framework="pt") as weights:
            held = set(weights.keys())
            for path in wanted:
                if f"{path}.weight" in held:
                    norms[path] = weights.get_tensor(f"{path}.weight").float().norm().item()
    return norms


def _fitting(updates: list[Update], base: str | None) -> list[str]:
    known: dict[str, Any] = {name: resolve_config(name) for name in SHAPES if name != "GPT-3"}
    if base:
        known[base] = load_config(base)
    return [name for name, config in known.items() if updates and _fits(updates, config)]


def _fits(updates: list[Update], config: Any) -> bool:
    if not hasattr(config, "num_key_value_heads") or not hasattr(config, "intermediate_size"):
        return False
    shapes = layer_shapes(config)
    return all(
        update.block is not None
        and update.block < config.num_hidden_layers
        and shapes.get(update.kind) == update.shape
        for update in updates
    )
