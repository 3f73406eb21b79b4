"""The course's files, a learner's own file, and what the loaders say about a bad one."""

import json
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_edu.llm.data import (
    EVENT_FIELDS,
    PERSONAS,
    load_events,
    load_persona,
    load_persona_questions,
)
from lora_edu.llm.data.conversations import _event, load_conversations
from tools import make_events

SENTENCE = "Ana runs the yoga class in Room 3 on Monday at 14:30."
EVENT = {"who": "Ana", "what": "yoga class", "where": "Room 3", "day": "Monday", "time": "14:30"}
GOOD = {"sentence": SENTENCE, "event": EVENT}


@pytest.fixture
def write(tmp_path):
    """Return a function that writes lines, dicts or text, to a file and returns its path."""

    def write(*lines):
        path = tmp_path / "own.jsonl"
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(texts), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    "split, n, keys",
    [
        ("train", 1600, set()),
        ("fit", 1324, set()),
        ("validation", 200, {"unseen_pattern"}),
        ("test", 300, {"unseen_pattern"}),
    ],
)
def test_course_files(split, n, keys):
    events = load_events(split)
    assert len(events) == n
    assert all(line.keys() == {"sentence", "event"} | keys for line in events)
    assert all(tuple(line["event"]) == EVENT_FIELDS for line in events)


REGEXES = {pattern: make_events.regex_of(pattern) for pattern in make_events.PATTERNS}


def pattern_of(line):
    return next(
        p
        for p, regex in REGEXES.items()
        if make_events.regex_event(line["sentence"], [regex]) == line["event"]
    )


def test_settings_are_chosen_by_lines_that_are_not_learned_from_and_not_reported():
    """By the patterns of the script that made the sentences, not by how these begin."""
    train, fit, validation, test = (load_events(split) for split in ("train", "fit", "validation", "test"))
    assert all(line in train for line in fit) and not any(line in train for line in test)
    plain = [{"sentence": line["sentence"], "event": line["event"]} for line in validation]
    assert all(line in train and line not in fit for line in plain)
    learned = {pattern_of(line) for line in fit}
    seen, unseen = (
        [pattern_of(line) for line in validation if line["unseen_pattern"] is flag] for flag in (False, True)
    )
    assert len(seen) == len(unseen) == 100
    assert set(seen) <= learned and len(learned) == len(REGEXES) - 4
    assert sorted(Counter(unseen).values()) == [25] * 4 and not set(unseen) & learned


def test_default_is_train():
    assert load_events() == load_events("train")


def test_own_file(write):
    marked = {**GOOD, "unseen_pattern": True}
    path = write(GOOD, "", marked, "  ", "")
    assert load_events("test", path) == load_events(path=str(path)) == [GOOD, marked]


def test_byte_order_mark_is_no_content(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(GOOD), encoding="utf-8-sig")
    assert load_events(path=path) == [GOOD]


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(st.lists(st.fixed_dictionaries(dict.fromkeys(EVENT_FIELDS, words)), min_size=1, max_size=4))
def test_any_text_survives(tmp_path_factory, events):
    path = tmp_path_factory.mktemp("any") / "own.jsonl"
    lines = [{"sentence": " ".join(event.values()), "event": event} for event in events]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    path.write_text(text, encoding="utf-8", newline="\n")
    assert load_events(path=path) == lines


def without(mapping, key):
    return {k: v for k, v in mapping.items() if k != key}


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "line 2 must be one JSON object, got '{'"),
        ([1], r"line 2 must be a JSON object, got \[1\]"),
        (without(GOOD, "event"), "line 2 must be a JSON object with the keys sentence, event and, if wanted"),
        (
            {**GOOD, "unseen": True},
            "keys sentence, event and, if wanted, unseen_pattern, got .*'unseen': True",
        ),
        ({**GOOD, "sentence": " "}, "line 2: sentence must be text, got ' '"),
        ({**GOOD, "sentence": 3}, "line 2: sentence must be text, got 3"),
        ({**GOOD, "event": "yoga"}, "line 2: event must be a JSON object, got 'yoga'"),
        (
            {**GOOD, "event": without(EVENT, "day")},
            "event must be a JSON object with the keys who, what, where",
        ),
        ({**GOOD, "event": {**EVENT, "why": "Ana"}}, "keys who, what, where, day, time, got .*'why'"),
        (
            {**GOOD, "event": {**EVENT, "who": "Bo"}},
            "who must be copied from the sentence 'Ana runs.*got 'Bo'",
        ),
        ({**GOOD, "event": {**EVENT, "who": "ana"}}, "who must be copied from the sentence .*got 'ana'"),
        ({**GOOD, "event": {**EVENT, "day": ""}}, "day must be copied from the sentence .*got ''"),
        ({**GOOD, "event": {**EVENT, "time": 3}}, "time must be copied from the sentence .*got 3"),
        ({**GOOD, "unseen_pattern": "no"}, "line 2: unseen_pattern must be true or false, got 'no'"),
    ],
)
def test_bad_line_is_named(write, line, message):
    path = write(GOOD, line)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}, .*{message}"):
        load_events(path=path)


def test_file_without_lines(write):
    with pytest.raises(ValueError, match=r"own.jsonl must hold at least one line, got none"):
        load_events(path=write("", " "))


