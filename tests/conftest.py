"""Fixtures that every room of the tests shares."""

import os
from pathlib import Path

import pytest

# Before any import of huggingface_hub, which reads it once: no test may depend on a model hub.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def base_model_folder() -> Path:
    """The converted base model, from the user's cache (fetched now if the set-up step did not)."""
    from lora_edu.llm.base_model import fetch_base_model

    return fetch_base_model()
