"""transformers' Trainer as the course runs it: what trains is what is saved, and a diverged run stops.

The loop is Trainer's over accelerate. Ours are checkpoints that are trusted only when whole, one line of progress,
the peak of the GPU's memory, a stop when a loss or a weight is not finite, a validation that decides no more than which
checkpoint is kept, and steps replayed from CUDA graphs.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    DataCollatorForSeq2Seq,
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerState,
)

from lora_edu.llm.base_model import return_freed_memory
from lora_edu.llm.console import say
from lora_edu.llm.files import explain_full_disk
from lora_edu.llm.finetune.arguments import training_arguments
from lora_edu.llm.finetune.backends import Backend
from lora_edu.llm.finetune.callbacks import (
    DivergedError,
    GiveBack,
    GpuPeak,
    Progress,
    StopWhenDiverged,
    ValidateLast,
)
from lora_edu.llm.finetune.fusing import loss_part
from lora_edu.llm.finetune.graph_shapes import graph_shapes
from lora_edu.llm.finetune.graphs import StepGraphs
from lora_edu.llm.finetune.recipe import WITHOUT_GRAPHS, Recipe, objection
from lora_edu.llm.finetune.run_folder import is_whole, mark_complete, step_of
from lora_edu.llm.finetune.scored_loss import has_plain_head, scored_loss


class CourseTrainer(Trainer):
    """A Trainer whose checkpoints hold what trains, and are trusted only when complete."""

    def __init__(self, backend: Backend, recipe: Recipe, **arguments: Any):
        super().__init__(**arguments)
        self._backend, self._recipe = backend, recipe
        self._best_step: int | None = None
        self.graphs: StepGraphs | None = None
        off = "cuda_graphs is off" if recipe.cuda_graphs == "off" else None
        self.without_graphs = objection(recipe) or off
        self.graph_lengths: list[int] = []
        self.progress, self.gpu_peak = Progress(), GpuPeak(recipe.device == "cuda")
        self.add_callback(self.gpu_peak)
        self.add_callback(StopWhenDiverged(recipe))
        if recipe.device == "cpu":
            self.add_callback(GiveBack())
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

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as Trainer does, without its walks through all modules at each step for the few that train."""
        model = cast(Any, self.model)
        model.zero_grad()
        self._parameter_count = model.num_parameters(exclude_embeddings=True)
        if not self._recipe.sharded:
            self._trained = [p for p in model.parameters() if p.requires_grad]
            model.zero_grad = _DropGradients(self._trained)
        try:
            return super().train(*args, **kwargs)
        finally:
            vars(model).pop("zero_grad", None)

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        if self._recipe.sharded:
            return super()._clip_grad_norm(model)
        return self.accelerator.clip_grad_norm_(self._trained, self.args.max_grad_norm)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return Trainer's estimate, six for each token and parameter."""
        return 6 * inputs["input_ids"].numel() * self._parameter_count

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward of one batch: replayed where they were captured, else as Trainer does them."""
        if self.graphs is None and self.without_graphs is None:
            self._record_graphs(model, num_items_in_batch)
        if self.graphs is None:
            return super().training_step(model, inputs, num_items_in_batch)  # type: ignore[arg-type]
        return self.graphs(inputs, cast(Tensor, num_items_in_batch))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Trainer's loss; in a graph, of the scored tokens alone, if the model's head is a plain frozen product."""
        scored = inputs.pop("scored", None)
        causal: Any = None if scored is None else self._causal(model)
        if scored is None or not has_plain_head(causal):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        ids, labels, head = inputs["input_ids"], inputs["labels"], causal.get_output_embeddings()
        with self.accelerator.autocast():
            hidden = getattr(causal, causal.base_model_prefix)(input_ids=ids, use_cache=False)
            return scored_loss(
                hidden.last_hidden_state,
                head.weight,
                labels,
                num_items_in_batch,
                scored,
                part=loss_part(self._recipe.fused),
            )

    def _causal(self, model: nn.Module) -> Any:
        """The model itself, without what accelerate and peft put around it."""
        inner = self.accelerator.unwrap_model(model)
        return inner.get_base_model() if isinstance(inner, PeftModel) else inner

    def _record_graphs(self, model: nn.Module, count: Any) -> None:
        """Capture the step at each padded length, or find out and say why that is impossible."""
        tokenizer = cast(Any, self.data_collator).tokenizer
        if not isinstance(count, Tensor) or tokenizer.padding_side != "right":
            self.without_graphs = "its batches are not padded on the right, or tokens are not counted"
        else:
            # bitsandbytes makes weights contiguous at its first step: that would move memory that a graph reads.
            if self._recipe.optimizer == "paged_adamw_8bit":
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.data = parameter.data.contiguous()
            shapes = graph_shapes(
                cast(Any, self.train_dataset),
                self._recipe.micro_batch_size,
                self._recipe.steps * self._recipe.micro_batches,
            )
            try:
                self.graphs = StepGraphs(
                    partial(super().training_step, model), model.parameters(), shapes, tokenizer.pad_token_id
                )
            except RuntimeError as error:  # torch.OutOfMemoryError is one
                self.without_graphs = f"capturing them failed ({str(error).strip().partition(chr(10))[0]})"
        if self.graphs:
            self.graph_lengths = self.graphs.lengths
        elif self._recipe.cuda_graphs == "on":
            raise RuntimeError(f"cuda_graphs is on, but {self.without_graphs}")
        else:
            say(f"{WITHOUT_GRAPHS}: {self.without_graphs}.")

    def forget_graphs(self) -> None:
        """Give the memory of the graphs back: what comes after training needs it."""
        if self.graphs:
            self.graphs = None
            torch.cuda.empty_cache()

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
        return_freed_memory()  # what the steps left
        with torch.random.fork_rng([torch.cuda.current_device()] if self._recipe.device == "cuda" else []):
            try:
                return super().evaluate(*args, **kwargs)
            except torch.OutOfMemoryError as error:
                if self.graphs is None:
                    raise
                if self._recipe.cuda_graphs == "on":
                    allowed = "auto or off where validation finds no memory beside them"
                    raise MemoryError(f"cuda_graphs must be {allowed}, got 'on'") from error
            self.forget_graphs()
            self.without_graphs = "validation needed their memory"
            say(f"{WITHOUT_GRAPHS} after step {self.state.global_step}: {self.without_graphs}.")
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


class _DropGradients:
    """A model's ``zero_grad`` that knows what trains. (No method: a copy of the model must not copy a trainer.)"""

    def __init__(self, trained: Sequence[nn.Parameter]):
        self._trained = trained

    def __call__(self, set_to_none: bool = True) -> None:
        for parameter in self._trained:
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()


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
    trainer = CourseTrainer(
        backend,
        recipe,
        model=model,
        args=training_arguments(recipe, model, folder, bool(validation), report_to),
        train_dataset=cast(Any, examples),
        eval_dataset=cast(Any, validation) or None,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    trainer.remove_callback(PrinterCallback)
    if validation:
        trainer.add_callback(ValidateLast())
    if patience is not None:
        trainer.add_callback(EarlyStoppingCallback(patience))
    if recipe.sharded:
        # Each weight, gradient and loss in its own dtype, as on one GPU. accelerate would make all of them bfloat16.
        cast(Any, trainer.accelerator.state.fsdp_plugin).mixed_precision_policy = None
    return trainer
