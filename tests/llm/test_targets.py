"""What is asked of a model's layers and numbers: done as peft does it, or refused by name before anything changes."""

import copy
import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, MixtralConfig, Qwen2MoeConfig

from lora_edu.llm import surgery
from lora_edu.llm.budget import count_parameters, memory_ledger, parameters_by_kind
from lora_edu.llm.checkpoint import CONFIG_FILE, load_adapter, save_adapter
from lora_edu.llm.layers import weights_outside_linear_layers
from lora_edu.methods import _validate
from lora_edu.methods.bottleneck import BottleneckAdapter
from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.prefix import PrefixEncoder

ADD = {
    "lora": lambda model, targets: surgery.add_lora(model, targets, r=4, lora_alpha=8),
    "qlora": lambda model, targets: surgery.add_qlora(model, targets, r=4, lora_alpha=8),
    "bottleneck": lambda model, targets: surgery.add_bottleneck(model, 4, target_modules=targets),
    "ledger": lambda model, targets: memory_ledger(model.config, target_modules=targets),
}


def state(model):
    return {name: (p.requires_grad, p.clone()) for name, p in model.named_parameters()}


def same(before, after):
    return before.keys() == after.keys() and all(
        before[name][0] == after[name][0] and torch.equal(before[name][1], after[name][1]) for name in before
    )


@pytest.mark.parametrize("add", ADD)
@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        (["q_proj", "v_porj"], r"'v_porj' names none \(did you mean .*v_proj"),
        (["self_attn.q_porj"], r"'self_attn.q_porj' names none \(did you mean self_attn.q_proj"),
        (["q_proj", "zzz"], "'zzz' names none$"),
        (["q_proj", "a", "b"], "'a' names none; 'b' names none"),
        (["all-linear", "q_proj"], "'all-linear' must stand alone"),
        (["q_proj", "lm_head"], "'lm_head' names lm_head, Linear, which is none here"),
        (["q_proj", "embed_tokens"], "'embed_tokens' names model.embed_tokens, Embedding"),
        (["q_proj", "mlp"], "'mlp' names model.layers.0.mlp, LlamaMLP"),
        (["q_proj", "norm"], "'norm' names model.norm, LlamaRMSNorm"),
        (["q_proj", ""], "'' names none"),
    ],
)
def test_each_name_must_fit(tiny, add, targets, reason):
    before = state(tiny)
    with pytest.raises(
        ValueError, match=rf"^target_modules must name linear layers .*got \[.*\]: .*{reason}"
    ):
        ADD[add](tiny, targets)
    assert same(before, state(tiny))


def test_all_linear_in_a_list_of_its_own_means_the_same(tiny):
    whole = set(surgery.choose_layers(tiny, "all-linear", 4))
    assert set(surgery.choose_layers(tiny, ["all-linear"], 4)) == whole and len(whole) == 14


def test_a_name_that_is_no_text(tiny):
    with pytest.raises(TypeError, match="target_modules must be names of layers, got 3"):
        surgery.choose_layers(tiny, ["q_proj", 3], 4)


def test_names_fit_a_model_that_carries_adapters_as_they_fit_its_base(tiny):
    surgery.add_prefix(tiny, 2, adapter_name="prefix")
    surgery.add_lora(tiny, ["q_proj"], r=4, lora_alpha=8, adapter_name="q_proj")
    surgery.add_lora(tiny, ["q_proj", "mlp.up_proj"], r=4, lora_alpha=8, adapter_name="again")
    with pytest.raises(ValueError, match="'lora_dropout' names none"):
        surgery.choose_layers(tiny, ["lora_dropout"], 4)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj"], ["layers.1.mlp.up_proj", "self_attn.k_proj"]])
@pytest.mark.parametrize("tied", [True, False])
def test_what_is_not_refused_peft_adapts_as_well(tiny, targets, tied):
    tiny.config.tie_word_embeddings = tied
    ours = set(surgery.choose_layers(tiny, targets, 4))
    peft_model = get_peft_model(copy.deepcopy(tiny), LoraConfig(r=4, target_modules=targets))
    theirs = {
        name.removeprefix("base_model.model.")
        for name, module in peft_model.named_modules()
        if hasattr(module, "lora_A")
    }
    assert ours == theirs


