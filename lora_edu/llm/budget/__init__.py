"""What a fine-tune costs in numbers and in bytes, and whether it fits, from a configuration alone."""

from lora_edu.llm.base_model.catalog import SHAPES
from lora_edu.llm.budget.count import (
    KINDS,
    count_parameters,
    lora_parameter_count,
    parameters_by_kind,
    resolve_config,
)
from lora_edu.llm.budget.ledger import ARCHITECTURES, Ledger, memory_ledger
from lora_edu.llm.budget.moments import TERMS, TOKENS_AT_ONCE
from lora_edu.llm.budget.preflight import available_bytes, preflight

__all__ = [
    "ARCHITECTURES",
    "KINDS",
    "SHAPES",
    "TERMS",
    "TOKENS_AT_ONCE",
    "Ledger",
    "available_bytes",
    "count_parameters",
    "lora_parameter_count",
    "memory_ledger",
    "parameters_by_kind",
    "preflight",
    "resolve_config",
]
