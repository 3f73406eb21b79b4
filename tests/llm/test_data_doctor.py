"""What the data doctor finds in a file that has everything, and what its command says."""

import json
import re
import sys

import numpy as np
import pytest

from lora_edu.llm.base_model import load_tokenizer
from lora_edu.llm.data import load_events
from lora_edu.llm.data.conversations import encode_whole, event_conversation
from lora_edu.llm.data.doctor import examine, main, padding_share
from lora_edu.llm.data.extraction import IGNORE

GOOD = [{"prompt": f"What is {n} and {n}?", "completion": f"It is {2 * n}."} for n in range(5)]
BAD = [
    GOOD[0],  # again
    GOOD[1] | {"completion": "Three."},  # otherwise
    {"prompt": "why " * 90, "completion": "Because."},
    {"prompt": "Empty?", "completion": " "},
    {"prompt": "None?", "completion": None},
    {"prompt": 3, "completion": "A number as a prompt."},
    "no object",
]


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    return load_tokenizer(str(tiny_folder))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [json.dumps(row | {"source": "web"} if isinstance(row, dict) else row) for row in [*GOOD, *BAD]]
    path.write_text("\n".join([*rows, "{"]), encoding="utf-8")
    return path


def test_everything_that_is_wrong_is_found_at_once(tokenizer, file, tmp_path):
    test = tmp_path / "test.jsonl"
    test.write_text("\n".join(json.dumps(row) for row in (GOOD[0], GOOD[4])), encoding="utf-8")
    report = examine(str(file), tokenizer, max_length=64, test=str(test))
    assert report.rows == len(GOOD) + len(BAD) + 1
    lines = [fault.split(", ")[1].split(" ")[1].strip(":") for fault in report.faults]
    assert lines == ["9", "10", "11", "12", "13"]
    assert (report.empty_answers, report.duplicates, report.contradictions) == (2, 1, 1)
    assert (report.over_length, report.leaks, report.unused) == (1, 3, ("source",))
    assert not report.healthy
    text = str(report)
    for fault in report.faults:
        assert f"- {fault}" in text
    assert text.count("\n[[") == text.count("<|im_end|>]]") == 3
    assert re.search(r"prompt also in the test +3\n", text)


def test_the_counts_are_those_of_the_examples(tokenizer):
    """By numpy over the examples themselves."""
    conversations = [event_conversation(line) for line in load_events("train")[:60]]
    report = examine(conversations, tokenizer)
    examples = encode_whole(tokenizer, conversations)
    lengths = [len(example["labels"]) for example in examples]
    scored = sum((np.array(example["labels"]) != IGNORE).sum() for example in examples)
    assert report.tokens == sum(lengths) and report.scored == scored and report.rows == 60
    assert report.masked == pytest.approx(1 - scored / sum(lengths))
    assert report.lengths["min"] == min(lengths) and report.lengths["max"] == max(lengths)
    assert report.lengths["median"] in (int(np.floor(np.median(lengths))), int(np.ceil(np.median(lengths))))
    assert report.healthy and report.leaks is None and not report.faults
    assert [len(example.tokens) for example in report.examples][::2] == [min(lengths), max(lengths)]
    for example in report.examples:
        assert example.marked().count("[[") == 1 and example.marked().endswith("<|im_end|>]]")


def test_padding_is_what_two_at_a_time_cost():
    """Every pair of different lengths is as likely: the mean over all pairs."""
    lengths = [10, 20, 30, 40]
    pairs = [max(a, b) * 2 for i, a in enumerate(lengths) for b in lengths[i + 1 :]]
    exact = 1 - sum(lengths) / (2 * sum(pairs) / len(pairs))
    assert padding_share(lengths, epochs=3000) == pytest.approx(exact, abs=0.01)
    assert padding_share([7] * 9) == padding_share([]) == padding_share([3, 9], batch_size=1) == 0


def test_of_the_course_data_three_per_cent_are_padding(tokenizer):
    """The number that `lora_edu.llm.data.conversations` gives as the reason against packing."""
    rows = [event_conversation(line) for line in load_events("train")[::8]]
    assert examine(rows, tokenizer).padding == pytest.approx(0.03, abs=0.005)


def test_a_first_row_without_a_shape_does_not_hide_the_others(tokenizer, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ({"text": "x"}, {"text": "y"}, *GOOD)))
    report = examine(str(path), tokenizer)
    assert len(report.faults) == 2 and report.rows == 7 and len(report.examples) == 3
    path.write_text("\n".join(json.dumps({"text": str(n)}) for n in range(50)))
    hopeless = examine(str(path), tokenizer)
    assert len(hopeless.faults) == 50 and hopeless.examples == () and "- and 30 more" in str(hopeless)


def test_all_turns_and_a_system_prompt_are_seen_as_the_run_will(tokenizer):
    talk = [{"role": r, "content": r} for r in ("user", "assistant", "user")]
    report = examine([(talk, "bye")], tokenizer, system="Be brief.", learn="all")
    assert report.examples[0].marked().count("[[") == 2 and "Be brief." in report.examples[0].marked()


@pytest.mark.parametrize(
    ("rows", "status", "stream", "said"),
    [
        (GOOD, 0, "out", "[[It is 8.<|im_end|>]]"),
        (
            [*GOOD, {"prompt": "p"}],
            1,
            "out",
            "line 6 must be a JSON object with the keys prompt and completion",
        ),
        ([], 2, "err", "error: "),
    ],
)
def test_the_command(tiny_folder, tmp_path, monkeypatch, capsys, rows, status, stream, said):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    monkeypatch.setattr(sys, "argv", ["doctor", str(path), "--model", str(tiny_folder)])
    assert main() == status
    assert said in getattr(capsys.readouterr(), stream)


def test_an_example_is_what_the_figure_takes(tokenizer):
    from lora_edu.classroom import figures

    (example, *_) = examine([([{"role": "user", "content": "Hi"}], "Hello.")], tokenizer).examples
    picture = figures.scored_example(*example)
    assert "are scored" in picture.alt
