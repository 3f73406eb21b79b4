"""What a run leaves to be read: run.json, and its before and after in a few lines.

The keys of ``run.json``:

``schema`` (1), ``command``, ``config`` (every setting, as it ran), ``seed``, ``revision`` (git), ``versions``,
``device``;
``base``: ``name``, ``parameters``, ``weights_sha256_before`` and ``weights_sha256_after``, and
``adapter_off_difference``, the largest change of a logit with the adapter switched off (0.0: the base is whole);
the last two are None where the base was sharded over GPUs;
``notes``: what was chosen or changed to suit the machine, one sentence each;
``predicted_memory_bytes``: by term, before anything was loaded; None without a preflight;
``trainable_parameters``; ``losses`` (nats a label token, one an optimizer step); ``resumed_from_step``;
``eval_losses``: with validation data, ``step`` and ``loss`` (nats a label token, averaged over each row, then over the
rows) before the first step and at each checkpoint, else empty; ``kept_step``: whose weights were saved, with validation
data those of the lowest loss after a step, else the last; ``stopped_early``: whether ``patience`` ended the run before
its last step;
``cuda_graphs``: ``lengths``, the padded ones whose steps were replayed, tokens, and ``reason``, why there
were none, or none to the end;
``exact_match_before`` and ``exact_match_before_few_shot`` (the base on the first seen-pattern events, without
and with worked examples in its prompt), ``exact_match`` (seen patterns) and ``exact_match_unseen``: fractions
0 to 1, None where nothing was asked (with ``dataset`` only a ``test_file`` is); ``n``: how many events stand
behind each;
``seconds``: ``before``, ``train`` (since the last resume), ``step`` (an optimizer step's median; None for one
step), ``answers``, ``answers_unseen``;
``processes``: how many shared each step's sentences;
``peak_memory_bytes`` (resident, this process), ``peak_gpu_memory_bytes`` and ``peak_gpu_reserved_bytes`` (this process:
tensors, and what PyTorch's allocator held for them; paged optimizer state is in neither) and
``training_peak_gpu_memory_bytes`` (each process's while it trained); all three None on a CPU;
``answers``: one entry a test event, with ``sentence``, ``event``, ``answer``, ``correct``, ``unseen_pattern``
and, where the base was asked, ``before``.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora_edu.llm import surgery
from lora_edu.llm.data.extraction import parse_event
from lora_edu.llm.finetune.backends import Backend
from lora_edu.llm.finetune.plan import Plan
from lora_edu.llm.finetune.reading import FEW_SHOT_EXAMPLES
from lora_edu.llm.provenance import provenance

NOT_ASKED: dict[str, Any] = {"exact_match": None, "n": 0, "answers": [], "seconds": 0.0}
"""What `lora_edu.llm.data.extraction.evaluate` would say of no question."""


@dataclass(frozen=True)
class Fingerprint:
    """What tells one base from another: the hash of its weights, and its logits on one sentence."""

    weights_sha256: str
    logits: Tensor


@dataclass(frozen=True)
class Answers:
    """What `evaluate` said, of the base (as it is, and with worked examples) and after training."""

    before: dict[str, Any]
    few_shot: dict[str, Any]
    seen: dict[str, Any]
    unseen: dict[str, Any]


@torch.no_grad()
def base_fingerprint(backend: Backend, model: Any, tokenizer: Any) -> Fingerprint:
    """Return what the base is, its adapter switched off."""
    was_training = model.training
    model.eval()
    ids = torch.tensor(
        [tokenizer.encode("On Monday the base must still say what it said.")], device=model.device
    )
    with backend.disabled(model):
        logits = model(input_ids=ids).logits.float().cpu()
    model.train(was_training)
    return Fingerprint(surgery.base_weights_hash(model), logits)


def build_record(
    plan: Plan,
    base: dict[str, Any],
    answers: Answers,
    training: dict[str, Any],
    peaks: dict[str, Any],
) -> dict[str, Any]:
    """Return what run.json holds.

    Parameters
    ----------
    base
        The entry of that name.
    training
        ``trainable_parameters``, ``losses``, ``eval_losses``, ``kept_step``, ``stopped_early``, ``cuda_graphs``,
        ``resumed_from_step``, and ``train`` and ``step`` in seconds.
    peaks
        The entries ``peak_gpu_memory_bytes``, ``peak_gpu_reserved_bytes`` and ``training_peak_gpu_memory_bytes``.
    """
    seconds = {key: training.pop(key) for key in ("train", "step")}
    return {
        "schema": 1,
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "config": _settings_as_run(plan),
        "seed": plan.recipe.seed,
        **provenance(),
        "base": base,
        "notes": list(plan.notes),
        "predicted_memory_bytes": plan.ledger,
        **training,
        "exact_match_before": answers.before["exact_match"],
        "exact_match_before_few_shot": answers.few_shot["exact_match"],
        "exact_match": answers.seen["exact_match"],
        "exact_match_unseen": answers.unseen["exact_match"],
        "n": {"before": answers.before["n"], "seen": answers.seen["n"], "unseen": answers.unseen["n"]},
        "seconds": {
            "before": answers.before["seconds"] + answers.few_shot["seconds"],
            **seconds,
            "answers": answers.seen["seconds"],
            "answers_unseen": answers.unseen["seconds"],
        },
        "processes": plan.recipe.processes,
        "peak_memory_bytes": peak_memory_bytes(),
        **peaks,
        "answers": _entries(plan.questions.seen, answers.seen, answers.before)
        + _entries(plan.questions.unseen, answers.unseen, NOT_ASKED),
    }


def _settings_as_run(plan: Plan) -> dict[str, Any]:
    recipe = plan.recipe
    settled = ("model", "steps", "learning_rate", "micro_batch_size", "gradient_checkpointing")
    became = {name: getattr(recipe, name) for name in settled}
    return asdict(plan.config) | became


def _entries(lines: Sequence[dict], after: dict, before: dict) -> list[dict[str, Any]]:
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
    if lines:
        lines.insert(0, "Exact match on held-out events:")
    losses, seconds = record["losses"], record["seconds"]
    lines += (
        [f"loss {losses[0]:.3f} at the first step, {losses[-1]:.3f} at the last of {len(losses)}"]
        if losses
        else []
    )
    if record.get("eval_losses"):
        first, kept = record["eval_losses"][0], record["kept_step"]
        best = next(e["loss"] for e in record["eval_losses"] if e["step"] == kept)
        early = ", stopped early" if record["stopped_early"] else ""
        start = f"validation loss {first['loss']:.3f} at step {first['step']}"
        lines.append(f"{start}, {best:.3f} at step {kept}, which is kept{early}")
    asked = f", answers {seconds['answers']:.0f} s" if len(lines) > 1 else ""
    return "\n".join([*lines, f"training {seconds['train']:.0f} s{asked}", *memory_lines(record)])


def memory_lines(record: dict[str, Any]) -> list[str]:
    """Return the run's peaks in words, beside what was predicted of the same memory.

    On a GPU the ledger speaks of the GPU's memory, and the host's stands on a line of its own.
    """
    terms = record.get("predicted_memory_bytes")
    predicted = f"; {sum(terms.values()) / 2**30:.2f} GiB predicted" if terms else ""
    host = f"{record['peak_memory_bytes'] / 2**30:.2f} GiB"
    if not record["peak_gpu_memory_bytes"]:
        return [f"peak memory {host}{predicted}"]
    allocated = f"peak GPU memory {record['peak_gpu_memory_bytes'] / 2**30:.2f} GiB allocated"
    # Records of earlier runs do not know what was reserved.
    reserved = record.get("peak_gpu_reserved_bytes")
    held = f", {reserved / 2**30:.2f} GiB reserved" if reserved else ""
    return [f"{allocated}{held}{predicted}", f"peak host memory {host}"]
