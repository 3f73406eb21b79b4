"""The event data is what data/README.md says, and what tools/make_events.py writes."""

import hashlib
import importlib.util
import json
import re
import shlex
import statistics
import sys
from pathlib import Path
from string import Formatter

import pytest

from lora_edu.llm.data import EVENT_FIELDS, load_events
from lora_edu.llm.data.extraction import parse_event

ROOT = Path(__file__).parents[1]
README = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
TRAIN, TEST = load_events("train"), load_events("test")
SEEN = [line for line in TEST if not line["unseen_pattern"]]
UNSEEN = [line for line in TEST if line["unseen_pattern"]]


@pytest.fixture(scope="module")
def generator():
    """Return tools/make_events.py as a module."""
    spec = importlib.util.spec_from_file_location("make_events", ROOT / "tools" / "make_events.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def values(lines, field):
    return {line["event"][field] for line in lines}


def names(lines):
    """Return the first names and surnames in `who`, titles left out."""
    return {word for who in values(lines, "who") for word in who.split()} - {"Dr", "Ms", "Mr", "Professor"}


def row(title, count):
    """Return a row of the README's table."""
    return f"| {title} | {count(TRAIN):,} | {count(TEST):,} |"


def patterns_of(generator, lines, patterns):
    """Return the patterns that read `lines`, each line exactly."""
    regexes = {pattern: generator.regex_of(pattern) for pattern in patterns}
    return [
        next((pattern for pattern, regex in regexes.items() if regex.fullmatch(line["sentence"])), None)
        for line in lines
    ]


@pytest.mark.parametrize(
    "title, count",
    [
        ("lines", len),
        ("different persons (`who`)", lambda lines: len(values(lines, "who"))),
        ("first names and surnames in them", lambda lines: len(names(lines))),
        ("different activities (`what`)", lambda lines: len(values(lines, "what"))),
        ("different places (`where`)", lambda lines: len(values(lines, "where"))),
        ("longest sentence, in characters", lambda lines: max(len(line["sentence"]) for line in lines)),
    ],
)
def test_readme_counts(title, count):
    assert row(title, count) in README


def test_readme_names_the_sha256_of_every_data_file():
    data = ROOT / "data"
    for file in sorted(file for file in data.rglob("*") if file.is_file() and file.name != "README.md"):
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        assert f"| {file.relative_to(data).as_posix()} | `{sha256}` |" in README


RECORDING = re.findall(
    r"\bpython (?:-m tools\.|tools/)(record_\w+)(?:\.py)?([^`\n]*)", README.replace("\\\n", "")
)


def test_readme_has_a_command_for_every_recording_script():
    assert {script for script, _ in RECORDING} == {file.stem for file in (ROOT / "tools").glob("record_*.py")}


@pytest.mark.parametrize("script, arguments", RECORDING, ids=map(" ".join, RECORDING))
def test_readme_recording_commands_are_complete(script, arguments, monkeypatch, capsys):
    """argparse names what is missing before what it does not know; so no script goes beyond its command line."""
    if "parse_args()" not in (ROOT / "tools" / f"{script}.py").read_text(encoding="utf-8"):
        assert not arguments  # it reads none, and would run
        return
    monkeypatch.setattr(sys, "argv", [script, *shlex.split(arguments, comments=True), "--no-such-option"])
    with pytest.raises(SystemExit):
        importlib.import_module(f"tools.{script}").main()
    assert capsys.readouterr().err.endswith("error: unrecognized arguments: --no-such-option\n")


def test_enough_of_everything():
    assert len(TRAIN) >= 1500 and len(SEEN) == 200 and len(UNSEEN) == 100
    assert len(names(TRAIN)) >= 300 and len(values(TRAIN, "where")) >= 150
    assert len({line["sentence"] for line in TRAIN + TEST}) == len(TRAIN) + len(TEST)


def test_patterns(generator):
    train = set(patterns_of(generator, TRAIN, generator.PATTERNS))
    seen = set(patterns_of(generator, SEEN, generator.PATTERNS))
    unseen = set(patterns_of(generator, UNSEEN, generator.UNSEEN_PATTERNS))
    assert train == seen == set(generator.PATTERNS)
    assert unseen == set(generator.UNSEEN_PATTERNS)
    assert len(train) >= 25 and len(unseen) >= 8
    assert f"| patterns | {len(train)} | the same {len(seen)}, and {len(unseen)} of its own |" in README


def test_unseen_patterns_are_not_in_train(generator):
    assert set(patterns_of(generator, UNSEEN, generator.PATTERNS)) == {None}
    assert set(patterns_of(generator, TRAIN, generator.UNSEEN_PATTERNS)) == {None}


@pytest.mark.parametrize("kind", ["PATTERNS", "UNSEEN_PATTERNS"])
def test_each_pattern_says_each_field_once(generator, kind):
    for pattern in getattr(generator, kind):
        slots = [slot for _, slot, _, _ in Formatter().parse(pattern) if slot]
        fields = re.findall(r"\?P<(\w+)>", " ".join(generator.SLOTS[slot] for slot in slots))
        assert sorted(fields) == sorted(EVENT_FIELDS), pattern


@pytest.mark.parametrize("part", ["names", "what", "where"])
def test_nothing_of_test_is_in_train(part):
    test, train = (names(lines) if part == "names" else values(lines, part) for lines in (TEST, TRAIN))
    text = "\n".join(line["sentence"] for line in TRAIN)
    found = [value for value in test if re.search(rf"\b{re.escape(value)}\b", text, re.IGNORECASE)]
    within = [(a, b) for a in train for b in test if re.search(rf"\b{re.escape(a)}\b", b, re.IGNORECASE)]
    assert found == [] and within == []


def test_sentences_are_ascii():
    assert [line["sentence"] for line in TRAIN + TEST if not line["sentence"].isascii()] == []


def test_baseline_needs_known_patterns(generator):
    seen, unseen = generator.regex_exact_match(SEEN), generator.regex_exact_match(UNSEEN)
    assert seen >= 0.9 and unseen <= 0.2
    assert f"| {seen:.1%} of {len(SEEN)} | {unseen:.1%} of {len(UNSEEN)} |" in README


def run(generator, monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["make_events.py", *flags])
    return generator.main()


def test_files_are_what_the_generator_writes(generator, monkeypatch):
    assert run(generator, monkeypatch, "--check") == 0


def test_check_finds_a_changed_file(generator, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(generator, "FOLDER", tmp_path / "events")
    assert run(generator, monkeypatch) == 0
    assert run(generator, monkeypatch, "--check") == 0
    (tmp_path / "events" / "test.jsonl").write_text("{}\n")
    assert run(generator, monkeypatch, "--check") == 1
    assert "data/events/test.jsonl is not what this script writes" in capsys.readouterr().err


def test_baseline_command(generator, monkeypatch, capsys):
    assert run(generator, monkeypatch, "--baseline") == 0
    printed = capsys.readouterr().out
    assert all(
        f"{generator.regex_exact_match(lines):.1%} of {len(lines)}" in printed for lines in (SEEN, UNSEEN)
    )


# ---------------------------------------------------------------- recorded runs


RUNS = [
    json.loads(file.read_text()) for file in sorted((ROOT / "data/runs").glob("events_qlora_cpu_seed*.json"))
]


def test_the_recorded_runs_keep_what_the_course_promises():
    assert sorted(run["seed"] for run in RUNS) == [0, 1, 2]
    assert statistics.median(run["exact_match"] for run in RUNS) >= 0.8
    for run in RUNS:
        # The base is the same for every seed, and is asked once.
        assert run["n"] == {"before": 0 if run["seed"] else 50, "seen": 200, "unseen": 100}
        assert run["seconds"]["train"] + run["seconds"]["answers"] < 5 * 60
        assert run["peak_memory_bytes"] <= 1.8 * 2**30


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"seed{run['seed']}")
def test_a_record_agrees_with_its_own_answers(run):
    answers = {seen: [a for a in run["answers"] if a["unseen_pattern"] != seen] for seen in (True, False)}
    for seen, key in ((True, "exact_match"), (False, "exact_match_unseen")):
        right = [parse_event(a["answer"]) == a["event"] for a in answers[seen]]
        assert right == [a["correct"] for a in answers[seen]]
        assert run[key] == sum(right) / len(right)
    assert run["base"]["weights_sha256_before"] == run["base"]["weights_sha256_after"]
    assert run["base"]["adapter_off_difference"] == 0.0
    assert {a["sentence"] for a in run["answers"]} == {line["sentence"] for line in TEST}
