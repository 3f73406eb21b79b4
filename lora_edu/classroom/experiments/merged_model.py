"""Notebook 10 asks for it here."""

from lora_edu.llm.export import save_merged

__all__ = ["save_merged"]
