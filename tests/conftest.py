"""Fixtures that every room of the tests shares."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Before any import of huggingface_hub, which reads it once: no test may depend on a model hub.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def base_model_folder() -> Path:
    """The converted base model, from the user's cache (fetched now if the set-up step did not)."""
    from lora_edu.llm.base_model import fetch_base_model

    return fetch_base_model()


@pytest.fixture
def freed_by():
    """A function that calls what it gets in a process whose heap is full of holes; the bytes that are given back.

    The holes are 240 MB of small blocks. One in sixteen is still in use, so that glibc gives back nothing by itself.
    """
    if sys.platform != "linux":
        pytest.skip("other systems' heaps keep no holes of their own")
    import psutil
    import torch

    def measure(call: Callable[[], object]) -> int:
        blocks = [torch.ones(10_000) for _ in range(6_000)]  # 40 kB each
        used = blocks[::16]
        blocks.clear()
        before = psutil.Process().memory_info().rss
        call()
        freed = before - psutil.Process().memory_info().rss
        assert all(block[-1] == 1 for block in used)
        return freed

    return measure
