"""What is in memory while a model trains: counted live, tensor by tensor, and for one layer, moment by moment."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lora_edu.classroom import records
from lora_edu.llm.budget import Ledger, memory_ledger
from lora_edu.methods import _validate
from lora_edu.methods.qlora import NF4Linear
from lora_edu.methods.quant_state import bits_per_parameter


class LiveTensors(TorchDispatchMode):
    """Count the bytes of the tensors that are made inside a ``with`` block, as long as they live.

    Tensors that were there before are not counted. Views share their memory and count once. What an operation takes
    and gives back within itself is not seen.

    Attributes
    ----------
    now, peak
        Bytes alive at this moment, and the most so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._counted: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {storage._cdata for storage in _storages((args, kwargs))}
        result = func(*args, **kwargs)
        for storage in _storages(result):
            key = storage._cdata
            if key not in given | self._counted:  # an operation in place gives back what was there
                self._counted.add(key)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._forget, key, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _forget(self, key: int, nbytes: int) -> None:
        self._counted.discard(key)
        self.now -= nbytes


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def bytes_of(tensors: Iterable[Tensor | None]) -> int:
    """Bytes of the tensors together; None counts nothing."""
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def standing_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Bytes that a model and its optimizer hold between two steps, by the ledger's terms (`lora_edu.llm.budget`).

    Parameters
    ----------
    model
        With its adapters, and gradients after a backward; quantized layers are ``NF4Linear``.
    optimizer
        After its first step, which makes its state.

    Returns
    -------
    dict
        ``weights`` (frozen, 4-bit codes included), ``quantization constants``, ``adapters``, ``gradients`` and
        ``optimizer`` (its averages, without step counters).
    """
    quantized = [layer for layer in model.modules() if isinstance(layer, NF4Linear)]
    trained = [p for p in model.parameters() if p.requires_grad]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    averages = [t for state in optimizer.state.values() for t in state.values() if t.dim() > 0]
    return {
        "weights": bytes_of([*frozen, *(layer.packed for layer in quantized)]),
        "quantization constants": sum(bytes_of(layer.buffers()) - layer.packed.nbytes for layer in quantized),
        "adapters": bytes_of(trained),
        "gradients": bytes_of(p.grad for p in trained),
        "optimizer": bytes_of(averages),
    }


METHODS = ("full", "LoRA", "QLoRA", "QLoRA, kept wide")
"""``QLoRA, kept wide``: the weight is dequantized in forward, and autograd keeps that copy for backward."""

MOMENTS = (
    "at rest",
    "forward product",
    "between the two",
    "backward product",
    "optimizer",
)


class Held(NamedTuple):
    """Tensors that one layer has in memory for one purpose."""

    format: str
    nbytes: int


def layer_tensors(method: str, moment: str, d_in: int, d_out: int, tokens: int, r: int) -> Mapping[str, Held]:
    """What one linear layer holds at one moment of a training step, all but the 4-bit weight in bfloat16.

    As in the QLoRA paper the adapter is bfloat16 too (in peft it is float32). Adam's averages are there, as from the
    second step on. Counted are the tensors of the layer and of its product with W. The input is counted as long as
    the layer keeps it, the output as long as the layer makes it: after that it is the next layer's input.

    Parameters
    ----------
    method
        One of `METHODS`; 4-bit weights are NF4 with double quantization, blocks of 64 and 256.
    moment
        One of `MOMENTS`.
    d_in, d_out, tokens, r
        Sizes, at least 1; `r` is not looked at for ``"full"``.

    Returns
    -------
    mapping
        For each purpose, the same ones whatever the moment, format and bytes; 0 bytes where nothing is there.

    Raises
    ------
    TypeError, ValueError
        `method` or `moment` is unknown, or a size below 1.

    References
    ----------
    Dettmers et al. 2023 (arXiv 2305.14314), section 3, equation 5.
    """
    _validate.require(method in METHODS, "method", f"one of {', '.join(METHODS)}", repr(method))
    _validate.require(moment in MOMENTS, "moment", f"one of {', '.join(MOMENTS)}", repr(moment))
    for name, size in (("d_in", d_in), ("d_out", d_out), ("tokens", tokens), ("r", r)):
        _validate.integer(name, size, 1)
    full, quantized = method == "full", method.startswith("QLoRA")
    forward, between, backward = (moment == name for name in MOMENTS[1:4])
    kept_wide = method == "QLoRA, kept wide" and (forward or between or backward)
    wide = 2 * d_in * d_out
    trained = wide if full else 2 * r * (d_in + d_out)
    x, y = 2 * tokens * d_in, 2 * tokens * d_out
    hidden = 0 if full else 2 * tokens * r
    # The update's share of the gradient of x waits to be added to the share that came through W.
    gradients_of_x = x if full else 2 * x
    has_gradients = backward or moment == "optimizer"
    stored = Held("4-bit codes and scales", _nf4_bytes(d_in, d_out)) if quantized else Held("bfloat16", wide)
    sixteen_bits = {
        "W made wide": wide if quantized and (forward or backward or kept_wide) else 0,
        "B and A": 0 if full else trained,
        "Adam's averages": 2 * trained,
        "input x": x if forward or between or backward else 0,
        "Ax": hidden if between else 0,
        "output y": y if forward else 0,
        "gradients of y and x": y + gradients_of_x if backward else 0,
        "gradients of weights": trained if has_gradients else 0,
    }
    return {"W as stored": stored} | {name: Held("bfloat16", size) for name, size in sixteen_bits.items()}


def _nf4_bytes(d_in: int, d_out: int) -> int:
    """Codes and scales of a layer, from its shape alone; the table of the 8-bit scales is left out."""
    state = NF4Linear(d_in, d_out, bias=False, device="meta").quant_state
    return round(bits_per_parameter(state) * d_in * d_out / 8)


def checkpoint_blocks(model: Any) -> None:
    """Switch gradient checkpointing on: each block of a transformers model keeps its input alone."""
    enable = getattr(model, "activation_checkpointing_enable", None)  # its name since transformers 5.2x
    (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})


# ---------------------------------------------------------------- the ledger, for pictures

_KINDS = {
    "weights": ("weights", "quantization constants"),
    "adapters": ("adapters",),
    "gradients": ("gradients",),
    "optimizer": ("optimizer",),
    "activations": ("activations",),
    "logits, workspace": ("logits", "workspace"),
    "Python, libraries": ("process",),
}


def gigabytes(ledger: Mapping[str, int]) -> dict[str, float]:
    """The terms of a ledger in GB, in fewer kinds, which sum to the ledger's total."""
    return _by_kind(ledger, 10**9)


