"""Fine-tune a language model, on event sentences or on your own data: as a function, and as a command.

    python -m lora_edu.llm.finetune --output build/runs/qlora
    python -m lora_edu.llm.finetune --output build/runs/mine --model auto --dataset mine.jsonl

Before a weight is loaded, the memory that the run will take is compared with what is there (`lora_edu.llm.budget`).
The loop is transformers' ``Trainer`` over accelerate; what is ours is what goes into it and what is recorded.
A run's folder holds:

``run.json``
    The record, written last. Its keys:

    ``schema`` (1), ``command``, ``config`` (every setting), ``seed``, ``revision`` (git), ``versions``, ``device``;
    ``base``: ``name``, ``parameters``, ``weights_sha256_before`` and ``weights_sha256_after``, and
    ``adapter_off_difference``, the largest change of a logit with the adapter switched off (0.0: the base is whole);
    the last two are None where the base was sharded over GPUs;
    ``predicted_memory_bytes``: by term, before anything was loaded; None without a preflight;
    ``trainable_parameters``; ``losses`` (nats a label token, one an optimizer step); ``resumed_from_step``;
    ``exact_match_before`` and ``exact_match_before_few_shot`` (the base on the first seen-pattern events, without
    and with worked examples in its prompt), ``exact_match`` (seen patterns) and ``exact_match_unseen``: fractions
    0 to 1, None where nothing was asked (with ``dataset`` only a ``test_file`` is); ``n``: how many events stand
    behind each;
    ``seconds``: ``before``, ``train`` (since the last resume), ``step`` (an optimizer step's median; None for one
    step), ``answers``, ``answers_unseen``;
    ``processes``: how many shared each step's sentences;
    ``peak_memory_bytes`` (resident, this process), ``peak_gpu_memory_bytes`` (this process) and
    ``training_peak_gpu_memory_bytes`` (each process's while it trained); both None on a CPU;
    ``answers``: one entry a test event, with ``sentence``, ``event``, ``answer``, ``correct``, ``unseen_pattern``
    and, where the base was asked, ``before``.
``adapter/``
    The adapter in PEFT's format (``model/``, the whole model, after full fine-tuning).
``checkpoints/``
    The last two: adapter, optimizer and Trainer state. ``--resume`` goes on from the newest complete one.
``config.json``, ``before.json``
    The settings, by which a folder is known to hold a run, and what the base answered.

What lies there under these names and was not written by a run is left alone: such a folder is refused.
"""

import itertools
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
import transformers
from accelerate import PartialState
from accelerate.utils import gather_object
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import DataCollatorForSeq2Seq, HfArgumentParser, PrinterCallback, Trainer, TrainerCallback

from lora_edu.llm import surgery
from lora_edu.llm.base_model import DEFAULT_NAME, load_base_model, load_tokenizer, return_freed_memory
from lora_edu.llm.budget import count_parameters
from lora_edu.llm.checkpoint import load_adapter, save_adapter, write_adapter_files
from lora_edu.llm.data import load_events
from lora_edu.llm.data.conversations import (
    Conversation,
    encode_conversations,
    event_conversation,
    load_conversations,
)
from lora_edu.llm.data.extraction import evaluate, parse_event, progress_bar
from lora_edu.llm.provenance import provenance
from lora_edu.llm.sharding import gather_trainable, is_sharded, require_shardable
from lora_edu.llm.tiers import AUTO, choose_model, choose_optimizer, compute_dtype, fit
from lora_edu.methods import _validate