# ---------------------------------------------------------------- matrices outside linear layers

SMALL = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
)
OUTSIDE = {
    "mixtral": (MixtralConfig(**SMALL, num_local_experts=4), "experts.gate_up_proj"),
    "qwen2_moe": (
        Qwen2MoeConfig(**SMALL, num_experts=4, moe_intermediate_size=32, shared_expert_intermediate_size=32),
        "experts.gate_up_proj",
    ),
    "gpt2": (GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2), "attn.c_attn.weight"),
}


@pytest.fixture(params=OUTSIDE)
def outside(request):
    torch.manual_seed(0)
    config, name = OUTSIDE[request.param]
    return AutoModelForCausalLM.from_config(config), request.param, name


def test_a_model_with_matrices_outside_linear_layers_is_refused_by_name(outside):
    model, kind, name = outside
    before = state(model)
    left = sum(p.numel() for p in weights_outside_linear_layers(model).values())
    share = f"{left / count_parameters(model):.0%}"
    asked = {
        "target_modules 'all-linear'": lambda: surgery.add_lora(model, "all-linear", r=2, lora_alpha=4),
        "quantization to NF4": lambda: surgery.quantize_linear_layers(model),
    }
    for setting, ask in asked.items():
        with pytest.raises(
            ValueError, match=rf"^{setting} must find .* got {kind}, where .*{name}.* {share} of"
        ):
            ask()
    assert same(before, state(model))
    assert 0.3 < left / count_parameters(model) < 1


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj"]])
def test_qlora_of_a_mixture_is_refused_whatever_it_adapts(targets):
    model = AutoModelForCausalLM.from_config(OUTSIDE["mixtral"][0])
    with pytest.raises(ValueError, match=r"experts\.gate_up_proj"):
        surgery.add_qlora(model, targets, r=2, lora_alpha=4)
    assert not surgery.switches(model)


def test_lora_on_layers_of_a_mixture_that_are_named_works():
    model = AutoModelForCausalLM.from_config(OUTSIDE["mixtral"][0])
    surgery.add_lora(model, ["q_proj"], r=2, lora_alpha=4)
    assert len(surgery.switches(model)) == 2


def test_a_mixture_is_not_loaded_in_4_bits(tmp_path):
    """Refused from its configuration: there are no weights in the folder, and none are asked for."""
    from transformers import AutoTokenizer

    from lora_edu.llm.base_model import fetch_base_model, load_base_model

    OUTSIDE["mixtral"][0].save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(fetch_base_model()).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"quantization 'nf4' must find .* got mixtral, .*experts\.gate_up_proj"
    ):
        load_base_model(str(tmp_path), quantization="nf4")


def test_dense_models_have_nothing_outside(tiny):
    assert weights_outside_linear_layers(tiny) == {}
    surgery.add_lora(tiny, "all-linear", r=2, lora_alpha=4)
    surgery.add_bottleneck(tiny, 2, adapter_name="behind")
    surgery.add_prefix(tiny, 2, adapter_name="prefix")
    assert weights_outside_linear_layers(tiny) == {}


def test_experts_count_as_the_mlp():
    model = AutoModelForCausalLM.from_config(OUTSIDE["mixtral"][0])
    experts = sum(p.numel() for name, p in model.named_parameters() if "experts" in name)
    router = sum(p.numel() for name, p in model.named_parameters() if name.endswith("gate.weight"))
    kinds = parameters_by_kind(model)
    assert kinds["mlp"] == experts + router
    assert kinds["norms"] == sum(p.numel() for name, p in model.named_parameters() if "norm" in name)
    assert sum(kinds.values()) == sum(p.numel() for p in model.parameters())


# ---------------------------------------------------------------- names and numbers


