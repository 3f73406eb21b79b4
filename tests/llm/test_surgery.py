import pytest
import torch
from peft import LoraConfig, get_peft_model

from lora_edu.llm import surgery
from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.qlora import NF4Linear

IDS = torch.arange(12).reshape(2, 6)
Q_V = ["q_proj", "v_proj"]


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def fill_b(model, seed=0):
    """Give every adapter an update, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, LoRALinear) and module.lora_B.requires_grad:
            module.lora_B.data.normal_(std=0.1, generator=generator)


@pytest.mark.parametrize("targets", [Q_V, "all-linear"])
def test_a_fresh_adapter_changes_nothing(tiny, targets):
    before = logits(tiny)
    assert torch.equal(before, logits(surgery.add_lora(tiny, targets, r=4, lora_alpha=8)))


@pytest.mark.parametrize("targets", [Q_V, ["down_proj"], ["model.layers.1.mlp.up_proj"], "all-linear"])
def test_the_chosen_layers_and_the_parameter_count_are_pefts(tiny, targets):
    import copy

    theirs = get_peft_model(
        copy.deepcopy(tiny), LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM")
    )
    surgery.add_lora(tiny, targets, r=4, lora_alpha=8)
    their_layers = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default")
        for name, _ in theirs.named_modules()
        if name.endswith("lora_A.default")
    }
    assert set(surgery.switches(tiny)) == their_layers
    assert sum(p.numel() for p in surgery.lora_parameters(tiny)) == theirs.get_nb_trainable_parameters()[0]


def test_only_the_adapter_receives_gradients(tiny):
    surgery.add_lora(tiny, "all-linear", r=2, lora_alpha=4)
    fill_b(tiny)
    tiny(input_ids=IDS, labels=IDS).loss.backward()
    adapter = {id(p) for p in surgery.lora_parameters(tiny)}
    for parameter in tiny.parameters():
        assert (parameter.grad is not None) == (id(parameter) in adapter)


def test_disable_adapter_gives_the_base_and_then_the_adapter_again(tiny):
    base = logits(tiny)
    surgery.add_lora(tiny, "all-linear", r=4, lora_alpha=8)
    fill_b(tiny)
    adapted = logits(tiny)
    assert not torch.allclose(base, adapted)
    with surgery.disable_adapter(tiny):
        assert torch.equal(base, logits(tiny))
    assert torch.equal(adapted, logits(tiny))


def test_an_error_inside_disable_adapter_switches_the_adapter_on_again(tiny):
    surgery.add_lora(tiny, Q_V, r=4, lora_alpha=8)
    with pytest.raises(KeyError), surgery.disable_adapter(tiny):
        raise KeyError
    assert {switch.active for switch in surgery.switches(tiny).values()} == {"default"}


def test_two_adapters_over_one_base(tiny):
    base = logits(tiny)
    surgery.add_lora(tiny, Q_V, r=4, lora_alpha=8, adapter_name="first")
    fill_b(tiny, seed=1)
    first = logits(tiny)
    surgery.add_lora(tiny, "all-linear", r=2, lora_alpha=8, adapter_name="second")
    assert torch.equal(base, logits(tiny)), "a layer that 'second' does not adapt must be the base"
    fill_b(tiny, seed=2)
    second = logits(tiny)
    surgery.set_adapter(tiny, "first")
    assert torch.equal(first, logits(tiny))
    assert all("first" in s.adapters or s.active is None for s in surgery.switches(tiny).values())
    surgery.set_adapter(tiny, "second")
    assert torch.equal(second, logits(tiny))
    assert surgery.adapter_names(tiny) == ["first", "second"]
    trains = {name for name, p in tiny.named_parameters() if p.requires_grad}
    assert trains
    assert all(".adapters.second." in name for name in trains)


def test_the_base_is_not_copied(tiny):
    before = {p.data_ptr() for p in tiny.parameters()}
    surgery.add_lora(tiny, Q_V, r=4, lora_alpha=8, adapter_name="first")
    surgery.add_lora(tiny, Q_V, r=4, lora_alpha=8, adapter_name="second")
    adapters = {p.data_ptr() for p in surgery.lora_parameters(tiny)}
    assert {p.data_ptr() for p in tiny.parameters()} - adapters == before


def test_add_qlora_quantizes_every_linear_layer_but_the_head_and_adapts_the_chosen(tiny):
    linear = set(surgery.linear_layers(tiny))
    surgery.add_qlora(tiny, Q_V, r=4, lora_alpha=8)
    quantized = {
        name.removesuffix(".base_layer")
        for name, module in tiny.named_modules()
        if isinstance(module, NF4Linear)
    }
    assert quantized == linear
    assert len(linear) == 2 * 7
    assert isinstance(tiny.lm_head, torch.nn.Linear)
    assert {path.rpartition(".")[2] for path in surgery.switches(tiny)} == set(Q_V)


def test_qlora_is_lora_over_the_dequantized_weights(tiny):
    import copy

    dequantized = copy.deepcopy(tiny)
    for layer in surgery.linear_layers(dequantized).values():
        layer.weight.data = NF4Linear.from_linear(layer, double_quant=True).dequantize()
    surgery.add_qlora(tiny, "all-linear", r=4, lora_alpha=8)
    surgery.add_lora(dequantized, "all-linear", r=4, lora_alpha=8)
    fill_b(tiny)
    fill_b(dequantized)
    for ours, theirs in zip(surgery.lora_parameters(tiny), surgery.lora_parameters(dequantized), strict=True):
        theirs.data.copy_(ours.data)
    assert torch.allclose(logits(tiny), logits(dequantized), atol=1e-5)


def test_training_leaves_the_bases_hash_and_a_changed_base_does_not(tiny):
    surgery.add_qlora(tiny, "all-linear", r=4, lora_alpha=8)
    before = surgery.base_weights_hash(tiny)
    optimizer = torch.optim.AdamW(surgery.lora_parameters(tiny), lr=1e-2)
    for _ in range(3):
        tiny(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    assert surgery.base_weights_hash(tiny) == before
    next(layer for layer in tiny.modules() if isinstance(layer, NF4Linear)).packed[0] ^= 1
    assert surgery.base_weights_hash(tiny) != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"target_modules": ["query"]},
            "target_modules must name linear layers of the model, such as .*q_proj",
        ),
        ({"target_modules": []}, "target_modules must name linear layers"),
        ({"target_modules": ["lm_head"]}, "target_modules must name linear layers"),
        ({"r": 0}, "r must be between 1 and 64, the smaller side of .*q_proj, got 0"),
        ({"r": 33}, "r must be between 1 and 32, the smaller side of .*k_proj, got 33"),
        ({"adapter_name": ""}, "adapter_name must be a non-empty name without dots, got ''"),
        ({"adapter_name": "a.b"}, "adapter_name must be a non-empty name without dots, got 'a.b'"),
    ],
)
@pytest.mark.parametrize("add", [surgery.add_lora, surgery.add_qlora])
def test_bad_input_is_refused_and_the_model_is_unchanged(tiny, add, arguments, message):
    kinds = [type(module) for module in tiny.modules()]
    with pytest.raises(ValueError, match=message):
        add(tiny, **({"target_modules": "all-linear", "r": 4, "lora_alpha": 8} | arguments))
    assert [type(module) for module in tiny.modules()] == kinds


def test_target_modules_as_a_single_name_is_refused(tiny):
    with pytest.raises(
        TypeError, match="target_modules must be a list of name endings or 'all-linear', got 'q_proj'"
    ):
        surgery.add_lora(tiny, "q_proj", r=4, lora_alpha=8)


def test_a_taken_name_and_an_unknown_name_are_refused(tiny):
    surgery.add_lora(tiny, Q_V, r=4, lora_alpha=8)
    with pytest.raises(ValueError, match=r"adapter_name must be new, the model already holds \['default'\]"):
        surgery.add_lora(tiny, Q_V, r=4, lora_alpha=8)
    with pytest.raises(
        ValueError, match=r"name must be one of the model's adapters \['default'\], got 'other'"
    ):
        surgery.set_adapter(tiny, "other")


def test_quantizing_under_an_adapter_is_refused(tiny):
    surgery.add_lora(tiny, Q_V, r=4, lora_alpha=8)
    with pytest.raises(ValueError, match="model must not carry adapters before it is quantized"):
        surgery.quantize_linear_layers(tiny)
