"""Record what a fine-tune on events costs on general text: by learning rate, by steps, with general lines mixed in.

    python -m tools.record_forgetting --output FILE --revision REVISION

QLoRA of SmolLM2-135M on lines of ``load_events("fit")``, three seeds a setting, in float32. Before and after:

``prose``, ``own_answers``
    Loss, in nats a token, on paragraphs of the course, and on the base's own greedy answers to general questions.
``as_event``
    Share of those questions that are answered with JSON, as if they were events.
``validation``, ``validation_unseen``
    Exact match on the lines of ``load_events("validation")``, by which settings are chosen: see `chosen_of`.

The chosen settings are then asked the test split, once. The questions alternate: every second one is measured, and
the others are mixed in. Runs share a GPU, several processes side by side: their seconds say nothing about speed.
"""

import argparse
import json
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import transformers

from lora_edu.classroom.experiments import forgetting
from lora_edu.llm.base_model import DEFAULT_NAME
from lora_edu.llm.data import load_events
from lora_edu.llm.data.extraction import encode_example, evaluate, generate_turns
from lora_edu.llm.files import write_json
from lora_edu.llm.finetune import FinetuneConfig
from lora_edu.llm.finetune.backends import PeftBackend
from lora_edu.llm.finetune.recipe import Recipe, make_recipe
from lora_edu.llm.finetune.trainer import make_trainer
from lora_edu.llm.provenance import provenance

BATCH_SIZE, STEPS, RATE = 2, 120, 1e-3  # as in notebook 10
SEEDS = (0, 1, 2)
ENOUGH = 0.02  # a setting is as good as the best if so little of exact match is missing
AT_ONCE = 100


@dataclass(frozen=True)
class Setting:
    """A way to fine-tune: general lines come on top of the events, with steps of their own."""

    learning_rate: float
    event_steps: int = STEPS
    general_lines: int = 0

    @property
    def steps(self) -> int:
        return self.event_steps + self.general_lines // BATCH_SIZE


@dataclass(frozen=True)
class Job:
    """One run: what is done, with which seed, where its adapter goes, and when it is too late to begin."""

    setting: Setting
    seed: int
    general: dict[str, list[dict[str, str]]]
    most: int | None
    folder: str
    deadline: float
    model: str = DEFAULT_NAME

    @property
    def adapter(self) -> Path:
        setting = self.setting
        name = f"{setting.learning_rate}-{setting.event_steps}-{setting.general_lines}-{self.seed}"
        return Path(self.folder) / name


def settings_of(tiny: bool) -> list[Setting]:
    """All settings, those with the most steps first, so that none is left to run alone at the end."""
    if tiny:
        return [Setting(RATE, 2), Setting(3e-3, 2), Setting(RATE, 2, 2)]
    tried = [
        *(Setting(rate) for rate in forgetting.RATES),
        *(Setting(rate, 2 * STEPS) for rate in forgetting.LONGER),
        *(Setting(rate, STEPS, 60) for rate in forgetting.REHEARSED),
        *(Setting(RATE, steps) for steps in (30, 60)),
        Setting(RATE, STEPS, 30),
    ]
    return sorted(tried, key=lambda setting: -setting.steps)


def recipe_of(setting: Setting, seed: int, model: str = DEFAULT_NAME) -> Recipe:
    # The optimizer and the dtype of the course on a CPU, on every machine.
    return make_recipe(
        FinetuneConfig(
            output="unused",
            model=model,
            dtype="float32",
            optimizer="adamw",
            learning_rate=setting.learning_rate,
            steps=setting.steps,
            batch_size=BATCH_SIZE,
            micro_batch_size=BATCH_SIZE,
            save_every=10**6,
            seed=seed,
        )
    )


