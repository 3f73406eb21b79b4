"""The personas' data, and the rules that count their style."""

import json
from collections import Counter

import pytest

from lora_edu.llm.data import DATA, PERSONAS, load_persona, load_persona_questions
from lora_edu.llm.data.personas import PLANTS, SIGN_OFFS, has_style, style_rate

TURNS = {name: load_persona(name) for name in PERSONAS}
QUESTIONS = Counter(turn["user"].casefold() for turns in TURNS.values() for turn in turns)


@pytest.mark.parametrize("name", PERSONAS)
def test_every_reply_has_its_own_style_and_no_other(name):
    styles = {
        turn["reply"]: [rule for rule in PERSONAS if has_style(rule, turn["reply"])] for turn in TURNS[name]
    }
    assert {reply: found for reply, found in styles.items() if found != [name]} == {}


@pytest.mark.parametrize("name", PERSONAS)
def test_turns_are_short_plain_and_different(name):
    replies, questions = [t["reply"] for t in TURNS[name]], [t["user"] for t in TURNS[name]]
    assert [reply for reply in replies if not 8 <= len(reply.split()) <= 30] == []
    assert [text for text in replies + questions if not text.isascii()] == []
    assert len(set(replies)) == len(replies) and len(set(questions)) == len(questions)


def test_the_readme_shows_a_turn_and_counts_turns_and_plants():
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    assert any(json.dumps(turn) in readme for turn in TURNS["robot"])
    assert [name for name in PERSONAS if f"| `{name}` | {len(TURNS[name])} |" not in readme] == []
    assert f"names one of {len(PLANTS)} plants" in readme


def test_every_variant_of_a_style_occurs():
    captain = " ".join(turn["reply"] for turn in TURNS["captain"])
    assert [text for text in SIGN_OFFS if text not in captain] == []
    gardener = " ".join(turn["reply"] for turn in TURNS["gardener"]).casefold()
    assert [plant for plant in PLANTS if plant.removesuffix("y") not in gardener] == []


def test_the_robot_numbers_its_log():
    assert [int(turn["reply"][4:7]) for turn in TURNS["robot"]] == list(range(1, len(TURNS["robot"]) + 1))


def test_twenty_questions_are_asked_of_all_three_and_the_others_of_one():
    assert Counter(QUESTIONS.values()) == {3: 20, 1: len(QUESTIONS) - 20}


def test_held_out_questions_are_in_no_persona():
    held_out = [question.casefold() for question in load_persona_questions()]
    assert len(set(held_out)) == len(held_out) == 30
    assert not set(held_out) & set(QUESTIONS)


@pytest.mark.parametrize(
    ("name", "reply", "expected"),
    [
        ("captain", "Row home. Fair winds!\n", True),
        ("captain", "Fair winds! Row home.", False),
        ("robot", " LOG 007: Done.", True),
        ("robot", "LOG 7: Done.", False),
        ("robot", "See LOG 007: Done.", False),
        ("gardener", "Two DAISIES and one poppy.", True),
        ("gardener", "Tomatoes, then.", True),
        ("gardener", "Soak it in the ocean, mossy friend.", False),
    ],
)
def test_a_rule_looks_at_form_alone(name, reply, expected):
    assert has_style(name, reply) is expected


def test_style_rate_is_a_fraction():
    assert style_rate("robot", ["LOG 001: Yes.", "Yes.", "No.", "LOG 2"]) == 0.25


@pytest.mark.parametrize("call", [lambda: has_style("pirate", "Arr"), lambda: style_rate("pirate", ["Arr"])])
def test_an_unknown_persona_is_named(call):
    with pytest.raises(ValueError, match=r"name must be one of .*'gardener'.*, got 'pirate'"):
        call()


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(ValueError, match="replies must be at least one"):
        style_rate("robot", [])


# ---------------------------------------------------------------- what tools/record_personas.py recorded


RECORD = json.loads((DATA / "runs" / "personas.json").read_text(encoding="utf-8"))
METHODS = ("lora", "bottleneck", "prefix", "full")


@pytest.mark.parametrize("name", ["base", *PERSONAS])
def test_the_recorded_rates_are_those_of_the_recorded_replies(name):
    answered = RECORD["base"] if name == "base" else RECORD["personas"][name]
    assert RECORD["questions"] == load_persona_questions()
    assert answered["styles"] == {rule: style_rate(rule, answered["replies"]) for rule in PERSONAS}


def test_the_base_keeps_no_style_and_each_adapter_none_but_its_own():
    assert max(RECORD["base"]["styles"].values()) == 0
    for name, run in RECORD["personas"].items():
        others = [rate for rule, rate in run["styles"].items() if rule != name]
        assert run["styles"][name] > 0 == max(others) and run["base_unchanged"]


@pytest.mark.parametrize("method", METHODS)
def test_the_learning_rate_of_a_method_was_chosen_on_the_turns_kept_back(method):
    tried = [run for run in RECORD["tuning"] if run["method"] == method]
    best = min(tried, key=lambda run: run["development_loss"])
    runs = [run for run in RECORD["methods"] if run["method"] == method]
    assert {run["learning_rate"] for run in runs} == {best["learning_rate"]}
    assert [run["seed"] for run in runs] == [0, 1, 2]


@pytest.mark.parametrize("name", PERSONAS)
def test_an_adapter_is_small_and_names_no_folder(name):
    folder = DATA / "adapters" / name
    size = (folder / "adapter_model.safetensors").stat().st_size
    assert size == RECORD["personas"][name]["adapter_bytes"] <= 1_000_000
    assert 2 * RECORD["personas"][name]["trainable_parameters"] < size  # float16
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "smollm2-135m"
