"""transformers' Trainer as the course runs it: what trains is what is saved, and a diverged run stops.

The loop is Trainer's over accelerate. Ours are checkpoints that are trusted only when whole, one line of progress,
the peak of the GPU's memory, the refusal to go on from a number that is none, and a validation loss that changes
nothing of the training but what is kept of it.
"""

import itertools
import math
import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from accelerate import PartialState
from torch import nn
from transformers import (
    DataCollatorForSeq2Seq,
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
)

from lora_edu.llm.console import say
from lora_edu.llm.data.asking import progress_bar
from lora_edu.llm.files import explain_full_disk
from lora_edu.llm.finetune.backends import Backend
from lora_edu.llm.finetune.recipe import Recipe
from lora_edu.llm.finetune.run_folder import is_whole, mark_complete, step_of


class DivergedError(ArithmeticError):
    """The loss or a trained weight is no longer a finite number."""

    def __init__(self, what: str, step: int, recipe: Recipe):
        super().__init__(
            f"training diverged: {what} at step {step}. Start anew with a lower learning_rate (it was "
            f"{recipe.learning_rate:g}), more warmup_steps ({recipe.warmup_steps})"
            + (", or dtype bfloat16 or float32" if recipe.dtype == torch.float16 else "")
        )


class CourseTrainer(Trainer):
    """A Trainer whose checkpoints hold what trains, and are trusted only when complete."""

    def __init__(self, backend: Backend, recipe: Recipe, **arguments: Any):
        super().__init__(**arguments)
        self._backend, self._recipe = backend, recipe
        self._best_step: int | None = None
        self.progress, self.gpu_peak = _Progress(), _GpuPeak(recipe.device == "cuda")
        self.add_callback(self.gpu_peak)
        self.add_callback(_StopWhenDiverged(recipe))
        if PartialState().is_main_process:
            self.add_callback(self.progress)

    def autocast_smart_context_manager(
        self, cache_enabled: bool | None = True
    ) -> AbstractContextManager[Any]:
        # accelerate puts autocast around a model's forward, but not around a sharded one's.
        return (
            self.accelerator.autocast()
            if self._recipe.sharded
            else super().autocast_smart_context_manager(cache_enabled)
        )

    def require_finite_weights(self) -> None:
        """Raise `DivergedError` if a weight that trains is no longer finite: a checkpoint of it is worth nothing."""
        trained = (p for p in self.model.parameters() if p.requires_grad)  # type: ignore[union-attr]
        if not all(bool(p.isfinite().all()) for p in trained):
            raise DivergedError("a trained weight is not finite", self.state.global_step, self._recipe)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.args.should_save:  # every process comes here, and one writes
            return
        self._backend.save(
            self.accelerator.unwrap_model(self.model), Path(cast(str, output_dir or self.args.output_dir))
        )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Return the validation loss; the random numbers of the training go on as if it had not been asked."""
        with torch.random.fork_rng([torch.cuda.current_device()] if self._recipe.device == "cuda" else []):
            return super().evaluate(*args, **kwargs)

    def take_over(self, checkpoint: Path) -> bool:
        """Make the state of a checkpoint ours if nothing was left to train after it; return whether."""
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        early = cast(Any, state.stateful_callbacks).get(
            "EarlyStoppingCallback", {"args": {}, "attributes": {}}
        )
        waited = early["attributes"].get("early_stopping_patience_counter", 0)
        if state.global_step < self.args.max_steps and waited < early["args"].get(
            "early_stopping_patience", math.inf
        ):
            return False
        self._backend.restore(self.model, checkpoint)
        self.state = state
        if self.args.load_best_model_at_end:
            self._load_best_model()
        return True

    @property
    def kept_step(self) -> int:
        """The step whose weights the model has after training."""
        return self._best_step or self.state.global_step

    def _load_best_model(self) -> None:
        self.accelerator.wait_for_everyone()
        best = Path(cast(str, self.args.output_dir)) / f"checkpoint-{self.state.best_global_step}"
        if not is_whole(best):
            say(f"Checkpoint {best}, the best, is damaged: the last one is kept.")
            return
        self._backend.restore(self.accelerator.unwrap_model(self.model), best)
        self._best_step = step_of(best)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._backend.restore(
            self.accelerator.unwrap_model(model or self.model), Path(resume_from_checkpoint)
        )

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.require_finite_weights()
        folder = Path(cast(str, self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        with explain_full_disk(folder.parent, folder.name):
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each process writes the state of its random numbers
        if self.args.should_save:
            mark_complete(folder)
        self.accelerator.wait_for_everyone()  # until it is marked


class _Progress(TrainerCallback):
    """One line: step, loss, time gone, time left. Remembers when each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self._postfix: dict[str, str] = {}

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
        shown = {"loss": "loss", "eval_loss": "validation"}
        self._postfix |= {shown[key]: f"{logs[key]:.3f}" for key in shown if logs and key in logs}
        self.bar.set_postfix(self._postfix)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()


