"""Write whole or not at all: what every file that a run, an adapter or a tool leaves behind goes through.

A file is written under another name beside its own and takes its own when it is complete. So a kill, a full disk or an
exception leaves what was there before, and nothing that looks finished and is not.
"""

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".lora_edu-partial"
"""Ending of a file that is being written; no one else's file has it."""

NOTHING_LEFT = 2**16
"""Fewer free bytes than this, after a write failed, mean that the disk was full."""


@contextmanager
def whole(*paths: str | Path) -> Iterator[list[Path]]:
    """Yield a path to write to for each of `paths`; together they take their names when the block ends without error.

    Parameters
    ----------
    *paths
        Where the files are to be. Missing folders are made.

    Raises
    ------
    OSError
        The disk is full (``errno.ENOSPC``): the message names the folder and what to do. Nothing has changed then.
    """
    targets = [Path(path) for path in paths]
    partials = [target.with_name(f".{target.name}{PARTIAL}") for target in targets]
    with ExitStack() as undo:
        for target, partial in zip(targets, partials, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            undo.callback(partial.unlink, missing_ok=True)  # does nothing once it has its name
        with explain_full_disk(targets[0].parent, targets[0].name):
            yield partials
        for partial, target in zip(partials, targets, strict=True):
            partial.replace(target)


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text whole or not at all; return the path."""
    with whole(path) as [partial]:
        partial.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | Path, content: Any, indent: int = 1) -> Path:
    """Write strict JSON (RFC 8259) whole or not at all; return the path.

    Raises
    ------
    ValueError
        `content` holds NaN or an infinity, which JSON does not know.
    """
    return write_text(path, json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def explain_full_disk(folder: str | Path, what: str) -> Iterator[None]:
    """Say where the disk filled up, while what was written, and what to do."""
    try:
        yield
    except Exception as error:
        if not _is_of_a_full_disk(error, Path(folder)):
            raise
        raise OSError(
            errno.ENOSPC,
            f"the disk of {folder} is full: {what} was not written, and what stood there before is unchanged. "
            "Free some space, or choose a folder on another disk",
        ) from error


def _is_of_a_full_disk(error: Exception, folder: Path) -> bool:
    """Whether an exception of whatever library means that; torch.save's says nothing of a disk."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error) or shutil.disk_usage(folder).free < NOTHING_LEFT
