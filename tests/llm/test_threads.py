"""The choice of threads from given numbers and files; the machine itself is asked only for what cannot vary."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lora_edu.llm import threads
from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.threads import Clocks, Quota, left, smallest_quota, threads_for

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("free", "most", "expected"),
    [
        (2.0, 2, 2),
        (1.9, 2, 2),  # the second thread at nine tenths: 1.8 in all
        (1.4, 2, 1),  # 2 x 0.4 is less than 1
        (1.0, 2, 1),
        (0.1, 2, 1),
        (0.0, 2, 1),
        (-0.3, 2, 1),
        (7.6, 8, 7),  # 8 x 0.6 is less than 7
        (7.95, 8, 8),
        (61.0, 8, 8),
    ],
)
def test_threads_that_get_most_done(free, most, expected):
    assert threads_for(free, most) == expected


def done(count, free):
    """Threads wait for the slowest: each that has a core to itself gets 1 done, all get what the last core gives."""
    return count * min(1.0, free - (count - 1))


@pytest.mark.parametrize("tenths", range(10, 80))
def test_no_other_number_gets_more_done(tenths):
    free = tenths / 10
    best = max(done(count, free) for count in range(1, 9))
    assert done(threads_for(free, 8), free) == pytest.approx(best)


@pytest.mark.parametrize(
    ("cores", "group", "own", "cpus", "quota", "expected"),
    [
        (0.0, 0.0, 0.0, 2, None, 2.0),  # a free machine
        (4.0, 0.0, 0.0, 2, None, 0.0),  # both cores busy for all of the 2 s
        (4.0, 0.0, 4.0, 2, None, 2.0),  # ... by this process itself
        (4.0, 0.0, 1.0, 2, None, 0.5),
        (20.0, 0.0, 0.0, 64, None, 54.0),
        (20.0, 0.0, 0.0, 64, 2.0, 2.0),  # a container on a large machine
        (20.0, 3.0, 1.0, 64, 2.0, 1.0),  # ... whose other processes take one of its two cores
        (127.0, 0.0, 0.0, 64, 2.0, 0.5),  # ... beside others that take all but half a core
        (0.0, 0.0, 0.5, 2, None, 2.0),  # clocks that tick differently never give more than there is
    ],
)
def test_what_others_leave(cores, group, own, cpus, quota, expected):
    before = Clocks(wall=100.0, cores=1000.0, group=50.0, own=7.0)
    after = Clocks(wall=102.0, cores=1000.0 + cores, group=50.0 + group, own=7.0 + own)
    assert left(before, after, cpus, quota) == pytest.approx(expected)


def groups(tmp_path, membership, files):
    """Control groups as files below tmp_path."""
    for name, text in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "membership").write_text(membership)
    return smallest_quota(tmp_path / "cgroup", tmp_path / "membership")


V2 = "0::/user.slice/learner.slice/kernel\n"
V1 = "3:cpuset:/a\n2:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n"


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        (V2, {"cpu.max": "150000 100000\n"}, 1.5),  # a container: its own group is the root
        (V2, {"cpu.max": "max 100000\n"}, None),
        (
            V2,
            {"user.slice/learner.slice/cpu.max": "50000 100000\n", "user.slice/cpu.max": "max 100000\n"},
            0.5,
        ),
        (
            V2,
            {"user.slice/learner.slice/cpu.max": "max 100000\n", "user.slice/cpu.max": "400000 100000\n"},
            4.0,
        ),
        (V2, {"cpu.max": "nonsense\n"}, None),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "200000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 2.0),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, None),
        (V1, {"cpuset/a/cpu.cfs_quota_us": "1\n", "cpuset/a/cpu.cfs_period_us": "1\n"}, None),
        ("", {"cpu.max": "100000 100000\n"}, None),
    ],
)
def test_quota_of_control_groups(tmp_path, membership, files, expected):
    quota = groups(tmp_path, membership, files)
    assert (quota.cores if quota else None) == expected


def test_no_control_groups_at_all(tmp_path):
    assert smallest_quota(tmp_path, tmp_path / "missing") is None


def test_time_that_a_group_used(tmp_path):
    two = groups(tmp_path, V2, {"cpu.max": "100000 100000", "cpu.stat": "usage_usec 2500000\nuser_usec 1\n"})
    assert two is not None and two.used_seconds() == 2.5
    (tmp_path / "cpuacct.usage").write_text("1500000000\n")
    assert Quota(1.0, tmp_path / "cpuacct.usage").used_seconds() == 1.5
    assert Quota(1.0, tmp_path / "missing").used_seconds() == 0.0


def test_a_number_that_the_user_gave_stays(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(threads, "free_cores", None)  # not even asked
    before = torch.get_num_threads()
    sentence = threads.use_free_cores()
    assert torch.get_num_threads() == before
    assert sentence.startswith(f"{before} thread") and sentence.endswith("as OMP_NUM_THREADS says")


CODE = """
import sys
import psutil, torch
process = psutil.Process()
if hasattr(process, "cpu_affinity"):
    process.cpu_affinity(process.cpu_affinity()[:1])
else:
    torch.set_num_threads(1)
from lora_edu.llm.threads import use_free_cores
sentence = use_free_cores()
print(torch.get_num_threads(), sentence)
"""


def test_never_more_threads_than_the_affinity_mask_has_cores():
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("1 1 thread: ") and "cores are free of " in done.stdout


def test_what_is_said_of_a_busy_machine_cannot_fail_a_load(tiny_folder, monkeypatch):
    """The words go to whoever watches, and nobody does: the reader of stdout has gone."""
    before = torch.get_num_threads()
    said = []

    def one_more_thread():
        said.append("words")
        torch.set_num_threads(before + 1)
        return "one thread more"

    monkeypatch.setattr("lora_edu.llm.threads.use_free_cores", one_more_thread)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", buffering=1) as gone, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", gone)
        try:
            load_base_model(str(tiny_folder))
        finally:
            torch.set_num_threads(before)
            os.dup2(os.open(os.devnull, os.O_WRONLY), gone.fileno())  # closing it writes what is left
    assert said
