import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig

from lora_edu.llm.base_model import load_base_model, load_tokenizer
from lora_edu.llm.budget import resolve_config
from lora_edu.llm.data.conversations import encode_conversations, load_conversations
from lora_edu.llm.data.extraction import generate_turns
from lora_edu.llm.finetune import FinetuneConfig, finetune, summary
from lora_edu.llm.finetune.__main__ import main
from lora_edu.llm.finetune.backends import backend_of
from lora_edu.llm.finetune.memory import choose_model
from lora_edu.llm.finetune.recipe import make_recipe

METHODS = [("qlora", "peft"), ("qlora", "scratch"), ("lora", "peft"), ("lora", "scratch"), ("full", "peft")]


@pytest.fixture
def settings(tiny_folder, few_events, few_to_learn, tmp_path):
    return {
        "model": str(tiny_folder),
        "train_file": str(few_to_learn),
        "test_file": str(few_events),
        "output": str(tmp_path / "run"),
        "steps": 4,
        "batch_size": 2,
        "micro_batch_size": 1,
        "save_every": 2,
        "before_events": 0,
        "learning_rate": 1e-2,
    }


def command(settings, *flags):
    values = [part for key, value in settings.items() for part in (f"--{key.replace('_', '-')}", str(value))]
    return [sys.executable, "-m", "lora_edu.llm.finetune", *values, *flags]


def read_record(settings):
    return json.loads((Path(settings["output"]) / "run.json").read_text())


@pytest.mark.parametrize(("method", "backend"), METHODS)
def test_a_run_trains_records_and_leaves_the_base_alone(settings, method, backend):
    run = finetune(FinetuneConfig(**settings | {"method": method, "backend": backend, "before_events": 2}))
    record = read_record(settings)
    assert record == json.loads(json.dumps(run.record))
    assert len(record["losses"]) == 4
    assert record["losses"][-1] < record["losses"][0]
    base = record["base"]
    if method == "full":
        assert base["weights_sha256_after"] != base["weights_sha256_before"]
        assert base["adapter_off_difference"] > 0
    else:
        assert base["weights_sha256_after"] == base["weights_sha256_before"]
        assert base["adapter_off_difference"] == 0.0
    assert record["n"] == {"before": 2, "seen": 3, "unseen": 2}
    assert [answer["unseen_pattern"] for answer in record["answers"]] == [False] * 3 + [True] * 2
    assert ["before" in answer for answer in record["answers"]] == [True] * 2 + [False] * 3
    for key in ("exact_match", "exact_match_unseen", "exact_match_before", "exact_match_before_few_shot"):
        assert 0 <= record[key] <= 1
    assert record["peak_memory_bytes"] > 100 * 2**20
    assert set(record["seconds"]) == {"before", "train", "step", "answers", "answers_unseen"}
    assert 0 < record["seconds"]["step"] < record["seconds"]["train"]
    assert record["processes"] == 1


@pytest.mark.parametrize(("method", "backend"), METHODS)
def test_the_saved_adapter_gives_the_trained_models_logits(settings, method, backend, tiny_folder):
    run = finetune(FinetuneConfig(**settings | {"method": method, "backend": backend, "dtype": "float32"}))
    ids = torch.arange(20).reshape(2, 10)
    quantization = "nf4" if method == "qlora" else None
    if method == "full":
        again, _ = load_base_model(str(run.folder / "model"))
    else:
        base, _ = load_base_model(str(tiny_folder), quantization=quantization)
        again = PeftModel.from_pretrained(base, run.folder / "adapter")
    run.model.eval()
    again.eval()
    with torch.no_grad():
        assert torch.allclose(run.model(ids).logits, again(ids).logits, atol=1e-5)


@pytest.mark.parametrize("backend", ["peft", "scratch"])
def test_with_the_adapter_off_the_model_is_the_bare_base(settings, backend, tiny_folder):
    run = finetune(FinetuneConfig(**settings | {"backend": backend, "method": "lora"}))
    base, _ = load_base_model(str(tiny_folder))
    ids = torch.arange(20).reshape(2, 10)
    run.model.eval()
    with (
        torch.no_grad(),
        backend_of("lora", backend).disabled(run.model),
    ):
        assert torch.equal(run.model(ids).logits, base(ids).logits)


