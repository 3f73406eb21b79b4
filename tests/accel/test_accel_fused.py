"""Fused forwards: as near to float32 as the plain ones, the stream as wide, the 4-bit base untouched."""

import copy
from statistics import median

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

from lora_edu import accel
from lora_edu.accel.shared import share, shared
from lora_edu.llm.finetune.backends import widen_residual_stream
from lora_edu.llm.surgery import add_qlora, base_weights_hash, lora_parameters, quantize_linear_layers
from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.qlora import NF4Linear

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


SEEDS = range(7)
ROTATION = modeling_llama.apply_rotary_pos_emb
"""transformers' own, as it was before any test."""


def make(dtype, alpha=4, seed=0, adapters=True):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=97, hidden_size=128, intermediate_size=320, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32,
    )  # fmt: skip
    model = LlamaForCausalLM(config).cuda().to(dtype).requires_grad_(False)
    widen_residual_stream(model)
    if not adapters:
        return quantize_linear_layers(model).eval()
    model = add_qlora(model, "all-linear", r=4, lora_alpha=alpha, compute_dtype=dtype)
    with torch.no_grad():
        for p in lora_parameters(model):
            p.copy_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model.train()


def loss_and_gradients(model, dtype, seed=0):
    ids = torch.randint(97, (3, 40), generator=torch.Generator().manual_seed(seed)).cuda()
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    gradients = torch.autograd.grad(loss, list(lora_parameters(model)))
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    return loss.item(), torch.cat([gradient.flatten() for gradient in gradients])


def errors(dtype, alpha, seed):
    """How far the losses and the gradients of the plain and of the fused forward are from those of float32."""
    plain = make(dtype, alpha, seed)
    before = base_weights_hash(plain)
    exact = copy.deepcopy(plain).float()
    for module in exact.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = torch.float32
    truth, gradients = loss_and_gradients(exact, torch.float32, seed)
    found = [loss_and_gradients(plain, dtype, seed)]
    fused = accel.fuse(plain)
    found.append(loss_and_gradients(fused, dtype, seed))
    assert base_weights_hash(fused) == before
    return [
        (abs(loss - truth) / truth, ((g - gradients).norm() / gradients.norm()).item()) for loss, g in found
    ]


@pytest.mark.parametrize("alpha", [4, 7])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_as_near_to_float32_as_the_plain_forward(dtype, alpha):
    """In the median of some seeds: how much one model makes of a rounding differs by a factor of ten and more."""
    plain, fused = zip(*(errors(dtype, alpha, seed) for seed in SEEDS), strict=True)
    rounding = torch.finfo(dtype).eps
    for theirs, ours in zip(zip(*plain, strict=True), zip(*fused, strict=True), strict=True):
        assert median(ours) <= 1.5 * median(theirs) + rounding / 32


@pytest.mark.parametrize("rank", [4, 16])
def test_an_update_below_half_a_step_of_16_bits_is_not_lost(rank):
    """On average: the sum is rounded up more often, and down less. Rounding the base first would lose all of it."""
    torch.manual_seed(0)
    base = NF4Linear.from_linear(torch.nn.Linear(320, 512, bias=False), compute_dtype=torch.bfloat16)
    layer = LoRALinear(base, rank, rank)
    model = make(torch.bfloat16)
    model.model.layers[0].mlp.extra = layer.cuda()
    accel.fuse(model)
    x = torch.randn(1024, 320, device="cuda", dtype=torch.bfloat16)
    without = layer(x).float()
    with torch.no_grad():
        layer.lora_B.normal_(std=1e-4 / (rank / 4) ** 0.5)  # an update of one size, whatever the rank
    A, B = layer.narrow
    B.copy_(layer.lora_B)
    update = (x @ A.T).float() @ B.float().T
    step = without.abs().clamp(min=1e-2) * torch.finfo(torch.bfloat16).eps
    assert (update.abs() < step / 4).double().mean() > 0.9
    arrived = ((layer(x).float() - without) * update).sum() / update.square().sum()
    assert abs(arrived - 1) < 0.05


def test_the_residual_stream_is_float32():
    fused = accel.fuse(make(torch.bfloat16))
    seen = []
    for layer in fused.model.layers:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    loss_and_gradients(fused, torch.bfloat16)
    assert seen == [torch.float32] * 3


