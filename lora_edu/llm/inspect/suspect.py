"""What looks wrong in an adapter's two files, one sentence each."""

from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from torch import Tensor

from lora_edu.llm.checkpoint.disk import CONFIG_FILE
from lora_edu.llm.checkpoint.fit import asks_for, starts_neutral
from lora_edu.llm.inspect.update import BLOCK, Update

OUTLIER = 10
"""An update that is so many times larger than the median of its kind of layer is named."""


def suspicions(
    config: dict[str, Any],
    tensors: dict[str, Tensor],
    factors: dict[str, dict[str, Tensor]],
    updates: list[Update],
    others: dict[str, Tensor],
) -> list[str]:
    """Return what looks wrong.

    Parameters
    ----------
    config, tensors
        Of the two files.
    factors
        ``"A"`` and ``"B"`` by the path of their layer.
    updates
        Of the layers that have both, of one rank.
    others
        The tensors that are neither.
    """
    broken = [key for key, tensor in tensors.items() if not tensor.isfinite().all()]
    halves = [path for path, pair in factors.items() if len(pair) == 1]
    measured = {u.path for u in updates}
    unlike = [path for path, pair in factors.items() if len(pair) == 2 and path not in measured]
    still = [u.path for u in updates if u.norm == 0]
    asked = config.get("r")
    ranks = [u.path for u in updates if u.r != asked and not config.get("rank_pattern")]
    found = [
        _some(broken, "NaN or infinity in {}"),
        _some(halves, "A or B alone, without the other, in {}"),
        _some(unlike, "A of another rank than B in {}"),
        _some(still, "an update of zero, as before the first step, in {}"),
        _some(ranks, f"another rank than the configuration's {asked} in {{}}"),
        _some(_outliers(updates), f"an update {OUTLIER} times as large as the median of its kind in {{}}"),
        _some(_gaps(config, factors), "left out, though other blocks have it: {}"),
        _some(_unanswered(config, factors), "asked for by target_modules, but not in the file: {}"),
        _some(list(others), "no part of a LoRA, and passed over here: {}") if factors else None,
        _some(sorted({str(t.dtype) for t in tensors.values()}), "several dtypes: {}", least=2),
    ]
    return [text for text in found if text] + _config_warnings(config)


def _config_warnings(config: dict[str, Any]) -> list[str]:
    found = []
    if config.get("peft_type") != "LORA":
        found.append(f"no LoRA but {config.get('peft_type')}: sizes alone are reported")
    for key in ("rank_pattern", "alpha_pattern"):
        if config.get(key):
            found.append(
                f"{key} is set: norms here are scaled by lora_alpha and the rank of each layer alone"
            )
    if config.get("use_dora"):
        found.append("use_dora: the update is rescaled by a magnitude, norms here are those of B A alone")
    if not starts_neutral(config.get("init_lora_weights")):
        found.append(
            f"init_lora_weights {config['init_lora_weights']!r} changes the base, which is not in these files"
        )
    name = config.get("base_model_name_or_path")
    if not name or (Path(name).is_absolute() and not Path(name).exists()):
        found.append(f"the base is named {name!r}, which is not to be found here")
    return found


def _some(names: list[str], sentence: str, least: int = 1) -> str | None:
    """Fill a sentence with the first names and how many there are; None where there are too few."""
    if len(names) < least:
        return None
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return sentence.format(", ".join(names[:3]) + more)


def _outliers(updates: list[Update]) -> list[str]:
    kinds: dict[str, list[Update]] = defaultdict(list)
    for update in updates:
        kinds[update.kind].append(update)
    return [
        update.path
        for same in kinds.values()
        for update in same
        if update.norm > OUTLIER * median(other.norm for other in same) > 0
    ]


def _gaps(config: dict[str, Any], factors: dict[str, Any]) -> list[str]:
    """Layers that the configuration asks for and some block up to the last adapted one has not, though another has."""
    found = (BLOCK.fullmatch(path) for path in factors)
    here = {(match["before"], int(match["number"]), match["kind"]) for match in found if match}
    last = max((number for _, number, _ in here), default=-1)
    kinds = sorted({(before, kind) for before, _, kind in here})
    return [
        f"block {n} {kind}"
        for n in range(last + 1)
        for before, kind in kinds
        if (before, n, kind) not in here and _asks_for(config, f"{before}{n}.{kind}")
    ]


def _asks_for(config: dict[str, Any], path: str) -> bool:
    """Whether the configuration asks for a layer; one that says it in no way that PEFT knows may ask for all."""
    try:
        return asks_for(config, path, Path(CONFIG_FILE))
    except ValueError:
        return True


def _unanswered(config: dict[str, Any], factors: dict[str, Any]) -> list[str]:
    names = config.get("target_modules")
    if not isinstance(names, list):
        return []
    return [name for name in names if not any(f".{path}".endswith(f".{name}") for path in factors)]
