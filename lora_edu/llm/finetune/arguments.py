"""A recipe in the words of transformers' Trainer."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import transformers

from lora_edu.llm.finetune.recipe import Recipe


def training_arguments(
    recipe: Recipe, model: Any, folder: Path, validate: bool, report_to: str
) -> transformers.TrainingArguments:
    """Return what Trainer is told.

    Parameters
    ----------
    folder
        The run's; checkpoints go into one of its own there.
    validate
        Whether a validation loss is measured at each checkpoint.
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
        **checkpointing_arguments(recipe, _drops(model)),
        **(_validation_arguments(recipe) if validate else {}),
    )
    # Several GPUs are accelerate's matter; Trainer would take nn.DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def checkpointing_arguments(recipe: Recipe, drops: bool = False) -> dict[str, Any]:
    """Return the TrainingArguments that switch gradient checkpointing on, if the recipe says so.

    Parameters
    ----------
    recipe
        How the model is trained.
    drops
        Whether the model has dropout of its own.
    """
    if not recipe.gradient_checkpointing:
        return {}
    names = {f.name for f in fields(transformers.TrainingArguments)}
    # transformers 5.2x renamed it; the course runs with both.
    name = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    # A graph cannot put random numbers back, and without dropout none are drawn.
    adapters_drop = recipe.method != "full" and recipe.lora.lora_dropout > 0
    keep = recipe.cuda_graphs == "off" or drops or adapters_drop
    return {name: True, f"{name}_kwargs": {"use_reentrant": False, "preserve_rng_state": keep}}


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
        "restore_callback_states_from_checkpoint": True,  # how long early stopping has waited
    }


def _drops(model: Any) -> bool:
    """Whether the model has dropout of its own, whatever adapters have."""
    settings = model.config.to_dict().items()
    return any("drop" in name and isinstance(rate, float) and rate > 0 for name, rate in settings)
