"""The models that the course proposes, what is asked before one is fetched, and what is checked when it comes."""

import errno
import importlib
import json
import shutil

import pytest
import torch
from transformers import AutoConfig

from lora_edu.llm import tiers
from lora_edu.llm.base_model import SHAPES, TIERS, catalog, download, load, load_base_model, load_tokenizer
from lora_edu.llm.base_model.download import YES, is_here, require_disk
from lora_edu.llm.budget import memory_ledger
from lora_edu.llm.budget.moments import FineTune
from lora_edu.llm.data import asking, extraction, load_events
from lora_edu.llm.finetune import FinetuneConfig
from lora_edu.llm.finetune.plan import make_plan
from tools import pin_revisions

GIB = 2**30
SMALL, MIDDLE, LARGE = TIERS


@pytest.fixture(autouse=True)
def empty_hub_cache(monkeypatch, tmp_path):
    """A hub's cache of its own, and nobody has said yes."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(download, "_allowed", set())
    return tmp_path / "hub"


@pytest.fixture
def gpu(monkeypatch):
    """Pretend a GPU by its compute capability and its free GiB."""

    def pretend(capability, gib):
        for name, answer in {
            "is_available": True,
            "get_device_capability": capability,
            "get_device_name": "pretended",
            "get_device_properties": type("Properties", (), {"total_memory": int(gib * GIB)}),
            "mem_get_info": (int(gib * GIB), int(gib * GIB)),
            "memory_reserved": 0,
            "memory_allocated": 0,
        }.items():
            monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)

    return pretend


def fill_cache(cache, name, files):
    """What huggingface_hub leaves after a download: a reference to a commit, and its files."""
    folder = cache / ("models--" + name.replace("/", "--"))
    snapshot = folder / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    for file, text in files.items():
        (snapshot / file).write_text(text)


# --- what is proposed ---------------------------------------------------------------------------------


def test_a_cpu_is_proposed_the_smallest(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    proposal = tiers.propose()
    assert proposal.name == SMALL and proposal.machine.startswith("no GPU")
    columns = proposal.columns()
    assert {len(column) for column in columns.values()} == {len(TIERS)}
    assert columns["proposed"] == ["yes", "", ""]
    assert columns["licence"] == ["Apache-2.0"] * 3 and columns["computes_in"] == ["float32"] * 3


@pytest.mark.parametrize(
    ("capability", "gib", "name"),
    [
        ((7, 5), 1, SMALL),
        ((7, 5), 14.56, MIDDLE),  # the 7B would fit, and is risky in float16
        ((8, 9), 22, LARGE),
        ((9, 0), 139, LARGE),
    ],
)
def test_a_gpu_is_proposed_what_fits_and_is_safe_in_its_16_bits(gpu, monkeypatch, capability, gib, name):
    monkeypatch.setattr(tiers, "free_disk_bytes", lambda _: 10**12)
    gpu(capability, gib)
    proposal = tiers.propose()
    assert proposal.name == name and f"compute capability {capability[0]}.{capability[1]}" in proposal.machine
    risky = [row.tier.name for row in proposal.rows if row.risky]
    assert risky == ([LARGE] if capability < (8, 0) else [])
    computes = proposal.columns()["computes_in"]
    if capability < (8, 0):  # without bfloat16 it is said what is known of each in float16
        assert computes == [f"float16. {tier.half}" for tier in TIERS.values()]
        assert computes[-1].startswith("float16. Risky: ")
    else:
        assert computes == ["bfloat16"] * 3


def test_what_the_disk_cannot_hold_is_not_proposed(gpu, monkeypatch):
    monkeypatch.setattr(tiers, "free_disk_bytes", lambda _: 4 * 10**9)
    gpu((9, 0), 80)
    proposal = tiers.propose()
    assert proposal.name == MIDDLE
    assert proposal.columns()["fits"][2] == "no: 4.0 GB of disk are free"


def test_the_capstone_that_is_predicted_is_the_capstone():
    tokenizer, train = load_tokenizer(), load_events("train")
    longest = max(len(extraction.encode_example(tokenizer, line)["input_ids"]) for line in train)
    sentences = [line["sentence"] for line in load_events("test")]
    assert longest == tiers.LONGEST_EXAMPLE
    assert extraction.longest_prompt(tokenizer, sentences) <= tiers.LONGEST_PROMPT


def test_another_model_may_be_named_from_outside(monkeypatch):
    assert tiers.chosen(SMALL) == SMALL
    monkeypatch.setenv(tiers.MODEL, "/a/folder")
    assert tiers.chosen(SMALL) == "/a/folder"


# --- rate ---------------------------------------------------------------------------------------------


def test_the_rate_falls_at_a_billion_parameters():
    assert [tiers.learning_rate(n) for n in (1, 10**9 - 1, 10**9)] == [1e-3, 1e-3, 2e-4]
    assert [tiers.learning_rate(name) for name in TIERS] == [1e-3, 2e-4, 2e-4]
    assert tiers.learning_rate(AutoConfig.for_model(**SHAPES["Mistral-7B"])) == 2e-4
    for wrong in (True, 0, -1):
        with pytest.raises(ValueError, match="model must be a number of parameters of at least 1"):
            tiers.learning_rate(wrong)


# --- before a download --------------------------------------------------------------------------------


def test_nothing_large_is_fetched_without_a_yes(monkeypatch):
    message = r"Qwen/Qwen2.5-7B-Instruct would be downloaded: 15\.2 GB.*Apache-2\.0.*DOWNLOAD = True"
    with pytest.raises(PermissionError, match=message):
        tiers.require_consent(LARGE, download=False)
    with pytest.raises(PermissionError, match=r"3\.4 GB"):
        load_base_model(MIDDLE)
    tiers.require_consent(LARGE, download=True)
    tiers.require_consent(LARGE)  # the yes is remembered
    with pytest.raises(PermissionError):
        tiers.require_consent(MIDDLE)  # and is not another's
    monkeypatch.setenv(YES, "1")
    tiers.require_consent(MIDDLE)


def test_what_is_small_or_here_needs_no_yes(tmp_path, empty_hub_cache):
    tiers.require_consent(SMALL)
    tiers.require_consent(str(tmp_path))
    fill_cache(empty_hub_cache, MIDDLE, {"config.json": "{}", "model.safetensors": ""})
    tiers.require_consent(MIDDLE)


def test_half_a_download_is_not_here(empty_hub_cache):
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    files = {"config.json": "{}", "model.safetensors.index.json": index, "model-1.safetensors": ""}
    fill_cache(empty_hub_cache, LARGE, files)
    assert not is_here(LARGE)
    shutil.rmtree(empty_hub_cache)
    fill_cache(empty_hub_cache, LARGE, files | {"model-2.safetensors": ""})
    assert is_here(LARGE)


def test_a_full_disk_is_noticed_before_the_download(monkeypatch):
    monkeypatch.setattr(download, "free_disk_bytes", lambda _: 2 * 10**9)
    with pytest.raises(OSError, match=r"needs 15\.2 GB on the disk of .*, where 2\.0 GB are free") as refused:
        require_disk(LARGE)
    assert refused.value.errno == errno.ENOSPC
    require_disk(SMALL)


def test_the_command_asks_by_a_flag(tmp_path):
    with pytest.raises(PermissionError, match=r"3\.4 GB.*set --allow-download"):
        make_plan(FinetuneConfig(output=str(tmp_path / "run"), model=MIDDLE))


# --- when it is loaded --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [MIDDLE, LARGE])
def test_the_recorded_shape_is_required(name):
    right = AutoConfig.for_model(**SHAPES[TIERS[name].shape], dtype="bfloat16")
    catalog.require_recorded_shape(name, right)
    wrong = AutoConfig.for_model(**SHAPES[TIERS[name].shape] | {"num_hidden_layers": 3}, dtype="bfloat16")
    with pytest.raises(
        ValueError, match=r"is not the model that this course recorded: num_hidden_layers 3, not 2"
    ):
        catalog.require_recorded_shape(name, wrong)
    wide = AutoConfig.for_model(**SHAPES[TIERS[name].shape], dtype="float32")
    with pytest.raises(ValueError, match="dtype 'float32', not 'bfloat16'"):
        catalog.require_recorded_shape(name, wide)
    catalog.require_recorded_shape("another/model", wrong)


def test_the_bars_of_a_hubs_model_are_shown_and_the_courses_are_not(monkeypatch, tiny_folder):
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import enable_progress_bar, is_progress_bar_enabled

    hub_bars = importlib.import_module("huggingface_hub.utils.tqdm")  # the attribute of this name is a class
    monkeypatch.setattr(hub_bars, "HF_HUB_DISABLE_PROGRESS_BARS", None)  # the tests' processes ask for none
    enable_progress_bar()
    shown = []
    from_pretrained = AutoModelForCausalLM.from_pretrained

    def loading(**settings):
        shown.append((is_progress_bar_enabled(), not hub_bars.are_progress_bars_disabled()))
        return from_pretrained(**settings | {"pretrained_model_name_or_path": tiny_folder})

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", loading)
    load_base_model(str(tiny_folder))
    # A hub cannot be reached here: the same folder stands for what it would give.
    monkeypatch.setattr(load, "_resolve_name", lambda name: tiny_folder)
    load_base_model("some/model")
    assert shown == [(False, False), (True, True)]


# --- the ledger of answering --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "gigabytes"),
    [("Qwen2.5-7B", 0.54), ("SmolLM2-1.7B", 1.9)],
)
def test_the_cache_is_that_of_float32_keys_and_values(shape, gigabytes):
    on_a_t4 = {"dtype": torch.float16, "device": "cuda", "optimizer": "paged_adamw_8bit"}
    ledger = memory_ledger(shape, batch=1, seq=1, **on_a_t4, answers=25, prompt=1, new_tokens=188)
    assert ledger["key-value cache"] / 1e9 == pytest.approx(gigabytes, rel=0.03)


def test_the_cache_is_what_transformers_keeps(tiny):
    ids = torch.randint(0, 256, (3, 7))
    cache = tiny(ids, use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    ledger = memory_ledger(tiny.config, "qlora", 1, 1, 2, answers=3, prompt=7, new_tokens=0)
    by_hand = 2 * 2 * 2 * 16 * 4 * 3 * 7  # keys and values, layers, heads, features, bytes, rows, tokens
    assert held == by_hand == FineTune(**ledger.settings).cache(7)


def test_the_peak_is_of_training_or_of_answering():
    quiet = memory_ledger("SmolLM2-1.7B", batch=2, seq=124)
    asked = quiet.but(answers=1, prompt=10)
    assert asked.total == quiet.total and asked["key-value cache"] == 0
    loud = quiet.but(answers=400, prompt=400)
    assert loud.total > quiet.total and loud["activations"] == 0


# --- fewer answers ------------------------------------------------------------------------------------


def test_answers_are_cut_by_one_setting(monkeypatch, tiny_folder):
    model, tokenizer = load_base_model(str(tiny_folder))
    lines = load_events("test")[:4]
    monkeypatch.setenv(asking.ANSWERS, "2x3")
    result = extraction.evaluate(model, tokenizer, lines)
    assert result["n"] == len(result["answers"]) == 2
    assert all(len(tokenizer.encode(answer)) <= 4 for answer in result["answers"])
    for wrong in ("2", "0x3", "axb", "2x3x4"):
        monkeypatch.setenv(asking.ANSWERS, wrong)
        with pytest.raises(ValueError, match="LORA_EDU_ANSWERS must be answers x tokens"):
            asking.answers_cut()


# --- revisions ----------------------------------------------------------------------------------------


def answer(name, **changes):
    return {"id": name, "sha": "0123456789" * 4, "cardData": {"license": "apache-2.0"}} | changes


def test_revisions_are_pinned_from_the_hubs_answers(tmp_path, capsys):
    target = tmp_path / "revisions.py"
    shutil.copy(pin_revisions.TARGET, target)
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps({name: answer(name) for name in (MIDDLE, LARGE)}))
    assert pin_revisions.main(["--answers", str(answers)], target) == 0
    namespace = {}
    exec(target.read_text(), namespace)
    assert namespace["REVISIONS"] == {MIDDLE: "0123456789" * 4, LARGE: "0123456789" * 4}
    again = target.read_text()
    assert pin_revisions.main(["--answers", str(answers)], target) == 0 and target.read_text() == again


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sha": "main"}, "a commit of 40 digits"),
        ({"id": "another/model"}, "must hold its id"),
        ({"cardData": {"license": "llama3"}}, "must be Apache-2.0"),
    ],
)
def test_an_answer_that_is_none_pins_nothing(tmp_path, capsys, wrong, message):
    target = tmp_path / "revisions.py"
    shutil.copy(pin_revisions.TARGET, target)
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps({MIDDLE: answer(MIDDLE), LARGE: answer(LARGE, **wrong)}))
    assert pin_revisions.main(["--answers", str(answers)], target) == 1
    assert message in capsys.readouterr().err
    assert target.read_text() == pin_revisions.TARGET.read_text()


def test_without_a_network_nothing_is_pinned(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pin_revisions, "API", "http://127.0.0.1:9/{name}")  # nobody listens there
    target = tmp_path / "revisions.py"
    shutil.copy(pin_revisions.TARGET, target)
    assert pin_revisions.main([], target) == 1
    assert "the model hub cannot be reached, so nothing was pinned" in capsys.readouterr().err
