"""Notebook 10 with two models that are not the course's: nothing that it says then may be false.

Both are tiny, of random weights, and of other sizes, another architecture and other tokens than the course's model. All
cells run, but those of the learner. What they say is compared with arithmetic on the configurations below.
"""

import ast
import json
import os
import re
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from lora_edu.classroom.experiments import merging
from lora_edu.classroom.predictions import load_predictions
from lora_edu.classroom.widgets import Prediction
from lora_edu.llm.base_model import SHAPES, fetch_base_model
from lora_edu.llm.data.extraction import IGNORE
from lora_edu.llm.finetune.callbacks import DivergedError
from tools import build_notebooks
from tools.reading_time import tags_of

[SOURCE] = build_notebooks.selected_sources(["10"], build_notebooks.ROOT)
SIZES = {
    "llama": {"hidden_size": 64, "intermediate_size": 192, "layers": 2, "heads": 4, "kv": 2, "more": 7},
    "qwen2": {"hidden_size": 128, "intermediate_size": 256, "layers": 3, "heads": 2, "kv": 1, "more": 40},
}
SIZES["qwen3"] = SIZES["llama"]
MAKERS: Any = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
COUNTING = """
from transformers import PreTrainedModel
load = PreTrainedModel.from_pretrained.__func__
def counted(cls, name, *arguments, **settings):
    with open({log!r}, "a") as file:
        print(name, file=file)
    return load(cls, name, *arguments, **settings)
PreTrainedModel.from_pretrained = classmethod(counted)
"""
FEW_STEPS = [
    ("recipe.steps", "12"),
    ('"eval_steps": 20', '"eval_steps": 6'),
    ('"steps": 32', '"steps": 4'),
    ("max(1, report.rows // 10)", "2"),
    ("explore_fits(longest)", "explore_fits(160)"),  # of recorded shapes alone: counted once for both models
]
TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}: {{ m['content'] }}<|over|>{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant: {% endif %}"
)


def write_model(kind, folder):
    """A model of random weights on disk, with the course's tokenizer and more tokens; Qwen2 with another template."""
    size = SIZES[kind]
    tokenizer = AutoTokenizer.from_pretrained(fetch_base_model())
    tokenizer.add_tokens([f"<|extra{i}|>" for i in range(size["more"] - 2)])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>", "<|over|>"]})
    if kind == "qwen2":
        tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config, model = MAKERS[kind]
    model(
        config(
            vocab_size=len(tokenizer),
            hidden_size=size["hidden_size"],
            intermediate_size=size["intermediate_size"],
            num_hidden_layers=size["layers"],
            num_attention_heads=size["heads"],
            num_key_value_heads=size["kv"],
            tie_word_embeddings=kind == "llama",
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def numbers_of(kind, vocabulary):
    """How many parameters such a model has, and how many an adapter of rank 8 adds: by hand."""
    s = SIZES[kind]
    d, mlp, keys = s["hidden_size"], s["intermediate_size"], s["hidden_size"] * s["kv"] // s["heads"]
    shapes = [(d, d), (d, keys), (d, keys), (d, d), (d, mlp), (d, mlp), (mlp, d)]
    biases = d + 2 * keys if kind == "qwen2" else 0
    block = sum(a * b for a, b in shapes) + biases + 2 * d
    embeddings = vocabulary * d * (1 if kind == "llama" else 2)
    return embeddings + s["layers"] * block + d, s["layers"] * sum(8 * (a + b) for a, b in shapes)


class Page:
    """The cells of a notebook, run in order in one namespace; what each shows, and the notebook's own names."""

    def __init__(self, folder, replacements=()):
        self.names = {"root": build_notebooks.ROOT, "__name__": "__main__"}
        self.names["ensure_packages"] = lambda *names: None
        self.shown, self.folder, self.replacements = {}, folder, replacements
        assert [old for old, _ in replacements if old not in SOURCE.read_text("utf-8")] == []

    def run(self, until=None):
        """Run the code cells, those before the one that holds `until`, if it is given; return self."""
        cells = [cell for cell in build_notebooks.read_source(SOURCE) if cell.cell_type == "code"]
        for cell in cells:
            if until is not None and until in cell.source:
                return self
            if not {"exercise", "solution"} & set(tags_of(cell)) and not cell.source.startswith("check("):
                self._run_cell(cell.source)
        assert until is None, f"no cell holds {until!r}"
        return self

    def _run_cell(self, source):
        code = source
        for old, new in self.replacements:
            code = code.replace(old, new)
        tree = ast.parse(code)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, source, "exec"), self.names)
        if last is not None:
            self.shown[source] = eval(compile(ast.Expression(last.value), source, "eval"), self.names)