LEARNING_RATE = {"lora": 1e-3, "qlora": 1e-3, "full": 2e-5}
FEW_SHOT_EXAMPLES = 3
_COMPLETE = "complete"
_IDENTITY_FILE = "config.json"
_NOT_IDENTITY = ("output", "resume", "overwrite", "preflight")
# No other program's config.json has all of these.
_OUR_KEYS = {"method", "backend", "micro_batch_size", "before_events"}


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class FinetuneConfig:
    """The settings of a run; each field is a flag of the command, with dashes or underscores."""

    output: str = field(metadata={"help": "folder that receives run.json, the adapter and the checkpoints"})
    model: str = _setting(
        "smollm2-135m",
        "smollm2-135m, a folder, a hub id, or auto: the largest of the course's models that fits",
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
        default_factory=lambda: [surgery.ALL_LINEAR],
        metadata={"help": "endings of layer names, or all-linear"},
    )
    r: int = _setting(8, "rank of the adapter")
    lora_alpha: float = _setting(16.0, "the update is scaled by lora_alpha / r")
    lora_dropout: float = _setting(0.0, "dropout on the adapter's input, 0 to below 1")
    use_rslora: bool = _setting(False, "scale by lora_alpha / sqrt(r) instead")
    steps: int = _setting(120, "optimizer steps")
    learning_rate: float | None = _setting(None, "peak; default 1e-3 for adapters, 2e-5 for full")
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
    preflight: bool = _setting(True, "ask first whether memory will do, and adjust or refuse")
    resume: bool = _setting(False, "go on from the newest complete checkpoint in the output folder")
    overwrite: bool = _setting(False, "discard the run that the output folder holds")

    def __post_init__(self):
        _one_of("method", self.method, LEARNING_RATE)
        _one_of("backend", self.backend, ("peft", "scratch"))
        _one_of("dtype", self.dtype, ("auto", "float32", "bfloat16", "float16"))
        _one_of("optimizer", self.optimizer, ("auto", "adamw", "paged_adamw_8bit"))
        if self.method == "full" and self.dtype == "float16":
            raise ValueError(
                "dtype must be auto, float32 or bfloat16 for full, got float16: Adam needs its range"
            )
        if self.optimizer == "paged_adamw_8bit" and not torch.cuda.is_available():
            raise ValueError("optimizer must be auto or adamw without a CUDA GPU, got 'paged_adamw_8bit'")
        for name in (
            "steps",
            "batch_size",
            "micro_batch_size",
            "save_every",
            "eval_batch_size",
            "r",
            "max_length",
        ):
            _at_least(name, getattr(self, name), 1)
        for name in ("warmup_steps", "before_events"):
            _at_least(name, getattr(self, name), 0)
        if self.dataset is not None and self.train_file is not None:
            raise ValueError("dataset and train_file must not both be set: each names the training data")
        if self.test_events is not None:
            _at_least("test_events", self.test_events, 1)
        _validate.number("lora_alpha", self.lora_alpha)
        _validate.number("lora_dropout", self.lora_dropout, 0, 1)
        _validate.integer("seed", self.seed, 0, 2**32 - 1)  # what numpy's generator takes
        if self.learning_rate is None:
            self.learning_rate = LEARNING_RATE[self.method]
        _validate.number("learning_rate", self.learning_rate)
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size must be a multiple of micro_batch_size, got {self.batch_size} and {self.micro_batch_size}"
            )
        if self.resume and self.overwrite:
            raise ValueError(
                "resume and overwrite must not both be set: one keeps the run, the other discards it"
            )

    def targets(self) -> list[str] | str:
        """Return ``target_modules`` as surgery and peft want it."""
        return surgery.ALL_LINEAR if self.target_modules == [surgery.ALL_LINEAR] else self.target_modules

    def identity(self) -> dict[str, Any]:
        """Return the settings that make two runs the same run, and so may be resumed."""
        return {key: value for key, value in asdict(self).items() if key not in _NOT_IDENTITY}


@dataclass
class Run:
    """A finished run: its folder, its record (run.json), and the model as it was trained, adapter active."""

    folder: Path
    record: dict[str, Any]
    model: Any
    tokenizer: Any


class _Backend(Protocol):
    """What a way of training must be able to do."""

    def load(self, config: FinetuneConfig) -> tuple[Any, Any]: ...
    def attach(self, model: Any, config: FinetuneConfig) -> Any: ...
    def save(self, model: Any, folder: Path) -> None: ...
    def restore(self, model: Any, folder: Path) -> None: ...
    def disabled(self, model: Any) -> AbstractContextManager[None]: ...

    weights_folder: str


