"""What a student's process gives up before it runs a line of the student's: for good, as the kernel sees to it.

Each guard is reported as held or not: `enter_namespaces` (no network, a few files that can only be read),
`hide_processes`, `limit` (memory, seconds, written bytes), `drop_rights` (no capability), `filter_calls` (no further
process, socket or signal, no change of a file or a folder), `end_with_parent`. They call the C library through ctypes;
nothing is installed. On Windows none holds, on macOS only `limit`, and not for memory.

References
----------
Linux manual pages user_namespaces(7), mount_setattr(2), seccomp(2), capset(2), setrlimit(2); the numbers of system
calls are those of asm/unistd_64.h (x86-64) and asm-generic/unistd.h (aarch64).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = (
    *(0x00020000, 0x04000000, 0x08000000),
    *(0x10000000, 0x40000000),
)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 0x1000, 0x4000, 1 << 18
AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = -100, 0x8000, 1
SYS_MOUNT_SETATTR = 442
ROOMS = ("/tmp", "/mnt", "/media", "/srv", "/var/tmp", "/opt")  # where a new root can be mounted
DEVICES = ("/proc", "/dev/null", "/dev/zero", "/dev/urandom")
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, SIGKILL = 1, 4, 38, 9
CAPABILITY_VERSION_3 = 0x20080522
SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC = 1, 1

# For each machine: its number in the kernel's audit, the calls `seccomp` and `fcntl`, those that are refused, and those
# that open a file, with the place of their flags among the arguments.
_SAME_EVERYWHERE = {
    **{"pidfd_send_signal": 424, "io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430},
    **{"fsmount": 432, "pidfd_open": 434, "clone3": 435, "pidfd_getfd": 438, "mount_setattr": 442},
    **{"memfd_secret": 447, "process_madvise": 440, "process_mrelease": 448},
    **{"openat2": 437, "fchmodat2": 452, "setxattrat": 463, "removexattrat": 466, "open_tree_attr": 467},
    **{"file_setattr": 469},
}
_X86_64 = {
    **{"shmget": 29, "shmat": 30, "socket": 41, "connect": 42, "bind": 49, "socketpair": 53, "clone": 56},
    **{"fork": 57, "vfork": 58, "execve": 59, "kill": 62, "semget": 64, "msgget": 68, "ptrace": 101},
    **{"setpgid": 109, "setsid": 112, "rt_sigqueueinfo": 129, "personality": 135, "pivot_root": 155},
    **{"chroot": 161, "mount": 165, "umount2": 166, "tkill": 200, "tgkill": 234, "mq_open": 240},
    **{"add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272, "rt_tgsigqueueinfo": 297},
    **{"perf_event_open": 298, "name_to_handle_at": 303, "open_by_handle_at": 304, "setns": 308},
    **{"process_vm_readv": 310, "process_vm_writev": 311, "memfd_create": 319, "bpf": 321, "execveat": 322},
    **{"setpriority": 141, "sched_setparam": 142, "sched_setscheduler": 144, "sched_setaffinity": 203},
    **{"ioprio_set": 251, "migrate_pages": 256, "move_pages": 279, "prlimit64": 302, "sched_setattr": 314},
    **{"userfaultfd": 323, "truncate": 76, "ftruncate": 77, "rename": 82, "mkdir": 83, "rmdir": 84},
    **{"creat": 85, "fchownat": 260, "futimesat": 261, "unlinkat": 263, "renameat": 264, "linkat": 265},
    **{"link": 86, "unlink": 87, "symlink": 88, "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93},
    **{"lchown": 94, "utime": 132, "mknod": 133, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190},
    **{"removexattr": 197, "lremovexattr": 198, "fremovexattr": 199, "utimes": 235, "mkdirat": 258},
    **{"mknodat": 259, "symlinkat": 266, "fchmodat": 268, "utimensat": 280, "fallocate": 285},
    **{"renameat2": 316},
}
_AARCH64 = {
    **{"ioprio_set": 30, "sched_setparam": 118, "sched_setscheduler": 119, "sched_setaffinity": 122},
    **{"setpriority": 140, "migrate_pages": 238, "move_pages": 239, "prlimit64": 261, "sched_setattr": 274},
    **{"umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51, "personality": 92, "unshare": 97},
    **{"ptrace": 117, "kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138, "setpgid": 154},
    **{"setsid": 157, "mq_open": 180, "msgget": 186, "semget": 190, "shmget": 194, "shmat": 196},
    **{"socket": 198, "socketpair": 199, "bind": 200, "connect": 203, "add_key": 217, "request_key": 218},
    **{"keyctl": 219, "clone": 220, "execve": 221, "rt_tgsigqueueinfo": 240, "perf_event_open": 241},
    **{"name_to_handle_at": 264, "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270},
    **{"process_vm_writev": 271, "memfd_create": 279, "bpf": 280, "execveat": 281, "userfaultfd": 282},
    **{"setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15},
    **{"fremovexattr": 16, "mknodat": 33, "mkdirat": 34, "unlinkat": 35, "symlinkat": 36, "linkat": 37},
    **{"renameat": 38, "truncate": 45, "ftruncate": 46, "fallocate": 47, "fchmod": 52, "fchmodat": 53},
    **{"fchownat": 54, "fchown": 55, "utimensat": 88, "renameat2": 276},
}
MACHINES = {
    "x86_64": (0xC000003E, 317, 72, _X86_64 | _SAME_EVERYWHERE, {2: 1, 257: 2}),
    "aarch64": (0xC00000B7, 277, 25, _AARCH64 | _SAME_EVERYWHERE, {56: 2}),
}
SIGNALS_BY_FCNTL = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: a pipe would send another process a signal
WRITING = 0o1 | 0o2 | 0o100 | 0o1000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC
EPERM, ENOSYS = 1, 38


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _done(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), what)


# ---------------------------------------------------------------- namespaces


def enter_namespaces(mounts: Iterable[tuple[str, str]]) -> None:
    """Leave the network, and every file but those named; what is left can only be read.

    Takes a process of one thread. Needs no rights but those to make a user namespace.

    Parameters
    ----------
    mounts : iterable of (str, str)
        In order: ``("bind", path)`` shows a file or a folder, ``("empty", path)`` an empty folder in its place.

    Raises
    ------
    OSError
        The kernel does not allow one of the steps.
    """
    libc, user, group, mounts = _libc(), os.getuid(), os.getgid(), list(mounts)
    flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    _done(libc.unshare(flags), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    root = next(place for place in ROOMS if not any(Path(path).is_relative_to(place) for _, path in mounts))
    _mount("none", root, "tmpfs", MS_NOSUID)
    for kind, path in [*mounts, *(("bind", path) for path in DEVICES)]:
        if kind == "empty":
            Path(root + path).mkdir(parents=True, exist_ok=True)
            _mount("none", root + path, "tmpfs", MS_NOSUID)
        elif Path(path).exists():
            _bind(path, root + path)
    os.chroot(root)
    os.chdir("/")
    attributes = struct.pack("QQQQ", MOUNT_ATTR_RDONLY, 0, 0, 0)
    arguments = AT_FDCWD, b"/", AT_RECURSIVE, attributes, ctypes.c_size_t(len(attributes))
    _done(libc.syscall(SYS_MOUNT_SETATTR, *arguments), "read-only mounts")


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    size = b"size=1m" if kind else None
    names = os.fsencode(source), os.fsencode(target), os.fsencode(kind) if kind else None
    _done(_libc().mount(*names, ctypes.c_ulong(flags), size), f"mount {target}")


def _bind(source: str, target: str) -> None:
    """Show `source` at `target`, which is made in the new, empty root."""
    if Path(source).is_dir():
        Path(target).mkdir(parents=True, exist_ok=True)
    else:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).touch()
    _mount(source, target, None, MS_BIND | MS_REC)


def hide_processes() -> None:
    """Let /proc look empty; takes the rights that `enter_namespaces` gave, and so comes before `filter_calls`."""
    _mount("none", "/proc", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV)


def drop_rights() -> None:
    """Give up every capability, those in a user namespace included.

    Raises
    ------
    OSError, AttributeError
        The system has no capabilities.
    """
    nothing = bytes(24)  # effective, permitted, inheritable: twice 32 bits each
    _done(_libc().capset(struct.pack("Ii", CAPABILITY_VERSION_3, 0), nothing), "drop capabilities")


def end_with_parent() -> None:
    """Be killed when the grader ends, however it ends.

    Raises
    ------
    OSError, AttributeError
        The system has no such signal.
    """
    _done(_libc().prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "end with the parent")


@contextlib.contextmanager
def private_memory() -> Iterator[None]:
    """In this block no other process of this account can read this one's memory, where the system sees to that."""
    if sys.platform != "linux":
        yield
        return
    _libc().prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    try:
        yield
    finally:
        _libc().prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


