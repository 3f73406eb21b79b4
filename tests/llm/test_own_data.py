"""A run on a learner's own data: lengths, epochs, validation, early stopping, resuming; on a very small model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from lora_edu.llm.base_model import load_base_model, load_tokenizer
from lora_edu.llm.data.arrange import also_in, hold_out, prompt_of, with_system
from lora_edu.llm.data.conversations import encode_conversations, load_conversations
from lora_edu.llm.finetune import FinetuneConfig, finetune, summary
from lora_edu.llm.finetune.plan import make_plan

PAIRS = [{"prompt": f"What is {n} and {n}?", "completion": f"It is {2 * n}."} for n in range(12)]


def write_rows(file, rows) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


@pytest.fixture
def settings(tiny_folder, tmp_path):
    return {
        "model": str(tiny_folder),
        "dataset": write_rows(tmp_path / "mine.jsonl", PAIRS),
        "output": str(tmp_path / "run"),
        "method": "lora",
        "steps": 6,
        "micro_batch_size": 1,
        "save_every": 2,
        "learning_rate": 1e-2,
        "preflight": False,
    }


def test_memory_is_predicted_of_the_rows_that_were_read(settings, tmp_path):
    long = [{"prompt": "What is this?", "completion": "It is " + "very " * 40 + "long."}]
    changes = {"validation_file": write_rows(tmp_path / "kept.jsonl", long), "preflight": True}
    plan = make_plan(FinetuneConfig(**settings | changes))
    told = plan.ledger.settings
    assert told["validation"] == told["seq"] == len(plan.validation[0]["input_ids"])
    assert told["scored"] == max(
        sum(label != -100 for label in row["labels"]) - (row["labels"][0] != -100) for row in plan.examples
    )
    assert told["scored"] < max(len(row["input_ids"]) for row in plan.examples)


def test_validation_changes_nothing_of_the_training(settings, tmp_path):
    other = write_rows(tmp_path / "kept.jsonl", PAIRS[:3])
    plain = finetune(FinetuneConfig(**settings | {"lora_dropout": 0.1})).record
    validated = settings | {"lora_dropout": 0.1, "validation_file": other, "output": str(tmp_path / "two")}
    record = finetune(FinetuneConfig(**validated)).record
    assert record["losses"] == plain["losses"]
    assert [entry["step"] for entry in record["eval_losses"]] == [0, 2, 4, 6]
    assert plain["eval_losses"] == [] and plain["kept_step"] == 6 and not plain["stopped_early"]
    assert "3 of 3 validation rows ask what a training row asks, too." in record["notes"]


@pytest.mark.parametrize("backend", ["peft", "scratch"])
def test_a_validation_loss_is_the_mean_over_rows_of_the_kept_model(settings, tmp_path, backend):
    """By a second route: the saved adapter over a new base, each row by itself."""
    held = PAIRS[:3]
    changes = {
        "validation_file": write_rows(tmp_path / "kept.jsonl", held),
        "steps": 7,
        "backend": backend,
        "dtype": "float32",
    }
    run = finetune(FinetuneConfig(**settings | changes))
    base, tokenizer = load_base_model(settings["model"])
    rows = encode_conversations(tokenizer, load_conversations(changes["validation_file"]), 100)

    def mean(model):
        model.eval()
        with torch.no_grad():
            losses = [model(**{k: torch.tensor([v]) for k, v in row.items()}).loss.item() for row in rows]
        return sum(losses) / len(losses)

    measured = {entry["step"]: entry["loss"] for entry in run.record["eval_losses"]}
    assert list(measured) == [0, 2, 4, 6, 7]
    assert measured[0] == pytest.approx(mean(base), abs=1e-4)
    kept = run.record["kept_step"]
    assert measured[kept] == min(loss for step, loss in measured.items() if step)
    again = PeftModel.from_pretrained(base, run.folder / "adapter")
    assert measured[kept] == pytest.approx(mean(again), abs=1e-4) == pytest.approx(mean(run.model), abs=1e-4)
    assert f"{measured[kept]:.3f} at step {kept}, which is kept" in summary(run.record)


@pytest.fixture
def stopping(settings, tmp_path):
    """What is kept back contradicts what is learned: its loss rises soon, and patience ends the run."""
    against = [{"prompt": "What is 1 and 1?", "completion": "Zebra quartz vex jumble."}]
    held = write_rows(tmp_path / "kept.jsonl", against)
    return settings | {
        "validation_file": held,
        "patience": 2,
        "steps": 60,
        "learning_rate": 5e-2,
        "lora_dropout": 0.1,
    }


def test_early_stopping_keeps_the_best_and_resumes_bit_for_bit(stopping, tmp_path):
    whole = finetune(FinetuneConfig(**stopping))
    record = whole.record
    losses = {entry["step"]: entry["loss"] for entry in record["eval_losses"] if entry["step"]}
    best, last = record["kept_step"], max(losses)
    assert losses[best] == min(losses.values()) and last == best + 2 * 2 < 60
    assert record["stopped_early"] and len(record["losses"]) == last
    assert "stopped early" in summary(record)

    def resumed_after(*lost):
        folder = tmp_path / f"copy-{len(lost)}"
        shutil.copytree(whole.folder, folder)
        (folder / "run.json").unlink()
        for step in lost:
            shutil.rmtree(folder / "checkpoints" / f"checkpoint-{step}")
        return finetune(FinetuneConfig(**stopping | {"output": str(folder)}, resume=True))

    kept = (whole.folder / "adapter" / "adapter_model.safetensors").read_bytes()
    for lost, begins in (((), last), ((last,), best)):
        again = resumed_after(*lost)
        assert again.record["resumed_from_step"] == begins
        for key in ("losses", "eval_losses", "kept_step", "stopped_early"):
            assert again.record[key] == record[key]
        assert (again.folder / "adapter" / "adapter_model.safetensors").read_bytes() == kept


def test_a_damaged_best_checkpoint_costs_no_run(stopping, capsys):
    run = finetune(FinetuneConfig(**stopping))
    best = run.folder / "checkpoints" / f"checkpoint-{run.record['kept_step']}"
    (best / "adapter_model.safetensors").write_bytes(b"damaged")
    (run.folder / "run.json").unlink()
    again = finetune(FinetuneConfig(**stopping, resume=True)).record
    assert again["kept_step"] == len(again["losses"])
    assert "the best, is damaged: the last one is kept" in capsys.readouterr().out


def test_a_resumed_run_wants_the_same_validation_rows(settings, tmp_path):
    file = tmp_path / "kept.jsonl"
    changes = settings | {"validation_file": write_rows(file, PAIRS[:3])}
    finetune(FinetuneConfig(**changes))
    write_rows(file, PAIRS[:4])
    with pytest.raises(ValueError, match="the validation data has changed"):
        finetune(FinetuneConfig(**changes, resume=True))


@pytest.mark.parametrize(("epochs", "steps"), [(1, 6), (1.5, 9), (0.1, 1)])
def test_epochs_are_counted_in_steps(settings, epochs, steps):
    """12 rows, two a step. In one epoch each row is seen once."""
    record = finetune(FinetuneConfig(**settings | {"steps": None, "epochs": epochs})).record
    assert len(record["losses"]) == record["config"]["steps"] == steps


def test_a_fraction_is_kept_back_and_counted(settings):
    record = finetune(FinetuneConfig(**settings | {"validation_fraction": 0.25, "steps": 2})).record
    assert "9 rows are learned from, 3 are kept back for validation." in record["notes"]


def conversation(prompt, answer="yes"):
    return [{"role": "user", "content": prompt}], answer


def test_rows_with_the_same_prompt_are_kept_back_together():
    rows = [conversation(str(n % 10), f"answer {n}") for n in range(40)]
    for seed in range(5):
        learned, kept = hold_out(rows, 0.2, seed)
        assert (
            len(kept) == 8
            and sorted(learned + kept, key=str) == sorted(rows, key=str)
            and not also_in(kept, learned)
        )
        assert hold_out(rows, 0.2, seed) == (learned, kept)
    assert len({str(hold_out(rows, 0.2, seed)) for seed in range(5)}) > 1
    with pytest.raises(ValueError, match="two different prompts to share out, got 1 in 2 rows"):
        hold_out(rows[::10][:2], 0.5, 0)


def test_a_system_turn_stands_before_each_row_that_has_none():
    own = ([{"role": "system", "content": "Sing."}, *conversation("Hi")[0]], "La")
    told, given = with_system([conversation("Hi"), own], "Be brief.")
    assert given == 1 and told[1] == own
    assert told[0][0] == [{"role": "system", "content": "Be brief."}, *conversation("Hi")[0]]
    assert prompt_of(told[0]) == prompt_of(conversation(" Hi ")) == prompt_of(own)


LONG = {"prompt": "why " * 100, "completion": "Because."}
TAIL = {"prompt": "Why?", "completion": "because " * 100}


@pytest.mark.parametrize(
    ("over_length", "left", "note"),
    [
        ("drop", 12, "2 of 14 training rows are longer than 64 tokens: 2 were dropped."),
        ("cut", 13, "1 were dropped (nothing scored was left), 1 were cut and teach no end of turn."),
    ],
)
def test_rows_that_are_too_long_are_counted(settings, tmp_path, over_length, left, note):
    data = write_rows(tmp_path / "long.jsonl", [*PAIRS, LONG, TAIL])
    changes = {"dataset": data, "max_length": 64, "over_length": over_length, "steps": None, "epochs": 1}
    record = finetune(FinetuneConfig(**settings | changes)).record
    assert any(note in line for line in record["notes"])
    assert len(record["losses"]) == -(-left // 2)


def test_a_row_that_is_cut_keeps_its_beginning(tiny_folder, tmp_path):
    tokenizer = load_tokenizer(str(tiny_folder))
    rows = load_conversations(write_rows(tmp_path / "long.jsonl", [TAIL]))
    (whole,), (cut,) = (encode_conversations(tokenizer, rows, most, over_length="cut") for most in (1000, 64))
    assert all(cut[key] == whole[key][:64] for key in whole)
    with pytest.raises(ValueError, match="max_length must leave something to learn, got 5: all 1 rows"):
        encode_conversations(tokenizer, rows, 5, over_length="cut")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 2}, "steps and epochs must not both be set"),
        ({"steps": None, "epochs": 0}, "epochs must be above 0"),
        ({"patience": 2}, "patience needs validation data"),
        ({"validation_fraction": 1.0}, "validation_fraction must be between 0 and 1"),
        (
            {"validation_fraction": 0.1, "validation_file": "a"},
            "validation_file and validation_fraction must",
        ),
        ({"columns": ["question"]}, "columns must be of the form key=column"),
        ({"columns": ["question=a"]}, "columns must be of the form key=column with a key of sentence"),
        ({"columns": ["prompt=a", "prompt=b"]}, "columns must be different keys"),
        ({"dataset": None, "system": "Be brief."}, "system needs a dataset"),
        ({"learn": "first"}, "learn must be one of"),
        ({"over_length": "wrap"}, "over_length must be one of"),
        ({"system": " "}, "system must be text"),
    ],
)
def test_settings_that_do_not_go_together_are_named(settings, changes, message):
    with pytest.raises(ValueError, match=message):
        FinetuneConfig(**settings | changes)


def test_tensorboard_is_asked_for_before_the_run(settings, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="report_to must be none where the package tensorboard is missing"):
        FinetuneConfig(**settings, report_to="tensorboard")


def test_a_finished_run_may_be_resumed_under_another_name(settings):
    """Files count by what they hold: the same rows under other columns are the same run."""
    first = finetune(FinetuneConfig(**settings)).record
    renamed = [{"question": row["prompt"], "answer": row["completion"]} for row in PAIRS]
    other = write_rows(Path(settings["dataset"]).with_name("other.jsonl"), renamed)
    changes = {"dataset": other, "columns": ["prompt=question", "completion=answer"]}
    assert finetune(FinetuneConfig(**settings | changes, resume=True)).record == first
