"""What is in memory in a training step: tensors counted live, and what records say."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from lora_edu.classroom import records
from lora_edu.classroom.checks import check
from lora_edu.classroom.experiments.in_memory import (
    bytes_of,
    cases,
    checkpoint_blocks,
    gibibytes,
    recorded_ledger,
    standing_bytes,
)
from lora_edu.classroom.live_tensors import LiveTensors
from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.nf4 import dequantize_nf4
from lora_edu.methods.qlora import NF4Linear


def test_live_tensors_counts_storages_while_they_live():
    before = torch.zeros(1000)
    with LiveTensors() as live:
        before.add_(1)
        a = torch.zeros(100)
        b = a.view(10, 10).T
        assert live.now == 400
        c = b + 1
        assert live.now == 800
        del a
        assert live.now == 800  # b still looks at it
        del b
        assert live.now == 400 and live.peak == 800
        del c
    assert live.now == 0


def test_live_tensors_sees_what_autograd_keeps():
    layer = nn.Linear(64, 64, bias=False)
    x = torch.randn(8, 64, requires_grad=True)
    with LiveTensors() as live:
        y = layer(x).sigmoid()
        assert live.now == y.nbytes  # sigmoid keeps its output, which is y
        y.sum().backward()
        del y
        assert live.now == layer.weight.grad.nbytes + x.grad.nbytes
        assert live.peak > live.now


def test_standing_bytes_are_those_of_the_formula():
    model = nn.Sequential(
        LoRALinear(NF4Linear.from_linear(nn.Linear(128, 64, bias=False)), 4, 8), nn.LayerNorm(64)
    )
    model[1].requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    model(torch.randn(3, 128)).sum().backward()
    optimizer.step()
    trained = 4 * 4 * (128 + 64)
    blocks = 128 * 64 // 64
    assert standing_bytes(model, optimizer) == {
        "weights": 128 * 64 // 2 + 4 * 2 * 64,
        "quantization constants": blocks + 4 * (math.ceil(blocks / 256) + 256 + 1),
        "adapters": trained,
        "gradients": trained,
        "optimizer": 2 * trained,
    }


def test_bytes_of_nothing_is_nothing():
    assert bytes_of([None, torch.zeros(3)]) == 12


# ---------------------------------------------------------------- the laws of exercise 09.2


def naive(x, packed, quant_state):
    return F.linear(x, dequantize_nf4(packed, quant_state))


def function_with(backward, **kept):
    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, packed, quant_state):
            ctx.save_for_backward(packed)
            ctx.quant_state = quant_state
            W = dequantize_nf4(packed, quant_state)
            if kept:
                ctx.W = W
            return x @ W.T

    Product.backward = staticmethod(backward)
    return Product.apply


def right(ctx, grad_y):
    return grad_y @ dequantize_nf4(*ctx.saved_tensors, ctx.quant_state), None, None


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (function_with(right), None),
        (naive, "no copy of the weight exists"),
        (function_with(right, kept="W"), "no copy of the weight exists"),
        (function_with(lambda ctx, grad_y: right(ctx, grad_y)[0]), "one value for each argument"),
        (
            function_with(
                lambda ctx, grad_y: (
                    grad_y @ dequantize_nf4(*ctx.saved_tensors, ctx.quant_state).T,
                    None,
                    None,
                )
            ),
            "x gets the gradient",
        ),
        (torch.no_grad()(naive), "backward runs"),
    ],
    ids=["right", "naive", "kept on ctx", "one value", "transposed", "no graph"],
)
def test_what_autograd_sees_of_an_answer_is_checked(answer, hint, capsys):
    assert check("09.2", answer) == ("hint" if hint else "pass")
    assert (hint or "Right.") in capsys.readouterr().out


# ---------------------------------------------------------------- what was recorded


def test_a_case_is_found_by_its_settings():
    [entry] = cases("gpu_memory", model="Mistral-7B", method="lora")
    assert entry["case"]["r"] == 16
    assert [entry["case"]["method"] for entry in cases("cpu_memory")] == ["full", "lora", "qlora"]


def test_a_case_that_says_nothing_of_graphs_had_none():
    every = records.read("gpu_memory")["cases"]
    plain = [entry for entry in every if not entry["case"].get("cuda_graphs")]
    assert cases("gpu_memory", cuda_graphs=False) == plain and plain


@pytest.mark.parametrize("settings", [{"model": "no-such-model"}, {"colour": "red"}])
def test_a_case_that_was_not_recorded_is_named(settings):
    with pytest.raises(ValueError, match="settings must be those of a case in gpu_memory"):
        cases("gpu_memory", **settings)


@pytest.mark.parametrize("entry", cases("cpu_memory"), ids=lambda entry: entry["case"]["method"])
def test_the_ledger_of_a_recorded_case_is_near_what_was_measured(entry):
    assert recorded_ledger(entry["case"], "cpu").total == pytest.approx(entry["measured_bytes"], rel=0.25)


def test_kinds_sum_to_the_ledgers_total():
    [entry] = cases("gpu_memory", model="Mistral-7B", method="lora")
    ledger = recorded_ledger(entry["case"], "cuda")
    kinds = gibibytes(ledger)
    assert sum(kinds.values()) == pytest.approx(ledger.total / 2**30)
    assert kinds["weights"] == (ledger["weights"] + ledger["quantization constants"]) / 2**30


def test_checkpointed_blocks_keep_less_and_give_the_same_gradients():
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).train()
    ids = torch.randint(0, 128, (2, 32))
    kept, gradients = [], []
    for prepare in (lambda model: None, checkpoint_blocks):
        prepare(model)
        model.zero_grad()
        with LiveTensors() as live:
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            kept.append(live.now)
        loss.backward()
        gradients.append(model.model.layers[0].mlp.up_proj.weight.grad.clone())
    assert kept[1] < kept[0] / 2
    torch.testing.assert_close(gradients[0], gradients[1])
