"""What is written appears whole or not at all, and a full disk is explained; Linux's /dev/full is a full disk."""

import errno
import json
import os
import shutil

import pytest
import torch
from safetensors import SafetensorError

from lora_edu.llm.files import explain_full_disk, save_tensors, whole, whole_folder, write_json, write_text


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_takes_its_name_when_it_is_complete(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with whole(target) as [partial]:
        partial.write_text("half")
        assert not target.exists()
        partial.write_text("whole")
    assert target.read_text() == "whole"
    assert entries(target.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_files_are_replaced_together_or_not_at_all(tmp_path, error):
    pair = tmp_path / "weights", tmp_path / "config"
    for path in pair:
        path.write_text("old")
    with pytest.raises(error), whole(*pair) as [first, _]:
        first.write_text("new")
        raise error
    assert [path.read_text() for path in pair] == ["old", "old"]
    assert entries(tmp_path) == ["config", "weights"]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_is_strict(tmp_path, number):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"a": number})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert entries(tmp_path) == ["a.json"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux alone has a full device")  # noqa: PTH110
def test_a_full_disk_is_named_with_what_to_do(tmp_path):
    target = write_text(tmp_path / "a.txt", "old")
    message = f"the disk of {tmp_path} is full: a.txt was not written"
    with pytest.raises(OSError, match=message) as full, whole(target) as [partial]:
        partial.symlink_to("/dev/full")
        partial.write_text("x" * 100_000)
    assert full.value.errno == errno.ENOSPC
    assert target.read_text() == "old"
    assert entries(tmp_path) == ["a.txt"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux alone has a full device")  # noqa: PTH110
def test_of_torch_which_does_not_name_the_disk_the_free_space_tells(tmp_path, monkeypatch):
    (tmp_path / "optimizer.pt").symlink_to("/dev/full")
    tensors = {"a": torch.zeros(100_000)}
    with pytest.raises(RuntimeError), explain_full_disk(tmp_path, "a checkpoint"):
        torch.save(tensors, tmp_path / "optimizer.pt")
    usage = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with (
        pytest.raises(OSError, match="a checkpoint was not written"),
        explain_full_disk(tmp_path, "a checkpoint"),
    ):
        torch.save(tensors, tmp_path / "optimizer.pt")


def test_any_other_error_is_left_as_it_is(tmp_path):
    with pytest.raises(SafetensorError, match="header"), explain_full_disk(tmp_path, "a file"):
        raise SafetensorError("header too large")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_folder_appears_whole_or_not_at_all(tmp_path, error):
    target = tmp_path / "new" / "model"
    with pytest.raises(error), whole_folder(target) as partial:
        (partial / "weights").write_text("half")
        raise error
    assert entries(target.parent) == []
    target.mkdir()  # an empty folder is as good as none
    with whole_folder(target) as partial:
        (partial / "weights").write_text("whole")
        assert entries(target) == []
    assert entries(target.parent) == ["model"] and entries(target) == ["weights"]


def test_a_folder_that_holds_something_is_kept(tmp_path):
    (tmp_path / "mine").write_text("mine")
    for target in (tmp_path, tmp_path / "mine"):
        with pytest.raises(FileExistsError, match="must be new or empty"), whole_folder(target):
            pass
    assert entries(tmp_path) == ["mine"]


def test_a_link_and_the_folder_one_is_in_are_written_to(tmp_path, monkeypatch):
    (disk := tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(disk, target_is_directory=True)
    monkeypatch.chdir(disk)
    for target in (tmp_path / "link", "."):
        with whole_folder(target) as partial:
            (partial / "weights").write_text("whole")
        assert entries(disk) == ["weights"] and entries(tmp_path) == ["disk", "link"]
        (disk / "weights").unlink()
        monkeypatch.chdir(disk)


def test_others_may_read_tensors_as_they_may_other_files(tmp_path):
    save_tensors({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    (tmp_path / "b").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_folder_that_cannot_fit_is_not_begun(tmp_path):
    with (
        pytest.raises(OSError, match=r"model takes 1000000.0 GB") as caught,
        whole_folder(tmp_path / "model", 10**15),
    ):
        pass
    assert caught.value.errno == errno.ENOSPC and entries(tmp_path) == []
