"""What the user says: the settings of a fine-tune, checked when they are made and fixed from then on."""

import os
from dataclasses import dataclass, field
from typing import Any, Literal

from lora_edu.llm.surgery import ALL_LINEAR
from lora_edu.methods import _validate

AUTO = "auto"
METHODS = ("lora", "qlora", "full")

_PATHS = ("output", "model", "train_file", "dataset", "test_file")
_LEAST = {
    **dict.fromkeys(
        ("steps", "batch_size", "micro_batch_size", "save_every", "eval_batch_size", "r", "max_length"), 1
    ),
    **dict.fromkeys(("warmup_steps", "before_events"), 0),
}


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class FinetuneConfig:
    """The settings of a run; each field is a flag of the command, with dashes or underscores.

    Raises
    ------
    ValueError, TypeError
        A setting is not what its help allows, or two exclude each other. The message names it.
    """

    output: str = field(metadata={"help": "folder that receives run.json, the adapter and the checkpoints"})
    model: str = _setting(
        "smollm2-135m",
        "smollm2-135m, a folder, a hub id, or auto: the largest of the course's models that fits this machine",
    )
    method: Literal["lora", "qlora", "full"] = _setting("qlora", "what is trained over what")
    backend: Literal["peft", "scratch"] = _setting("peft", "peft + bitsandbytes, or lora_edu's own layers")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _setting("auto", "of weights and computation")
    train_file: str | None = _setting(None, "JSONL of sentence and event; default data/events/train.jsonl")
    dataset: str | None = _setting(
        None, "your own data: JSONL of prompt and completion, or messages, or sentence and event; or a hub id"
    )
    max_length: int = _setting(512, "most tokens of a training example")
    test_file: str | None = _setting(None, "JSONL held out for the count; default data/events/test.jsonl")
    target_modules: list[str] = field(
        default_factory=lambda: [ALL_LINEAR],
        metadata={"help": "endings of layer names, or all-linear"},
    )
    r: int = _setting(8, "rank of the adapter")
    lora_alpha: float = _setting(16.0, "the update is scaled by lora_alpha / r")
    lora_dropout: float = _setting(0.0, "dropout on the adapter's input, 0 to below 1")
    use_rslora: bool = _setting(False, "scale by lora_alpha / sqrt(r) instead")
    steps: int = _setting(120, "optimizer steps")
    learning_rate: float | None = _setting(
        None,
        "peak; default 2e-5 for full; for adapters 1e-3, or 2e-4 over a base of a billion parameters or more",
    )
    warmup_steps: int = _setting(5, "steps over which the learning rate rises")
    batch_size: int = _setting(2, "sentences an optimizer step, over all processes")
    micro_batch_size: int = _setting(2, "sentences at once in memory")
    optimizer: Literal["auto", "adamw", "paged_adamw_8bit"] = _setting(
        "auto", "auto: paged_adamw_8bit for qlora on a GPU, else adamw"
    )
    gradient_checkpointing: bool = _setting(
        False, "keep each layer's input alone and compute the rest again: less memory, more time"
    )
    seed: int = _setting(0, "of the adapter, the order of the sentences and dropout")
    save_every: int = _setting(40, "steps between checkpoints")
    before_events: int = _setting(50, "test events asked of the base before training; 0 skips")
    test_events: int | None = _setting(None, "at most so many test events of each kind; default all")
    eval_batch_size: int = _setting(25, "sentences answered at once")
    allow_download: bool = _setting(False, "fetch a model of more than 1 GB from the hub, if it is not here")
    preflight: bool = _setting(True, "ask first whether memory will do, and adjust or refuse")
    resume: bool = _setting(False, "go on from the newest complete checkpoint in the output folder")
    overwrite: bool = _setting(False, "discard the run that the output folder holds")

    def __post_init__(self):
        self._settle_types()
        _one_of("method", self.method, METHODS)
        _one_of("backend", self.backend, ("peft", "scratch"))
        _one_of("dtype", self.dtype, (AUTO, "float32", "bfloat16", "float16"))
        _one_of("optimizer", self.optimizer, (AUTO, "adamw", "paged_adamw_8bit"))
        if self.method == "full" and self.dtype == "float16":
            raise ValueError(
                "dtype must be auto, float32 or bfloat16 for full, got float16: Adam needs its range"
            )
        if self.dataset is not None and self.train_file is not None:
            raise ValueError("dataset and train_file must not both be set: each names the training data")
        _validate.number("lora_dropout", self.lora_dropout, 0, 1)
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size must be a multiple of micro_batch_size, got {self.batch_size} and {self.micro_batch_size}"
            )
        if self.resume and self.overwrite:
            raise ValueError(
                "resume and overwrite must not both be set: one keeps the run, the other discards it"
            )

    def _settle_types(self) -> None:
        """Paths as text, whole numbers as int, fractions as float: what JSON can hold, whatever came."""
        for name in _PATHS:
            value = getattr(self, name)
            if value is not None:
                if not isinstance(value, str | os.PathLike) or not os.fspath(value):
                    raise ValueError(f"{name} must be a path or a name, got {value!r}")
                self._set(name, os.fspath(value))
        limits = {name: (low, None) for name, low in _LEAST.items()} | {"seed": (0, 2**32 - 1)}
        if self.test_events is not None:
            limits["test_events"] = (1, None)
        for name, (low, high) in limits.items():
            _validate.integer(name, getattr(self, name), low, high)
            self._set(name, int(getattr(self, name)))
        for name in ("lora_alpha", "lora_dropout", "learning_rate"):
            if getattr(self, name) is not None:
                _validate.number(name, getattr(self, name))
                self._set(name, float(getattr(self, name)))
        for name in (
            "use_rslora",
            "gradient_checkpointing",
            "allow_download",
            "preflight",
            "resume",
            "overwrite",
        ):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        names = self.target_modules
        if isinstance(names, str):
            names = [names]
        if not isinstance(names, list | tuple) or not names or not all(isinstance(n, str) for n in names):
            raise TypeError(f"target_modules must be a list of names or [{ALL_LINEAR!r}], got {names!r}")
        self._set("target_modules", list(names))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # frozen from the end of __post_init__ on


def _one_of(name: str, value: Any, allowed: Any) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {list(allowed)}, got {value!r}")
