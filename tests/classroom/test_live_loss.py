"""The loss that is seen while it falls: its split, how often it is drawn, and that it leaves the training alone."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import TrainerControl

from lora_edu.classroom.experiments import live_loss
from lora_edu.classroom.experiments.live_loss import LiveLoss, copied_tokens
from lora_edu.llm.base_model import load_tokenizer
from lora_edu.llm.data import extraction, load_events


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


def split(tokenizer, answer):
    """The text of the copied tokens of an answer, and that of the others."""
    ids = tokenizer.encode(answer, add_special_tokens=False)
    copied = copied_tokens(tokenizer, ids)
    return tuple(
        "".join(tokenizer.decode(i) for i, kind in zip(ids, copied, strict=True) if kind is wanted)
        for wanted in (True, False)
    )


@pytest.mark.parametrize("line", load_events("test")[::30], ids=lambda line: line["event"]["who"])
def test_copied_are_the_values_and_the_form_is_the_rest(tokenizer, line):
    values, form = split(tokenizer, extraction.format_event(line["event"]))
    assert values == "".join(line["event"].values())
    assert form == json.dumps(dict.fromkeys(line["event"], ""))


def test_a_quote_inside_a_value_ends_nothing(tokenizer):
    assert split(tokenizer, '{"who": "the \\"Fox\\", Ada", "day": "1"}')[0].startswith('the \\"Fox\\", Ada')


class Echo(nn.Module):
    """A model whose logits are given; it has one weight, so that it can train."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids=None, labels=None):
        return SimpleNamespace(logits=self.logits)


def trained(tokenizer, steps=1, micro_batches=1):
    """A `LiveLoss` that has seen so many steps of two events, and the batch and the logits of each."""
    examples = [extraction.encode_example(tokenizer, line) for line in load_events("train")[:2]]
    length = max(len(e["labels"]) for e in examples)
    labels = torch.tensor([e["labels"] + [-100] * (length - len(e["labels"])) for e in examples])
    torch.manual_seed(0)
    model = Echo(torch.randn(2, length, len(tokenizer)))
    live, state = LiveLoss(tokenizer), SimpleNamespace(max_steps=steps, global_step=0)
    live.on_train_begin(None, state, None, model=model)
    for _ in range(steps):
        for _ in range(micro_batches):
            model(labels=labels)
        model.eval()(labels=labels)  # an evaluation in between is not of the step
        model.train()
        live.on_step_end(None, state, TrainerControl())
    live.on_train_end(None, state, None)
    model(labels=labels)  # afterwards nothing is looked at
    return live, labels, model.logits


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_both_kinds_together_are_the_whole_loss(tokenizer, micro_batches):
    live, labels, logits = trained(tokenizer, micro_batches=micro_batches)
    whole = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    rows = [row[row >= 0].tolist() for row in labels]
    copied = sum(sum(copied_tokens(tokenizer, row)) for row in rows)
    form = sum(map(len, rows)) - copied
    assert len(live.form) == len(live.copied) == 1
    assert (form * live.form[0] + copied * live.copied[0]) / (form + copied) == pytest.approx(
        whole.item(), rel=1e-5
    )


def test_nothing_is_drawn_without_a_kernel(tokenizer, capsys):
    trained(tokenizer)
    assert capsys.readouterr().out == ""


def test_a_drawing_waits_for_its_time_and_takes_the_place_of_the_last(tokenizer, monkeypatch):
    shown, clock = [], iter(range(1000))

    class Handle:
        def update(self, data, **options):
            shown.append(("update", data))

    def display(data, display_id=False, **options):
        shown.append(("new", data))
        return Handle()

    monkeypatch.setattr(live_loss, "_in_a_kernel", lambda: True)
    monkeypatch.setattr(live_loss, "display", display)
    # Each look at the clock is a tenth of a second later; a drawing takes one of them.
    monkeypatch.setattr(live_loss.time, "perf_counter", lambda: next(clock) / 10)
    trained(tokenizer, steps=60)
    assert [how for how, _ in shown[:2]] == ["new", "update"] and {how for how, _ in shown[1:]} == {"update"}
    # A drawing of 0.1 seconds may be repeated after 2: of 60 steps, three of them and the last picture.
    assert 3 <= len(shown) <= 6 and all(set(data) == {"image/png"} for _, data in shown)


def test_a_loss_that_is_no_number_is_not_drawn_and_stops_nothing_here(tokenizer, monkeypatch):
    monkeypatch.setattr(live_loss, "_in_a_kernel", lambda: True)
    monkeypatch.setattr(live_loss, "display", None)  # nothing can be shown
    live, state = LiveLoss(tokenizer), SimpleNamespace(max_steps=9, global_step=1)
    live.on_train_begin(None, state, None, model=Echo(torch.zeros(1)))
    live._sums = torch.tensor([[float("nan"), 3.0], [1.0, 2.0]], dtype=torch.float64)
    live.on_step_end(None, state, TrainerControl())
    assert live.copied == [0.5] and live.form[0] != live.form[0]


def test_before_a_validation_memory_is_given_back(tokenizer, freed_by):
    control = TrainerControl(should_evaluate=True)
    live, *_ = trained(tokenizer)
    assert (
        freed_by(lambda: live.on_step_end(None, SimpleNamespace(max_steps=9, global_step=1), control)) > 150e6
    )
