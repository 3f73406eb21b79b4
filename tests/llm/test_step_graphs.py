"""CUDA graphs, as far as a CPU can tell: which lengths, which loss, and when there are none."""

import itertools
import math
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, Trainer

from lora_edu.llm.finetune import FinetuneConfig
from lora_edu.llm.finetune.arguments import checkpointing_arguments, training_arguments
from lora_edu.llm.finetune.backends import backend_of
from lora_edu.llm.finetune.graph_shapes import choose_lengths, graph_shapes
from lora_edu.llm.finetune.plan import make_plan
from lora_edu.llm.finetune.recipe import make_recipe, objection, settle_graphs
from lora_edu.llm.finetune.scored_loss import scored_loss
from lora_edu.llm.finetune.trainer import make_trainer


def padded(sizes, rows, lengths):
    """Tokens a row, averaged over every batch that can be drawn with replacement."""
    batches = list(itertools.product(sizes, repeat=rows))
    return sum(min(n for n in lengths if n >= max(batch)) for batch in batches) / len(batches)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_the_chosen_lengths_pad_least(rows):
    rng = random.Random(rows)
    for _ in range(5):
        sizes = [rng.choice([5, 9, 20, 40, 41, 90, 130]) for _ in range(8)]
        chosen = choose_lengths(sizes, rows, most=3)
        last = 8 * math.ceil(max(sizes) / 8)
        assert chosen[-1] == last and list(chosen) == sorted(set(chosen))
        others = sorted({8 * math.ceil(size / 8) for size in sizes} - {last})
        best = min(
            padded(sizes, rows, (*some, last)) for some in itertools.combinations(others, len(chosen) - 1)
        )
        assert padded(sizes, rows, chosen) == pytest.approx(best)


def test_lengths_are_few_and_no_more_than_help():
    assert choose_lengths([64] * 100, 2) == (64,)
    assert choose_lengths([61, 62, 63], 4) == (64,)
    assert len(choose_lengths(range(1, 4097), 1)) == 4
    assert choose_lengths([7], 2) == (8,)


def test_a_short_training_has_fewer_lengths():
    """Of evenly spread rows two lengths save 25 % of the tokens, a third 11 % of the rest, a fourth 6 %."""
    examples = [{"input_ids": [1] * size, "labels": [1] * size} for size in range(8, 801)]
    found = [len(graph_shapes(examples, 1, batches)) for batches in (1, 50, 100, 1000, 100_000)]
    assert found == sorted(found) and found[0] == 1 and found[-1] == 4
    assert [len(graph_shapes(examples, 1, batches)) for batches in (0, 79, 85)] == [1, 1, 2]
    nearly_equal = [{"input_ids": [1] * size, "labels": [1] * size} for size in (192, 200)]
    assert len(graph_shapes(nearly_equal, 1, 100_000)) == 1, "2 % are not worth a graph"


def test_no_batch_has_more_scored_tokens_than_its_graph_has_places():
    rng = random.Random(0)
    examples = []
    for _ in range(30):
        size = rng.randint(2, 200)
        labels = [rng.choice([-100, 5]) for _ in range(size)]
        examples.append({"input_ids": [1] * size, "labels": labels})
    shapes = graph_shapes(examples, 3, 1000)
    for batch in itertools.combinations(examples, 3):
        longest = max(len(row["input_ids"]) for row in batch)
        shape = next(shape for shape in shapes if shape.tokens >= longest)
        assert sum(label != -100 for row in batch for label in row["labels"][1:]) <= shape.scored


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("at_once", [1, 5, 1000])
def test_the_loss_by_parts_is_that_of_whole_logits(share, at_once):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 7, 6, generator=generator, requires_grad=True)
    weight = torch.randn(11, 6, generator=generator)
    labels = torch.randint(11, (3, 7), generator=generator)
    labels[torch.rand(3, 7, generator=generator) >= share] = -100
    count = torch.tensor(9.0)
    targets = F.pad(labels, (0, 1), value=-100)[:, 1:]
    whole = F.cross_entropy((hidden @ weight.T).flatten(0, 1), targets.flatten(), reduction="sum") / count
    places = int((targets != -100).sum())
    for scored in {max(1, places), max(1, places) + 1, 21}:
        loss = scored_loss(hidden, weight, labels, count, scored, at_once)
        torch.testing.assert_close(loss, whole)
        ours, theirs = (
            torch.autograd.grad(3 * value, hidden, retain_graph=True)[0] for value in (loss, whole)
        )
        torch.testing.assert_close(ours, theirs)


