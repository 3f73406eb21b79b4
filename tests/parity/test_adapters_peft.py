"""Mixed batches and prefixes against peft, with the same numbers in both."""

import copy
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from lora_edu.llm import surgery
from lora_edu.methods.lora import LoRALinear

IDS = torch.arange(3, 27).reshape(4, 6)
LEFT_PADDED = torch.tensor([[1] * 6, [0, 0] + [1] * 4, [0] + [1] * 5, [1] * 6])
ROWS = ["second", "__base__", "first", "second"]
TOKENS = 5
GREEDY = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6}


@pytest.fixture
def base():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,  # so that the layers say something and greedy choices are no ties
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config).double().eval()


@pytest.fixture
def two_loras(base):
    """The base with two adapters of other layers and ranks, ours and peft's, the numbers the same."""
    ours, theirs = copy.deepcopy(base), copy.deepcopy(base)
    configs = {
        "first": LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
        "second": LoraConfig(r=2, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    }
    theirs = get_peft_model(theirs, configs["first"], adapter_name="first")
    theirs.add_adapter("second", configs["second"])
    for name, config in configs.items():
        targets = sorted(config.target_modules) if name == "first" else "all-linear"
        surgery.add_lora(ours, targets, r=config.r, lora_alpha=config.lora_alpha, adapter_name=name)
    for path, switch in surgery.switches(ours).items():
        their_layer = theirs.get_submodule(f"base_model.model.{path}")
        for name, adapter in switch.adapters.items():
            assert isinstance(adapter, LoRALinear)
            torch.nn.init.normal_(adapter.lora_B, std=0.3)
            their_layer.lora_A[name].weight.data.copy_(adapter.lora_A)
            their_layer.lora_B[name].weight.data.copy_(adapter.lora_B)
    return ours.double().eval(), theirs.double().eval()


@pytest.fixture
def two_prefixes(base):
    """The base with a prefix, ours and peft's, the numbers the same."""
    ours = surgery.add_prefix(copy.deepcopy(base), TOKENS).double()
    config = PrefixTuningConfig(num_virtual_tokens=TOKENS, task_type="CAUSAL_LM")
    theirs = get_peft_model(copy.deepcopy(base), config).double()
    prefix = ours.prefixes.adapters["default"]
    layers, heads, tokens, dim = prefix.keys.shape
    their_numbers = theirs.prompt_encoder["default"].embedding.weight.detach()
    # peft keeps a row a token: keys, then values, of the first layer, then of the next.
    per_layer = their_numbers.reshape(tokens, layers, 2, heads, dim).permute(2, 1, 3, 0, 4)
    prefix.keys.data.copy_(per_layer[0])
    prefix.values.data.copy_(per_layer[1])
    return ours.eval(), theirs.eval()


def test_a_mixed_batch(two_loras):
    ours, theirs = two_loras
    with torch.no_grad():
        mine = ours(input_ids=IDS, attention_mask=LEFT_PADDED, adapter_names=ROWS).logits
        other = theirs(input_ids=IDS, attention_mask=LEFT_PADDED, adapter_names=ROWS).logits
    assert torch.allclose(mine, other, atol=1e-10)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_mixed_batch_generates(two_loras, beams):
    ours, theirs = two_loras
    arguments = {"input_ids": IDS, "attention_mask": LEFT_PADDED, "num_beams": beams, **GREEDY}
    mine = ours.generate(**arguments, adapter_names=ROWS)
    assert torch.equal(mine, theirs.generate(**arguments, adapter_names=ROWS))
    assert not torch.equal(mine, ours.generate(**arguments)), (
        "the active adapter alone must say something else"
    )


@pytest.mark.parametrize("mask", [None, LEFT_PADDED])
def test_a_prefix(base, two_prefixes, mask):
    ours, theirs = two_prefixes
    arguments = {"input_ids": IDS, "attention_mask": mask}
    with torch.no_grad():
        mine, other = ours(**arguments).logits, theirs(**arguments).logits
        assert torch.allclose(mine, other, atol=1e-10)
        assert not torch.allclose(mine, base(**arguments).logits, atol=1e-2)


def test_a_prefix_learns_the_same(two_prefixes):
    ours, theirs = two_prefixes
    losses = [model.train()(input_ids=IDS, labels=IDS).loss for model in (ours, theirs)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-10)
    for loss in losses:
        loss.backward()
    prefix = ours.prefixes.adapters["default"]
    mine = torch.stack((prefix.keys.grad, prefix.values.grad), dim=1)  # layers, 2, heads, tokens, dim
    other = theirs.prompt_encoder["default"].embedding.weight.grad
    assert torch.allclose(mine.permute(3, 0, 1, 2, 4).reshape(TOKENS, -1), other, atol=1e-10)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_prefix_generates(two_prefixes, beams):
    ours, theirs = two_prefixes
    arguments = {"input_ids": IDS, "attention_mask": LEFT_PADDED, "num_beams": beams, **GREEDY}
    assert torch.equal(ours.generate(**arguments), theirs.generate(**arguments))


@pytest.mark.parametrize(
    ("add", "config"),
    [
        (
            lambda model: surgery.add_lora(model, ["q_proj", "v_proj"], r=8, lora_alpha=16),
            LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
        ),
        (
            lambda model: surgery.add_lora(model, "all-linear", r=8, lora_alpha=16),
            LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"),
        ),
        (
            lambda model: surgery.add_prefix(model, 20),
            PrefixTuningConfig(num_virtual_tokens=20, task_type="CAUSAL_LM"),
        ),
    ],
    ids=["q+v", "all-linear", "prefix"],
)
def test_parameter_counts_on_the_base_model(base_model_folder, add, config):
    def base_model():
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base_model_folder))

    trainable, _ = get_peft_model(base_model(), config).get_nb_trainable_parameters()
    assert sum(p.numel() for p in surgery.adapter_parameters(add(base_model()))) == trainable


@pytest.mark.parametrize(("way", "exact"), [("linear", False), ("cat", True), ("svd", True)])
def test_two_adapters_are_added_as_notebook_11_says(way, exact):
    """peft's "linear" adds the matrices apart, so that cross terms come in; "cat" and "svd" have none."""
    model = cast(Any, get_peft_model(nn.Sequential(nn.Linear(6, 5, bias=False)), _config()))
    model.add_adapter("other", _config())
    layer = model.base_model.model[0]
    for name in ("default", "other"):
        nn.init.normal_(layer.lora_B[name].weight)
    rank = {"svd_rank": 4} if way == "svd" else {}
    model.base_model.add_weighted_adapter(
        ["default", "other"], [0.5, 0.5], "sum", combination_type=way, **rank
    )
    one, other = layer.get_delta_weight("default"), layer.get_delta_weight("other")
    (B1, A1), (B2, A2) = ((layer.lora_B[n].weight, layer.lora_A[n].weight) for n in ("default", "other"))
    expected = (one + other) / 2 if exact else layer.scaling["default"] / 2 * (B1 + B2) @ (A1 + A2)
    torch.testing.assert_close(layer.get_delta_weight("sum"), expected, atol=1e-5, rtol=1e-5)


def _config():
    return LoraConfig(r=2, lora_alpha=3, target_modules=["0"])