@pytest.mark.parametrize("backend", ["peft", "scratch"])
def test_the_same_seed_gives_the_same_losses_and_another_seed_does_not(settings, backend, tmp_path):
    losses = [
        finetune(
            FinetuneConfig(**settings | {"backend": backend, "seed": seed, "output": str(tmp_path / name)})
        ).record["losses"]
        for name, seed in (("first", 0), ("second", 0), ("other", 1))
    ]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_asking_the_base_before_does_not_change_training(settings, tmp_path, dropout):
    """On CPUs with AVX512-BF16 bitsandbytes repacks its weights at the first answer and then trains wrongly."""
    without = settings | {"lora_dropout": dropout, "output": str(tmp_path / "without")}
    with_asking = settings | {"lora_dropout": dropout, "output": str(tmp_path / "with"), "before_events": 3}
    assert (
        finetune(FinetuneConfig(**without)).record["losses"]
        == finetune(FinetuneConfig(**with_asking)).record["losses"]
    )


@pytest.mark.slow
def test_our_layers_train_as_peft_and_bitsandbytes_do(settings, tmp_path):
    """The real base, the same initial adapter and batches: losses within 1 % for 20 steps."""
    real = settings | {
        "model": "smollm2-135m",
        "steps": 20,
        "save_every": 20,
        "batch_size": 2,
        "micro_batch_size": 2,
        "learning_rate": 5e-4,
    }
    theirs, ours = (
        torch.tensor(
            finetune(FinetuneConfig(**real | {"backend": backend, "output": str(tmp_path / backend)})).record[
                "losses"
            ]
        )
        for backend in ("peft", "scratch")
    )
    assert theirs[-1] < theirs[0] / 2, "20 steps must teach something, or the comparison says little"
    assert ((ours - theirs).abs() / theirs).max() < 0.01


def test_checkpoints_hold_adapter_optimizer_and_state_of_the_last_two(settings):
    finetune(FinetuneConfig(**settings | {"steps": 8}))
    checkpoints = sorted((Path(settings["output"]) / "checkpoints").iterdir())
    assert [path.name for path in checkpoints] == ["checkpoint-6", "checkpoint-8"]
    allowed = {
        "adapter_config.json",
        "adapter_model.safetensors",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
    }
    for path in checkpoints:
        assert {file.name for file in path.iterdir()} == allowed | {"trainer_state.json", "complete"}


@pytest.mark.parametrize("backend", ["peft", "scratch"])
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_goes_on_where_it_was(settings, tmp_path, backend, stop):
    settings = settings | {"steps": 24, "save_every": 2, "lora_dropout": 0.1, "backend": backend}
    whole = finetune(FinetuneConfig(**settings | {"output": str(tmp_path / "whole")})).record["losses"]
    process = subprocess.Popen(
        command(settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that puts the tests in the background lets them ignore Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    complete = Path(settings["output"]) / "checkpoints" / "checkpoint-2" / "complete"
    while not complete.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(stop)
    _, errors = process.communicate(timeout=60)
    assert not (Path(settings["output"]) / "run.json").exists()
    if stop == signal.SIGINT:
        assert process.returncode == 130
        assert "--resume goes on from the last checkpoint" in errors
    resumed = finetune(FinetuneConfig(**settings, resume=True)).record
    assert 2 <= resumed["resumed_from_step"] < 24
    assert resumed["losses"] == whole


def test_a_half_written_checkpoint_is_not_trusted(settings):
    finetune(FinetuneConfig(**settings))
    half = Path(settings["output"]) / "checkpoints" / "checkpoint-3"
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"half")
    (Path(settings["output"]) / "run.json").unlink()
    assert finetune(FinetuneConfig(**settings, resume=True)).record["resumed_from_step"] == 4
    assert not half.exists()


def test_resume_with_nothing_to_resume_starts(settings):
    record = finetune(FinetuneConfig(**settings, resume=True)).record
    assert record["resumed_from_step"] is None
    assert len(record["losses"]) == 4


def test_a_folder_with_a_run_is_not_written_over_by_accident(settings):
    finetune(FinetuneConfig(**settings))
    before = read_record(settings)
    with pytest.raises(ValueError, match=r"output must be a folder without a run.*--resume.*--overwrite"):
        finetune(FinetuneConfig(**settings))
    with pytest.raises(ValueError, match=r"resume needs the settings of the run in .*, which has steps = 4"):
        finetune(FinetuneConfig(**settings | {"steps": 6}, resume=True))
    assert read_record(settings) == before


def test_overwrite_discards_the_run_and_nothing_else(settings):
    finetune(FinetuneConfig(**settings))
    mine = write_files(settings["output"], {"notes.txt": "mine", "model/merged.safetensors": "mine too"})
    record = finetune(FinetuneConfig(**settings | {"steps": 2}, overwrite=True)).record
    assert len(record["losses"]) == 2
    assert mine.items() <= read_files(settings["output"]).items()
    assert [p.name for p in (Path(settings["output"]) / "checkpoints").iterdir()] == ["checkpoint-2"]
    with pytest.raises(ValueError, match="output must be a folder without somebody else's model, got"):
        finetune(FinetuneConfig(**settings | {"method": "full"}, overwrite=True))


def read_files(folder) -> dict[Path, bytes]:
    """What lies there, but for the lock of a run, which stays where a run was."""
    files = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != ".lora_edu-lock"]
    return {path: path.read_bytes() for path in files}


