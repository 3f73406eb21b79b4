"""What a GPU is asked, and how two settings pretend a smaller one; the GPU is pretended as well."""

import pytest
import torch

from lora_edu.llm import machine
from lora_edu.llm.base_model import resolve_dtype
from lora_edu.llm.budget import available_bytes

GIB = 2**30


@pytest.fixture
def h200(monkeypatch):
    for name, answer in {
        "is_available": True,
        "get_device_capability": (9, 0),
        "mem_get_info": (130 * GIB, 140 * GIB),
        "memory_reserved": 3 * GIB,
        "memory_allocated": 2 * GIB,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)


def test_without_a_gpu_there_is_no_capability(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv(machine.CAPABILITY, "7.5")
    assert machine.compute_capability() is None and not machine.has_bfloat16()


@pytest.mark.usefixtures("h200")
def test_one_setting_makes_the_course_compute_as_on_a_t4(monkeypatch):
    assert machine.compute_capability() == (9, 0) and resolve_dtype(None) == torch.bfloat16
    monkeypatch.setenv(machine.CAPABILITY, "7.5")
    assert machine.compute_capability() == (7, 5) and resolve_dtype(None) == torch.float16
    monkeypatch.setenv(machine.CAPABILITY, "12.0")
    assert machine.compute_capability() == (12, 0) and resolve_dtype(None) == torch.bfloat16


@pytest.mark.usefixtures("h200")
@pytest.mark.parametrize("text", ["7", "7,5", "T4", "7.55", "-7.5"])
def test_a_capability_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv(machine.CAPABILITY, text)
    with pytest.raises(
        ValueError, match=r"LORA_EDU_COMPUTE_CAPABILITY must be a compute capability such as 7\.5"
    ):
        machine.compute_capability()


@pytest.mark.usefixtures("h200")
def test_preflight_sees_the_limit_less_what_is_held_and_used(monkeypatch):
    assert available_bytes("cuda") == (130 + 3 - 2) * GIB
    monkeypatch.setenv(machine.MEMORY, "14.5")
    assert available_bytes("cuda") == (14.5 - 2) * GIB  # all that may be reserved, less what is in use
    monkeypatch.setenv(machine.MEMORY, "2.5")  # PyTorch holds more already
    assert available_bytes("cuda") == 1 * GIB


@pytest.mark.usefixtures("h200")
@pytest.mark.parametrize(("limit", "left"), [("14.5", 11.5), ("3", 0.001), ("2", 0.001)])
def test_another_process_gets_the_limit_less_what_is_held(monkeypatch, limit, left):
    assert machine.left_for_another() == {}
    monkeypatch.setenv(machine.MEMORY, limit)
    [(name, text)] = machine.left_for_another().items()
    assert name == machine.MEMORY and float(text) == left
    monkeypatch.setenv(name, text)  # the other process reads it
    assert machine.gpu_limit() == int(left * GIB)


@pytest.mark.parametrize("text", ["0", "-1", "many", "1e3", "inf"])
def test_a_limit_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv(machine.MEMORY, text)
    with pytest.raises(ValueError, match="LORA_EDU_GPU_GIB must be a number of GiB above 0"):
        machine.gpu_limit()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_allocator_keeps_to_the_limit(monkeypatch):
    monkeypatch.setenv(machine.MEMORY, "1.5")
    try:
        machine.pretend()
        with pytest.raises(torch.cuda.OutOfMemoryError):
            torch.empty(2 * GIB, dtype=torch.uint8, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
