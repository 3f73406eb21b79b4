"""A rotation for one model: its attention calls another function, and no other model notices."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import nn
from transformers import LlamaConfig, MistralConfig, Qwen2Config
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaForCausalLM, apply_rotary_pos_emb
from transformers.models.mistral.modeling_mistral import MistralForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM

from lora_edu.accel.fused import FAMILIES, FusedSwiGLU, _liger_classes, rotated_by

SIZES = {"vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
}


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(12).reshape(2, 6)).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_one_model_is_rotated_anew_and_the_next_as_before(family):
    torch.manual_seed(0)
    model, other = MODELS[family]().eval(), MODELS[family]().eval()
    other.load_state_dict(model.state_dict())
    before, called = logits(model), []

    def noted(*arguments):
        called.append(len(arguments))
        return apply_rotary_pos_emb(*arguments)

    for layer in model.model.layers:
        layer.self_attn.__class__ = rotated_by(noted, type(layer.self_attn))
        assert isinstance(layer.self_attn, type(other.model.layers[0].self_attn))
    assert torch.equal(logits(model), before) and called == [4, 4]
    assert torch.equal(logits(other), before) and called == [4, 4]

    for layer in model.model.layers:
        layer.self_attn.__class__ = rotated_by(lambda q, k, cos, sin: (q, k), type(layer.self_attn))
    assert not torch.allclose(logits(model), before) and torch.equal(logits(other), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_with_another_rotation_can_be_compiled(family):
    """The rotation has defaults, as liger-kernel's: a function is called in the way of what it is compiled from."""

    def negated(q, k, cos, sin, position_ids=None, unsqueeze_dim=1):
        q, k = apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim)
        return -q, k

    model = MODELS[family]().eval()
    before = logits(model)
    for layer in model.model.layers:
        layer.self_attn.__class__ = rotated_by(negated, type(layer.self_attn))
    after = logits(model)
    assert not torch.allclose(after, before)
    torch.testing.assert_close(logits(torch.compile(model, backend="eager", fullgraph=True)), after)


class OfOthers(LlamaAttention):
    def forward(self, *args, **kwargs):
        return apply_rotary_pos_emb(*args, **kwargs)


@pytest.mark.parametrize("attention", [nn.MultiheadAttention, nn.Identity, OfOthers])
def test_an_attention_that_is_not_known_to_call_the_rotation_is_refused(attention):
    with pytest.raises(ValueError, match="attention must be a class of transformers whose forward calls"):
        rotated_by(apply_rotary_pos_emb, attention)


@pytest.fixture
def liger(monkeypatch):
    """A stand-in: liger-kernel itself needs Triton, and with it a GPU."""
    for name in ("liger_kernel", "liger_kernel.transformers"):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    module.liger_rotary_pos_emb = lambda q, k, cos, sin: (q, k)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_attention_and_mlp_of_this_model_gets_the_librarys_parts(family, liger):
    torch.manual_seed(0)
    model, other = MODELS[family]().eval(), MODELS[family]().eval()
    other.load_state_dict(model.state_dict())
    before = logits(model)
    classes = _liger_classes(model)
    assert [*classes.values()].count(FusedSwiGLU) == 2 and len(classes) == 4
    for layer in model.model.layers:
        layer.self_attn.__class__ = classes[layer.self_attn]
    assert not torch.allclose(logits(model), before) and torch.equal(logits(other), before)


def test_a_model_whose_attentions_are_not_known_is_refused(liger):
    model = MODELS["llama"]()
    for layer in model.model.layers:
        layer.self_attn.query = layer.self_attn.q_proj
        del layer.self_attn.q_proj
    with pytest.raises(ValueError, match="model must be one whose attentions have a q_proj"):
        _liger_classes(model)


@pytest.mark.parametrize("part", ["self_attn", "mlp"])
def test_a_layer_with_a_forward_of_its_own_is_refused(liger, part):
    """As accelerate's hooks leave it: what its class does would not count."""
    model = MODELS["llama"]()
    add_hook_to_module(getattr(model.model.layers[1], part), ModelHook())
    with pytest.raises(ValueError, match="model must be one whose layers have no forward of their own"):
        _liger_classes(model)


def test_without_the_library_nothing_changes(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert _liger_classes(MODELS["llama"]()) == {}