def examples_of(job: Job, tokenizer: Any) -> list[dict[str, list[int]]]:
    """The lines that are trained on, each of them once; the Trainer shuffles them."""
    setting, draw = job.setting, random.Random(job.seed)
    events = draw.sample(load_events("fit"), BATCH_SIZE * setting.event_steps)
    lines = job.general["mixed_in"]
    again = -(-setting.general_lines // len(lines))  # fewer lines than are wanted come several times
    general = draw.sample(lines * again, setting.general_lines)
    return [encode_example(tokenizer, line) for line in events] + [
        forgetting.encode_answer(tokenizer, line) for line in general
    ]


def exact_matches(model: Any, tokenizer: Any, split: str, most: int | None) -> dict[str, float]:
    """Exact match on the two kinds of lines of a split."""
    lines = load_events(split)
    parts = {False: split, True: f"{split}_unseen"}
    chosen = {
        name: [line for line in lines if line.get("unseen_pattern", False) == unseen][:most]
        for unseen, name in parts.items()
    }
    return {
        name: evaluate(model, tokenizer, part, batch_size=AT_ONCE)["exact_match"]
        for name, part in chosen.items()
    }


def measured(model: Any, tokenizer: Any, general: dict[str, Any], most: int | None) -> dict[str, Any]:
    """What a model can do: elsewhere and at the task."""
    kept_back = general["measured"][:most]
    conversations = [forgetting.asked(line["question"]) for line in kept_back]
    answers = generate_turns(
        model, tokenizer, conversations, batch_size=AT_ONCE, max_new_tokens=forgetting.LONGEST_ANSWER
    )
    prose = [forgetting.encode_prose(tokenizer, text) for text in forgetting.load_prose()[:most]]
    own = [forgetting.encode_answer(tokenizer, line) for line in kept_back]
    return {
        "prose": forgetting.mean_loss(model, prose),
        "own_answers": forgetting.mean_loss(model, own),
        "as_event": forgetting.share_of_events(answers),
        "answers": answers[:10],
        **exact_matches(model, tokenizer, "validation", most),
    }


def ask_base(most: int | None) -> tuple[dict[str, list[dict[str, str]]], dict[str, Any]]:
    """The general lines, by the base that is fine-tuned, and what it can do before."""
    model, tokenizer = PeftBackend().load(recipe_of(Setting(RATE), 0))
    questions = forgetting.load_questions()[: most and 2 * most]
    lines = forgetting.own_answers(model, tokenizer, questions)
    general = {"measured": lines[::2], "mixed_in": lines[1::2]}
    return general, measured(model, tokenizer, general, most)


def attached(job: Job) -> tuple[Any, Any, Recipe]:
    backend, recipe = PeftBackend(), recipe_of(job.setting, job.seed, job.model)
    model, tokenizer = backend.load(recipe)
    transformers.set_seed(job.seed)  # before the adapter draws its A
    model = backend.attach(model, recipe)
    model.config.use_cache = False
    return model, tokenizer, recipe


def train(job: Job) -> dict[str, Any]:
    """Fine-tune once; return the setting with what was measured, or with what went wrong."""
    said = {**asdict(job.setting), "steps": job.setting.steps, "seed": job.seed}
    if time.time() > job.deadline:
        return said | {"failed": "not begun in the time given"}
    model, tokenizer, recipe = attached(job)
    with tempfile.TemporaryDirectory() as folder:
        examples = examples_of(job, tokenizer)
        trainer = make_trainer(recipe, PeftBackend(), model, tokenizer, examples, Path(folder))
        try:
            trainer.train()
        except ArithmeticError as error:
            return said | {"failed": str(error)}
    model = trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    PeftBackend().save(model, job.adapter)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    result = said | measured(model, tokenizer, job.general, job.most) | {"losses": losses}
    print({key: value for key, value in result.items() if key not in ("losses", "answers")}, flush=True)
    return result


def test(job: Job) -> dict[str, Any]:
    """Ask a trained adapter the test split."""
    model, tokenizer, _ = attached(job)
    PeftBackend().restore(model, job.adapter)
    scores = exact_matches(model, tokenizer, "test", job.most)
    return {**asdict(job.setting), "steps": job.setting.steps, "seed": job.seed} | scores


def chosen_of(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The setting of the best median on the validation split, and of those as good the one that forgets least.

    Exact match is the mean over both kinds of lines; a setting is as good if it lies within `ENOUGH`. What is
    forgotten is the mean of both losses on general text.
    """
    keys = tuple(asdict(Setting(RATE)))
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for run in runs:
        if "failed" not in run:
            groups.setdefault(tuple(run[key] for key in keys), []).append(run)

    def score(group: tuple) -> float:
        return statistics.median((run["validation"] + run["validation_unseen"]) / 2 for run in groups[group])

    def loss(group: tuple) -> float:
        return statistics.median((run["prose"] + run["own_answers"]) / 2 for run in groups[group])

    best = max(groups, key=score)
    gentle = min((group for group in groups if score(group) >= score(best) - ENOUGH), key=loss)
    return {name: dict(zip(keys, group, strict=True)) for name, group in (("best", best), ("gentle", gentle))}


def identity(run: dict[str, Any]) -> tuple[Any, ...]:
    """What tells a run from all others: its setting and its seed."""
    return tuple(run[key] for key in (*asdict(Setting(RATE)), "seed"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--revision", required=True, help="git revision of this checkout")
    parser.add_argument("--processes", type=int, default=11, help="runs side by side")
    parser.add_argument("--seconds", type=float, default=300, help="after which no run is begun")
    parser.add_argument("--tiny", action="store_true", help="2 steps and a few lines: does the script work?")
    parser.add_argument("--complete", type=Path, help="an earlier record: only the runs that failed are made")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes: several of them share the cores
    deadline, most = time.time() + arguments.seconds, 2 if arguments.tiny else None
    seeds = SEEDS[:1] if arguments.tiny else SEEDS
    earlier: dict[str, Any] = (
        json.loads(arguments.complete.read_text("utf-8")) if arguments.complete else {"runs": [], "test": []}
    )
    done = {identity(run): run for run in earlier["runs"] if "failed" not in run}
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(arguments.processes, multiprocessing.get_context("spawn")) as pool,
    ):
        general, base = (
            (earlier["general"], earlier["base"]) if done else pool.submit(ask_base, most).result()
        )
        jobs = [
            Job(setting, seed, general, most, folder, deadline)
            for setting in settings_of(arguments.tiny)
            for seed in seeds
        ]
        missing = [job for job in jobs if identity(asdict(job.setting) | {"seed": job.seed}) not in done]
        done |= {identity(run): run for run in pool.map(train, missing)}
        runs = [done[identity(asdict(job.setting) | {"seed": job.seed})] for job in jobs]
        chosen = chosen_of(runs) if any("failed" not in run for run in runs) else {}
        asked = [job for job in missing if asdict(job.setting) in chosen.values() and job.adapter.exists()]
        tested = earlier["test"] + list(pool.map(test, asked))
    content = {
        "command": "python -m tools.record_forgetting",
        **provenance(),
        "revision": ", then ".join(filter(None, [earlier.get("revision"), arguments.revision])),
        "settings": {"batch_size": BATCH_SIZE, "dtype": "float32", "r": 8, "lora_alpha": 16, "seeds": seeds},
        "general": general,
        "base": base,
        "runs": runs,
        "chosen": chosen,
        "test": tested,
    }
    write_json(arguments.output, content)


if __name__ == "__main__":
    main()