@pytest.mark.parametrize("rank", [1, 3, 16])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_layer_gives_one_token_what_it_gives_a_row_of_a_batch(dtype, rank):
    """One token goes from 4 bits to the product in one kernel, update included; two make the weight whole."""
    base = NF4Linear.from_linear(torch.nn.Linear(320, 512), compute_dtype=dtype)
    model = make(dtype)
    model.model.layers[0].mlp.extra = layer = LoRALinear(base, rank, 2 * rank).cuda()
    torch.nn.init.normal_(layer.lora_B, std=0.2)
    accel.fuse(model)
    x = torch.randn(2, 320, device="cuda", dtype=dtype)
    with torch.no_grad():
        one, two = layer(x[:1]).float(), layer(x)[:1].float()
    assert (one - two).norm() <= 4 * torch.finfo(dtype).eps * two.norm()


def test_a_model_without_adapters_answers_as_before():
    models = [make(torch.bfloat16, adapters=False), accel.fuse(make(torch.bfloat16, adapters=False))]
    with torch.no_grad():
        plain, fused = (
            model(input_ids=torch.tensor([[5]], device="cuda"), use_cache=False).logits.float()
            for model in models
        )
    assert (plain - fused).norm() <= 0.02 * plain.norm()


def test_what_backward_makes_again_is_what_it_would_have_kept(monkeypatch):
    models = [accel.fuse(make(torch.bfloat16)) for _ in range(2)]
    kept = []
    for model, again in zip(models, (True, False), strict=True):
        if not again:
            monkeypatch.setattr("lora_edu.accel.fused_linear.shared", lambda tensor: None)
        kept.append([])
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept[-1].append(t) or t, lambda t: t):
            loss, gradients = loss_and_gradients(model, torch.bfloat16)
        kept[-1] = loss, gradients, sum({t.data_ptr(): t.nbytes for t in kept[-1]}.values())
    (loss, gradients, fewer), (other_loss, others, more) = kept
    assert loss == other_loss and torch.equal(gradients, others)
    assert fewer < 0.85 * more


def test_another_model_of_the_process_computes_what_it_did():
    plain, other = make(torch.bfloat16), make(torch.bfloat16)
    loss, gradients = loss_and_gradients(plain, torch.bfloat16)
    fused_loss, _ = loss_and_gradients(accel.fuse(other), torch.bfloat16)
    after, gradients_after = loss_and_gradients(plain, torch.bfloat16)
    assert after == loss != fused_loss and torch.equal(gradients_after, gradients)
    assert modeling_llama.apply_rotary_pos_emb is ROTATION


def test_a_float32_model_is_refused():
    with pytest.raises(ValueError, match="compute_dtype of the model must be bfloat16 or float16"):
        accel.fuse(make(torch.float32))


@pytest.mark.parametrize("kinds", ["lora", "plain", "both"])
def test_neighbours_get_by_one_kernel_what_each_gets_alone(kinds):
    torch.manual_seed(0)
    linears = [torch.nn.Linear(320, out, bias=out == 192) for out in (513, 192, 64)]
    layers: list = [NF4Linear.from_linear(linear, compute_dtype=torch.bfloat16) for linear in linears]
    for place, rank in {"lora": ((0, 3), (1, 16), (2, 1)), "both": ((0, 16),), "plain": ()}[kinds]:
        layers[place] = LoRALinear(layers[place], rank, 2 * rank)
    model = make(torch.bfloat16)
    block = model.model.layers[0].extra = torch.nn.Module()
    for name, layer in zip(("q_proj", "k_proj", "v_proj"), layers, strict=True):
        if isinstance(layer, LoRALinear):
            torch.nn.init.normal_(layer.lora_B, std=0.2)
        setattr(block, name, layer.cuda())
    accel.fuse(model)
    x = torch.randn(1, 1, 320, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        alone = [layer(x) for layer in layers]
        share(x, x.clone)
        together = [layer(x) for layer in layers]
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert len(layers[0].neighbours) == 3
    assert shared(x).products == {}, "each has taken what a neighbour computed"


def test_what_the_residual_stream_adds_is_not_rounded():
    fused = accel.fuse(make(torch.bfloat16))
    seen = {}
    for name in "o_proj", "q_proj":
        layer = getattr(fused.model.layers[1].self_attn, name)
        layer.register_forward_hook(lambda module, inputs, y, name=name: seen.update({name: y.dtype}))
    loss_and_gradients(fused, torch.bfloat16)
    assert seen == {"o_proj": torch.float32, "q_proj": torch.bfloat16}


def test_a_second_backward_is_refused():
    fused = accel.fuse(make(torch.bfloat16))
    loss = fused(input_ids=torch.ones(1, 8, dtype=torch.long, device="cuda"), use_cache=False).logits.sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="goes back once for each forward"):
        loss.backward()
