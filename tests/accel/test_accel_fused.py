"""Fused forwards: as near to float32 as the plain ones, the stream as wide, the 4-bit base untouched."""

import copy
from statistics import median

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

from lora_edu import accel
from lora_edu.llm.finetune.backends import widen_residual_stream
from lora_edu.llm.surgery import add_qlora, base_weights_hash, lora_parameters
from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.qlora import NF4Linear

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


SEEDS = range(7)


def make(dtype, alpha=4, seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=97, hidden_size=128, intermediate_size=320, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32,
    )  # fmt: skip
    model = LlamaForCausalLM(config).cuda().to(dtype).requires_grad_(False)
    widen_residual_stream(model)
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
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # liger-kernel replaces them for all models: the next seed's are plain
        for name in ("apply_rotary_pos_emb", "LlamaMLP"):
            patch.setattr(modeling_llama, name, getattr(modeling_llama, name))
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
        layer.lora_B.normal_(std=1e-4)
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


def test_a_float32_model_is_refused():
    with pytest.raises(ValueError, match="compute_dtype of the model must be bfloat16 or float16"):
        accel.fuse(make(torch.float32))
