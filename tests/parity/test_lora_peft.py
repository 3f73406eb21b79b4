"""LoRALinear against peft's layer: the same numbers to float32 rounding."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from lora_edu.methods.lora import LoRALinear, merged_linear


def two_layers(dtype=torch.float32):
    return nn.Sequential(nn.Linear(48, 64, dtype=dtype), nn.GELU(), nn.Linear(64, 32, dtype=dtype))


def with_peft(model, **options):
    config = LoraConfig(target_modules=["0", "2"], **options)
    return get_peft_model(copy.deepcopy(model), config)


def with_ours(model, **options):
    model = copy.deepcopy(model)
    for i in (0, 2):
        model[i] = LoRALinear(model[i], **options)
    return model


def peft_layers(model):
    return [model.base_model.model[i] for i in (0, 2)]


def assert_same_adapters(ours, theirs, **tolerance):
    for mine, peft_layer in zip((ours[0], ours[2]), peft_layers(theirs), strict=True):
        torch.testing.assert_close(mine.lora_A, peft_layer.lora_A["default"].weight, **tolerance)
        torch.testing.assert_close(mine.lora_B, peft_layer.lora_B["default"].weight, **tolerance)


def copy_adapters(ours, theirs):
    """Random A and B for both, B not zero."""
    for mine, peft_layer in zip((ours[0], ours[2]), peft_layers(theirs), strict=True):
        nn.init.normal_(mine.lora_B, std=0.1)
        peft_layer.lora_A["default"].weight.data.copy_(mine.lora_A)
        peft_layer.lora_B["default"].weight.data.copy_(mine.lora_B)


def test_one_seed_gives_both_the_same_A_in_every_layer():
    model = two_layers()
    torch.manual_seed(3)
    theirs = with_peft(model, r=4, lora_alpha=8)
    torch.manual_seed(3)
    ours = with_ours(model, r=4, lora_alpha=8)
    assert_same_adapters(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_forward_and_gradients(dtype, tolerance, use_rslora):
    model = two_layers(dtype)
    options = {"r": 4, "lora_alpha": 12, "use_rslora": use_rslora}
    ours, theirs = with_ours(model, **options), with_peft(model, **options)
    copy_adapters(ours, theirs)
    gradients = []
    for network in (ours, theirs):
        x = torch.randn(6, 48, dtype=dtype, generator=torch.Generator().manual_seed(0)).requires_grad_()
        y = network(x)
        y.float().square().sum().backward()
        gradients.append((y, x.grad))
    for mine, peft_value in zip(*gradients, strict=True):
        torch.testing.assert_close(
            mine, peft_value, rtol=tolerance, atol=tolerance * peft_value.abs().max().item()
        )
    for mine, peft_layer in zip((ours[0], ours[2]), peft_layers(theirs), strict=True):
        for grad, peft_grad in (
            (mine.lora_A.grad, peft_layer.lora_A["default"].weight.grad),
            (mine.lora_B.grad, peft_layer.lora_B["default"].weight.grad),
        ):
            torch.testing.assert_close(
                grad, peft_grad, rtol=tolerance, atol=tolerance * peft_grad.abs().max().item()
            )
        torch.testing.assert_close(mine.delta_weight(), peft_layer.get_delta_weight("default"))


def test_twenty_steps_of_training_take_the_same_course():
    model = two_layers()
    ours, theirs = with_ours(model, r=4, lora_alpha=8), with_peft(model, r=4, lora_alpha=8)
    copy_adapters(ours, theirs)
    x, target = torch.randn(16, 48), torch.randn(16, 32)
    courses = []
    for network in (ours, theirs):
        optimizer = torch.optim.AdamW((p for p in network.parameters() if p.requires_grad), lr=1e-2)
        courses.append([])
        for _ in range(20):
            loss = (network(x) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            courses[-1].append(loss.item())
    assert courses[0] == pytest.approx(courses[1], rel=1e-5)
    assert courses[0][-1] < courses[0][0]
    assert_same_adapters(ours, theirs, rtol=1e-3, atol=1e-4)


def test_merging_gives_the_same_weights():
    model = two_layers()
    ours, theirs = with_ours(model, r=4, lora_alpha=8), with_peft(model, r=4, lora_alpha=8)
    copy_adapters(ours, theirs)
    merged = theirs.merge_and_unload()
    for i in (0, 2):
        torch.testing.assert_close(merged_linear(ours[i]).weight, merged[i].weight, rtol=0, atol=1e-6)
        assert torch.equal(merged_linear(ours[i]).bias, merged[i].bias)