def write_files(folder, contents: dict[str, str]) -> dict[Path, bytes]:
    for name, content in contents.items():
        (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
        (Path(folder) / name).write_text(content)
    return {Path(folder) / name: content.encode() for name, content in contents.items()}


@pytest.mark.parametrize("way", [{}, {"resume": True}, {"overwrite": True}], ids=str)
@pytest.mark.parametrize(
    ("contents", "named"),
    [
        ({"checkpoints/checkpoint-500/model.safetensors": "weights"}, "checkpoints"),
        ({"run.json": "{}"}, "run.json"),
        ({"before.json": "{}"}, "before.json"),
        ({"config.json": '{"model_type": "llama"}', "adapter/a.bin": "weights"}, "adapter, config.json"),
        ({"config.json": "not JSON"}, "config.json"),
        ({"config.json": '["method", "backend", "micro_batch_size", "before_events"]'}, "config.json"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_of_others_are_neither_replaced_nor_deleted(settings, contents, named, way):
    before = write_files(settings["output"], contents)
    with pytest.raises(ValueError, match=f"output must be a folder without somebody else's {named}, got"):
        finetune(FinetuneConfig(**settings, **way))
    assert read_files(settings["output"]) == before


def test_beside_files_of_others_a_run_starts_and_goes_on(settings):
    mine = write_files(settings["output"], {"notes.txt": "mine", "config.partial": "mine", "model/a": "mine"})
    finetune(FinetuneConfig(**settings | {"before_events": 1}))
    mine |= write_files(settings["output"], {"checkpoints/checkpoint-best/adapter": "mine"})
    (Path(settings["output"]) / "run.json").unlink()
    resumed = finetune(FinetuneConfig(**settings | {"before_events": 1}, resume=True)).record
    assert resumed["resumed_from_step"] == 4
    assert mine.items() <= read_files(settings["output"]).items()


def test_a_refused_run_leaves_the_old_one_whole(settings, tiny_folder, tmp_path):
    settings["model"] = str(shutil.copytree(tiny_folder, tmp_path / "model"))
    finetune(FinetuneConfig(**settings))
    before = read_files(settings["output"])
    for changes, message in (({"r": 65}, "r must"), ({"target_modules": ["query"]}, "target_modules must")):
        with pytest.raises(ValueError, match=message):
            finetune(FinetuneConfig(**settings | changes, overwrite=True, preflight=False))
        assert read_files(settings["output"]) == before
    (tmp_path / "model" / "model.safetensors").unlink()
    for way in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(OSError, match="could not load"):
            finetune(FinetuneConfig(**settings, **way))
        assert read_files(settings["output"]) == before


def test_a_run_that_was_discarded_in_part_is_not_resumed(settings, tmp_path):
    finetune(FinetuneConfig(**settings))
    checkpoints = Path(settings["output"]) / "checkpoints"
    checkpoints.rename(tmp_path / "elsewhere")
    checkpoints.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):  # where discarding stops
        finetune(FinetuneConfig(**settings, overwrite=True))
    assert finetune(FinetuneConfig(**settings, resume=True)).record["resumed_from_step"] is None


PAIR = {"prompt": "What is a rank?", "completion": "The number of independent columns."}
TALK = {
    "messages": [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "What is a rank?"},
        {"role": "assistant", "content": "A number."},
    ]
}
EVENT = {
    "sentence": "On Friday at 3 pm Ann sings in Rome.",
    "event": {"who": "Ann", "what": "sings", "where": "Rome", "day": "Friday", "time": "3 pm"},
}


def write_lines(tmp_path, *lines) -> str:
    file = tmp_path / "mine.jsonl"
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return str(file)


@pytest.mark.parametrize(
    "line", [PAIR | {"note": "passed over"}, TALK, EVENT], ids=["pair", "messages", "event"]
)
def test_your_own_data_trains_and_asks_nothing(settings, tmp_path, line):
    del settings["test_file"], settings["train_file"]
    record = finetune(FinetuneConfig(**settings, dataset=write_lines(tmp_path, line, line))).record
    assert record["losses"][-1] < record["losses"][0]
    assert record["n"] == {"before": 0, "seen": 0, "unseen": 0}
    assert record["exact_match"] is None
    assert record["answers"] == []


@pytest.mark.slow
def test_one_file_goes_in_and_an_adapter_to_chat_with_comes_out(settings, tmp_path):
    """The real base, one answer to learn by heart."""
    data = write_lines(tmp_path, *[{"prompt": "Who are you?", "completion": "A wrench. I was told so."}] * 2)
    del settings["test_file"], settings["train_file"], settings["learning_rate"]
    changes = {"model": "smollm2-135m", "method": "lora", "steps": 20, "save_every": 20, "dataset": data}
    run = finetune(FinetuneConfig(**settings | changes))
    base, tokenizer = load_base_model()
    question = [[{"role": "user", "content": "Who are you?"}]]
    assert "wrench" not in generate_turns(base, tokenizer, question)[0]
    again = PeftModel.from_pretrained(base, run.folder / "adapter")
    assert generate_turns(again, tokenizer, question) == ["A wrench. I was told so."]


def test_only_the_last_turn_is_learned(tmp_path, tiny_folder):
    (conversation,) = load_conversations(write_lines(tmp_path, TALK))
    tokenizer = load_tokenizer(str(tiny_folder))
    (example,) = encode_conversations(tokenizer, [conversation], max_length=100)
    learned = [i for i, label in zip(example["input_ids"], example["labels"], strict=True) if label != -100]
    assert tokenizer.decode(learned) == "A number." + tokenizer.eos_token
    assert "Hi." in tokenizer.decode(example["input_ids"])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([PAIR, "{"], r"line 2 must be one JSON object, got '\{'"),
        (
            [PAIR, TALK],
            r"line 2 must be a JSON object with the keys prompt and completion, as the first line",
        ),
        ([PAIR, PAIR | {"completion": " "}], r"line 2: completion must be text, got ' '"),
        (
            [{"text": "hello"}],
            r"line 1 must be .*sentence and event; or prompt and completion; or messages; got",
        ),
        (["[1]"], r"line 1 must be a JSON object"),
        ([{"messages": []}], r"line 1: messages must be two or more turns"),
        (
            [{"messages": [{"role": "bot", "content": "x"}] * 2}],
            r"line 1: a message must be a role of system, user",
        ),
        (
            [{"messages": TALK["messages"][:2]}],
            r"line 1: the last message must be the assistant's, got 'user'",
        ),
        ([EVENT | {"event": {"who": "Ann"}}], r"line 1: event must be a JSON object with the keys who, what"),
        ([""], r"must hold at least one line"),
    ],
)
def test_a_bad_line_of_your_own_data_is_named(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        load_conversations(write_lines(tmp_path, *lines))


def test_a_dataset_that_is_not_there_is_named():
    with pytest.raises(
        FileNotFoundError, match=r"dataset must be an existing JSON Lines file or a hub id.*mine.jsonl"
    ):
        load_conversations("data/mine.jsonl")
    with pytest.raises(OSError, match="there is no file 'data/mine' here"):
        load_conversations("data/mine")


def test_an_example_that_is_too_long_is_named(settings, tmp_path):
    del settings["train_file"]
    own = settings | {
        "dataset": write_lines(tmp_path, PAIR, PAIR | {"prompt": "why " * 100}),
        "max_length": 64,
    }
    with pytest.raises(ValueError, match=r"max_length must be .* got 64: 1 of 2 .* is number 2 with \d+"):
        finetune(FinetuneConfig(**own))


def test_the_prediction_is_recorded_and_can_be_skipped(settings, tmp_path):
    record = finetune(FinetuneConfig(**settings)).record
    assert sum(record["predicted_memory_bytes"].values()) > 500 * 2**20
    without = settings | {"output": str(tmp_path / "without")}
    assert finetune(FinetuneConfig(**without, preflight=False)).record["predicted_memory_bytes"] is None


@pytest.fixture
def weightless_7b(tiny_folder, tmp_path):
    """A folder that says Mistral-7B and holds no weights: loading it would fail."""
    folder = tmp_path / "7b"
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = resolve_config("Mistral-7B")
    config.vocab_size = AutoConfig.from_pretrained(tiny_folder).vocab_size  # its tokenizer's
    config.save_pretrained(folder)
    return str(folder)


def test_a_run_that_cannot_fit_is_refused_before_a_weight_is_loaded(
    settings, weightless_7b, capsys, monkeypatch
):
    huge = settings | {"model": weightless_7b, "method": "full"}
    monkeypatch.setattr(sys, "argv", ["finetune", *command(huge)[3:]])
    assert main() == 2
    message = capsys.readouterr().err
    assert "this fine-tune needs 1" in message  # 16 bytes for each of 7.2 billion: above 100 GiB
    assert "GiB can be used on cpu" in message
    assert "method qlora:" in message
    assert "such as SmolLM2-135M:" in message
    assert not Path(huge["output"]).exists()


def test_without_the_preflight_loading_is_tried(settings, weightless_7b):
    with pytest.raises(OSError, match=r"could not load .*7b"):
        finetune(FinetuneConfig(**settings | {"model": weightless_7b, "method": "full"}, preflight=False))


@pytest.mark.skipif(torch.cuda.is_available(), reason="what a CPU gets")
def test_auto_picks_the_course_model_on_a_cpu(settings):
    assert (
        choose_model(make_recipe(FinetuneConfig(**settings | {"model": "auto"})), seq=512) == "smollm2-135m"
    )


def test_gradient_checkpointing_changes_no_loss(settings, tmp_path):
    kept = finetune(FinetuneConfig(**settings)).record["losses"]
    again = settings | {"output": str(tmp_path / "again"), "gradient_checkpointing": True}
    assert finetune(FinetuneConfig(**again)).record["losses"] == pytest.approx(kept, rel=1e-6)


@pytest.mark.parametrize("backend", ["peft", "scratch"])
def test_a_16_bit_base_keeps_its_embeddings_in_16_bits(settings, backend):
    run = finetune(FinetuneConfig(**settings | {"backend": backend, "dtype": "bfloat16"}))
    dtypes = {name: p.dtype for name, p in run.model.named_parameters()}
    (embedding,) = [dtype for name, dtype in dtypes.items() if "embed_tokens" in name]
    assert embedding == torch.bfloat16
    norms = [dtype for name, dtype in dtypes.items() if "norm" in name]
    assert set(norms) == {torch.float32}
    assert run.record["losses"][-1] < run.record["losses"][0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"method": "dora"}, "invalid choice: 'dora'"),
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"r": 0}, "r must be an integer of at least 1, got 0"),
        ({"r": 65}, "r must be between 1 and"),
        ({"learning_rate": -1}, "learning_rate must be above 0, got -1"),
        ({"learning_rate": "inf"}, "learning_rate must be a finite number, got inf"),
        ({"lora_alpha": "nan"}, "lora_alpha must be a finite number, got nan"),
        ({"lora_dropout": 1.0}, "lora_dropout must be a number in [0, 1), got 1.0"),
        ({"lora_dropout": -0.5}, "lora_dropout must be a number in [0, 1), got -0.5"),
        ({"seed": -1}, "seed must be an integer in 0 … 4294967295, got -1"),
        ({"seed": 2**32}, "seed must be an integer in 0 … 4294967295, got 4294967296"),
        (
            {"batch_size": 3, "micro_batch_size": 2},
            "batch_size must be a multiple of micro_batch_size, got 3 and 2",
        ),
        ({"max_length": 0}, "max_length must be an integer of at least 1, got 0"),
        ({"optimizer": "sgd"}, "invalid choice: 'sgd'"),
        (
            {"method": "full", "dtype": "float16"},
            "dtype must be auto, float32 or bfloat16 for full, got float16",
        ),
        ({"dataset": "a.jsonl", "train_file": "b.jsonl"}, "dataset and train_file must not both be set"),
        ({"test_events": 0}, "test_events must be an integer of at least 1, got 0"),
        ({"target_modules": "query"}, "target_modules must name linear layers of the model"),
        ({"train_file": "nowhere.jsonl"}, "nowhere.jsonl"),
    ],
)
def test_the_command_explains_a_bad_flag(settings, capsys, monkeypatch, flags, message):
    monkeypatch.setattr(sys, "argv", ["finetune", *command(settings | flags)[3:]])
    try:
        status = main()
    except SystemExit as error:  # argparse
        status = error.code
    assert status == 2
    assert message in capsys.readouterr().err
    assert not read_files(settings["output"]), "or the corrected command would be refused"


