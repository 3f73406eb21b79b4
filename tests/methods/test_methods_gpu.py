"""The same numbers on a GPU as on the CPU."""

import pytest
import torch
from torch import nn

from lora_edu.methods.lora import LoRALinear, merged_linear
from lora_edu.methods.nf4 import dequantize_nf4, quantize_nf4
from lora_edu.methods.qlora import NF4Linear

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(256, 96), (37, 53), (2048, 4096)])
def test_nf4_has_the_same_bytes(shape, dtype):
    W = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    packed, state = quantize_nf4(W)
    on_gpu, gpu_state = quantize_nf4(W.cuda())
    assert torch.equal(packed, on_gpu.cpu())
    assert torch.equal(state.absmax, gpu_state.absmax.cpu())
    assert torch.equal(dequantize_nf4(packed, state), dequantize_nf4(on_gpu, gpu_state).cpu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_qlora_layer_moves_and_computes_the_same(dtype):
    torch.manual_seed(0)
    lora = LoRALinear(NF4Linear.from_linear(nn.Linear(512, 256)), r=8, lora_alpha=16)
    nn.init.normal_(lora.lora_B)
    x, grad_y = torch.randn(64, 512), torch.randn(64, 256)
    results = []
    for device in ("cpu", "cuda"):
        lora.to(device).zero_grad()
        on_device = x.to(device, dtype, copy=True).requires_grad_()
        y = lora(on_device)
        y.backward(grad_y.to(device, dtype))
        results.append(
            [
                t.detach().to("cpu", torch.float, copy=True)
                for t in (y, on_device.grad, lora.lora_A.grad, lora.lora_B.grad)
            ]
        )
        merged = merged_linear(lora)
        assert merged.weight.device.type == device
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}[dtype]
    for cpu, gpu in zip(*results, strict=True):
        torch.testing.assert_close(gpu, cpu, rtol=tolerance, atol=tolerance * cpu.abs().max().item())


def test_a_seed_gives_the_same_adapter_on_both_devices():
    adapters = []
    for device in ("cpu", "cuda"):
        base_layer = nn.Linear(64, 32, device=device)
        torch.manual_seed(0)
        adapters.append(LoRALinear(base_layer, r=4, lora_alpha=8))
    assert adapters[1].lora_A.is_cuda
    assert torch.equal(adapters[0].lora_A, adapters[1].lora_A.cpu())