def gibibytes(ledger: Mapping[str, int]) -> dict[str, float]:
    """The same in GiB, the unit in which a GPU's memory is told."""
    return _by_kind(ledger, 2**30)


def _by_kind(ledger: Mapping[str, int], unit: int) -> dict[str, float]:
    return {kind: sum(ledger[term] for term in terms) / unit for kind, terms in _KINDS.items()}


def cases(name: str, **settings: object) -> list[dict[str, Any]]:
    """The cases of a memory record that had these settings, in its order.

    Parameters
    ----------
    name
        ``"gpu_memory"`` or ``"cpu_memory"``, in ``data/runs``.
    **settings
        What a case must have had, such as ``method="qlora", batch=1``.

    Raises
    ------
    ValueError
        There is no record of that name, or no case had these settings.
    """
    found = [entry for entry in records.read(name)["cases"] if settings.items() <= entry["case"].items()]
    if not found:
        raise ValueError(f"settings must be those of a case in {name}, got {settings}")
    return found


def recorded_ledger(case: Mapping[str, Any], device: str) -> Ledger:
    """What the ledger predicts for a case of ``data/runs/gpu_memory.json`` or ``cpu_memory.json``.

    Parameters
    ----------
    case
        The settings that were recorded.
    device
        ``"cuda"`` or ``"cpu"``: on a GPU, QLoRA had paged 8-bit AdamW.
    """
    settings = {name: value for name, value in case.items() if name != "model"}
    paged = device == "cuda" and case["method"] == "qlora"
    optimizer = "paged_adamw_8bit" if paged else "adamw"
    settings |= {"dtype": getattr(torch, case["dtype"]), "optimizer": optimizer, "device": device}
    return memory_ledger(case["model"], **settings)