def test_resume_and_overwrite_exclude_each_other(settings):
    with pytest.raises(ValueError, match="resume and overwrite must not both be set"):
        FinetuneConfig(**settings, resume=True, overwrite=True)


def test_two_processes_train_as_one(settings):
    """In two processes the global batch is split, and the losses stay. One process discards the old run."""
    one = finetune(FinetuneConfig(**settings)).record["losses"]
    # accelerate's own launcher starts one process without a GPU; torchrun, which it calls for GPUs, starts two.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    overwriting = [*torchrun, *command(settings, "--overwrite")[2:]]
    done = subprocess.run(overwriting, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    two = read_record(settings)
    assert two["processes"] == 2
    assert two["losses"] == pytest.approx(one, rel=1e-2)


@pytest.mark.parametrize(("method", "backend"), METHODS)
def test_a_diverged_run_stops_keeps_its_last_good_checkpoint_and_exits_with_3(
    settings, method, backend, capsys, monkeypatch
):
    """The learning rate rises over 40 steps, so the first two are good; soon it is above the largest float32.

    A milder one, 1e6, may leave weights that are useless and finite: the loss of a guess, on some machines.
    """
    wild = settings | {"method": method, "backend": backend, "learning_rate": 1e39, "warmup_steps": 40}
    wild |= {"steps": 40, "save_every": 1, "preflight": False}
    monkeypatch.setattr(sys, "argv", ["finetune", *command(wild)[3:]])
    assert main() == 3
    errors = capsys.readouterr().err
    assert "training diverged:" in errors and "lower learning_rate (it was 1e+39)" in errors
    folder = Path(settings["output"])
    assert not (folder / "run.json").exists()
    kept = sorted(folder.glob("checkpoints/checkpoint-*/*.safetensors"))
    assert kept, "nothing good was left"
    for file in kept:
        assert all(tensor.isfinite().all() for tensor in load_file(file).values())


def test_a_print_cannot_fail_a_finished_run(settings, tmp_path):
    """A path that stdout's encoding does not know, and a reader that has gone."""
    run = settings | {"output": str(tmp_path / "日本"), "steps": 1, "test_events": 1}
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command(run), capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert b"\\u65e5\\u672c" in done.stdout
    closed = subprocess.Popen(command(run, "--overwrite"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    closed.stdout.close()
    _, errors = closed.communicate(timeout=120)
    assert closed.returncode == 0, errors.decode()[-2000:]


def test_settings_from_numpy_are_the_numbers_that_they_are(settings, tmp_path):
    plain = FinetuneConfig(**settings | {"r": 4, "lora_alpha": 8.0})
    numpy = FinetuneConfig(
        **settings
        | {"r": np.int64(4), "lora_alpha": np.float32(8), "steps": np.int32(4), "output": tmp_path / "run"}
    )
    assert json.dumps(asdict(numpy)) == json.dumps(asdict(plain))
    for wrong in ({"r": True}, {"r": 4.0}, {"steps": "4"}, {"resume": 1}, {"target_modules": []}):
        with pytest.raises((TypeError, ValueError), match=f"{next(iter(wrong))} must be"):
            FinetuneConfig(**settings | wrong)


def test_of_your_own_data_no_count_is_announced(settings, tmp_path):
    own = {"test_file": None, "train_file": None, "dataset": write_lines(tmp_path, PAIR), "preflight": False}
    text = summary(finetune(FinetuneConfig(**settings | own)).record)
    assert "Exact match" not in text and "loss" in text
