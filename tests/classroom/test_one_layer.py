"""One layer in a training step: the pictured moments against tensors counted live."""

import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lora_edu.classroom import figures
from lora_edu.classroom.exercises.n09 import matmul_4bit
from lora_edu.classroom.experiments import one_layer
from lora_edu.classroom.experiments.in_memory import standing_bytes
from lora_edu.classroom.experiments.one_layer import METHODS, MOMENTS, PARTS, layer_bytes
from lora_edu.classroom.live_tensors import LiveTensors
from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.qlora import NF4Linear

SIZES = {"d_in": 256, "d_out": 512, "tokens": 48, "r": 4}


class Plain4Bit(NF4Linear):
    """As in exercise 09.2: the weight made wide in one piece, twice. NF4Linear's own forward makes it in panels."""

    def forward(self, x):
        return matmul_4bit(x, self.packed, self.quant_state)


class KeptWide(NF4Linear):
    def forward(self, x):
        return F.linear(x, self.dequantize())


def layer_of(method):
    dense = nn.Linear(SIZES["d_in"], SIZES["d_out"], bias=False, dtype=torch.bfloat16)
    kind = {"LoRA": None, "QLoRA": Plain4Bit, "QLoRA, kept wide": KeptWide}[method]
    layer = LoRALinear(kind.from_linear(dense) if kind else dense, SIZES["r"], lora_alpha=8)
    layer.base_layer.requires_grad_(False)
    return layer


class AtProducts(LiveTensors):
    """Bytes alive right after each product with W, whose results are 16-bit; those with A and B are float32."""

    def __init__(self):
        super().__init__()
        self.products = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if func.overloadpacket is torch.ops.aten.mm and result.dtype == torch.bfloat16:
            self.products.append(self.now)
        return result


@pytest.mark.parametrize("method", METHODS)
def test_the_moments_hold_what_is_alive_then(method):
    torch.manual_seed(0)
    layer = layer_of(method)
    optimizer = torch.optim.AdamW([p for p in layer.parameters() if p.requires_grad])
    shape = SIZES["tokens"], SIZES["d_in"]
    layer(torch.randn(shape, dtype=torch.bfloat16)).sum().backward()
    optimizer.step()  # from now on there are averages
    optimizer.zero_grad()
    rest = layer_bytes(method, "at rest", **SIZES)
    tables = 0 if method == "LoRA" else 4 * 256  # of the 8-bit scales
    assert sum(rest.values()) == sum(standing_bytes(layer, optimizer).values()) - tables

    x = torch.randn(shape, dtype=torch.bfloat16, requires_grad=True)
    grad_y = torch.randn(SIZES["tokens"], SIZES["d_out"], dtype=torch.bfloat16)
    gc.collect()
    with AtProducts() as live:
        y = layer(x)
        [forward] = live.products
        output = y.nbytes
        waiting = live.now - output
        live.products.clear()
        y.backward(grad_y)
        [back] = live.products
        optimizer.step()
        after = live.now - x.grad.nbytes - output

    def made(moment):
        return sum(layer_bytes(method, moment, **SIZES).values()) - sum(rest.values())

    assert made("forward") - x.nbytes == forward  # x was there before
    assert made("waiting") == waiting
    assert made("back") == back - output  # y still lives here; in a model the next layer has it
    assert made("after") == after


def test_only_the_careless_layer_holds_a_wide_copy_while_it_waits():
    waiting = {method: layer_bytes(method, "waiting", **SIZES)["W in 16 bits"] for method in METHODS}
    assert waiting == {"LoRA": 2 * 256 * 512, "QLoRA": 0, "QLoRA, kept wide": 2 * 256 * 512}


def test_every_moment_has_the_same_parts_in_mib():
    moments = one_layer.moments_of("QLoRA", **SIZES)
    assert list(moments) == list(MOMENTS)
    for moment, parts in moments.items():
        assert list(parts) == list(PARTS)
        assert {part: size * 2**20 for part, size in parts.items()} == layer_bytes("QLoRA", moment, **SIZES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "full"}, "method must be one of LoRA"),
        ({"moment": "lunch"}, "moment must be one of at rest"),
        ({"tokens": 0}, "tokens must be"),
        ({"r": 0}, "r must be"),
    ],
)
def test_an_impossible_moment_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        layer_bytes(**{"method": "LoRA", "moment": "at rest"} | SIZES | change)


def test_mistral_in_4_bits_is_what_its_shape_says():
    # The sum that docs and notebook state, from the published shape by hand.
    block = 2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14_336
    stored, wide = one_layer.stored_and_wide("Mistral-7B")
    assert stored == pytest.approx(32 * block * 4.126953125 / 8 / 2**30, rel=1e-5)
    assert wide == 2 * 4096 * 14_336 / 2**30


def test_what_autograd_keeps_is_told():
    large = NF4Linear.from_linear(nn.Linear(256, 512, bias=False))
    x = torch.randn(2, 256, requires_grad=True)
    assert one_layer.kept_for_backward(lambda x: F.linear(x, large.dequantize()), x) == "float32, 0.5 MiB"
    assert one_layer.kept_for_backward(large, x) == "uint8, 0.1 MiB"


def test_layers_agree_if_and_only_if_their_weights_do():
    torch.manual_seed(0)
    dense = nn.Linear(64, 96, bias=False)
    quantized = NF4Linear.from_linear(dense)
    wide = nn.Linear(64, 96, bias=False)
    wide.weight.data = quantized.dequantize()
    layers = [LoRALinear(base, r=4, lora_alpha=8) for base in (quantized, wide, dense)]
    assert one_layer.agree(*layers[:2]) == [True] * len(one_layer.STEP)
    assert not one_layer.agree(layers[0], layers[2])[0]


def test_the_film_and_the_moments_are_drawn_without_collisions():
    for method in METHODS:
        picture = figures.new_pictures()[0]
        one_layer.draw_moments(picture, method, moment=3)
        figures.to_quick_png(picture)
        assert figures.collisions(picture) == []
        kept = method == "QLoRA, kept wide"
        assert ("still there" in picture.alt) == kept
    picture = figures.new_pictures()[0]
    one_layer.draw_life(picture, one_layer.STEPS[-1])
    assert "On the way back, a weight of block 1 " in picture.alt