class _Peft:
    """peft over transformers, and bitsandbytes for the 4-bit base: what professionals run."""

    weights_folder = "adapter"

    def load(self, config: FinetuneConfig) -> tuple[Any, Any]:
        return load_base_model(
            config.model, compute_dtype(config), "nf4" if config.method == "qlora" else None
        )

    def attach(self, model: Any, config: FinetuneConfig) -> Any:
        if config.method == "qlora":
            _widen_residual_stream(model)
        lora = LoraConfig(
            r=config.r,
            lora_alpha=cast(int, config.lora_alpha),
            lora_dropout=config.lora_dropout,
            use_rslora=config.use_rslora,
            target_modules=config.targets(),
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, lora)

    def save(self, model: PeftModel, folder: Path) -> None:
        self.write(model, get_peft_model_state_dict(model), folder)

    def write(self, model: PeftModel, tensors: dict[str, Tensor], folder: Path) -> None:
        """Write the adapter's configuration, and these tensors as its weights."""
        # Not model.save_pretrained, which adds a model card to every checkpoint.
        adapter_config = model.peft_config["default"].to_dict() | {"inference_mode": True}
        jsonable = {k: sorted(v) if isinstance(v, set) else v for k, v in adapter_config.items()}
        write_adapter_files(folder, jsonable, {k: v.detach().cpu().contiguous() for k, v in tensors.items()})

    def restore(self, model: PeftModel, folder: Path) -> None:
        model.load_adapter(str(folder), "default", is_trainable=True)

    def disabled(self, model: PeftModel) -> AbstractContextManager[None]:
        return model.disable_adapter()


class _Scratch:
    """lora_edu's own layers, the ones that the notebooks build."""

    weights_folder = "adapter"

    def load(self, config: FinetuneConfig) -> tuple[Any, Any]:
        return load_base_model(config.model, compute_dtype(config))

    def attach(self, model: Any, config: FinetuneConfig) -> Any:
        lora = {name: getattr(config, name) for name in ("r", "lora_alpha", "lora_dropout", "use_rslora")}
        if config.method == "lora":
            return surgery.add_lora(model, config.targets(), **lora)
        _widen_residual_stream(model)
        return surgery.add_qlora(model, config.targets(), compute_dtype=compute_dtype(config), **lora)

    def save(self, model: Any, folder: Path) -> None:
        save_adapter(model, folder)

    def restore(self, model: Any, folder: Path) -> None:
        load_adapter(model, folder)

    def disabled(self, model: Any) -> AbstractContextManager[None]:
        return surgery.disable_adapter(model)


class _Full:
    """Every weight trains: the yardstick, not an adapter."""

    weights_folder = "model"

    def load(self, config: FinetuneConfig) -> tuple[Any, Any]:
        return load_base_model(config.model, compute_dtype(config))

    def attach(self, model: Any, config: FinetuneConfig) -> Any:
        return model.requires_grad_(True)

    def save(self, model: Any, folder: Path) -> None:
        model.save_pretrained(folder)

    def restore(self, model: Any, folder: Path) -> None:
        # lm_head shares the embedding's weight and is therefore not in the file.
        model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)

    def disabled(self, model: Any) -> AbstractContextManager[None]:
        return nullcontext()


