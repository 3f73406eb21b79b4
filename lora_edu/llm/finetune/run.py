"""A fine-tune from its settings to its record, as a reader would tell it."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from peft import get_peft_model_state_dict, set_peft_model_state_dict

from lora_edu.llm.base_model import return_freed_memory
from lora_edu.llm.budget import count_parameters
from lora_edu.llm.console import say
from lora_edu.llm.data.extraction import evaluate
from lora_edu.llm.files import write_json
from lora_edu.llm.finetune.backends import Backend, PeftBackend, backend_of
from lora_edu.llm.finetune.config import FinetuneConfig
from lora_edu.llm.finetune.plan import Plan, make_plan
from lora_edu.llm.finetune.record import NOT_ASKED, Answers, Fingerprint, base_fingerprint, build_record
from lora_edu.llm.finetune.run_folder import RunFolder, open_run_folder, step_of
from lora_edu.llm.finetune.sharding import gather_trainable
from lora_edu.llm.finetune.trainer import CourseTrainer, make_trainer
from lora_edu.llm.surgery import choose_layers


@dataclass
class Run:
    """A finished run: its folder, its record (run.json), and the model as it was trained, adapter active."""

    folder: Path
    record: dict[str, Any]
    model: Any
    tokenizer: Any


def finetune(config: FinetuneConfig, loaded: tuple[Any, Any] | None = None) -> Run:
    """Train, count what the model gets right before and after, and record it.

    Parameters
    ----------
    config
        The settings.
    loaded
        The base and its tokenizer, as `load_base_model` gave them for this model and dtype, so that a large one need
        not be read again. The run puts its adapter into it. None: they are loaded here.

    Returns
    -------
    Run
        Its ``record`` is what run.json holds. A run that had finished is returned as it is with ``resume``.

    Raises
    ------
    ValueError
        If a setting or a data file is wrong, or the output folder holds another run, files of others, or a run that
        is alive; or `loaded` is not the base that the settings ask for. What the folder holds is then as it was.
    PermissionError
        A model of more than 1 GB would be fetched from a hub, and ``allow_download`` is not set.
    MemoryError
        If the run would not fit this machine; the message says what to change.
    DivergedError
        At the first loss that is not finite. The last good checkpoint is kept.
    """
    plan = make_plan(config, loaded is not None)
    if loaded is not None:
        _require_base(plan, loaded[0])
    if not PartialState().is_main_process:
        return _run(plan, None, loaded)
    for note in plan.notes:
        say(note)
    with open_run_folder(plan) as folder:
        return _run(plan, folder, loaded)


def _run(plan: Plan, folder: RunFolder | None, loaded: tuple[Any, Any] | None) -> Run:
    """Do what the plan says; `folder` is the main process's alone."""
    process, backend = PartialState(), backend_of(plan.recipe.method, plan.recipe.backend)
    [finished] = broadcast_object_list([folder.finished() if folder else None])
    if plan.recipe.device == "cuda":
        torch.cuda.reset_peak_memory_stats()  # of what was done before in this process
    model, tokenizer = _load(plan, backend, loaded)
    parameters = count_parameters(model)
    model = _attach(model, plan, backend)
    base = base_fingerprint(backend, model, tokenizer)
    if finished:
        return _as_finished(plan, folder, finished, model, tokenizer, base, backend)

    process.wait_for_everyone()  # until each has its model: an old run is not discarded for one that cannot start
    before, checkpoint = {}, None
    if folder:
        folder.claim(base.weights_sha256)
        before = _ask_before(plan, folder, model, tokenizer)
        checkpoint = folder.newest_checkpoint()
    [checkpoint] = broadcast_object_list([checkpoint])

    trainer = make_trainer(
        plan.recipe,
        backend,
        model,
        tokenizer,
        plan.examples,
        plan.folder,
        plan.validation,
        plan.patience,
        plan.report_to,
    )
    seconds = _train(trainer, checkpoint)
    training_peaks = gather_object([trainer.gpu_peak.now()])
    # Asked without autocast afterwards, as it was before.
    model = trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    if plan.recipe.sharded:
        model = _whole_again(model, plan, process)
    run = Run(plan.folder, {}, model, tokenizer)
    if folder:
        _save(plan, backend, model, tokenizer)
        run.record = build_record(
            plan,
            _base_entry(plan, parameters, base, None if plan.recipe.sharded else backend, model, tokenizer),
            _ask_after(plan, before, model, tokenizer),
            {
                "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
                **_losses(trainer),
                "resumed_from_step": step_of(checkpoint) if checkpoint else None,
                "train": seconds,
                "step": trainer.progress.step_seconds(),
            },
            {
                **trainer.gpu_peak.of_the_run(),
                "training_peak_gpu_memory_bytes": training_peaks if any(training_peaks) else None,
            },
        )
        write_json(plan.folder / "run.json", run.record)
    process.wait_for_everyone()
    return run


def _require_base(plan: Plan, model: Any) -> None:
    """Refuse a loaded model that is not the plain base that the recipe would load."""
    recipe = plan.recipe
    plain = recipe.backend == "peft" and recipe.method != "full"
    in_4_bits = bool(getattr(model, "is_loaded_in_4bit", False))
    adapted = any("lora" in name for name, _ in model.named_parameters())
    head = model.get_output_embeddings()
    if not plain or adapted or in_4_bits != recipe.quantized or head.weight.dtype != recipe.dtype:
        asked = f"{'in 4 bits' if recipe.quantized else 'not quantized'}, {recipe.dtype}, without an adapter"
        found = f"{'in 4 bits' if in_4_bits else 'not quantized'}, {head.weight.dtype}"
        raise ValueError(
            f"loaded must be the base of a LoRA or QLoRA run of the backend peft, {asked}; got one {found}"
            f"{', with an adapter' if adapted else ''}, for method {recipe.method!r} and backend {recipe.backend!r}"
        )


