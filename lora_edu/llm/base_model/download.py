"""Before a model hub is asked for weights: is the model here already, how large is it, may it come, is there room?

Nothing above a gigabyte starts by itself: `require_consent` names size, licence and what to set.
"""

import errno
import json
import os
import re
import shutil
from pathlib import Path

from lora_edu.llm.base_model.catalog import TIERS
from lora_edu.llm.base_model.fetch import DEFAULT_NAME, cache_root

YES = "LORA_EDU_DOWNLOAD"
"""Set to 1, this environment variable says yes for a script that runs a notebook."""
CONSENT_BYTES = 10**9
"""The largest download that starts without being asked for."""

_allowed: set[str] = set()  # models that the user said yes to, as long as this Python runs


def require_consent(name: str, download: bool = False, setting: str = "DOWNLOAD = True") -> None:
    """Pass if the model is here, or small, or the user said yes to its download; else say what it would fetch.

    The yes is remembered for this model as long as this Python runs, so that `load_base_model` need not be told again.

    Parameters
    ----------
    name
        As `load_base_model` takes it.
    download
        Whether the user said yes.
    setting
        How the yes is said, for the message.

    Raises
    ------
    PermissionError
        More than `CONSENT_BYTES` would be fetched, and nobody said yes.
    """
    if download or os.environ.get(YES) == "1":
        _allowed.add(name)
    if name in _allowed or is_here(name):
        return
    size = download_bytes(name)
    if (
        size is None or size <= CONSENT_BYTES
    ):  # of an unknown size: there is no network, and loading will say so
        return
    tier, small = TIERS.get(name), TIERS[DEFAULT_NAME].download
    licence = f"its licence is {tier.licence}" if tier else "see its licence on the hub"
    raise PermissionError(
        f"{name} would be downloaded: {size / 1e9:.1f} GB, once; {licence}. "
        f"If you want that, set {setting} and run again. {DEFAULT_NAME!r} needs {small / 1e6:.0f} MB"
    )


def is_here(name: str) -> bool:
    """Whether the model's weights are on this machine: a folder, the course's cache, or the hub's."""
    if name == DEFAULT_NAME:
        return (cache_root() / name).is_dir()
    return Path(name).expanduser().is_dir() or _in_hub_cache(name)


def download_bytes(name: str) -> int | None:
    """Return the bytes of a model's safetensors: recorded, or asked of the hub; None if it does not answer."""
    if name in TIERS:
        return TIERS[name].download
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(name, files_metadata=True, timeout=10)
    except (
        Exception
    ):  # no network, no such model: each library has its own errors for it, and loading will tell
        return None
    files = info.siblings or []
    return sum(file.size or 0 for file in files if file.rfilename.endswith(".safetensors"))


def require_disk(name: str, size: int | None = None) -> None:
    """Refuse, before it begins, a download that the hub's cache has no room for.

    Parameters
    ----------
    size
        Bytes that will be fetched; None: `download_bytes`.

    Raises
    ------
    OSError
        ``ENOSPC``, with what is needed and what is free.
    """
    if is_here(name):
        return
    needed, folder = size if size is not None else download_bytes(name), hub_cache()
    if needed is None:
        return
    free = free_disk_bytes(folder)
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{name} needs {needed / 1e9:.1f} GB on the disk of {folder}, where {free / 1e9:.1f} GB are free. "
            "Free some space, or set HF_HOME to a folder on another disk",
        )


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub's ``owner/model``, and is no folder here."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not Path(name).expanduser().is_dir()


def hub_cache() -> Path:
    """Return the folder where huggingface_hub keeps what it fetches."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE).expanduser()


def free_disk_bytes(folder: Path) -> int:
    """Return what is free on the disk of a folder that need not be there yet."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    return shutil.disk_usage(there).free


def _in_hub_cache(name: str) -> bool:
    """Whether huggingface_hub's cache holds configuration and every file of weights."""
    from huggingface_hub import try_to_load_from_cache

    revision = TIERS[name].revision if name in TIERS else None

    def cached(file: str) -> Path | None:
        found = try_to_load_from_cache(name, file, cache_dir=hub_cache(), revision=revision)
        return Path(found) if isinstance(found, str) else None

    if not is_hub_id(name) or not cached("config.json"):
        return False
    if cached("model.safetensors"):
        return True
    index = cached("model.safetensors.index.json")
    if index is None:
        return False
    shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    return all(cached(shard) for shard in shards)
