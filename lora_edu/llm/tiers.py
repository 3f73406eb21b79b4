"""Which model for this machine: what the course proposes, what it would take, and what is asked before it comes.

    from lora_edu.llm import tiers
    proposal = tiers.propose()
    tiers.require_consent(proposal.name, download=False)  # refuses more than 1 GB until it is True

The models themselves stand in `lora_edu.llm.base_model.catalog`.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from lora_edu.llm.base_model import DEFAULT_NAME, SHAPES, TIERS, Tier, require_consent, resolve_dtype
from lora_edu.llm.base_model.download import free_disk_bytes, hub_cache, is_here
from lora_edu.llm.budget import Ledger, available_bytes, count_parameters, memory_ledger, preflight
from lora_edu.llm.budget.preflight import GIB, MARGIN, changes
from lora_edu.llm.machine import compute_capability, gpu_bytes, pretend

__all__ = [
    "SHAPES",
    "TIERS",
    "Proposal",
    "Row",
    "Tier",
    "chosen",
    "learning_rate",
    "propose",
    "require_consent",
]

MODEL = "LORA_EDU_MODEL"
LARGE_PARAMETERS = 10**9
SMALL_RATE, LARGE_RATE = 1e-3, 2e-4
LONGEST_EXAMPLE, LONGEST_PROMPT = 124, 78
"""Tokens of the capstone's longest training example and prompt, by the course's tokenizer (a test counts them)."""
CAPSTONE: dict[str, Any] = {"method": "qlora", "batch": 2, "seq": LONGEST_EXAMPLE, "r": 8}
ASKED: dict[str, Any] = {"answers": 25, "prompt": LONGEST_PROMPT, "new_tokens": 64}


@dataclass(frozen=True)
class Row:
    """A model on this machine.

    Attributes
    ----------
    here
        Whether its weights are on this machine.
    ledger
        The capstone's memory on this device: QLoRA of two sentences at once, and 25 answers at once. Steps run one by
        one, without CUDA graphs, as on the page of notebook 10.
    fits
        ``"yes"``, with what preflight changes; or ``"no"``, with what is missing.
    dtype
        Of what is not in 4 bits, here.
    """

    tier: Tier
    here: bool
    ledger: Ledger
    fits: str
    dtype: torch.dtype

    @property
    def risky(self) -> bool:
        """Whether a run may well fail in the 16 bits of this GPU."""
        return self.dtype == torch.float16 and self.tier.risky_in_float16


@dataclass(frozen=True)
class Proposal:
    """What the course proposes for this machine.

    Attributes
    ----------
    name
        The model, as `lora_edu.llm.base_model.load_base_model` takes it.
    machine
        What was looked at, in words.
    rows
        Every tier, the smallest first.
    """

    name: str
    machine: str
    rows: tuple[Row, ...]

    @property
    def tier(self) -> Tier:
        """The model that is proposed."""
        return TIERS[self.name]

    def columns(self) -> dict[str, list[str]]:
        """Return the table of all tiers, for `lora_edu.classroom.widgets.compare`."""
        rows = self.rows
        return {
            "model": [row.tier.title for row in rows],
            "weights": [_count(row.tier.parameters) for row in rows],
            "licence": [row.tier.licence for row in rows],
            "download": ["already here" if row.here else _size(row.tier.download) for row in rows],
            "memory_predicted": [f"{row.ledger.total / GIB:.1f} GiB" for row in rows],
            "fits": [row.fits for row in rows],
            "computes_in": [_words(row) for row in rows],
            "proposed": ["yes" if row.tier.name == self.name else "" for row in rows],
        }


def propose() -> Proposal:
    """Look at this machine and propose the model to fine-tune on it.

    On a CPU that is the smallest. On a GPU it is the largest whose capstone fits the memory that is free, whose
    download fits the disk, and that is not said to be risky in the GPU's 16 bits.
    """
    pretend()
    on_gpu = torch.cuda.is_available()
    rows = tuple(_row(tier, "cuda" if on_gpu else "cpu") for tier in TIERS.values())
    name = DEFAULT_NAME
    for row in rows if on_gpu else ():
        if row.fits.startswith("yes") and not row.risky:
            name = row.tier.name
    return Proposal(name, _machine(), rows)


def chosen(default: str) -> str:
    """Return the model to load: `default`, or what the environment variable ``LORA_EDU_MODEL`` names."""
    return os.environ.get(MODEL) or default


def learning_rate(model: int | str | PretrainedConfig | nn.Module) -> float:
    """Return the peak learning rate of an adapter over a model of this size.

    Parameters
    ----------
    model
        How many parameters it has, its configuration, the name of a tier or of a recorded shape, or the model.

    Returns
    -------
    float
        1e-3 below a billion parameters: tuned on this course's data (data/runs/events_gpu_tune.json). 2e-4 from there
        on: what the QLoRA authors train 7B and 13B models with (Dettmers et al. 2023, arXiv 2305.14314, appendix B;
        scripts/finetune_guanaco_7b.sh of their repository).

    Raises
    ------
    TypeError, ValueError
        It is none of these.
    """
    if isinstance(model, bool) or (isinstance(model, int) and model < 1):
        raise ValueError(f"model must be a number of parameters of at least 1, got {model!r}")
    if isinstance(model, str) and model in TIERS:
        model = TIERS[model].parameters
    parameters = model if isinstance(model, int) else count_parameters(model)
    return SMALL_RATE if parameters < LARGE_PARAMETERS else LARGE_RATE


def _row(tier: Tier, device: str) -> Row:
    dtype = resolve_dtype(None)
    on_gpu = device == "cuda"
    asked = memory_ledger(
        tier.shape,
        **CAPSTONE | ASKED,
        dtype=dtype,
        optimizer="paged_adamw_8bit" if on_gpu else "adamw",
        device=device,
        flash_attention=not on_gpu or dtype == torch.bfloat16,
    )
    here = is_here(tier.name)
    ledger, fits = _fits(asked, device)
    free = free_disk_bytes(hub_cache())
    if fits.startswith("yes") and not here and free < tier.download:
        fits = f"no: {_size(free)} of disk are free"
    return Row(tier, here, ledger, fits, dtype)


def _fits(asked: Ledger, device: str) -> tuple[Ledger, str]:
    available = available_bytes(device)
    try:
        fitting = preflight(asked, device, available)
    except MemoryError:
        return asked, f"no: {available / MARGIN[device] / GIB:.1f} GiB can be used"
    changed = changes(asked, fitting)
    return fitting, f"yes, {changed}" if changed else "yes"


def _machine() -> str:
    capability = compute_capability()
    if capability is None:
        return f"no GPU; {available_bytes('cpu') / GIB:.1f} GiB of memory can be used"
    major, minor = capability
    name, free = torch.cuda.get_device_name(), available_bytes("cuda")
    return f"{name}, compute capability {major}.{minor}; {free / GIB:.1f} of {gpu_bytes() / GIB:.1f} GiB can be used"


def _words(row: Row) -> str:
    """The dtype; on a GPU without bfloat16 also what is known of the model in it."""
    name = str(row.dtype).removeprefix("torch.")
    return f"{name}. {row.tier.half}" if row.dtype == torch.float16 else name


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.1f} billion" if parameters >= 1e9 else f"{parameters / 1e6:.0f} million"


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