def _load(plan: Plan, backend: Backend, loaded: tuple[Any, Any] | None) -> tuple[Any, Any]:
    """Return the base and its tokenizer, if the adapter's layers are there."""
    model, tokenizer = loaded or backend.load(plan.recipe)
    if plan.recipe.method != "full":
        lora = plan.recipe.lora
        choose_layers(model, lora.target_modules, lora.r)  # the same refusals whatever the backend
    return model, tokenizer


def _attach(model: Any, plan: Plan, backend: Backend) -> Any:
    transformers.set_seed(plan.recipe.seed)  # before the adapter draws its A
    model = backend.attach(model, plan.recipe)
    return_freed_memory()  # of weights that were quantized
    model.config.use_cache = False
    return model


def _train(trainer: CourseTrainer, checkpoint: Path | None) -> float:
    """Train from the beginning or from a checkpoint; return the seconds that it took."""
    start = time.perf_counter()
    # Where every step is done, Trainer would begin one more.
    if checkpoint is None or not trainer.take_over(checkpoint):
        trainer.args.eval_on_start = checkpoint is None and trainer.args.load_best_model_at_end
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trainer.forget_graphs()
        trainer.require_finite_weights()
    return time.perf_counter() - start


def _losses(trainer: CourseTrainer) -> dict[str, Any]:
    """Return the record's entries of the losses, and of what was kept."""
    history = trainer.state.log_history
    return {
        "losses": [entry["loss"] for entry in history if "loss" in entry],
        "eval_losses": [
            {"step": entry["step"], "loss": entry["eval_loss"]} for entry in history if "eval_loss" in entry
        ],
        "kept_step": trainer.kept_step,
        "stopped_early": trainer.state.global_step < trainer.args.max_steps,
        "cuda_graphs": {
            "lengths": trainer.graph_lengths,
            "reason": trainer.without_graphs
            or (None if trainer.graph_lengths else "no step was left to run"),
        },
    }


def _save(plan: Plan, backend: Backend, model: Any, tokenizer: Any) -> None:
    folder = plan.folder / backend.weights_folder
    backend.save(model, folder)
    if plan.recipe.method == "full":
        tokenizer.save_pretrained(folder)  # a whole model can be loaded by itself


def _ask(
    plan: Plan, model: Any, tokenizer: Any, lines: list[dict], title: str, worked: list[dict] | None = None
) -> dict[str, Any]:
    if not lines:
        return NOT_ASKED
    batch_size = plan.questions.batch_size
    return evaluate(model, tokenizer, lines, title, examples=worked or [], batch_size=batch_size)


def _ask_before(plan: Plan, folder: RunFolder, model: Any, tokenizer: Any) -> dict[str, Any]:
    """Ask the base, once a run: a resumed run reads what it answered before training began."""
    if not plan.questions.before:
        return {"plain": NOT_ASKED, "few_shot": NOT_ASKED}
    if (before := folder.read_before()) is None:
        worked, lines = plan.questions.worked, plan.questions.before
        before = {"plain": _ask(plan, model, tokenizer, lines, "base model"), "few_shot": NOT_ASKED}
        if worked:
            title = f"base model, {len(worked)} worked examples"
            before["few_shot"] = _ask(plan, model, tokenizer, lines, title, worked)
        folder.write_before(before)
    return before


def _ask_after(plan: Plan, before: dict[str, Any], model: Any, tokenizer: Any) -> Answers:
    return Answers(
        before["plain"],
        before["few_shot"],
        _ask(plan, model, tokenizer, plan.questions.seen, "answers"),
        _ask(plan, model, tokenizer, plan.questions.unseen, "answers, unseen patterns"),
    )


def _base_entry(
    plan: Plan, parameters: int, before: Fingerprint, backend: Backend | None, model: Any, tokenizer: Any
) -> dict[str, Any]:
    """Return whether the base is what it was; without a backend that is not asked."""
    after = base_fingerprint(backend, model, tokenizer) if backend else None
    return {
        "name": plan.recipe.model,
        "parameters": parameters,
        "weights_sha256_before": before.weights_sha256,
        "weights_sha256_after": after.weights_sha256 if after else None,
        "adapter_off_difference": (after.logits - before.logits).abs().max().item() if after else None,
    }


def _as_finished(
    plan: Plan,
    folder: RunFolder | None,
    record: dict[str, Any],
    model: Any,
    tokenizer: Any,
    base: Fingerprint,
    backend: Backend,
) -> Run:
    """Return a run that had nothing left to do, its model as it was trained."""
    if folder:
        folder.require_base(base.weights_sha256)
        say(f"The run in {plan.folder} has finished, {len(record['losses'])} steps: there is nothing to do.")
    backend.restore(model, plan.folder / backend.weights_folder)
    return Run(plan.folder, record, model, tokenizer)


def _whole_again(model: Any, plan: Plan, process: PartialState) -> Any:
    """Save the trained adapter, and return it over a base loaded anew, in the main process; None in the others.

    A sharded model could answer only if every process asked it the same.
    """
    tensors = get_peft_model_state_dict(model, state_dict=gather_trainable(model))
    if not process.is_main_process:
        return None
    backend = PeftBackend()
    # Before the base is loaded beside what is still there: should memory end, the training is not lost.
    backend.write(model, tensors, plan.folder / backend.weights_folder)
    whole, _ = backend.load(plan.recipe)
    whole = backend.attach(whole, plan.recipe)
    set_peft_model_state_dict(whole, tensors)
    return whole