class _StopWhenDiverged(TrainerCallback):
    """Stops a run at its first loss that is no number, before a checkpoint of it is written."""

    def __init__(self, recipe: Recipe):
        self._recipe = recipe

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        for key, name in (("loss", "the loss"), ("eval_loss", "the validation loss")):
            loss = (logs or {}).get(key)
            if loss is not None and not math.isfinite(loss):
                raise DivergedError(f"{name} is {loss}", state.global_step, self._recipe)


class _ValidateLast(TrainerCallback):
    """A validation loss of the last step, too, wherever it falls."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_evaluate = control.should_evaluate or state.global_step >= state.max_steps


class _GpuPeak(TrainerCallback):
    """The most memory that was allocated and reserved on this process's GPU, in bytes; 0 without one."""

    before_training = 0
    reserved_before_training = 0

    def __init__(self, on_gpu: bool):
        self._on_gpu = on_gpu

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.before_training = self.now()  # sharding, which is over by now, holds more than a step does
        self.reserved_before_training = self.reserved()
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()

    def now(self) -> int:
        """Return the peak since training began."""
        return torch.cuda.max_memory_allocated() if self._on_gpu else 0

    def reserved(self) -> int:
        """Return the most that PyTorch's allocator held since training began, tensors and what lies between them."""
        return torch.cuda.max_memory_reserved() if self._on_gpu else 0

    def of_the_run(self) -> dict[str, int | None]:
        """Return the peaks of all that was done so far, before, in and after training; None without a GPU."""
        return {
            "peak_gpu_memory_bytes": max(self.before_training, self.now()) or None,
            "peak_gpu_reserved_bytes": max(self.reserved_before_training, self.reserved()) or None,
        }


def make_trainer(
    recipe: Recipe,
    backend: Backend,
    model: Any,
    tokenizer: Any,
    examples: Sequence[dict],
    folder: Path,
    validation: Sequence[dict] = (),
    patience: int | None = None,
    report_to: str = "none",
) -> CourseTrainer:
    """Return the loop that trains `model` by `recipe` and keeps its checkpoints under `folder`.

    Parameters
    ----------
    examples
        Dicts of ``input_ids``, ``attention_mask`` and ``labels``.
    validation
        Such dicts, whose loss is measured at each checkpoint; the weights of the best are those that are kept.
    patience
        After how many validation losses without a new best training stops; None: never.
    report_to
        ``"none"`` or ``"tensorboard"``.
    """
    on_gpu = recipe.device == "cuda"
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.micro_batch_size,
        gradient_accumulation_steps=recipe.micro_batches,
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.warmup_steps,
        lr_scheduler_type="linear",
        weight_decay=0.0,
        bf16=on_gpu and recipe.dtype == torch.bfloat16,
        fp16=on_gpu and recipe.dtype == torch.float16,  # Trainer then scales the loss
        seed=recipe.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no" if recipe.sharded else "steps",
        save_steps=recipe.save_every,
        save_total_limit=2,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=report_to,
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,  # the base, whose 4-bit codes are buffers, is frozen and the same everywhere
        **({} if recipe.optimizer == "adamw" else {"optim": recipe.optimizer}),
        **checkpointing_arguments(recipe),
        **(_validation_arguments(recipe) if validation else {}),
    )
    # Several are accelerate's matter; Trainer would take nn.DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    trainer = CourseTrainer(
        backend,
        recipe,
        model=model,
        args=arguments,
        train_dataset=cast(Any, examples),
        eval_dataset=cast(Any, validation) or None,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    trainer.remove_callback(PrinterCallback)
    if validation:
        trainer.add_callback(_ValidateLast())
    if patience is not None:
        trainer.add_callback(EarlyStoppingCallback(patience))
    if recipe.sharded:
        # Each weight, gradient and loss in its own dtype, as on one GPU. accelerate would make all of them bfloat16.
        cast(Any, trainer.accelerator.state.fsdp_plugin).mixed_precision_policy = None
    return trainer


def _validation_arguments(recipe: Recipe) -> dict[str, Any]:
    return {
        "eval_strategy": "steps",
        "eval_steps": recipe.save_every,
        "per_device_eval_batch_size": 1,  # each row counts as much as another, and nothing is padded
        "prediction_loss_only": True,  # or the logits of all rows would be gathered
        "label_names": ["labels"],
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "greater_is_better": False,
        "restore_callback_states_from_checkpoint": True,  # how long it has waited
    }


def checkpointing_arguments(recipe: Recipe) -> dict[str, Any]:
    """Return the TrainingArguments that switch gradient checkpointing on, if the recipe says so."""
    if not recipe.gradient_checkpointing:
        return {}
    names = {f.name for f in fields(transformers.TrainingArguments)}
    # transformers 5.2x renamed it; the course runs with both.
    name = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    return {name: True, f"{name}_kwargs": {"use_reentrant": False}}
