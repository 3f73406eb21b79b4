"""What watches a training loop: its progress, its memory, and that its numbers stay finite."""

import itertools
import math
import statistics
import time
from typing import Any

import torch
from transformers import TrainerCallback

from lora_edu.llm.base_model import return_freed_memory
from lora_edu.llm.data.asking import progress_bar
from lora_edu.llm.finetune.recipe import Recipe


class DivergedError(ArithmeticError):
    """The loss or a trained weight is no longer a finite number."""

    def __init__(self, what: str, step: int, recipe: Recipe):
        super().__init__(
            f"training diverged: {what} at step {step}. Start anew with a lower learning_rate (it was "
            f"{recipe.learning_rate:g}), more warmup_steps ({recipe.warmup_steps})"
            + (", or dtype bfloat16 or float32" if recipe.dtype == torch.float16 else "")
        )


class Progress(TrainerCallback):
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


class StopWhenDiverged(TrainerCallback):
    """Stops a run at its first loss that is no number, before a checkpoint of it is written."""

    def __init__(self, recipe: Recipe):
        self._recipe = recipe

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        for key, name in (("loss", "the loss"), ("eval_loss", "the validation loss")):
            loss = (logs or {}).get(key)
            if loss is not None and not math.isfinite(loss):
                raise DivergedError(f"{name} is {loss}", state.global_step, self._recipe)


class ValidateLast(TrainerCallback):
    """A validation loss of the last step, too, wherever it falls."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_evaluate = control.should_evaluate or state.global_step >= state.max_steps


class GiveBack(TrainerCallback):
    """Gives back what steps have freed, now and then: each length of a batch leaves holes of its own in the heap.

    After each step it would take a sixth of the time of a training on a CPU.
    """

    EVERY = 5

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_evaluate or state.global_step % self.EVERY == 0:
            return_freed_memory()


class GpuPeak(TrainerCallback):
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