class _Trainer(Trainer):
    """transformers' Trainer whose checkpoints hold what trains, and are trusted only when complete."""

    def __init__(self, backend: _Backend, **arguments: Any):
        super().__init__(**arguments)
        self._backend = backend
        self.progress, self.gpu_peak = _Progress(), _GpuPeak()
        self.add_callback(self.gpu_peak)
        if PartialState().is_main_process:
            self.add_callback(self.progress)

    def autocast_smart_context_manager(
        self, cache_enabled: bool | None = True
    ) -> AbstractContextManager[Any]:
        # accelerate puts autocast around a model's forward, but not around a sharded one's.
        return (
            self.accelerator.autocast()
            if is_sharded()
            else super().autocast_smart_context_manager(cache_enabled)
        )

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.args.should_save:  # every process comes here, and one writes
            return
        self._backend.save(
            self.accelerator.unwrap_model(self.model), Path(cast(str, output_dir or self.args.output_dir))
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._backend.restore(
            self.accelerator.unwrap_model(model or self.model), Path(resume_from_checkpoint)
        )

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            # The last thing written. A kill before this line leaves a checkpoint that resume does not look at.
            (
                Path(cast(str, self.args.output_dir)) / f"checkpoint-{self.state.global_step}" / _COMPLETE
            ).touch()


class _Progress(TrainerCallback):
    """One line: step, loss, time gone, time left. Remembers when each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = progress_bar(state.max_steps, "training", initial=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)
        self.ends.append(time.perf_counter())

    def step_seconds(self) -> float | None:
        """Return the median time of an optimizer step; None if there was but one."""
        steps = [later - end for end, later in itertools.pairwise(self.ends)]
        return statistics.median(steps) if steps else None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.bar.set_postfix(loss=f"{logs['loss']:.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()


class _GpuPeak(TrainerCallback):
    """The most memory that was allocated on this process's GPU, in bytes; 0 without one."""

    before_training = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.before_training = self.now()  # sharding, which is over by now, holds more than a step does
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def now(self) -> int:
        """Return the peak since training began."""
        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def finetune(config: FinetuneConfig) -> Run:
    """Train, count what the model gets right before and after, and record it.

    Parameters
    ----------
    config
        The settings.

    Returns
    -------
    The run; its ``record`` is what run.json holds.

    Raises
    ------
    ValueError
        If a setting or a data file is wrong, or the output folder holds another run or files of others. What the
        folder holds is then as it was.
    MemoryError
        If the run would not fit this machine; the message says what to change.
    """
    process = PartialState(cpu=not torch.cuda.is_available())
    _require_shares(config, process.num_processes)
    if is_sharded():
        require_shardable(config, compute_dtype(config))
    conversations, worked, test = _data(config)
    seen = [line for line in test if not line.get("unseen_pattern")][: config.test_events]
    unseen = [line for line in test if line.get("unseen_pattern")][: config.test_events]
    folder = Path(config.output)
    if config.model == AUTO:
        config = _with_chosen_model(config, conversations, process.num_processes)
    examples = encode_conversations(load_tokenizer(config.model), conversations, config.max_length)
    asked, ledger = config, None
    if config.preflight:
        config, ledger = fit(config, _longest(examples), process.num_processes)
    if process.is_main_process:
        _check_output(folder, asked)  # before loading, which takes long; claimed after it, which may fail

    backend = backend_of(config)
    model, tokenizer = backend.load(config)
    parameters = count_parameters(model)
    if config.method != "full":
        surgery.choose_layers(model, config.targets(), config.r)  # the same refusals whatever the backend
    transformers.set_seed(config.seed)  # before the adapter draws its A
    model = backend.attach(model, config)
    return_freed_memory()  # of weights that were quantized
    model.config.use_cache = False
    hash_before, logits_before = _base_fingerprint(backend, model, tokenizer)

    ask: Callable[..., dict[str, Any]] = lambda lines, title, examples=(): evaluate(  # noqa: E731
        model, tokenizer, lines, title, examples=examples, batch_size=config.eval_batch_size
    )
    before = {}
    process.wait_for_everyone()  # until each has its model: an old run is not discarded for one that cannot start
    if process.is_main_process:
        _claim(folder, asked)
        before = _before(folder, ask, seen[: config.before_events], worked)
    process.wait_for_everyone()

    trainer = make_trainer(config, backend, model, tokenizer, examples, folder, process.num_processes)
    checkpoint = _newest_checkpoint(folder)
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    train_seconds = time.perf_counter() - start
    training_peaks = gather_object([trainer.gpu_peak.now()])
    # Asked without autocast afterwards, as it was before.
    model = trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    if is_sharded():
        model = _whole_again(model, config, folder, process)
    run = Run(folder, {}, model, tokenizer)
    if process.is_main_process:
        backend.save(model, folder / backend.weights_folder)
        if config.method == "full":
            tokenizer.save_pretrained(
                folder / backend.weights_folder
            )  # a whole model can be loaded by itself
        after = ask(seen, "answers") if seen else _NOTHING
        after_unseen = ask(unseen, "answers, unseen patterns") if unseen else _NOTHING
        hash_after = difference = None
        if not is_sharded():
            hash_after, logits_after = _base_fingerprint(backend, model, tokenizer)
            difference = (logits_after - logits_before).abs().max().item()
        run.record = {
            "schema": 1,
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "config": asdict(config),
            "seed": config.seed,
            **provenance(),
            "base": {
                "name": config.model,
                "parameters": parameters,
                "weights_sha256_before": hash_before,
                "weights_sha256_after": hash_after,
                "adapter_off_difference": difference,
            },
            "predicted_memory_bytes": ledger,
            "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
            "resumed_from_step": int(checkpoint.name.partition("-")[2]) if checkpoint else None,
            "exact_match_before": before["plain"]["exact_match"],
            "exact_match_before_few_shot": before["few_shot"]["exact_match"],
            "exact_match": after["exact_match"],
            "exact_match_unseen": after_unseen["exact_match"],
            "n": {"before": before["plain"]["n"], "seen": after["n"], "unseen": after_unseen["n"]},
            "seconds": {
                "before": before["plain"]["seconds"] + before["few_shot"]["seconds"],
                "train": train_seconds,
                "step": trainer.progress.step_seconds(),
                "answers": after["seconds"],
                "answers_unseen": after_unseen["seconds"],
            },
            "processes": process.num_processes,
            "peak_memory_bytes": peak_memory_bytes(),
            "peak_gpu_memory_bytes": max(trainer.gpu_peak.before_training, trainer.gpu_peak.now()) or None,
            "training_peak_gpu_memory_bytes": training_peaks if any(training_peaks) else None,
            "answers": _answers(seen, after, before["plain"]) + _answers(unseen, after_unseen, _NOTHING),
        }
        _write_json(folder / "run.json", run.record)
    process.wait_for_everyone()
    return run


def _whole_again(model: Any, config: FinetuneConfig, folder: Path, process: PartialState) -> Any:
    """Save the trained adapter, and return it over a base loaded anew, in the main process; None in the others.

    A sharded model could answer only if every process asked it the same.
    """
    tensors = get_peft_model_state_dict(model, state_dict=gather_trainable(model))
    if not process.is_main_process:
        return None
    backend = _Peft()
    # Before the base is loaded beside what is still there: should memory end, the training is not lost.
    backend.write(model, tensors, folder / backend.weights_folder)
    whole, _ = backend.load(config)
    whole = backend.attach(whole, config)
    set_peft_model_state_dict(whole, tensors)
    return whole


def peak_memory_bytes() -> int:
    """Return the largest resident memory that this process has had, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held when it forked
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


_NOTHING: dict[str, Any] = {"exact_match": None, "n": 0, "answers": [], "seconds": 0.0}


def backend_of(config: FinetuneConfig) -> _Backend:
    if config.method == "full":
        return _Full()
    return _Scratch() if config.backend == "scratch" else _Peft()


def _optimizer_arguments(config: FinetuneConfig) -> dict[str, Any]:
    """Trainer's own AdamW, unless a quantized base on a GPU (or the user) asks for QLoRA's paged one."""
    name = choose_optimizer(config)
    return {} if name == "adamw" else {"optim": name}


def _checkpointing_arguments(config: FinetuneConfig) -> dict[str, Any]:
    if not config.gradient_checkpointing:
        return {}
    names = {f.name for f in fields(transformers.TrainingArguments)}
    # transformers 5.2x renamed it; the course runs with both.
    name = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    return {name: True, f"{name}_kwargs": {"use_reentrant": False}}


def _widen_residual_stream(model: Any) -> None:
    """Make what passes between the layers float32, at the cost of the norms alone; no change in float32.

    A norm with a float32 weight gives float32, so each block adds float32 to the stream, which in float16 may
    overflow. peft's ``prepare_model_for_kbit_training`` widens embedding and head too: 4 GiB for a vocabulary of
    152,000. Here they stay as they are, and the head turns its input into its own dtype.
    """
    for module in model.modules():
        if type(module).__name__.endswith("Norm"):
            module.float()
    head = model.get_output_embeddings()
    head.register_forward_pre_hook(lambda head, inputs: (inputs[0].to(head.weight.dtype), *inputs[1:]))


def make_trainer(
    config: FinetuneConfig,
    backend: _Backend,
    model: Any,
    tokenizer: Any,
    examples: Sequence[dict],
    folder: Path,
    processes: int,
) -> _Trainer:
    at_once = _require_shares(config, processes)
    on_gpu = torch.cuda.is_available()
    compute = compute_dtype(config)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=config.steps,
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=config.batch_size // at_once,
        learning_rate=cast(float, config.learning_rate),
        warmup_steps=config.warmup_steps,
        lr_scheduler_type="linear",
        weight_decay=0.0,
        bf16=on_gpu and compute == torch.bfloat16,
        fp16=on_gpu and compute == torch.float16,  # Trainer then scales the loss
        seed=config.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no" if is_sharded() else "steps",
        save_steps=config.save_every,
        save_total_limit=2,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,  # the base, whose 4-bit codes are buffers, is frozen and the same everywhere
        **_optimizer_arguments(config),
        **_checkpointing_arguments(config),
    )
    arguments._n_gpu = min(
        arguments.n_gpu, 1
    )  # several are accelerate's matter; Trainer would take nn.DataParallel
    trainer = _Trainer(
        backend,
        model=model,
        args=arguments,
        train_dataset=cast(Any, examples),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    trainer.remove_callback(PrinterCallback)
    if is_sharded():
        # Each weight, gradient and loss in its own dtype, as on one GPU. accelerate would make all of them bfloat16.
        cast(Any, trainer.accelerator.state.fsdp_plugin).mixed_precision_policy = None
    return trainer


def _require_shares(config: FinetuneConfig, processes: int) -> int:
    """Return how many sentences are in memory at once, over all processes; refuse a batch they do not divide."""
    at_once = config.micro_batch_size * processes
    if config.batch_size % at_once:
        raise ValueError(
            f"batch_size must be a multiple of micro_batch_size x processes = {at_once}, got {config.batch_size}"
        )
    return at_once


def _data(config: FinetuneConfig) -> tuple[list[Conversation], list[dict], list[dict]]:
    """Return what is trained on, events for worked examples, and events to ask afterwards."""
    if config.dataset is None:
        train = load_events("train", config.train_file)
        conversations = [event_conversation(line) for line in train]
        return conversations, train[:FEW_SHOT_EXAMPLES], load_events("test", config.test_file)
    test = load_events("test", config.test_file) if config.test_file else []
    return load_conversations(config.dataset), [], test


def _with_chosen_model(
    config: FinetuneConfig, conversations: list[Conversation], processes: int
) -> FinetuneConfig:
    # The course's tokenizer needs no hub, and one tokenizer counts about as many tokens as another.
    examples = encode_conversations(load_tokenizer(DEFAULT_NAME), conversations, config.max_length)
    chosen = replace(config, model=choose_model(config, _longest(examples), processes))
    print(f"Model: {chosen.model}")
    return chosen


def _longest(examples: Sequence[dict[str, list[int]]]) -> int:
    return max(len(example["input_ids"]) for example in examples)


def _before(folder: Path, ask: Callable, events: Sequence[dict], examples: Sequence[dict]) -> dict[str, Any]:
    """Ask the base, once a run: a resumed run reads what it answered before training began."""
    file = folder / "before.json"
    if not events:
        return {"plain": _NOTHING, "few_shot": _NOTHING}
    if file.exists():
        return json.loads(file.read_text(encoding="utf-8"))
    before = {"plain": ask(events, "base model"), "few_shot": _NOTHING}
    if examples:
        before["few_shot"] = ask(events, f"base model, {len(examples)} worked examples", examples)
    _write_json(file, before)
    return before


@torch.no_grad()
def _base_fingerprint(backend: _Backend, model: Any, tokenizer: Any) -> tuple[str, Tensor]:
    """Return the hash of the base's weights, and its logits on one sentence with the adapter off."""
    was_training = model.training
    model.eval()
    ids = torch.tensor(
        [tokenizer.encode("On Monday the base must still say what it said.")], device=model.device
    )
    with backend.disabled(model):
        logits = model(input_ids=ids).logits.float().cpu()
    model.train(was_training)
    return surgery.base_weights_hash(model), logits


def _check_output(folder: Path, config: FinetuneConfig) -> dict[str, Any] | None:
    """Return the identity of the run that the folder holds, None if it holds none; refuse one that is not to be had."""
    folder.mkdir(parents=True, exist_ok=True)
    held = _identity_in(folder)
    ours = _names_written(held["method"]) if held else []
    others = [n for n in _names_written(config.method) if n not in ours and os.path.lexists(folder / n)]
    if others:
        raise ValueError(
            f"output must be a folder without somebody else's {', '.join(others)}, got {folder}, "
            "where no run wrote that: choose another"
        )
    if held and config.resume:
        differs = [f"{k} = {held.get(k)!r}" for k, v in config.identity().items() if held.get(k) != v]
        if differs:
            raise ValueError(
                f"resume needs the settings of the run in {folder}, which has {', '.join(differs)}"
            )
    elif held and not config.overwrite:
        raise ValueError(
            f"output must be a folder without a run, got {folder}, which holds one: "
            "choose another, or --resume to go on with it, or --overwrite to discard it"
        )
    return held


def _identity_in(folder: Path) -> dict[str, Any] | None:
    """Return the identity of the run that the folder holds, None if it holds none."""
    try:
        held = json.loads((folder / _IDENTITY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or not JSON
        return None
    return held if isinstance(held, dict) and held.keys() >= _OUR_KEYS else None


def _names_written(method: str) -> list[str]:
    """Return what a run writes into its folder; the identity, by which all of it is known as a run's, last."""
    weights = (_Full if method == "full" else _Peft).weights_folder
    return ["run.json", "before.json", "checkpoints", weights, _IDENTITY_FILE]


def _claim(folder: Path, config: FinetuneConfig) -> None:
    """Make the folder this run's own, or say why it cannot be."""
    if held := _check_output(folder, config):
        if config.overwrite:
            _discard(folder, held["method"])
        for checkpoint in _checkpoints(folder):
            if not (checkpoint / _COMPLETE).exists():
                shutil.rmtree(checkpoint)
        (folder / "run.json").unlink(missing_ok=True)  # until this run has finished, there is no record
    _write_json(folder / _IDENTITY_FILE, config.identity())


def _discard(folder: Path, method: str) -> None:
    """Remove what a run by this method wrote, and nothing else that may lie in the folder."""
    for checkpoint in _checkpoints(folder):  # first: a kill below must leave nothing to resume from
        (checkpoint / _COMPLETE).unlink(missing_ok=True)
    for path in (folder / name for name in _names_written(method)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints, oldest first; not a copy of one under a name such as checkpoint-40-best."""
    steps = {path: path.name.partition("-")[2] for path in folder.glob("checkpoints/checkpoint-*")}
    return sorted((path for path in steps if steps[path].isdecimal()), key=lambda path: int(steps[path]))


def _newest_checkpoint(folder: Path) -> Path | None:
    complete = [path for path in _checkpoints(folder) if (path / _COMPLETE).exists()]
    return complete[-1] if complete else None


def _answers(lines: Sequence[dict], after: dict, before: dict) -> list[dict[str, Any]]:
    entries = []
    for i, (line, answer) in enumerate(zip(lines, after["answers"], strict=True)):
        entry = {
            "sentence": line["sentence"],
            "event": line["event"],
            "answer": answer,
            "correct": parse_event(answer) == line["event"],
            "unseen_pattern": bool(line.get("unseen_pattern")),
        }
        if i < len(before["answers"]):
            entry["before"] = before["answers"][i]
        entries.append(entry)
    return entries


def _write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.lora_edu-partial")  # no one else's file has that name
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(file)


def _one_of(name: str, value: Any, allowed: Any) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {list(allowed)}, got {value!r}")


def _at_least(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def main() -> int:
    """Run the command; return its exit status."""
    parser = HfArgumentParser(
        cast(Any, FinetuneConfig), description="Fine-tune a language model on event sentences."
    )
    try:
        (config,) = parser.parse_args_into_dataclasses()
        run = finetune(config)
    except (ValueError, OSError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. The same command with --resume goes on from the last checkpoint.", file=sys.stderr)
        return 130
    if run.record:
        print(summary(run.record))
        print(f"Record: {run.folder / 'run.json'}")
    return 0


def summary(record: dict[str, Any]) -> str:
    """Return a run's before and after in a few lines of text."""
    rows = [
        ("base model", record["exact_match_before"], record["n"]["before"]),
        (
            f"base model, {FEW_SHOT_EXAMPLES} worked examples",
            record["exact_match_before_few_shot"],
            record["n"]["before"],
        ),
        ("fine-tuned, seen patterns", record["exact_match"], record["n"]["seen"]),
        ("fine-tuned, unseen patterns", record["exact_match_unseen"], record["n"]["unseen"]),
    ]
    lines = [f"{name:<32}{share:>6.0%}  of {n}" for name, share, n in rows if share is not None]
    seconds = record["seconds"]
    lines.append(
        f"training {seconds['train']:.0f} s, answers {seconds['answers']:.0f} s, "
        f"peak memory {record['peak_memory_bytes'] / 2**30:.2f} GiB"
    )
    return "\n".join(["Exact match on held-out events:", *lines])


if __name__ == "__main__":
    sys.exit(main())
