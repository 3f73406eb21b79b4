import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import StaticCache

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


def test_every_constant_of_a_bitsandbytes_layer_counts_in_the_hash():
    bnb = pytest.importorskip("bitsandbytes")
    layer = bnb.nn.Linear4bit(128, 64, quant_type="nf4", compress_statistics=True).to("cpu")
    state = layer.weight.quant_state
    before = surgery.base_weights_hash(layer)
    for constant in (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code):
        kept = constant.clone()
        constant += 1
        assert surgery.base_weights_hash(layer) != before
        constant.copy_(kept)
    assert surgery.base_weights_hash(layer) == before


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
        ({"adapter_name": "__base__"}, "adapter_name must be neither '__base__' nor .*, got '__base__'"),
        (
            {"adapter_name": "items"},
            "adapter_name must be neither .* nor a name that nn.ModuleDict uses, got 'items'",
        ),
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


def test_a_weight_that_is_not_finite_is_named_before_any_layer_is_quantized(tiny):
    kinds = [type(module) for module in tiny.modules()]
    *_, (path, last) = [(path, m) for path, m in surgery.linear_layers(tiny).items() if path != "lm_head"]
    last.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=f"finite weights to be quantized, got NaN or infinity at {path}"):
        surgery.quantize_linear_layers(tiny)
    assert [type(module) for module in tiny.modules()] == kinds


def test_quantizing_under_an_adapter_is_refused(tiny):
    surgery.add_lora(tiny, Q_V, r=4, lora_alpha=8)
    with pytest.raises(ValueError, match="model must not carry adapters before it is quantized"):
        surgery.quantize_linear_layers(tiny)


# Mixed batches

FOUR = torch.arange(3, 27).reshape(4, 6)
LEFT_PADDED = torch.tensor([[1] * 6, [0, 0] + [1] * 4, [0] + [1] * 5, [1] * 6])
ROWS = ["second", surgery.BASE, "behind", "second"]
GREEDY = {"do_sample": False, "max_new_tokens": 5, "min_new_tokens": 5}


def randomize(model, name, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in surgery.adapter_parameters(model, name):
        parameter.data.normal_(std=0.2, generator=generator)


@pytest.fixture
def three(tiny):
    """The small model in float64 with two LoRAs of other layers and a bottleneck, none of which is zero."""
    surgery.add_lora(tiny, Q_V, r=4, lora_alpha=8, adapter_name="first")
    surgery.add_lora(tiny, "all-linear", r=2, lora_alpha=8, adapter_name="second")
    surgery.add_bottleneck(tiny, 6, adapter_name="behind")
    for seed, name in enumerate(surgery.adapter_names(tiny)):
        randomize(tiny, name, seed)
    return tiny.double()


@pytest.fixture
def with_prefix(tiny):
    """Layers so loud that a greedy answer hangs on every key and value before it."""
    for layer in surgery.linear_layers(tiny).values():
        layer.weight.data *= 10
    return surgery.add_prefix(tiny, 5, adapter_name="prefix").double()


def alone(model, name, call):
    """What `call` says when every row goes through one adapter."""
    if name == surgery.BASE:
        with surgery.disable_adapter(model):
            return call()
    surgery.set_adapter(model, name)
    return call()


@pytest.mark.parametrize(
    "rows", [ROWS, ["first"] * 4, [surgery.BASE] * 4, ["behind", "first", "second", "first"]]
)
def test_each_row_of_a_mixed_batch_is_what_its_adapter_says_alone(three, rows):
    def call(**names):
        with torch.no_grad():
            return three(input_ids=FOUR, attention_mask=LEFT_PADDED, **names).logits

    mixed = call(adapter_names=rows)
    for i, name in enumerate(rows):
        assert torch.allclose(mixed[i], alone(three, name, call)[i], atol=1e-12)


def test_rows_of_a_quantized_model(tiny):
    surgery.add_qlora(tiny, "all-linear", r=2, lora_alpha=8, adapter_name="first")
    surgery.add_lora(tiny, Q_V, r=4, lora_alpha=8, adapter_name="second")
    for seed, name in enumerate(("first", "second")):
        randomize(tiny, name, seed)
    with torch.no_grad():
        mixed = tiny(input_ids=IDS, adapter_names=["first", "second"]).logits
    for i, name in enumerate(("first", "second")):
        assert torch.allclose(mixed[i], alone(tiny, name, lambda: logits(tiny))[i], atol=1e-5)


@pytest.mark.parametrize("arguments", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_each_row_generates_what_its_adapter_generates_alone(three, arguments):
    def call(**names):
        tokens = three.generate(input_ids=FOUR, attention_mask=LEFT_PADDED, **GREEDY, **arguments, **names)
        return tokens.unflatten(0, (4, -1))

    mixed = call(adapter_names=ROWS)
    for i, name in enumerate(ROWS):
        assert torch.equal(mixed[i], alone(three, name, call)[i])


def test_the_base_runs_once_and_each_adapter_on_its_rows_alone(three):
    seen = []
    for path, switch in surgery.switches(three).items():
        switch.base_layer.register_forward_hook(lambda layer, x, y, path=path: seen.append((path, len(y))))
    behind = surgery.switches(three)["model.layers.0.mlp.down_proj"].adapters["behind"]
    behind.register_forward_hook(lambda layer, x, y: seen.append(("behind", len(y))))
    three(input_ids=FOUR, adapter_names=ROWS)
    assert sorted(seen) == sorted([(path, 4) for path in surgery.switches(three)] + [("behind", 1)])


def test_only_the_adapters_of_the_rows_receive_gradients(three):
    for parameter in surgery.adapter_parameters(three):
        parameter.requires_grad_(True)
    three(input_ids=IDS, labels=IDS, adapter_names=["first", surgery.BASE]).loss.backward()
    used = {id(parameter) for parameter in surgery.adapter_parameters(three, "first")}
    for parameter in three.parameters():
        assert (parameter.grad is not None) == (id(parameter) in used)


@pytest.mark.parametrize("call", ["forward", "generate"])
@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["first"] * 3, ValueError, "adapter_names must be one a row of the batch, 4, got 3"),
        (["first"] * 8, ValueError, "adapter_names must be one a row of the batch, 4, got 8"),
        (
            ["first", "fist", "first", "first"],
            ValueError,
            r"adapter_names must be among .*\['first', 'second', 'behind', '__base__'\], got 'fist'",
        ),
        ("first", TypeError, "adapter_names must be a list of names, one a row, got 'first'"),
        (["first", None, None, None], TypeError, "adapter_names must be a list of names"),
    ],
)
def test_bad_names_are_refused_and_leave_nothing_behind(three, call, names, error, message):
    before = logits(three)
    run = three.generate if call == "generate" else three
    with pytest.raises(error, match=message):
        run(input_ids=FOUR, adapter_names=names)
    assert torch.equal(before, logits(three))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("call", ["forward", "generate"])
