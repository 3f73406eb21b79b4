"""A run's folder: one place, one owner at a time, known by what went into it, and trusted only where it is whole."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from lora_edu.llm.finetune import FinetuneConfig, finetune

PAIR = {"prompt": "What is a rank?", "completion": "The number of independent columns."}


@pytest.fixture
def settings(tiny_folder, tmp_path):
    data = tmp_path / "mine.jsonl"
    data.write_text(json.dumps(PAIR) + "\n")
    return {
        "model": str(tiny_folder),
        "dataset": str(data),
        "output": str(tmp_path / "run"),
        "method": "lora",
        "steps": 4,
        "save_every": 2,
        "before_events": 0,
        "preflight": False,
    }


def run(settings, **changes):
    return finetune(FinetuneConfig(**settings | changes))


def start(settings, **changes):
    flags = [part for key, value in (settings | changes).items() for part in (f"--{key}", str(value))]
    return subprocess.Popen(
        [sys.executable, "-m", "lora_edu.llm.finetune", *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def stopped(settings, **changes):
    """A run that was killed after its first checkpoint."""
    process = start(settings, steps=2000, **changes)
    wait_for(Path(settings["output"]) / "checkpoints" / "checkpoint-2" / "complete", process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def test_a_tilde_is_one_folder_for_all_that_a_run_writes(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    done = run(settings, output="~/runs/mine")
    assert done.folder == tmp_path / "home" / "runs" / "mine"
    assert sorted(path.name for path in (done.folder / "checkpoints").iterdir()) == [
        "checkpoint-2",
        "checkpoint-4",
    ]
    assert (done.folder / "run.json").is_file()
    assert not (tmp_path / "~").exists()
    shutil.move(tmp_path / "mine.jsonl", tmp_path / "home")
    again = run(settings, output="~/runs/again", dataset="~/mine.jsonl")
    assert again.record["losses"] == done.record["losses"]


def test_a_finished_run_has_nothing_left_to_resume(settings, capsys):
    first = run(settings, steps=3)
    written = {p: p.stat().st_mtime_ns for p in first.folder.rglob("*") if p.name != ".lora_edu-lock"}
    again = run(settings, steps=3, resume=True)
    assert again.record == json.loads((first.folder / "run.json").read_text())
    assert "has finished, 3 steps: there is nothing to do" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in first.folder.rglob("*") if p.name != ".lora_edu-lock"} == written
    trained = {n: p for n, p in first.model.named_parameters() if "lora" in n}
    assert all(p.equal(trained[n]) for n, p in again.model.named_parameters() if "lora" in n)


def test_a_run_that_trained_and_was_killed_before_its_record_trains_no_step_more(settings):
    first = run(settings)
    (first.folder / "run.json").unlink()
    again = run(settings, resume=True)
    assert again.record["losses"] == first.record["losses"]
    assert again.record["resumed_from_step"] == 4


@pytest.mark.parametrize("way", [{"overwrite": True}, {"resume": True}, {}], ids=str)
def test_a_second_run_is_refused_while_the_first_lives(settings, way):
    first = start(settings, steps=2000)
    folder = Path(settings["output"])
    try:
        wait_for(folder / "checkpoints" / "checkpoint-2" / "complete", first)
        held = (folder / "config.json").read_bytes()
        with pytest.raises(ValueError, match=r"no run is alive|without a run"):
            run(settings, steps=2000, **way)
        assert (folder / "config.json").read_bytes() == held
        assert first.poll() is None, "the first must not have noticed"
    finally:
        first.kill()
        first.communicate(timeout=60)
    assert len(run(settings, overwrite=True).record["losses"]) == 4, "the lock died with its process"


def test_other_data_under_the_same_name_is_another_run(settings):
    stopped(settings)
    Path(settings["dataset"]).write_text(json.dumps(PAIR | {"completion": "Altogether."}) + "\n")
    with pytest.raises(ValueError, match="the training data has changed"):
        run(settings, steps=2000, resume=True)


def test_the_same_data_under_another_name_is_the_same_run(settings, tmp_path):
    first = run(settings)
    (first.folder / "run.json").unlink()
    moved = shutil.copy(settings["dataset"], tmp_path / "moved.jsonl")
    assert run(settings, dataset=str(moved), resume=True).record["resumed_from_step"] == 4


def test_another_base_under_the_same_name_is_another_run(settings, tiny_folder, tmp_path):
    settings["model"] = str(shutil.copytree(tiny_folder, tmp_path / "model"))
    first = run(settings)
    file = tmp_path / "model" / "model.safetensors"
    save_file(
        {name: tensor * 1.01 for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"}
    )
    for finished in (True, False):
        with pytest.raises(ValueError, match="the base model's weights have changed"):
            run(settings, resume=True)
        if finished:
            (first.folder / "run.json").unlink()


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_of_a_damaged_checkpoint_it_says_so_and_takes_the_one_before(settings, capsys, damage):
    first = run(settings)
    (first.folder / "run.json").unlink()
    file = first.folder / "checkpoints" / "checkpoint-4" / "optimizer.pt"
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:100] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    again = run(settings, resume=True)
    assert "checkpoint-4 is damaged (optimizer.pt" in capsys.readouterr().out
    assert again.record["resumed_from_step"] == 2
    assert again.record["losses"] == first.record["losses"]


def test_a_damaged_record_is_no_record(settings):
    first = run(settings)
    (first.folder / "run.json").write_text('{"schema": 1, "losses": [')
    assert run(settings, resume=True).record["losses"] == first.record["losses"]
    assert json.loads((first.folder / "run.json").read_text())["schema"] == 1


def test_the_output_may_be_a_path_and_must_be_a_folder(settings, tmp_path):
    assert run(settings, output=tmp_path / "as_path").folder == tmp_path / "as_path"
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"output must be a folder, got .*file, which is a file"):
        run(settings, output=str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"output must be a path or a name, got ''"):
        FinetuneConfig(output="")