# ---------------------------------------------------------------- limits


def limit(memory: int, seconds: int) -> None:
    """Bound what this process may still take.

    Parameters
    ----------
    memory : int
        Bytes of address space beyond what it has now.
    seconds : int
        Of computing, in all.

    Raises
    ------
    OSError, ImportError
        The system has no such limits.
    """
    import resource  # there is none on Windows

    def at_most(name: str, most: int) -> None:
        resource.setrlimit(getattr(resource, name), (most, most))

    at_most("RLIMIT_CPU", seconds)
    at_most("RLIMIT_CORE", 0)
    at_most("RLIMIT_FSIZE", 0)  # no byte into a file; pipes are none
    at_most("RLIMIT_NOFILE", 64)
    at_most("RLIMIT_NPROC", 0)
    if sys.platform == "linux":
        at_most("RLIMIT_AS", _address_space() + memory)


@contextlib.contextmanager
def bounded_memory(memory: int) -> Iterator[None]:
    """In this block the process itself gets no more than so many bytes beyond what it has, on Linux."""
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    most = _address_space() + memory
    hard = before[1]
    resource.setrlimit(
        resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard)
    )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


# ---------------------------------------------------------------- system calls


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def filter_calls() -> None:
    """Refuse, in all threads, what makes a process, a thread, a socket, a signal or a mount, or changes the disk.

    Raises
    ------
    OSError
        The kernel or this kind of machine has no such filter, or it does not hold.
    """
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        raise OSError(ENOSYS, f"no filter for {sys.platform} on {platform.machine()}")
    audit, seccomp, fcntl, refused, opening = MACHINES[platform.machine()]
    program = _program(audit, fcntl, refused, opening)
    libc = _libc()
    _done(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    described = _Program(len(program) // 8, program)
    flags = SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC
    _done(libc.syscall(seccomp, *flags, ctypes.byref(described)), "seccomp")
    if libc.syscall(refused["socket"], 1, 1, 0) != -1 or ctypes.get_errno() != EPERM:
        raise OSError(ENOSYS, "the filter does not hold")


def _program(audit: int, fcntl: int, refused: dict[str, int], opening: dict[int, int]) -> bytes:
    """The filter in the kernel's language: instructions of 8 bytes (code, jump if true, jump if false, constant)."""
    load, equal, at_least, any_bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    kill, allow, error = 0x80000000, 0x7FFF0000, 0x00050000
    steps: list[tuple[int, int, int, int]] = [
        (load, 0, 0, 4),  # the machine of the call: another one would have other numbers
        (equal, 1, 0, audit),
        (answer, 0, 0, kill),
        (load, 0, 0, 0),  # the number of the call
        (at_least, 0, 1, 0x40000000),  # x86-64's second set of numbers
        (answer, 0, 0, kill),
    ]
    for name, number in refused.items():
        code = ENOSYS if name in ("clone3", "openat2") else EPERM  # ENOSYS: an older call is tried then
        steps += [(equal, 0, 1, number), (answer, 0, 0, error | code)]
    for number, place in opening.items():
        steps += [(equal, 0, 4, number), (load, 0, 0, 16 + 8 * place), (any_bit, 0, 1, WRITING)]
        steps += [(answer, 0, 0, error | EPERM), (answer, 0, 0, allow)]
    steps += [(equal, 1, 0, fcntl), (answer, 0, 0, allow), (load, 0, 0, 24)]  # the second argument, a command
    for command in SIGNALS_BY_FCNTL:
        steps += [(equal, 0, 1, command), (answer, 0, 0, error | EPERM)]
    steps.append((answer, 0, 0, allow))
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def held(guard: Any, *arguments: Any) -> str | None:
    """Take up a guard: None if it holds, else why it does not."""
    try:
        guard(*arguments)
    except (OSError, ImportError, AttributeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"[:200]
    return None