@pytest.fixture
def settings(monkeypatch, tmp_path):
    monkeypatch.setenv("LORA_EDU_ANSWERS", "4x12")
    monkeypatch.setenv("LORA_EDU_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.delenv("LORA_EDU_FRAMES", raising=False)
    return monkeypatch


@pytest.fixture
def loads(monkeypatch, tmp_path):
    """The models that are loaded, by their names, in this process and in those that it starts: a function."""
    log, beside = tmp_path / "loads.txt", tmp_path / "beside"
    beside.mkdir()
    (beside / "sitecustomize.py").write_text(COUNTING.format(log=str(log)))
    monkeypatch.setenv("PYTHONPATH", f"{beside}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    # Restored at the end of the test: the code below puts another in its place.
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", PreTrainedModel.__dict__["from_pretrained"])
    exec(COUNTING.format(log=str(log)), {})
    return lambda: log.read_text().splitlines()


@pytest.mark.parametrize(("kind", "large"), [("llama", False), ("qwen2", True)])
def test_nothing_that_the_page_says_of_another_model_is_false(kind, large, settings, loads, tmp_path, capsys):
    """One of the two counts as large: what asks first above 1 GB then asks."""
    vocabulary = write_model(kind, tmp_path / kind)
    settings.setenv("LORA_EDU_MODEL", str(tmp_path / kind))
    settings.setattr(merging, "CONSENT_BYTES", 0 if large else merging.CONSENT_BYTES)
    page = Page(tmp_path, FEW_STEPS).run()
    merged = tmp_path / "runs" / "merged"
    assert loads() == [str(tmp_path / kind)] * 2 + ([] if large else [str(merged)])
    assert merged.exists() != large and isinstance(page.names["ways"]["W16"], str) == large
    parameters, trained = numbers_of(kind, vocabulary)
    asked = [shown for shown in page.shown.values() if isinstance(shown, Prediction)]
    first, share, _, whole, *_ = (prediction.question for prediction in asked)
    assert len(asked) == len(load_predictions("10"))

    right = page.names["said"]["before"]["right"]
    assert first.text.split(" test sentences")[0].endswith(" 4")
    low, *high = map(int, re.findall(r"\d+", first.answer.replace("none", "0")))
    assert low <= right <= (high or [low])[0]

    assert f"{parameters:,}" in share.text and f"{parameters:,}" in whole.text and f"{trained:,}" in share.why
    percent = [float(choice.removesuffix(" %")) for choice in share.choices]
    nearest = min(percent, key=lambda p: abs(p / 100 - trained / parameters))
    assert (
        float(share.answer.removesuffix(" %"))
        == nearest
        == pytest.approx(100 * trained / parameters, rel=0.06)
    )
    assert whole.answer == "none" and f"about {trained:,}" in whole.choices
    printed = capsys.readouterr().out
    assert f"trainable params: {trained:,} || all params: {parameters + trained:,}" in printed
    assert page.names["untrained"].weights_sha256 == page.names["trained"].weights_sha256


def test_the_recipe_in_sight_gives_the_losses_of_finetune(settings, tmp_path):
    """The cells themselves, with 4 steps in place of 120, and then the convenience, with the same settings."""
    write_model("llama", tmp_path / "llama")
    settings.setenv("LORA_EDU_MODEL", str(tmp_path / "llama"))
    short = [("recipe.steps", "4"), ('"eval_steps": 20', '"eval_steps": 2')]
    page = Page(tmp_path, short).run(until="_ = trainer.train()")
    page.names["trainer"].train()
    live = page.names["live"]

    from lora_edu.llm.finetune import FinetuneConfig, finetune

    run = finetune(
        FinetuneConfig(
            str(tmp_path / "convenience"), str(tmp_path / "llama"), steps=4, before_events=0, test_events=1
        )
    )
    assert live.losses == run.record["losses"] and len(set(live.losses)) == 4
    # The split is of the same loss: weighted by how many tokens each kind has, it is the whole.
    assert sorted(live.validation) == [2, 4] and all(loss > 0 for loss in live.validation.values())
    assert len(live.form) == len(live.copied) == 4
    low, high = (
        (min(pair) for pair in zip(live.form, live.copied, strict=True)),
        map(max, zip(live.form, live.copied, strict=True)),
    )
    assert all(a <= loss <= b for a, loss, b in zip(low, live.losses, high, strict=True))


def test_a_run_that_diverges_ends_at_once_and_says_so(settings, tmp_path):
    write_model("llama", tmp_path / "llama")
    settings.setenv("LORA_EDU_MODEL", str(tmp_path / "llama"))
    hot = [("recipe.steps", "20"), ('"learning_rate": recipe.learning_rate', '"learning_rate": 1e38')]
    page = Page(tmp_path, hot).run(until="_ = trainer.train()")
    with pytest.raises(DivergedError, match="the loss is nan at step"):
        page.names["trainer"].train()
    assert len(page.names["live"].losses) < 20


def test_a_model_whose_memory_is_not_predicted_is_told_so_and_goes_on(settings, tmp_path, capsys):
    write_model("qwen3", tmp_path / "qwen3")
    settings.setenv("LORA_EDU_MODEL", str(tmp_path / "qwen3"))
    page = Page(tmp_path).run(until="from transformers import AutoModelForCausalLM")
    assert page.names["ledger"] is None
    printed = capsys.readouterr().out
    assert "Memory is not predicted for qwen3 models" in printed
    assert "Computes with" not in printed  # of the machine, not of the model


def test_no_text_gives_a_number_of_the_small_model_as_the_readers():
    """Its sizes, counted here from its configuration: they stand in no Markdown cell, not even rounded."""
    shape = SHAPES["SmolLM2-135M"]
    config = AutoConfig.from_pretrained(fetch_base_model())
    assert config.hidden_size == shape["hidden_size"]
    d, mlp, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    keys = d * config.num_key_value_heads // config.num_attention_heads
    shapes = [(d, d), (d, keys), (d, keys), (d, d), (d, mlp), (d, mlp), (mlp, d)]
    linear, embedding = layers * sum(a * b for a, b in shapes), config.vocab_size * d
    parameters = linear + embedding + (2 * layers + 1) * d
    trained = 8 * layers * sum(a + b for a, b in shapes)
    sizes = {
        "hidden": f"{d}",
        "million": f"{parameters / 1e6:.1f}",
        "trained": f"{trained / 1e6:.1f} million",
        "share": f"{100 * trained / parameters:.1f} %",
        "adapter": f"{4 * trained / 1e6:.1f} MB",
        "in 16 bits": f"{2 * parameters / 1e6:.0f} MB",
        "in 4 bits": f"{(linear / 2 + 2 * embedding) / 1e6:.0f} MB",
    }
    text = "\n".join(cell.source for cell in build_notebooks.read_source(SOURCE) if cell.cell_type != "code")
    assert {
        name: size for name, size in sizes.items() if re.search(rf"(?<![\d.,]){re.escape(size)}", text)
    } == {}


def test_the_examples_of_the_page_are_scored_on_the_answer_alone(tmp_path):
    write_model("qwen2", tmp_path)
    from lora_edu.llm.data.events import load_events
    from lora_edu.llm.data.extraction import encode_example

    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    line = load_events("train")[0]
    example = encode_example(tokenizer, line)
    scored = tokenizer.decode([label for label in example["labels"] if label != IGNORE])
    assert scored == json.dumps(line["event"]) + "<|over|>"
