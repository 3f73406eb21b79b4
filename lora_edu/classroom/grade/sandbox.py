"""Which sandbox this machine has, and a child process in it.

``bubblewrap``  sees Python, PyTorch and the course's methods, no other file; writes nothing, reaches no network
``namespaces``  the same, made by the child itself before it loads anything; it shares the list of processes
``none``        limits alone, as far as the system has them (Linux: no other process, no socket, no change on the disk)
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lora_edu
from lora_edu.classroom.grade.course import ROOT
from lora_edu.classroom.wire import BrokenProtocol, read_frame, write_frame

PACKAGE = Path(lora_edu.__file__).resolve().parent
SEEN = (  # of the package: no exercise, no solution, no experiment that an exercise asks for
    *("__init__.py", "methods", "llm", "classroom/__init__.py", "classroom/calls.py"),
    *("classroom/values.py", "classroom/wire.py", "classroom/candidates.py", "classroom/live_tensors.py"),
    *("classroom/language.py", "classroom/grade"),
)
HIDDEN = ("notebooks", "tests", "work", "build", ".git")  # of the repository
SYSTEM = (
    *("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin"),
    *("/etc/ld.so.cache", "/etc/alternatives", "/sys/devices/system/cpu"),
)
KEPT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "LC_ALL")  # of the environment
SECONDS_TO_START = 180


class ChildLost(Exception):
    """The child answers no more: too slow, ended, or it broke the protocol."""


@dataclass(frozen=True)
class Sandbox:
    """How children are started.

    Parameters
    ----------
    kind : str
        ``"bubblewrap"``, ``"namespaces"`` or ``"none"``.
    hidden : tuple of str
        Folders that a child sees empty, should they lie in one that it sees.
    memory : int
        Bytes that a child may take beyond Python and PyTorch.
    seconds : int
        Of computing that a child may take in all.
    counts : bool
        Whether a child gets ready to count what a call keeps in memory; that takes it two seconds more.
    """

    kind: str
    hidden: tuple[str, ...]
    memory: int
    seconds: int
    counts: bool = False

    def command(self) -> list[str]:
        """The command that starts a child."""
        mounts = _mounts(self.hidden)
        settings = {
            "namespaces": self.kind == "namespaces",
            "mounts": mounts if self.kind == "namespaces" else [],
            "memory": self.memory,
            "seconds": self.seconds,
            "counts": self.counts,
        }
        runner = [
            sys.executable,
            "-s",
            "-B",
            "-P",
            "-m",
            "lora_edu.classroom.grade.runner",
            json.dumps(settings),
        ]
        return [*_bubblewrap(mounts), *runner] if self.kind == "bubblewrap" else runner


def hidden_folders(students: Path) -> tuple[str, ...]:
    """What no child may see even where its Python lies beside it: students' work, and the course's solutions."""
    needed = [Path(name) for name in (*_python_folders(), PACKAGE)]
    folders = [*students.resolve().iterdir(), *(ROOT / name for name in HIDDEN)]
    return tuple(
        str(folder)
        for folder in folders
        if folder.is_dir() and not any(path.is_relative_to(folder) for path in needed)
    )


def _mounts(hidden: tuple[str, ...]) -> list[tuple[str, str]]:
    """What a child sees of the disk, in order: ``("bind", path)``, or ``("empty", path)`` for an empty folder."""
    seen = [*SYSTEM, *_python_folders()]
    masked = [path for path in (str(PACKAGE), *hidden) if any(map(Path(path).is_relative_to, seen))]
    installed = [f"{path}/lora_edu" for path in (*seen, *_packages())]  # as well
    masked += [path for path in installed if Path(path).is_dir()]
    masked = list(dict.fromkeys(path for path in masked if not path.startswith(f"{PACKAGE}/")))
    parts = [str(PACKAGE / name) for name in SEEN]
    return [*(("bind", p) for p in seen), *(("empty", p) for p in masked), *(("bind", p) for p in parts)]


def _bubblewrap(mounts: list[tuple[str, str]]) -> list[str]:
    """bubblewrap's own command line."""
    options = [*("--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL")]
    for kind, path in mounts:
        options += ["--ro-bind-try", path, path] if kind == "bind" else ["--tmpfs", path]
    read_only = [*(path for kind, path in mounts if kind == "empty"), "/proc", "/dev", "/"]
    options += ["--proc", "/proc", "--dev", "/dev"]
    options += [argument for path in read_only for argument in ("--remount-ro", path)]
    return ["bwrap", *options, "--chdir", "/"]


def _python_folders() -> Iterator[str]:
    """Where this Python and its packages are, as far as they are not in `SYSTEM`."""
    names = [sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent), *_packages()]
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    names += [path for path in libraries if Path(path).is_absolute() and any(Path(path).glob("lib*.so*"))]
    for name in dict.fromkeys(names):
        if Path(name).is_dir() and not any(Path(name).is_relative_to(known) for known in SYSTEM[:4]):
            yield name


def _packages() -> list[str]:
    """The folders of installed packages, a user's own among them."""
    return [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]


def _environment() -> dict[str, str]:
    one = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")}
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    nobody = {"HOME": "/nonexistent", "LOGNAME": "student", "CUDA_VISIBLE_DEVICES": ""}
    # PyTorch makes this folder when it counts tensors: one that is there.
    nowhere = {"TORCHINDUCTOR_CACHE_DIR": "/"}
    packages = os.pathsep.join([str(PACKAGE.parent), *_packages()])
    return {**kept, **one, **nobody, **nowhere, "PYTHONPATH": packages}


