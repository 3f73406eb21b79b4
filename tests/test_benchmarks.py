"""Each benchmark runs at a tiny size and leaves a well-formed record. How fast anything is, is not asserted."""

import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import benchmarks
from benchmarks import _harness
from benchmarks.__main__ import SCRIPTS
from benchmarks._harness import Race, Result, Settings

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
CASES = {"nf4": 17, "qlora_linear": 8, "lora_step": 5, "svd": 6}


def run(module, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_those_of_a_cpu_write_one_dated_record(tmp_path, base_model_folder):
    done = run("benchmarks", "--folder", tmp_path, "--quick", "--rounds", 2)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.iterdir()
    assert time.strptime(file.stem, "%Y%m%dT%H%M%SZ") and file.suffix == ".json"
    records = json.loads(file.read_text())
    assert tuple(CASES) == SCRIPTS
    for record, cases in zip(records, CASES.values(), strict=True):
        assert record["quick"] and record["rounds"] == 2
        assert record["versions"]["torch"] == torch.__version__
        assert record["device"]["type"] == "cpu" and record["device"]["threads"] == 1
        assert len(record["results"]) == cases
        for row in record["results"]:
            check_row(row)
            assert f"| {row['case']} " in done.stdout


@pytest.mark.slow
def test_free_cores_are_raced_beside_busy_processes(tmp_path, base_model_folder):
    file = tmp_path / "record.json"
    done = run("benchmarks.busy_machine", "--quick", "--rounds", 2, "--json", file)
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())["results"]
    assert [row["case"] for row in rows] == ["0 busy processes", "1 busy process"]
    for row in rows:
        check_row(row)
        assert row["agreement"].startswith("same answers; 1 thread")


@pytest.mark.slow
def test_a_step_of_each_size_is_raced_on_a_gpu_and_a_tiny_one_here(tmp_path):
    file = tmp_path / "record.json"
    done = run("benchmarks.qlora_step", "--quick", "--rounds", 2, "--json", file)
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())["results"]
    assert [row["ours"] for row in rows] == ["plain", "numba"]
    for row in rows:
        check_row(row)
        ours, theirs = map(float, re.findall(r"\d+\.\d{4}", row["agreement"]))
        assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.slow
def test_one_layer_is_raced_against_its_16_bits_and_all_ways_compute_the_same(tmp_path):
    file = tmp_path / "record.json"
    done = run("benchmarks.four_bit_layer", "--quick", "--rounds", 2, "--json", file)
    assert done.returncode == 0, done.stderr
    record = json.loads(file.read_text())
    assert record["copy_bytes_a_second"] > 0 and record["peak_operations_a_second"] > 0
    rows = record["results"]
    ways = ["fp32", "bitsandbytes", "lora_edu plain", "lora_edu kernels"]
    assert [row["way"] for row in rows] == 4 * ways  # two numbers of tokens, forward and both ways
    for row in rows:
        assert row["difference"] < 1e-5 and len(row["ratios"]) == 2 and row["seconds"] > 0
        assert (row["ratios"] == [1, 1]) == (row["way"] == "fp32")
        assert 8 * row["weight_bytes"] / (128 * 64) == (
            32 if row["way"] == "fp32" else pytest.approx(5.2, rel=0.1)
        )


def check_row(row):
    assert row["case"] and row["ours"] and row["peer"] and row["agreement"]
    assert row["ours"] != row["peer"]
    if row["ratios"]:
        assert len(row["ratios"]) in (2, 6)
        times = *row["ratios"], row["seconds"], row["peer_seconds"]
        assert all(value > 0 and math.isfinite(value) for value in times)
    else:
        assert "differ" in row["agreement"]


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--device", "tpu"], ["--device", "cuda"]])
def test_what_cannot_run_is_refused(arguments, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["benchmarks/nf4.py", *arguments])
    with pytest.raises(SystemExit, match="2"):
        _harness.main("?", lambda settings: [])
    assert arguments[0] in capsys.readouterr().err


def test_a_record_is_replaced_in_one_step(tmp_path):
    file, was = tmp_path / "new folder" / "record.json", tmp_path / "was.json"
    _harness.write_json(file, ["first"])
    was.hardlink_to(file)  # a write in place would show here
    _harness.write_json(file, ["second"])
    assert json.loads(was.read_text()) == ["first"]
    assert json.loads(file.read_text()) == ["second"]
    assert list(file.parent.iterdir()) == [file]


def test_every_script_is_listed():
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py")}
    assert set(re.findall(r"^\w+$", benchmarks.__doc__, re.MULTILINE)) == scripts


def test_contestants_take_turns():
    order = []
    wait = 1.1 * _harness.MIN_SECONDS  # longer than that, so each is called once a round
    contestants = {name: lambda name=name: (order.append(name), time.sleep(wait)) for name in "ab"}
    race = Race(contestants, Settings(CPU, quick=True, rounds=3))
    assert "".join(order) == "aabb" + "ab" + "ba" + "ab"
    assert {name: len(seconds) for name, seconds in race.seconds.items()} == {"a": 3, "b": 3}


def test_ratios_are_taken_within_a_round():
    race = Race({"ours": lambda: None, "peer": lambda: None}, Settings(CPU, quick=True, rounds=1))
    race.seconds = {"ours": [1.0, 20.0, 3.0], "peer": [2.0, 40.0, 3.0]}  # the second round was a busy one
    result = race.result("case", "ours", "peer", "same")
    assert result.ratios == [0.5, 0.5, 1.0]
    assert result.cells() == ["case", "ours", "peer", "0.5", "0.5 … 1", "", "", "same"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
def test_memory_is_what_a_call_takes_at_its_peak():
    """In a process of its own: what other tests have left in this one's heap would blur it."""
    code = """
import torch
from benchmarks._harness import extra_peak_bytes
W = torch.randn(2**24)
for call in (lambda: None, W.clone, lambda: (W.clone(), W.clone()), lambda: (W.clone().sum(), W.clone().sum())):
    call()  # as Race does: what the first call loads into the process is not what a call takes
    print(extra_peak_bytes(call, torch.device("cpu")) / W.nbytes)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [float(line) for line in done.stdout.split()] == pytest.approx([0, 1, 2, 1], abs=0.05)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_kept():
    """A second tensor gets the pages of the first. It is a little smaller: to align it takes a few bytes."""
    code = """
import resource
import torch
from benchmarks._harness import keep_freed_memory
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
keep_freed_memory()
torch.ones(2**25)
before = faults()
torch.ones(2**25 - 2**10)
print(faults() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100  # of 32767 pages of 4 KiB


def test_the_table_is_aligned():
    rows = [Result("a", "b", "c", "d"), Result("longer", "b", "c", "d", [0.25], 1.0, 4.0, 0.5, 2.0)]
    lines = _harness.table(rows).splitlines()
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[3].split("|")[1:-1]] == [
        *("longer", "b", "c"),
        *("0.25", "0.25 … 0.25", "0.50", "2.00", "d"),
    ]


def test_a_difference_is_relative():
    ones = torch.ones(100)
    assert _harness.relative_difference(ones, ones) == 0
    assert _harness.relative_difference(1.5 * ones, ones) == pytest.approx(0.5)