def test_file_that_is_not_text(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"own.jsonl must be UTF-8 text, got other bytes"):
        load_events(path=path)


@pytest.mark.parametrize("split", ["valid", "Train", None])
def test_unknown_split(split):
    with pytest.raises(ValueError, match=f"split must be one of 'train', .*, got {split!r}"):
        load_events(split)


def test_path_of_wrong_type():
    with pytest.raises(TypeError, match="path must be a str or a path, got 7"):
        load_events(path=7)


@pytest.mark.parametrize("name", ["none.jsonl", ""])
def test_path_without_file(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="path must be an existing JSON Lines file, got"):
        load_events(path=tmp_path / name)


@pytest.mark.parametrize(
    "load, file",
    [
        (load_events, "train.jsonl"),
        (lambda: load_persona("robot"), "robot.jsonl"),
        (load_persona_questions, "held_out.json"),
    ],
)
def test_package_without_repository(tmp_path, monkeypatch, load, file):
    monkeypatch.setattr("lora_edu.llm.data.lines.DATA", tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{file} is missing: .*Clone the repository"):
        load()


# ---------------------------------------------------------------- personas


@pytest.mark.parametrize("name", PERSONAS)
def test_a_persona_has_enough_turns(name):
    turns = load_persona(name)
    assert len(turns) >= 120 and all(turn.keys() == {"user", "reply"} for turn in turns)


@pytest.mark.parametrize("name", ["pirate", "Captain", None, ["robot"]])
def test_unknown_persona(name):
    allowed = "'captain', 'robot', 'gardener'"
    with pytest.raises(ValueError, match=re.escape(f"name must be one of {allowed}, got {name!r}")):
        load_persona(name)


@pytest.mark.parametrize(
    "line, message",
    [
        ("Ahoy", "line 2 must be one JSON object, got 'Ahoy'"),
        ({"user": "Ahoy?"}, "line 2 must be a JSON object with the keys user, reply, got"),
        ({"user": "Ahoy?", "reply": " "}, "line 2: reply must be text, got ' '"),
        ({"user": 3, "reply": "Aye!"}, "line 2: user must be text, got 3"),
    ],
)
def test_bad_turn_is_named(tmp_path, monkeypatch, line, message):
    file = tmp_path / "personas" / "captain.jsonl"
    file.parent.mkdir()
    good = json.dumps({"user": "Ahoy?", "reply": "Aye!"})
    file.write_text(f"{good}\n{line if isinstance(line, str) else json.dumps(line)}\n", encoding="utf-8")
    monkeypatch.setattr("lora_edu.llm.data.lines.DATA", tmp_path)
    with pytest.raises(ValueError, match=f"{re.escape(str(file))}, {message}"):
        load_persona("captain")


# ---------------------------------------------------------------- strict JSON


@pytest.mark.parametrize(
    "line, message",
    [
        (
            r'{"prompt": "half an emoji \ud83d", "completion": "ok"}',
            r"must hold whole characters, got .*'\\ud83d'",
        ),
        ('{"prompt": "p", "completion": "c", "\\udc00": 1}', "must hold whole characters"),
        (
            "[" * 100_000,
            r"must be one JSON object that is not nested so deep, got .*\.\.\. \(100,002 characters\)",
        ),
        (
            '{"prompt": "p", "completion": "c", "x": NaN}',
            "must be one JSON object, got .*NaN is no number in JSON",
        ),
        (
            '{"prompt": "p", "completion": "c", "x": -Infinity}',
            "must be one JSON object, got .*-Infinity is no number",
        ),
        (
            '{"prompt": "p", "completion": "c", "x": 1e999}',
            "must be one JSON object, got .*Out of range float",
        ),
        (
            '{"prompt": "p", "completion": "c", "x": ' + "9" * 5000 + "}",
            r"must be one JSON object, got .*4300 digits",
        ),
        ('{"prompt": "p", "prompt": "q", "completion": "c"}', "the key 'prompt' stands there twice"),
        (
            '{"prompt": ["p"], "completion": "c"}',
            r"prompt must be text .turns belong under messages., got \['p'\]",
        ),
        (
            '{"messages": [{"role": "user", "content": [1]}, {"role": "assistant", "content": "c"}]}',
            "as the first",
        ),
    ],
)
def test_what_is_no_strict_json_is_named_with_its_line(write, line, message):
    file = write({"prompt": "p", "completion": "c"}, line)
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))}, line 2") as raised:
        load_conversations(str(file))
    assert re.search(message, str(raised.value)) and len(str(raised.value)) < 700


def test_an_escaped_pair_of_surrogates_is_one_character(write):
    file = write(r'{"prompt": "\ud83d\ude00", "completion": "c"}')
    assert load_conversations(str(file)) == [([{"role": "user", "content": "😀"}], "c")]


@pytest.mark.parametrize("value", [float("nan"), b"bytes", {1, 2}])
def test_an_event_that_json_cannot_hold_is_named(value):
    with pytest.raises(ValueError, match="hub, row 1: event must be a JSON object, got"):
        _event("hub, row 1", {"sentence": "Ana talks.", "event": {"who": value}})
