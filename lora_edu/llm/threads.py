"""How many threads PyTorch should compute with on this machine now: as many as there are cores that nobody else uses.

The threads of one matrix product wait for each other. If one of them has to share its core, all wait for it, and while
they wait they compute nothing: on two cores with four busy processes beside, two threads took 15 times as long as on a
free machine, one thread twice as long (`python -m benchmarks.busy_machine`).

So the processor time of all others is measured, over a third of a second, and taken from the cores that this process
may use. Its own time does not count: a process that is busy itself, the caller's too, finds the same number as an idle
one. The load average would not do: it is a mean over a minute, and holds this process's own threads.

What counts as a core that may be used:

- Linux: the cores of the affinity mask (`taskset`, batch systems), and the quota of the process's control group and of
  every group above it (containers, systemd), version 1 or 2. In a group with a quota, what its other processes take
  counts against the quota.
- Windows: the cores of the affinity mask. A limit of a job object is not read.
- macOS: all cores; it has neither mask nor quota.

Never more than PyTorch itself started with, which on most machines is the number of physical cores. Whoever sets
OMP_NUM_THREADS has decided: nothing is measured or changed.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

MEASURED_SECONDS = 0.3
"""Time over which others are watched. Systems count processor time in steps of 10 to 16 ms: it is 20 to 30 steps."""

_AT_START = torch.get_num_threads()


@dataclass(frozen=True)
class Quota:
    """What a control group allows, and the file that counts what its processes have used.

    Attributes
    ----------
    cores
        Processor time a second, in seconds.
    usage
        ``cpu.stat`` (version 2, holds microseconds) or ``cpuacct.usage`` (version 1, nanoseconds).
    """

    cores: float
    usage: Path

    def used_seconds(self) -> float:
        """Processor time that all processes of the group have used, in seconds; 0 where it is not counted."""
        try:
            text = self.usage.read_text(encoding="ascii")
        except OSError:
            return 0.0
        if self.usage.name == "cpu.stat":
            return int(dict(line.split() for line in text.splitlines()).get("usage_usec", 0)) / 1e6
        return int(text) / 1e9


def use_free_cores() -> str:
    """Let PyTorch compute with as many threads as there are free cores, and return a sentence that says so.

    Takes `MEASURED_SECONDS`, or no time where OMP_NUM_THREADS is set.
    """
    threads, reason = choose_threads()
    torch.set_num_threads(threads)
    return reason


def choose_threads() -> tuple[int, str]:
    """Return how many threads to compute with, at least 1, and a sentence that gives the number and its reason."""
    if os.environ.get("OMP_NUM_THREADS"):
        threads = torch.get_num_threads()
        return threads, f"{_named(threads)}, as OMP_NUM_THREADS says"
    cpus, quota = allowed_cpus(), smallest_quota()
    cores = min(len(cpus), quota.cores) if quota else len(cpus)
    free = free_cores(cpus, quota)
    threads = threads_for(free, _AT_START)
    return threads, f"{_named(threads)}: {free:.1f} cores are free of {cores:g} that may be used"


def _named(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def threads_for(free: float, most: int) -> int:
    """Return the number of threads that get most done on so many free cores.

    A whole free core for each thread: they get as much done as there are threads. One more thread on a core that is
    free only in part slows all of them to its pace, which pays when ``(n + 1) * part > n``.

    Parameters
    ----------
    free
        Cores that nobody else uses, a fraction counts; may be below 0.
    most
        Never return more, nor less than 1.
    """
    whole = max(0, int(free))
    part = free - whole
    threads = whole + 1 if (whole + 1) * part > whole else whole
    return max(1, min(threads, most))


def free_cores(cpus: list[int], quota: Quota | None) -> float:
    """Watch the others for `MEASURED_SECONDS`; return how many of these cores they leave, at least 0.

    Parameters
    ----------
    cpus
        Numbers of the cores that this process may use.
    quota
        What its control group allows, if anything.
    """
    before = _clocks(cpus, quota)
    time.sleep(MEASURED_SECONDS)
    return left(before, _clocks(cpus, quota), len(cpus), quota.cores if quota else None)


@dataclass(frozen=True)
class Clocks:
    """Seconds of the wall clock, and of processor time used on the cores, in the group, and by this process."""

    wall: float
    cores: float
    group: float
    own: float


def _clocks(cpus: list[int], quota: Quota | None) -> Clocks:
    times = psutil.cpu_times(percpu=True)
    busy = sum(_busy_seconds(times[cpu]) for cpu in cpus if cpu < len(times))
    group = quota.used_seconds() if quota else 0.0
    return Clocks(time.perf_counter(), busy, group, time.process_time())


def _busy_seconds(times) -> float:
    """What a core has computed, in seconds, for this machine or, as a host, for others (steal)."""
    spent = times._asdict()
    # Linux counts the time of guests as user time too.
    return sum(spent.values()) - sum(
        spent.get(name, 0.0) for name in ("idle", "iowait", "guest", "guest_nice")
    )


def left(before: Clocks, after: Clocks, cpus: int, quota: float | None) -> float:
    """Return how many cores others left between two readings, at least 0.

    Parameters
    ----------
    cpus
        Number of the cores that were watched.
    quota
        Cores that the control group allows; None: any number.
    """
    wall, own = after.wall - before.wall, after.own - before.own
    of_cores = cpus - max(0.0, after.cores - before.cores - own) / wall
    of_quota = cpus if quota is None else quota - max(0.0, after.group - before.group - own) / wall
    return max(0.0, min(of_cores, of_quota))


def allowed_cpus() -> list[int]:
    """Return the numbers of the cores that this process may use."""
    affinity = getattr(psutil.Process(), "cpu_affinity", None)  # macOS has none
    return affinity() if affinity else list(range(os.cpu_count() or 1))


def smallest_quota(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> Quota | None:
    """Return the tightest limit of this process's control group and of those above it; None without one.

    Parameters
    ----------
    root
        Where the groups are mounted.
    membership
        The file that names this process's groups, one a line: ``number:controllers:/path``. In a container the path
        may be that of the host, which does not exist there; the container's own group is then the root.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return None
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += [_quota_v2(folder) for folder in _upwards(root, path)]
        elif "cpu" in controllers.split(","):
            found += [_quota_v1(folder) for folder in _upwards(root / controllers, path)]
    return min(filter(None, found), key=lambda quota: quota.cores, default=None)


def _upwards(mount: Path, path: str) -> list[Path]:
    """A group's folder and those above it, up to the mount."""
    folder = mount / path.strip("/")
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(mount))]


def _quota_v2(folder: Path) -> Quota | None:
    try:
        limit, period = (folder / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return None if limit == "max" else Quota(int(limit) / int(period), folder / "cpu.stat")


def _quota_v1(folder: Path) -> Quota | None:
    try:
        limit, period = (
            int((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii")) for name in ("quota", "period")
        )
    except (OSError, ValueError):
        return None
    if limit <= 0:  # -1: none
        return None
    return Quota(limit / period, folder / "cpuacct.usage")
