"""A run's folder: whose it is, who may write to it now, and which checkpoint is whole.

A run is known by ``config.json``, its identity (settings, and the data and the base by what they hold). It is locked
while its process lives. A checkpoint counts when its last file, ``complete``, names all others as they are.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lora_edu.llm.console import say
from lora_edu.llm.files import write_json
from lora_edu.llm.finetune.plan import Plan

COMPLETE = "complete"
_IDENTITY_FILE = "config.json"
_LOCK_FILE = ".lora_edu-lock"
_BASE = "base_weights_sha256"
# No other program's config.json has all of these.
_OUR_KEYS = {"method", "backend", "micro_batch_size", "before_events"}
_LATER = {"fused": "off"}
"""Settings that the oldest runs had no name for, and what they were."""
_CONTENT = {
    "training_data_sha256": "the training data has changed",
    "validation_data_sha256": "the validation data has changed",
    "test_data_sha256": "the test data has changed",
    _BASE: "the base model's weights have changed",
}


class RunFolder:
    """The folder of one run, as `Plan` names it; made and locked by `open_run_folder`."""

    def __init__(self, plan: Plan):
        self.path, self._config, self._identity = plan.folder, plan.config, plan.identity

    def check(self) -> None:
        """Refuse a folder that is not to be had; change nothing.

        Raises
        ------
        ValueError
            It holds another run, files of others under a run's names, or it is no folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"output must be a folder, got {self.path}, which is a file")
        held = self._held()
        ours = _names_written(held["method"]) if held else []
        names = _names_written(self._config.method)
        others = [name for name in names if name not in ours and os.path.lexists(self.path / name)]
        if others:
            raise ValueError(
                f"output must be a folder without somebody else's {', '.join(others)}, got {self.path}, "
                f"where no run wrote that (or its {_IDENTITY_FILE} is damaged): choose another"
            )
        if held and self._config.resume:
            self._require_same(held, self._identity)
        elif held and not self._config.overwrite:
            raise ValueError(
                f"output must be a folder without a run, got {self.path}, which holds one: "
                "choose another, or --resume to go on with it, or --overwrite to discard it"
            )

    def finished(self) -> dict[str, Any] | None:
        """Return the record of the run that is to be resumed, if it has nothing left to do."""
        return _read_json(self.path / "run.json") if self._config.resume and self._held() else None

    def require_base(self, base_weights_sha256: str) -> None:
        """Refuse to go on with a run that began from other weights."""
        if held := self._held():
            self._require_same(held, self._identity | {_BASE: base_weights_sha256})

    def claim(self, base_weights_sha256: str) -> None:
        """Make the folder this run's own: discard what it may, and write the identity.

        Raises
        ------
        ValueError
            The run that is to be resumed began from other weights.
        """
        if held := self._held():
            if self._config.overwrite:
                self._discard(held["method"])
            else:
                self.require_base(base_weights_sha256)
            (self.path / "run.json").unlink(
                missing_ok=True
            )  # until this run has finished, there is no record
        write_json(self.path / _IDENTITY_FILE, self._identity | {_BASE: base_weights_sha256})

    def newest_checkpoint(self) -> Path | None:
        """Return the newest checkpoint that is whole; remove what a kill left, and name what was damaged since."""
        for unfinished in [c for c in self._checkpoints() if not (c / COMPLETE).exists()]:
            shutil.rmtree(unfinished)
        for checkpoint in reversed(self._checkpoints()):
            damage = _damage(checkpoint)
            if damage is None:
                return checkpoint
            say(f"Checkpoint {checkpoint} is damaged ({damage}): it is passed over.")
        return None

    def read_before(self) -> dict[str, Any] | None:
        """Return what the base answered before this run began, if it was asked and the file is whole."""
        return _read_json(self.path / "before.json")

    def write_before(self, answers: dict[str, Any]) -> None:
        """Keep what the base answered, for a run that goes on later."""
        write_json(self.path / "before.json", answers)

    def _held(self) -> dict[str, Any] | None:
        """Return the identity of the run that the folder holds, None if it holds none."""
        held = _read_json(self.path / _IDENTITY_FILE)
        return held if held is not None and held.keys() >= _OUR_KEYS else None

    def _require_same(self, held: dict[str, Any], identity: dict[str, Any]) -> None:
        held = _LATER | held
        differing = [key for key, value in identity.items() if held.get(key) != value]
        changed = [_CONTENT[key] for key in differing if key in _CONTENT]
        settings = [f"{key} = {held.get(key)!r}" for key in differing if key not in _CONTENT]
        if settings:
            raise ValueError(
                f"resume needs the settings of the run in {self.path}, which has {', '.join(settings)}"
            )
        if changed:
            raise ValueError(f"resume needs what the run in {self.path} began with: {', '.join(changed)}")

    def _discard(self, method: str) -> None:
        """Remove what a run by this method wrote, and nothing else that may lie in the folder."""
        for checkpoint in self._checkpoints():  # first: a kill below must leave nothing to resume from
            (checkpoint / COMPLETE).unlink(missing_ok=True)
        for path in (self.path / name for name in _names_written(method)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _checkpoints(self) -> list[Path]:
        """Return the checkpoints, oldest first; not a copy of one under a name such as checkpoint-40-best."""
        steps = {path: step_of(path) for path in self.path.glob("checkpoints/checkpoint-*")}
        return sorted((p for p, step in steps.items() if step is not None), key=lambda p: steps[p] or 0)


@contextmanager
def open_run_folder(plan: Plan) -> Iterator[RunFolder]:
    """Check the plan's folder, lock it for as long as the block runs, and give it.

    Raises
    ------
    ValueError
        What `RunFolder.check` refuses, or another run is alive there. What the folder holds is then as it was.
    """
    folder = RunFolder(plan)
    folder.check()  # before a lock is written into somebody else's folder
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.path / _LOCK_FILE)
    try:
        lock.acquire(timeout=0)  # the system frees it when the process dies
    except Timeout:
        raise ValueError(
            f"output must be a folder in which no run is alive, got {folder.path}: another process is "
            "training there now. Wait for it, or choose another"
        ) from None
    try:
        folder.check()  # the other run may have ended since
        yield folder
    finally:
        lock.release()


def mark_complete(checkpoint: Path) -> None:
    """Write a checkpoint's last file, size and hash of each other: a kill before it leaves nothing to trust."""
    files = {path.name: _fingerprint(path) for path in sorted(checkpoint.iterdir()) if path.name != COMPLETE}
    write_json(checkpoint / COMPLETE, files)


def is_whole(checkpoint: Path) -> bool:
    """Return whether a checkpoint is there as it was written."""
    return _damage(checkpoint) is None


def step_of(checkpoint: Path) -> int | None:
    """Return the optimizer step of ``checkpoint-<step>``; None for any other name."""
    step = checkpoint.name.partition("-")[2]
    return int(step) if step.isdecimal() else None


def _damage(checkpoint: Path) -> str | None:
    files = _read_json(checkpoint / COMPLETE)
    if files is None:
        return f"{COMPLETE} cannot be read"
    for name, expected in files.items():
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if _fingerprint(checkpoint / name) != expected:
            return f"{name} is not what was written"
    return None


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _names_written(method: str) -> list[str]:
    """Return what a run writes into its folder; the identity, by which all of it is known as a run's, last."""
    weights = "model" if method == "full" else "adapter"
    return ["run.json", "before.json", "checkpoints", weights, _IDENTITY_FILE]


def _read_json(file: Path) -> dict[str, Any] | None:
    """Return the object that a file holds; None if there is no file, or it is damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
