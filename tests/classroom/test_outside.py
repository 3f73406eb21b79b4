"""Notebook 13: the parts of an adapter's files, llama.cpp over the events adapter, and the record of both."""

import json
from pathlib import Path

import nbformat
import pytest
from safetensors import safe_open

from lora_edu.classroom import records
from lora_edu.classroom.experiments import outside
from lora_edu.llm.base_model import fetch_gguf
from lora_edu.llm.data import DATA, load_events
from lora_edu.llm.data.extraction import parse_event
from lora_edu.llm.export import export_gguf_adapter
from tools import npm

ROOT = Path(__file__).resolve().parents[2]
EVENTS = DATA / "adapters" / "events"
FILE = EVENTS / "adapter_model.safetensors"
RECORD = records.read("events_adapter")
PYTORCH, LLAMA_CPP = "pytorch, Q4_1", "llama.cpp, Q4_1 file"
ASKED = 6  # two to three seconds of one core each


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    return export_gguf_adapter(EVENTS, tmp_path_factory.mktemp("gguf") / "events.gguf")


def test_the_parts_are_the_file_and_their_order_is_that_of_its_text(gguf_file):
    parts = outside.parts_of_peft(FILE)
    assert sum(size for _, size in parts) == FILE.stat().st_size < 1e6
    raw = FILE.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    begins = {key: value["data_offsets"][0] for key, value in header.items() if key != "__metadata__"}
    keys = sorted(begins, key=begins.__getitem__)
    assert [name.split(".")[0] for name, _ in parts[1:]] == [key.split(".")[4] for key in keys]
    assert [name[-1] for name, _ in parts[1:5]] == ["A", "B", "A", "B"]
    gguf = outside.parts_of_gguf(gguf_file)
    assert sum(size for _, size in gguf) == gguf_file.stat().st_size
    assert [size for _, size in gguf[1:]] == [2 * size for _, size in parts[1:]]  # 32 bits for 16, same order


def test_the_adapter_names_the_base_and_is_as_the_record_says():
    config = json.loads((EVENTS / "adapter_config.json").read_text(encoding="utf-8"))
    training = RECORD["training"]["config"]
    assert config["base_model_name_or_path"] == "smollm2-135m" and config["r"] == training["r"]
    assert sorted(config["target_modules"]) == sorted(training["target_modules"]) == ["q_proj", "v_proj"]
    with safe_open(FILE, "pt") as tensors:
        assert {tensors.get_slice(key).get_dtype() for key in tensors.keys()} == {"F16"}  # noqa: SIM118


@pytest.mark.parametrize("way", RECORD["ways"])
def test_the_record_agrees_with_its_own_answers(way):
    lines = load_events("test")[: RECORD["sentences"]]
    found = RECORD["ways"][way]
    right = [parse_event(a) == line["event"] for a, line in zip(found["answers"], lines, strict=True)]
    assert right == found["right"] and found["exact_match"] == sum(right) / len(right)


@pytest.mark.parametrize("folder", ["notebooks", "notebooks/solutions"])
def test_the_stored_page_shows_what_is_recorded(folder):
    """Its cell is not run anew while its source stays, so another adapter would leave old answers there."""
    notebook = nbformat.read(ROOT / folder / "13_out_of_the_notebook.ipynb", as_version=4)
    [cell] = [cell for cell in notebook.cells if "outside.ask_llama_cpp(" in cell.source]
    shown = cell.outputs[0].data["text/plain"]
    assert all(answer in shown for answer in RECORD["ways"][LLAMA_CPP]["answers"][:3])


def test_llama_cpp_scores_within_two_points_of_pytorch():
    scores = outside.scores(RECORD, {PYTORCH: PYTORCH, LLAMA_CPP: LLAMA_CPP})
    assert abs(scores[PYTORCH] - scores[LLAMA_CPP]) <= 0.02


def test_without_llama_cpp_the_recorded_answers_stand_there(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(outside, "LLAMA", tmp_path)
    answers = outside.ask_llama_cpp(["a", "b"], None, ["one", "two", "three"])
    assert [(a["prompt"], a["text"]) for a in answers] == [(None, "one"), (None, "two")]
    assert "npm ci" in capsys.readouterr().out


@pytest.fixture(scope="module")
def node():
    try:
        npm.install(outside.LLAMA)
    except npm.NodeMissing as error:
        pytest.skip(str(error))  # with CI=true, tests/ci_guard.py makes this a failure
    return npm.node()


def test_llama_cpp_reads_the_prompts_and_says_what_is_recorded(node, gguf_file):
    lines = load_events("test")[:ASKED]
    asked = outside.prompts([line["sentence"] for line in lines])
    answers = outside.answer(node, fetch_gguf(), gguf_file, list(asked))
    assert [answer["prompt"] for answer in answers] == list(asked.values())
    right = [parse_event(a["text"]) == line["event"] for a, line in zip(answers, lines, strict=True)]
    assert abs(sum(right) - sum(RECORD["ways"][LLAMA_CPP]["right"][:ASKED])) <= 1
    recorded = RECORD["ways"][LLAMA_CPP]["answers"][:ASKED]
    assert sum(answer["text"] == text for answer, text in zip(answers, recorded, strict=True)) >= ASKED - 1


def test_answers_may_be_longer_than_a_pipe_holds(node):
    """65,536 bytes on Linux. The same prompt again costs llama.cpp next to nothing."""
    [prompt] = outside.prompts(["one"])
    answers = outside.answer(node, fetch_gguf(), None, [prompt] * 600, most=1)
    assert len(answers) == 600 and len(json.dumps(answers)) > 2**16
    assert all(answer == answers[0] for answer in answers)