@pytest.mark.parametrize("add", ["lora", "bottleneck", "prefix", "qlora"])
@pytest.mark.parametrize(
    ("name", "error"),
    [
        *((name, ValueError) for name in ("training", "keys", "forward", "_modules", "a.b", "", "__base__")),
        *((name, TypeError) for name in (3, None, b"a", ["a"])),
    ],
)
def test_a_name_that_cannot_be_is_refused_before_anything_changes(tiny, add, name, error):
    adds = {
        "lora": lambda: surgery.add_lora(tiny, ["q_proj"], r=2, lora_alpha=4, adapter_name=name),
        "qlora": lambda: surgery.add_qlora(tiny, ["q_proj"], r=2, lora_alpha=4, adapter_name=name),
        "bottleneck": lambda: surgery.add_bottleneck(tiny, 2, adapter_name=name),
        "prefix": lambda: surgery.add_prefix(tiny, 2, adapter_name=name),
    }
    before, ids = state(tiny), torch.arange(5)[None]
    with torch.no_grad():
        logits = tiny(ids).logits
        with pytest.raises(error, match="adapter_name must be"):
            adds[add]()
        assert torch.equal(tiny(ids).logits, logits)
    assert same(before, state(tiny))


def test_every_name_that_a_live_module_dict_takes_is_taken():
    """The second route: try each name on a ModuleDict of its own."""
    tried = [*dir(nn.ModuleDict()), "first", "weight", "a b"]
    for name in tried:
        try:
            nn.ModuleDict()[name] = nn.Identity()
        except KeyError:
            takes = False
        else:
            takes = name not in dir(nn.ModuleDict())
        model = nn.Sequential(nn.Linear(4, 4))
        if takes:
            surgery.add_lora(model, ["0"], r=1, lora_alpha=1, adapter_name=name)
        else:
            with pytest.raises(ValueError, match="adapter_name must be"):
                surgery.add_lora(model, ["0"], r=1, lora_alpha=1, adapter_name=name)


@pytest.mark.parametrize("whole", [np.int8, np.int64, np.uint16])
def test_numbers_of_numpy_are_accepted_and_reach_the_file_as_json(tiny, tmp_path, whole):
    base = copy.deepcopy(tiny)
    settings = dict(lora_alpha=np.float32(8), lora_dropout=np.float64(0.5), use_rslora=np.bool_(True))
    model = surgery.add_qlora(tiny, ["q_proj"], r=whole(4), blocksize=whole(64), **settings)
    folder = save_adapter(model, tmp_path)
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert [config[key] for key in ("r", "lora_alpha", "lora_dropout", "use_rslora")] == [4, 8.0, 0.5, True]
    load_adapter(base, folder)
    kinds = {type(value) for value in memory_ledger("SmolLM2-135M", batch=whole(2), r=whole(4)).values()}
    assert kinds == {int}


@pytest.mark.parametrize(
    "settings",
    [
        {"r": torch.tensor(4)},
        {"r": True},
        {"r": 4.0},
        {"r": "4"},
        {"lora_alpha": torch.tensor(8.0)},
        {"lora_alpha": True},
        {"lora_alpha": float("nan")},
        {"lora_dropout": 1.0},
        {"use_rslora": "yes"},
        {"use_rslora": 1},
    ],
)
@pytest.mark.parametrize("add", [surgery.add_lora, surgery.add_qlora])
def test_other_numbers_are_refused_before_anything_changes(tiny, add, settings):
    before = state(tiny)
    (name,) = settings
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be"):
        add(tiny, ["q_proj"], **{"r": 4, "lora_alpha": 8, **settings})
    assert same(before, state(tiny))


def test_layers_keep_pythons_own_numbers():
    lora = LoRALinear(nn.Linear(8, 8), np.int64(2), np.float32(4), np.float64(0.5), np.bool_(False))
    behind, prefix = BottleneckAdapter(np.int64(8), np.int64(2)), PrefixEncoder(*np.array([2, 1, 1, 4]))
    kept = [lora.r, lora.lora_alpha, lora.use_rslora, behind.bottleneck, prefix.num_virtual_tokens]
    assert [type(value) for value in kept] == [int, float, bool, int, int]
    assert type(_validate.number("x", 16)) is int and type(_validate.number("x", np.int8(16))) is int
