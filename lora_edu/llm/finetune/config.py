"""What the user says: the settings of a fine-tune, checked when they are made and fixed from then on."""

import importlib.util
import os
from dataclasses import dataclass, field
from typing import Any, Literal

from lora_edu.llm.data.conversations import LEARN, OVER_LENGTH, parse_columns
from lora_edu.llm.surgery import ALL_LINEAR
from lora_edu.methods import _validate

AUTO = "auto"
METHODS = ("lora", "qlora", "full")

STEPS = 120
"""How many are taken where neither steps nor epochs are given."""

_PATHS = ("output", "model", "train_file", "dataset", "test_file", "validation_file")
_TEXTS = ("dataset_config", "split", "validation_split", "system")
_LEAST = {
    **dict.fromkeys(
        ("batch_size", "micro_batch_size", "save_every", "eval_batch_size", "r", "max_length"), 1
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
        None,
        "your own data: a .jsonl, .json or .csv of prompt and completion, messages, or sentence and event; or a hub id",
    )
    dataset_config: str | None = _setting(None, "configuration of the hub's data set; default its only one")
    split: str = _setting("train", "split of the hub's data set that is learned from, such as train[:500]")
    columns: list[str] = field(
        default_factory=list,
        metadata={"help": "which column is which, such as prompt=question completion=answer"},
    )
    system: str | None = _setting(None, "system prompt before each row of dataset that has none")
    learn: Literal["last", "all"] = _setting(
        "last", "of messages: the assistant's last turn, or all its turns"
    )
    max_length: int = _setting(512, "most tokens of a training example")
    over_length: Literal["refuse", "cut", "drop"] = _setting(
        "refuse", "rows of more tokens: refuse the run, cut their end away, or drop them; both are counted"
    )
    validation_file: str | None = _setting(
        None, "rows like those of dataset whose loss is measured at each checkpoint; a file or a hub id"
    )
    validation_split: str | None = _setting(None, "or: this split of the hub's data set")
    validation_fraction: float | None = _setting(
        None, "or: this fraction of the training rows, drawn by seed"
    )
    patience: int | None = _setting(
        None, "stop after so many validation losses without a new best; default never"
    )
    test_file: str | None = _setting(None, "JSONL held out for the count; default data/events/test.jsonl")
    target_modules: list[str] = field(
        default_factory=lambda: [ALL_LINEAR],
        metadata={"help": "endings of layer names, or all-linear"},
    )
    r: int = _setting(8, "rank of the adapter")
    lora_alpha: float = _setting(16.0, "the update is scaled by lora_alpha / r")
    lora_dropout: float = _setting(0.0, "dropout on the adapter's input, 0 to below 1")
    use_rslora: bool = _setting(False, "scale by lora_alpha / sqrt(r) instead")
    steps: int | None = _setting(None, "optimizer steps; default 120")
    epochs: float | None = _setting(None, "instead of steps: how often each row is seen")
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
    cuda_graphs: Literal["auto", "on", "off"] = _setting(
        "auto",
        "replay whole forward and backward passes on a CUDA GPU; auto: where it is possible, on: or refuse",
    )
    fused: Literal["on", "off"] = _setting(
        "off",
        "on: lora_edu.accel's fused steps, for qlora by scratch in 16 bits on a CUDA GPU: faster, and they take less "
        "memory than is predicted",
    )
    seed: int = _setting(0, "of the adapter, the order of the sentences and dropout")
    save_every: int = _setting(
        40, "steps between checkpoints, and between validation losses: the best checkpoint is kept then"
    )
    before_events: int = _setting(50, "test events asked of the base before training; 0 skips")
    test_events: int | None = _setting(None, "at most so many test events of each kind; default all")
    eval_batch_size: int = _setting(25, "sentences answered at once")
    allow_download: bool = _setting(False, "fetch a model of more than 1 GB from the hub, if it is not here")
    preflight: bool = _setting(True, "ask first whether memory will do, and adjust or refuse")
    report_to: Literal["none", "tensorboard"] = _setting(
        "none", "tensorboard: losses go to checkpoints/runs in the output folder as well"
    )
    resume: bool = _setting(False, "go on from the newest complete checkpoint in the output folder")
    overwrite: bool = _setting(False, "discard the run that the output folder holds")

    def __post_init__(self):
        self._settle_types()
        _one_of("method", self.method, METHODS)
        _one_of("backend", self.backend, ("peft", "scratch"))
        _one_of("dtype", self.dtype, (AUTO, "float32", "bfloat16", "float16"))
        _one_of("learn", self.learn, LEARN)
        _one_of("over_length", self.over_length, OVER_LENGTH)
        _one_of("report_to", self.report_to, ("none", "tensorboard"))
        self._settle_length()
        self._settle_data()
        _one_of("optimizer", self.optimizer, (AUTO, "adamw", "paged_adamw_8bit"))
        _one_of("cuda_graphs", self.cuda_graphs, (AUTO, "on", "off"))
        _one_of("fused", self.fused, ("on", "off"))
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

    def _settle_length(self) -> None:
        """Steps or epochs; without either, the default number of steps."""
        if self.steps is not None and self.epochs is not None:
            raise ValueError(
                f"steps and epochs must not both be set: each says how long to train, got {self.steps} and "
                f"{self.epochs}"
            )
        if self.epochs is not None and not self.epochs > 0:
            raise ValueError(f"epochs must be above 0, got {self.epochs}")
        if self.steps is None and self.epochs is None:
            self._set("steps", STEPS)

    def _settle_data(self) -> None:
        """What belongs together, or excludes each other, about the data."""
        parse_columns(self.columns)
        for name in ("dataset_config", "validation_split", "system"):
            if getattr(self, name) is not None and self.dataset is None:
                raise ValueError(f"{name} needs a dataset, got {getattr(self, name)!r} without one")
        sources = ("validation_file", "validation_split", "validation_fraction")
        given = [name for name in sources if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} must not both be set: each names the validation data")
        if self.validation_fraction is not None and not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must be between 0 and 1, got {self.validation_fraction}")
        if self.patience is not None and not given:
            raise ValueError(f"patience needs validation data ({', '.join(sources)}), got {self.patience}")
        if self.report_to == "tensorboard" and not _has_tensorboard():
            raise ValueError(
                "report_to must be none where the package tensorboard is missing: run `pip install tensorboard`"
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
        for name in ("test_events", "steps", "patience"):
            if getattr(self, name) is not None:
                limits[name] = (1, None)
        for name in _TEXTS:
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and value.strip()):
                raise ValueError(f"{name} must be text, got {value!r}")
        for name, (low, high) in limits.items():
            _validate.integer(name, getattr(self, name), low, high)
            self._set(name, int(getattr(self, name)))
        for name in ("lora_alpha", "lora_dropout", "learning_rate", "epochs", "validation_fraction"):
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
        columns = [self.columns] if isinstance(self.columns, str) else self.columns
        if not isinstance(columns, list | tuple) or not all(isinstance(c, str) for c in columns):
            raise TypeError(f"columns must be a list of key=column, got {columns!r}")
        self._set("columns", list(columns))
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


def _has_tensorboard() -> bool:
    return any(importlib.util.find_spec(name) for name in ("tensorboard", "tensorboardX"))
