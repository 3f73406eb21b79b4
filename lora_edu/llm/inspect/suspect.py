"""What looks wrong in an adapter's two files, one sentence each."""

from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from torch import Tensor

from lora_edu.llm.inspect.update import Update

OUTLIER = 10
"""An update that is so many times larger than the median of its kind of layer is named."""

# Ways to start A and B that leave the base as it is.
_NEUTRAL_STARTS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")


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
        Of the layers that have both.
    others
        The tensors that are neither.
    """
    broken = [key for key, tensor in tensors.items() if not tensor.isfinite().all()]
    halves = [path for path, pair in factors.items() if len(pair) == 1]
    still = [u.path for u in updates if u.norm == 0]
    asked = config.get("r")
    ranks = [u.path for u in updates if u.r != asked and not config.get("rank_pattern")]
    found = [
        _some(broken, "NaN or infinity in {}"),
        _some(halves, "A or B alone, without the other, in {}"),
        _some(still, "an update of zero, as before the first step, in {}"),
        _some(ranks, f"another rank than the configuration's {asked} in {{}}"),
        _some(_outliers(updates), f"an update {OUTLIER} times as large as the median of its kind in {{}}"),
        _some(_gaps(updates), "left out, though other blocks have it: {}"),
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
    if config.get("init_lora_weights") not in _NEUTRAL_STARTS:
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


def _gaps(updates: list[Update]) -> list[str]:
    """Layers that some block up to the last adapted one has not, though another has."""
    here = {(update.kind, update.block) for update in updates if update.block is not None}
    last = max((block for _, block in here), default=-1)
    kinds = sorted({kind for kind, _ in here})
    return [f"block {n} {kind}" for n in range(last + 1) for kind in kinds if (kind, n) not in here]


def _unanswered(config: dict[str, Any], factors: dict[str, Any]) -> list[str]:
    names = config.get("target_modules")
    if not isinstance(names, list):
        return []
    return [name for name in names if not any(f".{path}".endswith(f".{name}") for path in factors)]