def test_an_interrupted_mixed_batch_leaves_nothing_behind(three, call, error):
    before = logits(three)

    def fail(*_):
        raise error

    handle = three.model.norm.register_forward_hook(fail)
    with pytest.raises(error):
        (three.generate if call == "generate" else three)(input_ids=FOUR, adapter_names=ROWS)
    handle.remove()
    assert torch.equal(before, logits(three))


def test_a_part_of_the_model_called_alone_knows_no_rows(three):
    """Neither after a mixed batch nor after one that failed."""
    layer, x = three.model.layers[0].mlp, torch.randn(3, 2, 64, dtype=torch.float64)
    before = layer(x)
    three(input_ids=FOUR, adapter_names=ROWS)
    assert torch.equal(before, layer(x))
    with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
        three(input_ids=FOUR, inputs_embeds=x, adapter_names=ROWS)
    assert torch.equal(before, layer(x))


def test_a_disabled_model_is_the_base_whatever_the_rows_name(three):
    with surgery.disable_adapter(three):
        assert torch.equal(logits(three), three(input_ids=IDS, adapter_names=["first", "second"]).logits)


def test_a_copy_of_the_model_chooses_for_itself(three):
    other = copy.deepcopy(three)
    surgery.set_adapter(other, "first")
    surgery.set_adapter(three, "second")
    assert not torch.allclose(logits(three), logits(other), atol=1e-3)
    names = ["first", "first"]
    mixed = other.generate(input_ids=IDS, adapter_names=names, **GREEDY)
    assert torch.equal(mixed, other.generate(input_ids=IDS, **GREEDY))
    assert torch.equal(mixed, three.generate(input_ids=IDS, adapter_names=names, **GREEDY))


def test_gradient_checkpointing_refuses_a_mixed_batch_and_a_prefix(three):
    three.gradient_checkpointing_enable()
    three.train()
    with pytest.raises(ValueError, match="adapter_names must be None while gradient checkpointing is on"):
        three(input_ids=FOUR, adapter_names=ROWS)
    surgery.add_prefix(three, 2, adapter_name="prefix")
    with pytest.raises(ValueError, match="gradient checkpointing must be off under a prefix"):
        three(input_ids=FOUR)


