import copy
import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file

from lora_edu.llm import surgery
from lora_edu.llm.checkpoint import CONFIG_FILE, WEIGHTS_FILE, load_adapter, save_adapter, write_adapter_files

IDS = torch.arange(12).reshape(2, 6)


def logits(model):
    model.eval()
    with torch.no_grad():
        return model(input_ids=IDS).logits


def train(model, steps=5):
    """A few real steps, after which B is not zero."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["model.layers.1.mlp.up_proj"], "all-linear"])
def test_peft_loads_ours_and_we_load_pefts(tiny, tmp_path, targets, use_rslora):
    base = copy.deepcopy(tiny)
    ours = train(surgery.add_lora(tiny, targets, r=4, lora_alpha=8, use_rslora=use_rslora))
    assert all(p.abs().sum() > 0 for p in surgery.lora_parameters(ours))
    save_adapter(ours, tmp_path / "ours")
    theirs = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "ours")
    assert torch.allclose(logits(ours), logits(theirs), atol=1e-5)
    assert not torch.allclose(logits(base), logits(theirs), atol=1e-3)

    theirs.save_pretrained(tmp_path / "theirs")
    again = load_adapter(copy.deepcopy(base), tmp_path / "theirs")
    assert torch.allclose(logits(ours), logits(again), atol=1e-5)
    assert set(load_file(tmp_path / "ours" / WEIGHTS_FILE)) == set(
        load_file(tmp_path / "theirs" / WEIGHTS_FILE)
    )


def test_an_adapter_trained_in_peft_loads_under_another_name(tiny, tmp_path):
    base = copy.deepcopy(tiny)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    theirs = train(get_peft_model(tiny, config))
    theirs.save_pretrained(tmp_path)
    surgery.add_lora(base, ["q_proj"], r=2, lora_alpha=8, adapter_name="mine")
    load_adapter(base, tmp_path, adapter_name="theirs")
    assert surgery.adapter_names(base) == ["mine", "theirs"]
    assert torch.allclose(logits(theirs), logits(base), atol=1e-5)


@pytest.mark.parametrize("init", [True, False, "gaussian", "orthogonal", "eva", "mica"])
def test_pefts_starts_that_leave_the_base_alone_load(tiny, tmp_path, init):
    base = copy.deepcopy(tiny)
    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=init)
    train(get_peft_model(tiny, config)).save_pretrained(tmp_path)
    theirs = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)
    assert torch.allclose(logits(theirs), logits(load_adapter(base, tmp_path)), atol=1e-5)


def test_a_loaded_adapter_of_the_same_name_receives_the_numbers(tiny, tmp_path):
    fresh = surgery.add_lora(copy.deepcopy(tiny), "all-linear", r=4, lora_alpha=8)
    trained = train(surgery.add_lora(tiny, "all-linear", r=4, lora_alpha=8))
    load_adapter(fresh, save_adapter(trained, tmp_path))
    assert torch.equal(logits(trained), logits(fresh))


@pytest.fixture
def saved(tiny, tmp_path):
    base = copy.deepcopy(tiny)
    return base, save_adapter(
        train(surgery.add_lora(tiny, ["q_proj", "v_proj"], r=4, lora_alpha=8)), tmp_path / "a"
    )


def edit_config(folder, **changes):
    file = folder / CONFIG_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_weights(folder, change):
    tensors = load_file(folder / WEIGHTS_FILE)
    change(tensors)
    save_file(tensors, folder / WEIGHTS_FILE)


KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"

DAMAGE = {
    "no weights": (
        lambda f: (f / WEIGHTS_FILE).unlink(),
        FileNotFoundError,
        "has no adapter_model.safetensors",
    ),
    "no config": (lambda f: (f / CONFIG_FILE).unlink(), FileNotFoundError, "has no adapter_config.json"),
    "half the weights": (
        lambda f: (f / WEIGHTS_FILE).write_bytes((f / WEIGHTS_FILE).read_bytes()[:500]),
        ValueError,
        "must be safetensors, got a damaged file",
    ),
    "half the config": (
        lambda f: (f / CONFIG_FILE).write_text("{"),
        ValueError,
        "adapter_config.json must be one JSON object, got '{'",
    ),
    "a config of other bytes": (
        lambda f: (f / CONFIG_FILE).write_bytes(b'{"r": "\xff"}'),
        ValueError,
        "adapter_config.json must hold whole characters",
    ),
    "alpha without end": (
        lambda f: edit_config(f, lora_alpha=float("inf")),
        ValueError,
        "must be one JSON object, got .*Infinity is no number",
    ),
    "rank of half a number": (
        lambda f: edit_config(f, r=4.5),
        ValueError,
        "must give r as a number, got 4.5",
    ),
    "rank of true": (lambda f: edit_config(f, r=True), ValueError, "must give r as a number, got True"),
    "half the layers": (
        lambda f: edit_weights(f, lambda t: [t.pop(k) for k in list(t) if "layers.1" in k]),
        ValueError,
        "every layer that .* asks of this model, 4, got 2, without model.layers.1.self_attn.q_proj, .*v_proj",
    ),
    "one layer less": (
        lambda f: edit_weights(f, lambda t: [t.pop(k) for k in list(t) if "layers.1.self_attn.v_proj" in k]),
        ValueError,
        "4, got 3, without model.layers.1.self_attn.v_proj",
    ),
    "more layers": (
        lambda f: edit_config(f, target_modules=["q_proj"]),
        ValueError,
        "the layers that .* asks of this model alone, got also model.layers.0.self_attn.v_proj",
    ),
    "a head": (
        lambda f: edit_config(f, target_modules=["q_proj", "v_proj", "lm_head"]),
        ValueError,
        "5, got 4, without lm_head",
    ),
    "an embedding": (
        lambda f: edit_config(f, target_modules=["q_proj", "v_proj", "embed_tokens"]),
        ValueError,
        "5, got 4, without model.embed_tokens",
    ),
    "all layers": (lambda f: edit_config(f, target_modules="all-linear"), ValueError, "14, got 4, without "),
    "an expression": (
        lambda f: edit_config(f, target_modules=r".*\.(q|k|v)_proj"),
        ValueError,
        "6, got 4, without model.layers.0.self_attn.k_proj",
    ),
    "a bad expression": (
        lambda f: edit_config(f, target_modules="*("),
        ValueError,
        r"must give target_modules as regular expressions, got '\*\('",
    ),
    "no targets": (
        lambda f: edit_config(f, target_modules=None),
        ValueError,
        "must give target_modules, got None",
    ),
    "targets of numbers": (
        lambda f: edit_config(f, target_modules=[1]),
        ValueError,
        "target_modules as a list of",
    ),
    "an exclusion": (
        lambda f: edit_config(f, exclude_modules=["layers.1.self_attn.v_proj"]),
        ValueError,
        "alone, got also model.layers.1.self_attn.v_proj",
    ),
    "some layers": (
        lambda f: edit_config(f, layers_to_transform=[0]),
        ValueError,
        "alone, got also model.layers.1.self_attn.q_proj",
    ),
    "layers by name": (
        lambda f: edit_config(f, layers_to_transform=["0"]),
        ValueError,
        "layers_to_transform as whole numbers, got",
    ),
    "integers": (
        lambda f: edit_weights(f, lambda t: t.update({KEY: t[KEY].to(torch.int8)})),
        ValueError,
        "must hold float32, bfloat16 or float16, got torch.int8 in base_model",
    ),
    "numbers that would be rounded": (
        lambda f: edit_weights(f, lambda t: t.update({KEY: t[KEY].double()})),
        ValueError,
        "must hold float32, bfloat16 or float16, got torch.float64",
    ),
    "another method": (
        lambda f: edit_config(f, peft_type="IA3"),
        ValueError,
        "must describe a LoRA .* got 'IA3'",
    ),
    "biases": (lambda f: edit_config(f, bias="all"), ValueError, "must have bias 'none', got 'all'"),
    "no rank": (lambda f: edit_config(f, r=None), ValueError, "must give r as a number, got None"),
    "wrong rank": (
        lambda f: edit_config(f, r=8),
        ValueError,
        r"lora_A.weight of shape \(8, 64\) .* got \(4, 64\)",
    ),
    "not finite": (
        lambda f: edit_weights(f, lambda t: t[KEY].fill_(float("nan"))),
        ValueError,
        "finite numbers",
    ),
    "half a pair": (
        lambda f: edit_weights(f, lambda t: t.pop(KEY)),
        ValueError,
        r"got \['lora_B.weight'\] alone",
    ),
    "unknown layer": (
        lambda f: edit_weights(
            f,
            lambda t: [
                t.update({k.replace("layers.0", "layers.9"): t.pop(k)}) for k in list(t) if "layers.0" in k
            ],
        ),
        ValueError,
        "has no linear layer model.layers.9.self_attn.q_proj",
    ),
    "unknown matrix": (
        lambda f: edit_weights(f, lambda t: t.update({KEY.replace("lora_A", "lora_C"): t.pop(KEY)})),
        ValueError,
        "must hold lora_A.weight and lora_B.weight only",
    ),
}


# What would give the same tensors another meaning, or needs more of them.
NOT_PLAIN = {
    "use_dora": True,
    "rank_pattern": {"q_proj": 2},
    "alpha_pattern": {"q_proj": 16},
    "modules_to_save": ["lm_head"],
    "fan_in_fan_out": True,
    "lora_bias": True,
    "alora_invocation_tokens": [5, 6],
    "layer_replication": [[0, 1], [0, 1]],
    "target_parameters": ["mlp.experts.gate_up_proj"],
}
DAMAGE |= {
    key: (
        lambda f, key=key, value=value: edit_config(f, **{key: value}),
        ValueError,
        f"must describe plain LoRA: {key} = ",
    )
    for key, value in NOT_PLAIN.items()
}
DAMAGE |= {
    init: (
        lambda f, init=init: edit_config(f, init_lora_weights=init),
        ValueError,
        f"must have init_lora_weights true, false or one of .* base as it is, got '{init}'",
    )
    for init in ("pissa", "pissa_niter_4", "olora", "OLoRA", "corda", "loftq", "lora_ga")
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_adapter_is_refused_and_the_model_is_unchanged(saved, name):
    base, folder = saved
    damage, error, message = DAMAGE[name]
    damage(folder)
    with pytest.raises(error, match=message):
        load_adapter(base, folder)
    assert not surgery.switches(base)


CHOICES = [
    dict(target_modules=["q_proj", "up_proj"]),
    dict(target_modules=r".*layers\.\d+\.(self_attn\.(q|k)|mlp\.up)_proj"),
    dict(target_modules="all-linear"),
    dict(target_modules="all-linear", exclude_modules=["v_proj", "layers.0.mlp.up_proj"]),
    dict(target_modules=["q_proj", "v_proj"], exclude_modules=r".*layers\.0\..*"),
    dict(target_modules=["q_proj"], layers_to_transform=1),
    dict(target_modules=["q_proj", "down_proj"], layers_to_transform=[0, 7], layers_pattern="layers"),
    dict(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern=["h", "layers"]),
    dict(target_modules=["q_proj", "query"]),
]


@pytest.mark.parametrize("choice", CHOICES)
def test_whatever_way_pefts_config_chooses_layers(tiny, tmp_path, choice):
    base = copy.deepcopy(tiny)
    theirs = train(get_peft_model(tiny, LoraConfig(r=4, task_type="CAUSAL_LM", **choice)))
    theirs.save_pretrained(tmp_path)
    assert torch.allclose(logits(theirs), logits(load_adapter(copy.deepcopy(base), tmp_path)), atol=1e-5)
    edit_weights(tmp_path, lambda t: [t.pop(k) for k in [k for k in t if k.startswith(sorted(t)[0][:-15])]])
    with pytest.raises(ValueError, match="must hold every layer that"):
        load_adapter(base, tmp_path)
    assert not surgery.switches(base)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_numbers_of_16_bits_load_exactly(saved, dtype):
    base, folder = saved
    edit_weights(folder, lambda t: t.update({key: tensor.to(dtype) for key, tensor in t.items()}))
    load_adapter(base, folder)
    (path, switch), *_ = surgery.switches(base).items()
    stored = load_file(folder / WEIGHTS_FILE)[f"base_model.model.{path}.lora_A.weight"]
    assert torch.equal(switch.adapters["default"].lora_A, stored.float())


@pytest.mark.parametrize("bad", [float("nan"), np.float32(8), {1, 2}])
def test_both_files_are_replaced_or_neither(saved, bad):
    _, folder = saved
    before = [(folder / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)]
    with pytest.raises((TypeError, ValueError), match="JSON"):
        write_adapter_files(folder, {"lora_alpha": bad}, {"a": torch.zeros(1)})
    with pytest.raises(ValueError, match="Key `b` is invalid"):
        write_adapter_files(folder, {}, {"a": torch.zeros(1), "b": "no tensor"})
    assert [(folder / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)] == before
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]


def test_an_adapter_of_another_kind_is_not_poured_into_one_of_the_same_name(saved):
    base, folder = saved
    surgery.add_lora(base, ["q_proj", "v_proj"], r=4, lora_alpha=16)
    with pytest.raises(ValueError, match=r"must fit adapter 'default'.*'lora_alpha': 16"):
        load_adapter(base, folder)


def test_saving_an_unknown_adapter_is_refused(tiny, tmp_path):
    surgery.add_lora(tiny, ["q_proj"], r=4, lora_alpha=8)
    with pytest.raises(ValueError, match=r"adapter_name must be one of \['default'\], got 'other'"):
        save_adapter(tiny, tmp_path / "a", adapter_name="other")
    assert not (tmp_path / "a").exists()


# Prefixes and bottlenecks


def test_peft_loads_our_prefix_and_we_load_pefts(tiny, tmp_path):
    base = copy.deepcopy(tiny)
    ours = train(surgery.add_prefix(tiny, 3))
    theirs = PeftModel.from_pretrained(copy.deepcopy(base), save_adapter(ours, tmp_path / "ours"))
    assert torch.allclose(logits(ours), logits(theirs), atol=1e-5)
    assert not torch.allclose(logits(base), logits(theirs), atol=1e-3)

    config = PrefixTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM")
    theirs = train(get_peft_model(copy.deepcopy(base), config))
    theirs.save_pretrained(tmp_path / "theirs")
    assert torch.allclose(logits(theirs), logits(load_adapter(base, tmp_path / "theirs")), atol=1e-5)


def test_a_prefix_of_no_tokens_comes_back(tiny, tmp_path):
    base = copy.deepcopy(tiny)
    load_adapter(base, save_adapter(surgery.add_prefix(tiny, 0), tmp_path), adapter_name="nothing")
    assert surgery.adapter_names(base) == ["nothing"]


@pytest.mark.parametrize("targets", [None, ["model.layers.1.mlp.down_proj"]])
def test_a_bottleneck_comes_back(tiny, tmp_path, targets):
    base = copy.deepcopy(tiny)
    trained = train(surgery.add_bottleneck(tiny, 4, activation="tanh", target_modules=targets))
    load_adapter(base, save_adapter(trained, tmp_path), adapter_name="again")
    assert torch.equal(logits(trained), logits(base))
    assert list(surgery.switches(base)) == list(surgery.switches(trained))


@pytest.mark.parametrize(
    "add",
    [lambda m: surgery.add_prefix(m, 3), lambda m: surgery.add_bottleneck(m, 4)],
    ids=["prefix", "bottleneck"],
)
def test_the_numbers_of_the_other_kinds_go_to_an_adapter_of_the_same_name(tiny, tmp_path, add):
    fresh = add(copy.deepcopy(tiny))
    trained = train(add(tiny))
    assert not torch.allclose(logits(trained), logits(fresh), atol=1e-3)
    load_adapter(fresh, save_adapter(trained, tmp_path))
    assert torch.equal(logits(trained), logits(fresh))
    assert surgery.adapter_names(fresh) == ["default"]


@pytest.mark.parametrize(
    ("there", "message"),
    [
        (
            lambda m: surgery.add_prefix(m, 4),
            "'default', a PrefixEncoder that has .*tokens': 4.*, got .*tokens': 3",
        ),
        (
            lambda m: surgery.add_bottleneck(m, 4),
            "'default', a BottleneckAdapter .* got {'num_virtual_tokens': 3}",
        ),
        (
            lambda m: surgery.add_lora(m, ["q_proj"], r=4, lora_alpha=8),
            "'default', a LoRALinear .* got .*tokens': 3",
        ),
    ],
)
def test_a_prefix_is_not_poured_into_an_adapter_of_another_kind(tiny, tmp_path, there, message):
    folder = save_adapter(surgery.add_prefix(copy.deepcopy(tiny), 3), tmp_path)
    with pytest.raises(ValueError, match=message):
        load_adapter(there(tiny), folder)


@pytest.mark.parametrize(
    ("add", "damage", "message"),
    [
        (
            lambda m: surgery.add_prefix(m, 3),
            lambda f: edit_config(f, num_virtual_tokens=4),
            r"must hold prompt_embeddings of shape \(4, 128\), got {'prompt_embeddings': \(3, 128\)}",
        ),
        (
            lambda m: surgery.add_prefix(m, 3),
            lambda f: edit_weights(f, lambda t: t.update(extra=torch.ones(1))),
            r"must hold prompt_embeddings of shape \(3, 128\), got .*extra",
        ),
        # The tensor keeps its shape, and would mean other keys.
        *(
            (
                lambda m: surgery.add_prefix(m, 3),
                lambda f, changed=changed: edit_config(f, **changed),
                f"must fit the model, whose {next(iter(changed))} is",
            )
            for changed in (
                {"num_layers": 4},
                {"num_attention_heads": 4},
                {"token_dim": 64},
                {"num_transformer_submodules": 2},
            )
        ),
        (
            lambda m: surgery.add_prefix(m, 3),
            lambda f: edit_weights(f, lambda t: t.update(prompt_embeddings=t["prompt_embeddings"].int())),
            "must hold float32, bfloat16 or float16, got torch.int32 in prompt_embeddings",
        ),
        (
            lambda m: surgery.add_bottleneck(m, 4),
            lambda f: edit_weights(f, lambda t: [t.pop(k) for k in list(t) if "layers.1.mlp" in k]),
            "4, got 3, without model.layers.1.mlp.down_proj",
        ),
        (
            lambda m: surgery.add_bottleneck(m, 4),
            lambda f: edit_config(f, bottleneck=5),
            r"must hold down.weight of shape \(5, 64\) .* got \(4, 64\)",
        ),
        (
            lambda m: surgery.add_bottleneck(m, 4),
            lambda f: edit_config(f, activation="swish"),
            "activation must be one of gelu, relu, silu, tanh, got 'swish'",
        ),
        (
            lambda m: surgery.add_bottleneck(m, 4),
            lambda f: edit_weights(
                f, lambda t: t.pop("base_model.model.model.layers.0.mlp.down_proj.up.bias")
            ),
            r"must hold down.weight and .* of model.layers.0.mlp.down_proj, got .* alone",
        ),
    ],
)
def test_damaged_files_of_the_other_kinds_are_refused_and_the_model_is_unchanged(
    tiny, tmp_path, add, damage, message
):
    folder = save_adapter(add(copy.deepcopy(tiny)), tmp_path)
    damage(folder)
    with pytest.raises(ValueError, match=message):
        load_adapter(tiny, folder)
    assert not surgery.adapter_names(tiny)
