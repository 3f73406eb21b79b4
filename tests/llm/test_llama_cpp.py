"""The personas' adapters, exported by us, run by llama.cpp over the file that the base model was converted from."""

import json
import subprocess

import pytest

from lora_edu.llm.base_model import fetch_gguf, load_tokenizer
from lora_edu.llm.data import DATA, PERSONAS, load_persona_questions
from lora_edu.llm.data.personas import has_style
from lora_edu.llm.export import export_gguf_adapter
from tools import npm

QUESTIONS = 10  # of 30: a second of one core each, and persona
# Tokens of a reply: a whole one has up to 48, the robot shows its rule in the first ones, the base has none to show.
MOST = {"captain": 48, "gardener": 48, "robot": 12, "base": 24}
RECORD = json.loads((DATA / "runs" / "personas.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def prompts():
    """What the chat template makes of each question: text, and transformers' token ids."""
    tokenizer = load_tokenizer()
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        for question in load_persona_questions()[:QUESTIONS]
    ]
    return {text: tokenizer.encode(text, add_special_tokens=False) for text in texts}


@pytest.fixture(scope="module")
def answers(prompts, tmp_path_factory):
    """What llama.cpp answers: the base, and each persona."""
    web = npm.WEB / "llama"
    try:
        npm.install(web)
    except npm.NodeMissing as error:
        pytest.skip(str(error))  # with CI=true, tests/ci_guard.py makes this a failure
    folder = tmp_path_factory.mktemp("gguf")
    files = {n: str(export_gguf_adapter(DATA / "adapters" / n, folder / f"{n}.gguf")) for n in PERSONAS}
    asked = {
        "model": str(fetch_gguf()),
        "voices": {name: {"adapter": files.get(name), "most": most} for name, most in MOST.items()},
        "prompts": list(prompts),
    }
    command = [npm.node(), web / "answer.mjs"]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, encoding="utf-8", check=True)
    return json.loads(done.stdout)


def test_llama_cpp_reads_the_prompt_as_transformers_does(prompts, answers):
    assert [answer["prompt"] for answer in answers["base"]] == list(prompts.values())


@pytest.mark.parametrize("name", PERSONAS)
def test_a_persona_keeps_its_rule_as_often_as_recorded(answers, name):
    recorded = RECORD["personas"][name]["replies"][:QUESTIONS]
    kept, wanted = (
        sum(has_style(name, text) for text in texts)
        for texts in ([answer["text"] for answer in answers[name]], recorded)
    )
    assert abs(kept - wanted) <= 1


def test_the_base_keeps_no_rule_and_no_persona_another(answers):
    for name, given in answers.items():
        others = [rule for rule in PERSONAS if rule != name]
        kept = [(name, rule, a["text"]) for a in given for rule in others if has_style(rule, a["text"])]
        assert kept == []


@pytest.mark.parametrize("name", PERSONAS)
def test_replies_begin_as_pytorchs_do(answers, name):
    """Greedy replies part where two tokens are nearly as likely; most share their first word."""
    recorded = [reply.split()[0] for reply in RECORD["personas"][name]["replies"][:QUESTIONS]]
    ours = [answer["text"].split()[0] for answer in answers[name]]
    assert sum(a == b for a, b in zip(ours, recorded, strict=True)) >= 0.7 * QUESTIONS