class Child:
    """A process for one student; what it says is never more than an answer.

    Parameters
    ----------
    sandbox : Sandbox
        How it is started.

    Attributes
    ----------
    missing : dict
        The guards that it could not take up, and why: said before any code of the student's is there.
    lost : str or None
        Why it answers no more.
    seconds : float
        How long it may still take to answer.

    Raises
    ------
    ChildLost
        It does not start, or a guard of its sandbox does not hold.
    """

    def __init__(self, sandbox: Sandbox):
        pipes: dict[str, Any] = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.DEVNULL,
        }
        self.lost: str | None = None
        self.seconds: float = SECONDS_TO_START
        try:
            self._process = subprocess.Popen(
                sandbox.command(), **pipes, env=_environment(), cwd=PACKAGE.parent, start_new_session=True
            )
        except OSError as error:
            raise ChildLost(f"it does not start: {error}") from error
        try:
            self.missing: dict[str, str] = dict(self._within_time(self._read)[0]["missing"])
            if self.missing and sandbox.kind != "none":
                raise ChildLost("; ".join(f"{guard}: {why}" for guard, why in self.missing.items()))
        except ChildLost:
            self.close()
            raise

    def ask(
        self, request: dict[str, Any], body: bytes = b"", answer: Callable | None = None
    ) -> tuple[dict[str, Any], bytes]:
        """Send a request and return the answer's header and body.

        Parameters
        ----------
        request : dict
            What is asked.
        body : bytes
            What goes with it.
        answer : callable
            Answers the child's own questions (header and body), which come before its answer. Its time counts as
            the child's.

        Raises
        ------
        ChildLost
            There is no answer. It has ended then, and `lost` says why.
        """
        header, reply = self._asked(request, body)
        while answer and "question" in header:
            start = time.monotonic()
            request, body = answer(header, reply)
            self.seconds -= time.monotonic() - start
            header, reply = self._asked(request, body)
        return header, reply

    def _asked(self, request: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        if self.seconds <= 0:
            self._too_slow()
        if self.lost:
            raise ChildLost(self.lost)

        def both() -> tuple[Any, bytes]:
            assert self._process.stdin
            write_frame(self._process.stdin, request, body)
            return self._read()

        return self._within_time(both)

    def _read(self) -> tuple[dict[str, Any], bytes]:
        assert self._process.stdout
        header, body = read_frame(self._process.stdout)
        if not isinstance(header, dict):
            raise BrokenProtocol("an answer is a dictionary")
        return header, body

    def _within_time(self, work: Any) -> Any:
        """Do what waits for the child, which is killed when its time is up."""
        clock, start = threading.Timer(max(0.01, self.seconds), self._too_slow), time.monotonic()
        clock.start()
        try:
            return work()
        except BrokenProtocol as error:
            self.give_up(f"broke the protocol: {error}")
        except (EOFError, OSError, ValueError):
            self.give_up(self.lost or "ended")
        finally:
            clock.cancel()
            self.seconds -= time.monotonic() - start
        raise ChildLost(self.lost)

    def _too_slow(self) -> None:
        self.give_up("too slow")

    def give_up(self, why: str) -> None:
        """Ask it no more."""
        self.lost = self.lost or why
        self._kill()

    def _kill(self) -> None:
        """End the process, and the group that it leads."""
        if hasattr(os, "killpg") and self._process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()

    def close(self) -> None:
        """End it, and wait until it has ended."""
        self._kill()
        for stream in (self._process.stdin, self._process.stdout):
            try:
                assert stream
                stream.close()
            except OSError:  # what was not sent yet finds nobody
                pass
        self._process.wait()


def find_sandbox(students: Path, memory: int, seconds: int, unsafe: bool) -> tuple[Sandbox, str]:
    """The best sandbox that holds on this machine, and a warning (empty for bubblewrap).

    Raises
    ------
    ValueError
        None holds, and `unsafe` is False.
    """
    hidden, failed = hidden_folders(students), []
    for kind in ("bubblewrap", "namespaces", "none"):
        if kind == "bubblewrap" and not shutil.which("bwrap"):
            failed.append("bubblewrap: not installed")
            continue
        if kind == "none" and not unsafe:
            break
        sandbox = Sandbox(kind, hidden, memory, seconds)
        fault = _fault(sandbox)
        if fault is None or kind == "none":
            return sandbox, _warning(kind, failed, fault)
        failed.append(f"{kind}: {fault}")
    raise ValueError(
        "no sandbox holds here, so students' code would run with your rights, files and network.\n  "
        + "\n  ".join(failed)
        + "\nInstall bubblewrap (Debian, Ubuntu: apt install bubblewrap), or grade on a machine that holds nothing "
        "else and give --unsafe."
    )


def _fault(sandbox: Sandbox) -> str | None:
    """Why a sandbox does not hold; None if it does."""
    if sandbox.kind != "none" and sys.platform != "linux":
        return f"there is none on {sys.platform}"
    try:
        child = Child(replace(sandbox, counts=True))
    except ChildLost as error:
        return str(error)
    child.close()
    return ", ".join(child.missing) or None


def _warning(kind: str, failed: list[str], fault: str | None) -> str:
    if kind == "bubblewrap":
        return ""
    if kind == "namespaces":
        return (
            f"no bubblewrap ({'; '.join(failed)}). A user namespace stands in: the same files and no network, but one "
            "wall less: students' processes run among yours, and a filter of system calls alone keeps them apart."
        )
    return (
        f"NO SANDBOX ({'; '.join(failed)}). Students' code runs with your rights and can read your files. "
        f"Guards that do not hold: {fault or 'none'}."
    )