def test_small_gradients_survive_in_float16():
    """Ten thousand words, each as likely as the others: float16 has few digits for 1e-4."""
    hidden = torch.zeros(1, 2, 4, dtype=torch.float16, requires_grad=True)
    weight = (torch.arange(40_000).reshape(10_000, 4) % 7 - 3).half()
    loss = scored_loss(hidden, weight, torch.zeros(1, 2, dtype=torch.long), torch.tensor(1.0), 1)
    (gradient,) = torch.autograd.grad(loss, hidden)
    expected = weight.float().mean(0) - weight[0].float()
    torch.testing.assert_close(gradient[0, 0].float(), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("backend", ["peft", "scratch"])
def test_a_graph_computes_the_loss_that_trainer_computes(tiny_folder, few_to_learn, tmp_path, backend):
    """Loss and gradients of a padded batch whose scored tokens are a part of it."""
    config = FinetuneConfig(
        output=str(tmp_path), model=str(tiny_folder), train_file=str(few_to_learn), backend=backend,
        micro_batch_size=3, batch_size=3, before_events=0,
    )  # fmt: skip
    plan, way = make_plan(config), backend_of("qlora", backend)
    model, tokenizer = way.load(plan.recipe)
    model = way.attach(model, plan.recipe)
    trainer = make_trainer(plan.recipe, way, model, tokenizer, plan.examples, tmp_path)
    [shape] = graph_shapes(plan.examples, 3, 1000)[-1:]
    assert shape.scored < shape.rows * shape.tokens
    batch = trainer.data_collator(plan.examples[:3])
    padded = torch.full((2, 3, shape.tokens), -100)
    padded[0, :, :] = tokenizer.pad_token_id
    padded[0, :, : batch["input_ids"].shape[1]] = batch["input_ids"]
    padded[1, :, : batch["labels"].shape[1]] = batch["labels"]
    count = torch.tensor(50.0)
    ours = trainer.training_step(
        model, {"input_ids": padded[0], "labels": padded[1], "scored": shape.scored}, count
    )
    gradients = [p.grad.clone() for p in model.parameters() if p.requires_grad]
    model.zero_grad()
    theirs = trainer.training_step(model, batch, count)
    torch.testing.assert_close(ours, theirs)
    for gradient, p in zip(gradients, (p for p in model.parameters() if p.requires_grad), strict=True):
        torch.testing.assert_close(gradient, p.grad)
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


def recipe(**settings):
    return make_recipe(FinetuneConfig(output="unused", **settings))


def test_a_cpu_has_no_graphs_and_says_nothing_unless_asked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settled, notes = settle_graphs(recipe(cuda_graphs="auto"))
    assert settled.cuda_graphs == "off" and notes == []
    with pytest.raises(
        ValueError, match="cuda_graphs must be auto or off where there is no CUDA GPU, got 'on'"
    ):
        settle_graphs(recipe(cuda_graphs="on"))
    with pytest.raises(ValueError, match=r"cuda_graphs must be one of \['auto', 'on', 'off'\], got 'yes'"):
        recipe(cuda_graphs="yes")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"processes": 2}, "several processes share each step"),
        ({"gradient_checkpointing": True}, None),
    ],
)
def test_what_is_known_to_be_impossible_is_named(changes, reason):
    assert objection(replace(recipe(), device="cuda", **changes)) == reason


def test_checkpointing_with_dropout_is_not_replayed_and_without_keeps_no_random_state():
    plain = replace(recipe(gradient_checkpointing=True, cuda_graphs="auto"), device="cuda")
    assert not next(iter(v for v in checkpointing_arguments(plain).values() if v is not True))[
        "preserve_rng_state"
    ]
    dropped = replace(plain, lora=replace(plain.lora, lora_dropout=0.1))
    settled, notes = settle_graphs(dropped)
    assert settled.cuda_graphs == "off"
    assert notes == [
        "Steps run without CUDA graphs: gradient checkpointing must draw the same dropout twice."
    ]
    kept = next(iter(v for v in checkpointing_arguments(settled).values() if v is not True))
    assert kept["preserve_rng_state"]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_model_that_drops_keeps_its_random_state_for_checkpointing(tmp_path, dropout):
    graphed = replace(recipe(gradient_checkpointing=True, cuda_graphs="auto"), cuda_graphs="on")
    model = SimpleNamespace(config=LlamaConfig(attention_dropout=dropout))
    told = training_arguments(graphed, model, tmp_path, validate=False, report_to="none").to_dict()
    kept = [value for name, value in told.items() if name.endswith("checkpointing_kwargs") and value]
    assert {value["preserve_rng_state"] for value in kept} == {dropout > 0}


def test_validation_that_needs_the_memory_of_the_graphs_gets_it_unless_they_must_stay(
    tiny_folder, few_to_learn, tmp_path, monkeypatch, capsys
):
    """No GPU is here to run out of memory, so Trainer's own validation says that it did, once."""
    config = FinetuneConfig(output=str(tmp_path), model=str(tiny_folder), train_file=str(few_to_learn))
    plan, way = make_plan(config), backend_of("qlora", "scratch")
    model, tokenizer = way.load(plan.recipe)
    trainer = make_trainer(
        plan.recipe, way, way.attach(model, plan.recipe), tokenizer, plan.examples, tmp_path
    )
    evaluate, tries = Trainer.evaluate, []

    def short_of_memory(self, *arguments, **named):
        tries.append(self.graphs)
        if len(tries) != 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return evaluate(self, *arguments, **named)

    monkeypatch.setattr(Trainer, "evaluate", short_of_memory)
    trainer.remove_callback(trainer.progress)  # its bar begins with the training
    trainer.graphs = object()
    assert math.isfinite(trainer.evaluate(plan.examples[:2])["eval_loss"])
    assert trainer.graphs is None and tries[1] is None
    assert "after step 0: validation needed their memory" in capsys.readouterr().out
    with pytest.raises(torch.OutOfMemoryError):
        trainer.evaluate(plan.examples[:2])
    trainer.graphs, trainer._recipe = object(), replace(plan.recipe, cuda_graphs="on")
    with pytest.raises(MemoryError, match="cuda_graphs must be auto or off where validation finds"):
        trainer.evaluate(plan.examples[:2])
    assert trainer.graphs is not None
