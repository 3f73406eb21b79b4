"""What lies in a learner's file: three kinds of it, other names of columns, and what editors do to it."""

import json
import sys
from types import SimpleNamespace

import pytest

from lora_edu.llm.data.conversations import load_conversations, parse_columns
from lora_edu.llm.data.rows import read_rows

PAIR = {"prompt": "What is a rank?", "completion": "The number of independent columns,\nor of rows."}
WANTED = [([{"role": "user", "content": PAIR["prompt"]}], PAIR["completion"])]
CSV = b'prompt,completion\nWhat is a rank?,"The number of independent columns,\nor of rows."\n'


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(file)

    return write


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.jsonl", json.dumps(PAIR)),
        ("mine.JSONL", json.dumps(PAIR)),
        ("mine.jsonl", b"\xef\xbb\xbf" + json.dumps(PAIR).encode()),
        ("mine.jsonl", f"\r\n{json.dumps(PAIR)}\r\n\r\n"),
        ("mine.json", json.dumps([PAIR], indent=2)),
        ("mine.json", json.dumps(PAIR)),
        ("mine.csv", CSV),
        ("mine.csv", b"\xef\xbb\xbf" + CSV.replace(b"\n", b"\r\n")),
    ],
)
def test_each_kind_of_file_holds_the_same_row(write, name, content):
    assert load_conversations(write(name, content)) == WANTED


def test_columns_may_have_other_names(write):
    row = {"question": PAIR["prompt"], "answer": PAIR["completion"], "prompt": "another", "id": 7}
    columns = ["prompt=question", "completion=answer"]
    assert load_conversations(write("mine.jsonl", json.dumps(row)), columns) == WANTED
    table = CSV.replace(b"prompt,completion", b"question,answer")
    assert load_conversations(write("mine.csv", table), columns) == WANTED
    assert parse_columns(["completion=a=b"]) == {"completion": "a=b"}


def test_a_named_column_says_which_shape_is_meant(write):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    file = write("mine.jsonl", json.dumps(PAIR | {"messages": turns}))
    assert load_conversations(file) == WANTED
    assert load_conversations(file, ["messages=messages"]) == [(turns[:1], "Hello.")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "mine.parquet",
            "PAR1",
            r"a file that ends in one of .jsonl, .ndjson, .json, .csv, got '.*mine.parquet'",
        ),
        ("mine.txt", "hello", "a file that ends in one of .jsonl"),
        ("mine.jsonl", json.dumps(PAIR).encode("utf-16"), "UTF-8 text, got other bytes: it begins as UTF-16"),
        ("mine.jsonl", b'{"a": 1}\n\n{"b": "caf\xe9"}', r"UTF-8 text, got other bytes in line 3 \("),
        ("mine.jsonl", "\r\n \n", "must hold at least one line, got none"),
        ("mine.json", "[]", "must hold at least one line"),
        ("mine.csv", "prompt,completion\n", "must hold at least one line"),
        ("mine.json", '[{"prompt": "p"', "mine.json must be one JSON object"),
        ("mine.json", json.dumps([PAIR, 7]), "mine.json, row 2 must be a JSON object"),
        ("mine.csv", "prompt;completion\na;b\n", "with commas between, got"),
        ("mine.csv", "prompt,prompt\na,b\n", "all different, with commas"),
        ("mine.csv", "prompt,completion\na,b\nc\n", "line 3 must have 2 values, as many as the header"),
        ("mine.csv", "prompt,completion\na,b,c\n", "line 2 must have 2 values"),
        ("mine.csv", 'prompt,completion\n"a\nb",c\nd,\n', "line 4: completion must be text, got ''"),
        ("mine.csv", 'prompt,completion\na,"b" c\n', "line 2 must be a row of CSV"),
        ("mine.jsonl", '{"prompt": null, "completion": "c"}', "line 1: prompt must be text, got None"),
        ("mine.jsonl", '{"prompt": "p", "completion": 4}', "line 1: completion must be text, got 4"),
        (
            "mine.jsonl",
            '{"prompt": [], "completion": "c"}',
            r"text \(turns belong under messages\), got \[\]",
        ),
    ],
)
def test_what_breaks_a_file_is_named_with_its_line(write, name, content, message):
    with pytest.raises(ValueError, match=message):
        load_conversations(write(name, content))


def test_a_column_that_is_missing_is_named(write):
    file = write("mine.jsonl", f'{json.dumps(PAIR)}\n{{"completion": "c"}}')
    with pytest.raises(ValueError, match=r"line 1 must have the column 'question', got \['prompt', 'comp"):
        load_conversations(file, ["prompt=question"])
    with pytest.raises(ValueError, match="line 2 must have the column 'prompt'"):
        load_conversations(file, ["prompt=prompt"])


def test_a_data_set_of_the_hub_is_read_by_configuration_and_split(monkeypatch):
    asked = []

    def load_dataset(*names, **options):
        asked.append((names, options))
        return [PAIR, PAIR | {"completion": None}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert [row.place for row in read_rows("owner/name")] == ["owner/name, row 1", "owner/name, row 2"]
    with pytest.raises(ValueError, match="owner/name, row 2: completion must be text, got None"):
        load_conversations("owner/name", config="en", split="train[:2]")
    assert asked == [
        (("owner/name", None), {"split": "train"}),
        (("owner/name", "en"), {"split": "train[:2]"}),
    ]


def test_a_data_set_of_the_hub_that_is_damaged_is_named(monkeypatch):
    class DatasetGenerationError(Exception):
        """As in datasets.exceptions: no ValueError, no OSError."""

    def load_dataset(*names, **options):
        raise DatasetGenerationError("while generating") from TypeError("row 7 is cut")

    exceptions = SimpleNamespace(DatasetGenerationError=DatasetGenerationError)
    fake = SimpleNamespace(load_dataset=load_dataset, exceptions=exceptions)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    with pytest.raises(ValueError, match="owner/name is not: row 7 is cut"):
        read_rows("owner/name")