def test_a_layer_that_flattens_the_batch_is_refused():
    """As in a mixture of experts: rows of the layer are tokens, not sequences."""
    model = surgery.add_lora(nn.Sequential(nn.Flatten(0, 1), nn.Linear(4, 4)), ["1"], r=2, lora_alpha=2)
    with pytest.raises(ValueError, match="adapter_names must meet one row each in every layer, got 3 names"):
        model(torch.randn(3, 2, 4), adapter_names=["default"] * 3)


# Bottlenecks and prefixes


def test_a_fresh_bottleneck_changes_nothing_and_a_trained_one_does(tiny):
    before = logits(tiny)
    surgery.add_bottleneck(tiny, 4)
    assert torch.equal(before, logits(tiny))
    randomize(tiny, "default", seed=0)
    assert not torch.allclose(before, logits(tiny), atol=1e-2)


def test_a_bottleneck_stands_behind_each_sublayer(tiny):
    surgery.add_bottleneck(tiny, 4, activation="relu")
    paths = [f"model.layers.{i}.{name}" for i in range(2) for name in ("self_attn.o_proj", "mlp.down_proj")]
    assert list(surgery.switches(tiny)) == paths
    count = sum(p.numel() for p in surgery.adapter_parameters(tiny))
    assert count == len(paths) * (2 * 64 * 4 + 64 + 4)
    randomize(tiny, "default", seed=0)
    mlp, switch = tiny.model.layers[0].mlp, surgery.switches(tiny)["model.layers.0.mlp.down_proj"]
    x = torch.randn(2, 3, 64)
    after = mlp(x)
    with surgery.disable_adapter(tiny):
        assert torch.equal(after, switch.adapters["default"](mlp(x)))


def test_a_bottleneck_over_nf4(tiny):
    surgery.quantize_linear_layers(tiny)
    before = logits(tiny)
    assert torch.equal(before, logits(surgery.add_bottleneck(tiny, 4)))


def test_a_prefix_of_no_tokens_is_the_base(tiny):
    before, answer = logits(tiny), tiny.generate(input_ids=IDS, **GREEDY)
    surgery.add_prefix(tiny, 0)
    assert torch.equal(before, logits(tiny))
    assert torch.equal(answer, tiny.generate(input_ids=IDS, **GREEDY))


def test_a_prefix_of_real_keys_and_values_is_those_tokens(tiny):
    """The keys and values that five tokens leave behind act as the five tokens do."""
    tiny.double()
    with torch.no_grad():
        cache = tiny(input_ids=IDS[:1, :5], use_cache=True).past_key_values
        whole = tiny(input_ids=torch.cat((IDS[:1, :5].expand(4, -1), FOUR), dim=1)).logits
    prefix = surgery.add_prefix(tiny, 5).double().prefixes.adapters["default"]
    for i, layer in enumerate(cache.layers):
        prefix.keys.data[i], prefix.values.data[i] = layer.keys[0], layer.values[0]
    with torch.no_grad():
        assert torch.allclose(tiny(input_ids=FOUR).logits, whole[:, 5:], atol=1e-12)
        assert torch.allclose(tiny(FOUR, torch.ones_like(FOUR)).logits, whole[:, 5:], atol=1e-12), (
            "positional"
        )


@pytest.mark.parametrize(
    "arguments", [{}, {"use_cache": False}, {"num_beams": 1, "return_dict_in_generate": True}]
)
def test_a_prefix_generates_what_it_says_step_by_step(with_prefix, arguments):
    tokens = FOUR
    for _ in range(5):
        with torch.no_grad():
            scores = with_prefix(input_ids=tokens).logits[:, -1]
        scores[:, with_prefix.config.eos_token_id] = -torch.inf
        tokens = torch.cat((tokens, scores.argmax(-1, keepdim=True)), dim=1)
    output = with_prefix.generate(input_ids=FOUR, attention_mask=torch.ones_like(FOUR), **GREEDY, **arguments)
    assert torch.equal(tokens, output if isinstance(output, torch.Tensor) else output.sequences)


def test_padding_on_the_left_changes_nothing_under_a_prefix(with_prefix):
    rows = {"input_ids": FOUR, "attention_mask": LEFT_PADDED}
    answers = with_prefix.generate(**rows, **GREEDY)[:, 6:]
    for row, mask, answer in zip(FOUR, LEFT_PADDED, answers, strict=True):
        alone = with_prefix.generate(input_ids=row[mask.bool()][None], **GREEDY)
        assert torch.equal(alone[0, -5:], answer)


