"""The digits of notebook 05, and what its exercises count."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from lora_edu.classroom.exercises import n05, n05b
from lora_edu.classroom.experiments import digits
from lora_edu.methods.lora import LoRALinear


@pytest.fixture(scope="module")
def upright():
    return digits.load()


def test_the_parts_are_scikit_learns_digits_each_once(upright):
    assert {part: len(labels) for part, (_, labels) in upright.items()} == digits.PARTS
    images = torch.cat([images for images, _ in upright.values()])
    labels = torch.cat([labels for _, labels in upright.values()])
    rows = torch.cat([(images + 1) * 8, labels[:, None]], dim=1)
    bunch = load_digits()
    expected = torch.cat([torch.from_numpy(bunch.data), torch.from_numpy(bunch.target)[:, None]], dim=1)
    assert images.dtype == torch.float64
    assert sorted(rows.tolist()) == sorted(expected.tolist())


def test_no_image_is_in_two_parts(upright):
    rows = {part: {tuple(row) for row in images.tolist()} for part, (images, _) in upright.items()}
    assert sum(map(len, rows.values())) == len(set().union(*rows.values()))


def test_a_change_keeps_labels_and_parts(upright):
    turned = digits.load(change=lambda images: images.rot90(dims=(1, 2)))
    for part, (images, labels) in turned.items():
        back = images.view(-1, 8, 8).rot90(-1, dims=(1, 2)).reshape(-1, 64)
        assert torch.equal(back, upright[part][0]) and torch.equal(labels, upright[part][1])


def test_few_are_different_examples_chosen_by_the_seed(upright):
    images, labels = upright["adapt"]
    numbered = torch.arange(len(labels)).double()[:, None]
    chosen, their_labels = digits.few((numbered, labels), seed=1, count=50)
    assert len(chosen.unique()) == 50
    assert torch.equal(their_labels, labels[chosen[:, 0].long()])
    assert torch.equal(digits.few((images, labels), 1)[0], digits.few((images, labels), 1)[0])
    assert not torch.equal(digits.few((images, labels), 1)[1], digits.few((images, labels), 2)[1])


@pytest.mark.parametrize("count", [0, 401])
def test_few_says_how_many_there_are(upright, count):
    with pytest.raises(ValueError, match=rf"count must be in 1 … 400, got {count}"):
        digits.few(upright["adapt"], seed=0, count=count)


def test_a_strip_sets_images_side_by_side(upright):
    images = upright["test"][0][:3]
    strip = digits.strip(images)
    assert strip.shape == (10, 30)
    for i, image in enumerate(images):
        framed = strip[:, 10 * i : 10 * i + 10]
        assert torch.equal(framed[1:-1, 1:-1], image.view(8, 8))
        assert framed.sum() == image.sum() - (100 - 64)  # the margin is paper, -1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_adams_bytes_are_those_that_pytorch_holds(dtype):
    model = nn.Sequential(LoRALinear(nn.Linear(6, 5), r=2, lora_alpha=4), nn.Linear(5, 3)).to(dtype)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    F.cross_entropy(model(torch.ones(4, 6, dtype=dtype)), torch.zeros(4, dtype=torch.long)).backward()
    optimizer.step()
    averages = [s[name] for s in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert n05b.adam_state_bytes(model) == sum(tensor.nbytes for tensor in averages)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_the_scaling_is_the_layers(use_rslora):
    layer = LoRALinear(nn.Linear(9, 9), r=5, lora_alpha=3, use_rslora=use_rslora)
    assert n05.scaling(5, 3, use_rslora) == layer.scaling
