"""The network that notebook 12 makes ill: the same at each call, well-trained, and frozen below its adapters."""

import pytest
import torch

from lora_edu.classroom.experiments import digit_reader, digits
from lora_edu.methods.lora import LoRALinear


@pytest.fixture(scope="module")
def base():
    return digit_reader.base_network()


def state(model):
    return torch.cat([tensor.flatten() for tensor in model.state_dict().values()])


def test_the_base_reads_upright_digits_and_no_others(base):
    assert digit_reader.accuracy(base, digits.load()["test"]) > 0.9
    turned = digits.load(change=lambda images: images.rot90(dims=(1, 2)))
    assert digit_reader.accuracy(base, turned["test"]) < 0.2
    assert not any(p.requires_grad for p in base.parameters())


def test_the_base_is_the_same_whatever_was_drawn_before(base):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    again = digit_reader.base_network()
    assert torch.equal(state(again), state(base))
    assert torch.equal(torch.get_rng_state(), before)


def test_adapters_stand_over_a_copy_and_alone_they_train(base):
    before = state(base).clone()
    model = digit_reader.with_lora(base, r=2, lora_alpha=4)
    assert [isinstance(layer, LoRALinear) for layer in model] == [True, False, True, False, False]
    few = digits.few(digits.load()["adapt"], seed=0, count=50)
    torch.testing.assert_close(model(few[0]), base(few[0]))
    losses = digit_reader.train(model, few, learning_rate=0.03, steps=20)
    assert losses[-1] < losses[0] and torch.equal(state(base), before)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {f"{layer}.lora_{factor}" for layer in digit_reader.HIDDEN for factor in "AB"}


def test_below_the_adapters_lies_the_base(base):
    model = digit_reader.with_lora(base, r=2, lora_alpha=4)
    torch.nn.init.normal_(model[0].lora_B)
    bare, X = digit_reader.without_lora(model), torch.randn(3, 64, dtype=torch.double)
    assert torch.equal(bare(X), base(X)) and not torch.equal(model(X), base(X))
    assert bare[0] is model[0].base_layer


def test_a_watcher_sees_each_tenth_step(base):
    seen = []
    model = digit_reader.with_lora(base, r=1, lora_alpha=1)
    few = digits.few(digits.load()["adapt"], seed=0, count=10)
    digit_reader.train(model, few, 0.01, steps=25, watch=lambda m: seen.append(m[0].lora_B.norm().item()))
    assert len(seen) == 2 and 0 < seen[0] < seen[1]


def test_accuracy_is_that_of_the_mode_and_leaves_no_graph():
    X, y = torch.eye(4), torch.arange(4)
    assert digit_reader.accuracy(torch.nn.Identity(), (X, y)) == 1
    assert digit_reader.accuracy(torch.nn.Dropout(p=1.0), (X, y)) == 0.25  # training mode: all scores are 0
    assert digit_reader.accuracy(torch.nn.Dropout(p=1.0).eval(), (X, y)) == 1
