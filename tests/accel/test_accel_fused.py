"""Fused forwards: as near to float32 as the plain ones, the stream as wide, the 4-bit base untouched."""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lora_edu import accel
from lora_edu.llm.finetune.backends import widen_residual_stream
from lora_edu.llm.surgery import add_qlora, base_weights_hash, lora_parameters
from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.qlora import NF4Linear

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def make(dtype, alpha=4):
    torch.manual_seed(0)
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


def loss_and_gradients(model, dtype):
    ids = torch.randint(97, (3, 40), generator=torch.Generator().manual_seed(1)).cuda()
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    return loss.item(), torch.autograd.grad(loss, list(lora_parameters(model)))


@pytest.mark.parametrize("alpha", [4, 7])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_as_near_to_float32_as_the_plain_forward(dtype, alpha):
    plain = make(dtype, alpha)
    before = base_weights_hash(plain)
    loss, gradients = loss_and_gradients(plain, dtype)
    exact = copy.deepcopy(plain).float()
    for module in exact.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = torch.float32
    exact_loss, exact_gradients = loss_and_gradients(exact, torch.float32)
    fused = accel.fuse(plain)
    fused_loss, fused_gradients = loss_and_gradients(fused, dtype)
    assert base_weights_hash(fused) == before
    rounding = torch.finfo(dtype).eps
    assert abs(fused_loss - exact_loss) <= abs(loss - exact_loss) + rounding * exact_loss / 4
    for ours, truth in zip(fused_gradients, exact_gradients, strict=True):
        assert ours.dtype == torch.float32 and ours.shape == truth.shape
    truth = torch.cat([gradient.flatten() for gradient in exact_gradients])
    error, theirs = (
        (torch.cat([gradient.flatten() for gradient in found]) - truth).norm() / truth.norm()
        for found in (fused_gradients, gradients)
    )
    assert error <= 2 * theirs + rounding


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
        layer.lora_B.normal_(std=1e-3)
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