def test_a_forward_without_a_cache_gives_none_back(with_prefix):
    assert with_prefix(input_ids=IDS, use_cache=False).past_key_values is None
    assert with_prefix(input_ids=IDS, use_cache=True).past_key_values.get_seq_length() == 5 + 6


def test_a_static_cache_is_refused_under_a_prefix(with_prefix):
    with pytest.raises(ValueError, match=r"attention_mask must be \(batch, tokens\) under a prefix"):
        with_prefix.generate(
            input_ids=IDS, past_key_values=StaticCache(with_prefix.config, max_cache_len=32), **GREEDY
        )


@pytest.mark.parametrize(
    "add",
    [lambda m: surgery.add_bottleneck(m, 4), lambda m: surgery.add_prefix(m, 3)],
    ids=["bottleneck", "prefix"],
)
def test_only_the_new_adapter_learns_and_off_is_the_base(tiny, add):
    base, before = logits(tiny), surgery.base_weights_hash(tiny)
    add(tiny)
    assert surgery.base_weights_hash(tiny) == before
    ours = list(surgery.adapter_parameters(tiny))
    optimizer = torch.optim.AdamW(ours, lr=1e-2)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = tiny.train()(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert {id(p) for p in tiny.parameters() if p.grad is not None} == {id(p) for p in ours}
    assert surgery.base_weights_hash(tiny) == before
    adapted = logits(tiny.eval())
    with surgery.disable_adapter(tiny):
        assert torch.equal(base, logits(tiny))
    assert torch.equal(adapted, logits(tiny))


def test_adapters_of_three_kinds_take_turns(tiny):
    says = {surgery.BASE: logits(tiny)}
    for name, add in {
        "prefix": lambda: surgery.add_prefix(tiny, 3, adapter_name="prefix"),
        "lora": lambda: surgery.add_lora(tiny, ["o_proj"], r=2, lora_alpha=4, adapter_name="lora"),
        "bottleneck": lambda: surgery.add_bottleneck(tiny, 4, adapter_name="bottleneck"),
        "longer": lambda: surgery.add_prefix(tiny, 7, adapter_name="longer"),
    }.items():
        add()
        randomize(tiny, name, seed=len(says))
        says[name] = logits(tiny)
    assert surgery.adapter_names(tiny) == ["prefix", "lora", "bottleneck", "longer"]
    for name, said in says.items():
        assert torch.equal(said, alone(tiny, name, lambda: logits(tiny)))
        others = [other for key, other in says.items() if key != name]
        assert not any(torch.allclose(said, other, atol=1e-3) for other in others)
    with torch.no_grad():
        mixed = tiny(input_ids=IDS, adapter_names=["lora", surgery.BASE]).logits
    assert torch.allclose(mixed, torch.stack((says["lora"][0], says[surgery.BASE][1])), atol=1e-5)
    with pytest.raises(
        ValueError, match=r"adapter_names must be among .*\['lora', 'bottleneck', '__base__'\]"
    ):
        tiny(input_ids=IDS, adapter_names=["lora", "prefix"])


@pytest.mark.parametrize(
    ("add", "error", "message"),
    [
        (
            lambda m: surgery.add_bottleneck(m, 0),
            ValueError,
            "bottleneck must be an integer in 1 … 64, got 0",
        ),
        (lambda m: surgery.add_bottleneck(m, 4, "swish"), ValueError, "activation must be one of gelu"),
        (
            lambda m: surgery.add_bottleneck(m, 4, target_modules=["out"]),
            ValueError,
            "target_modules must name linear layers",
        ),
        (lambda m: surgery.add_bottleneck(m, 4, adapter_name="a.b"), ValueError, "adapter_name must be"),
        (
            lambda m: surgery.add_prefix(m, -1),
            ValueError,
            "num_virtual_tokens must be an integer of at least 0",
        ),
        (lambda m: surgery.add_prefix(m, 4, adapter_name=""), ValueError, "adapter_name must be"),
    ],
)
def test_bad_input_to_the_other_kinds_is_refused_and_the_model_unchanged(tiny, add, error, message):
    kinds = [type(module) for module in tiny.modules()]
    with pytest.raises(error, match=message):
        add(tiny)
    assert [type(module) for module in tiny.modules()] == kinds
    assert all(parameter.requires_grad for parameter in tiny.parameters())


def test_a_prefix_wants_a_language_model():
    with pytest.raises(
        ValueError, match=r"model must be a causal language model of transformers .*, got Linear"
    ):
        surgery.add_prefix(nn.Linear(4, 4), 3)
