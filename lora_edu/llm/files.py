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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

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


@contextmanager
def whole_folder(path: str | Path, needed: int = 0, known_by: str | None = None) -> Iterator[Path]:
    """Yield a folder to write to; it takes the name `path` when the block ends without error, and is gone otherwise.

    Parameters
    ----------
    path
        New, or an empty folder; or one that may be replaced.
    needed
        Bytes that will be written, as far as they are known.
    known_by
        Name of a file: a folder that holds it may be replaced. None: no folder may.

    Raises
    ------
    FileExistsError
        `path` is there already, and is none of these.
    OSError
        The disk is full, or has fewer bytes free than `needed`. Nothing is left then.
    """
    target = Path(path).resolve()  # of a link, the folder that it leads to
    if target.exists() and not (_is_empty(target) or (known_by and (target / known_by).is_file())):
        unless = f", or one with {known_by}" if known_by else ""
        raise FileExistsError(
            f"the folder to write must be new or empty{unless}, got {target}, which holds something"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{target.name} takes {needed / 1e9:.1f} GB, the disk of {target.parent} has {free / 1e9:.1f}",
        )
    partial = target.with_name(f".{target.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    try:
        with explain_full_disk(target.parent, target.name):
            partial.mkdir()
            yield partial
        if target.exists():
            shutil.rmtree(target) if known_by else target.rmdir()
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text whole or not at all; return the path."""
    with whole(path) as [partial]:
        partial.write_text(text, encoding="utf-8")
    return Path(path)


def save_tensors(tensors: dict[str, "Tensor"], file: Path) -> None:
    """Write safetensors that whoever may read the user's other new files can read.

    safetensors makes a file that only its owner reads; a classroom may share the folder.
    """
    from safetensors.torch import save_file

    file.touch()
    mode = file.stat().st_mode
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(mode)


def parse_json(text: str, place: str) -> Any:
    """Return what strict JSON holds: no NaN, no infinity, no key twice, no half of a character.

    Parameters
    ----------
    text
        Of a file or of a line.
    place
        What the message calls it, such as ``"data.jsonl, line 3"``.

    Raises
    ------
    ValueError
        The text is no such JSON.

    References
    ----------
    RFC 8259 (no NaN); RFC 7493, sections 2.1 (surrogates, each half of one character) and 2.3 (keys).
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")  # 1e999 is an infinity
    except UnicodeEncodeError as error:
        half = repr(error.object[error.start])
        raise ValueError(f"{place} must hold whole characters, got half of one, {half}") from None
    except RecursionError:
        raise ValueError(
            f"{place} must be one JSON object that is not nested so deep, got {shown(text)}"
        ) from None
    except ValueError as error:  # among them Python's limit to the digits of a whole number
        raise ValueError(f"{place} must be one JSON object, got {shown(text)} ({error})") from None
    return value


def shown(value: Any, limit: int = 300) -> str:
    """Return ``repr(value)`` for a message, cut where it gets long."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]} ... ({len(text):,} characters)"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands there twice")
    return record


def write_json(path: str | Path, content: Any, indent: int = 1) -> Path:
    """Write strict JSON (RFC 8259) whole or not at all; return the path.

    Raises
    ------
    ValueError
        `content` holds NaN or an infinity, which JSON does not know.
    """
    return write_text(path, json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def explain_full_disk(
    folder: str | Path, what: str, cure: str = "choose a folder on another disk"
) -> Iterator[None]:
    """Say where the disk filled up, while what was written, and what to do: free some space, or `cure`."""
    try:
        yield
    except Exception as error:
        if not _is_of_a_full_disk(error, Path(folder)):
            raise
        raise OSError(
            errno.ENOSPC,
            f"the disk of {folder} is full: {what} was not written, and what stood there before is unchanged. "
            f"Free some space, or {cure}",
        ) from error


def _is_of_a_full_disk(error: Exception, folder: Path) -> bool:
    """Whether an exception of whatever library means that; torch.save's says nothing of a disk."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error) or shutil.disk_usage(folder).free < NOTHING_LEFT
