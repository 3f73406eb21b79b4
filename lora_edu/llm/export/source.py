"""What is exported: an adapter in PEFT's format, compared with the configuration of its base; no weight is loaded."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lora_edu.llm.base_model import DEFAULT_NAME, TIERS, known_as, load_config
from lora_edu.llm.checkpoint import CONFIG_FILE, find_adapter, read_lora
from lora_edu.llm.export.model_folder import NOTE
from lora_edu.llm.files import parse_json
from lora_edu.methods import _validate

if TYPE_CHECKING:
    from transformers import PretrainedConfig


# What a card takes from the record of a fine-tune.
_OF_A_RUN = {"schema", "config", "seed", "losses", "n"}
_OF_ITS_CONFIG = {"method", "batch_size", "learning_rate"}


@dataclass(frozen=True)
class Base:
    """The model under an adapter.

    Attributes
    ----------
    name
        As `load_base_model` takes it.
    config
        Its configuration.
    """

    name: str
    config: "PretrainedConfig"

    @property
    def title(self) -> str:
        """Its name on a model hub where that is known; of a folder, the last part: cards go to others."""
        if self._is_folder:
            return Path(self.name).expanduser().resolve().name
        return TIERS[self.name].hub_id if self.name in TIERS else self.name

    @property
    def origin(self) -> str:
        """The title of the model whose weights these are, changed or not: of a merged one, what it was merged into."""
        note = Path(self.name).expanduser() / NOTE
        if not self._is_folder or not note.is_file():
            return self.title
        return parse_json(note.read_text(encoding="utf-8"), str(note)).get("base") or self.title

    @property
    def licence(self) -> str | None:
        """The identifier of its weights' licence (SPDX, in small letters), None where it is not known here."""
        known = {tier.hub_id: tier.licence.lower() for tier in TIERS.values()}
        return known.get(self.origin)

    @property
    def _is_folder(self) -> bool:
        """Whether it is read from a folder of that name; the course's own model never is."""
        return self.name != DEFAULT_NAME and Path(self.name).expanduser().is_dir()


@dataclass(frozen=True)
class Adapter:
    """A plain LoRA, every tensor of which fits its base.

    Attributes
    ----------
    folder
        That holds its two files.
    r, lora_alpha, use_rslora
        As in peft's ``LoraConfig``.
    layers
        For each path of a layer its ``lora_A`` (r, in) and ``lora_B`` (out, r), on the CPU, in the dtype of the file.
    base
        What it was trained over.
    run
        What the ``run.json`` of its fine-tune holds, None if there is none.
    """

    folder: Path
    r: int
    lora_alpha: float
    use_rslora: bool
    layers: dict[str, tuple[Tensor, Tensor]]
    base: Base
    run: dict[str, Any] | None

    @property
    def scaling(self) -> float:
        """What the product ``lora_B @ lora_A`` is multiplied by: alpha / r, or alpha / sqrt(r) with rsLoRA."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


def read_adapter(folder: str | Path, base: str | None = None) -> Adapter:
    """Read an adapter in PEFT's format and compare each tensor with its base's configuration.

    Parameters
    ----------
    folder
        With ``adapter_config.json`` and ``adapter_model.safetensors``; or the folder of a fine-tune, which holds it
        as ``adapter/``.
    base
        As `load_base_model` takes it. None: what ``adapter_config.json`` names.

    Raises
    ------
    FileNotFoundError, ValueError
        What `load_adapter` raises: a missing or damaged file; anything but a plain LoRA, by name; a tensor that does
        not fit the base. Or nothing names a base.
    """
    folder = find_adapter(folder)
    named = find_base(base_name(folder, base))
    config, tensors = read_lora(_empty_model(named.config), folder)
    return Adapter(
        folder,
        config["r"],
        float(config["lora_alpha"]),
        bool(config.get("use_rslora")),
        {path: (found["lora_A.weight"], found["lora_B.weight"]) for path, found in tensors.items()},
        named,
        _run_of(folder),
    )


def find_base(name: str) -> Base:
    """Return a base by its name; the course's own model also by the folder in which this machine keeps it."""
    _validate.require(isinstance(name, str), "base", "a name or a folder", repr(name), TypeError)
    name = known_as(name)
    return Base(name, load_config(name))


def base_name(folder: str | Path, base: str | None = None) -> str:
    """Return the name of the model under an adapter; the arguments, and what is raised, as in `read_adapter`.

    An adapter may name the folder in which another machine kept the course's own model.
    """
    if base:
        return base
    file = find_adapter(folder) / CONFIG_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"folder must hold an adapter in PEFT's format; {file.parent} has no {file.name}"
        )
    try:
        name = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        raise ValueError(f"{file} must be one JSON object, got something else") from None
    if not name:
        raise ValueError(f"base must be given: {file} names none")
    if Path(name).name == DEFAULT_NAME and not Path(name).exists():
        return DEFAULT_NAME
    if Path(name).is_absolute() and not Path(name).exists():
        raise ValueError(f"base must be given: {file} names {name}, which is not on this machine")
    return name


def _empty_model(config: "PretrainedConfig") -> torch.nn.Module:
    """The modules of a model without a weight: shapes are all that is compared."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def _run_of(folder: Path) -> dict[str, Any] | None:
    """Return the record of the fine-tune whose folder holds this adapter; another program's run.json is none."""
    file = folder.parent / "run.json"
    if folder.name != "adapter" or not file.is_file():
        return None
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    if not isinstance(run, dict) or not run.keys() >= _OF_A_RUN or not isinstance(run["config"], dict):
        return None
    return run if run["config"].keys() >= _OF_ITS_CONFIG else None
