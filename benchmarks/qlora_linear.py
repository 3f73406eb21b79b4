"""What does a frozen 4-bit layer cost in training, forward and backward, against bitsandbytes' training path?

    python -m benchmarks.qlora_linear [--device cuda] [--json FILE] [--quick]

One layer, as many inputs as outputs, double quantization; T tokens, whose gradient is asked for as inside a model.
Ours runs twice: in plain PyTorch, and with the compiled products of ``lora_edu.accel``.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks._harness import Race, Result, Settings, compiler, main, relative_difference
from lora_edu import accel
from lora_edu.methods.qlora import NF4Linear


def measure(settings: Settings) -> list[Result]:
    size = 256 if settings.quick else 4096
    dtype = torch.float32 if settings.device.type == "cpu" else torch.bfloat16
    torch.manual_seed(0)
    linear = nn.Linear(size, size, bias=False, dtype=dtype).to(settings.device)
    layers = {
        "plain": NF4Linear.from_linear(linear),
        compiler(settings.device): accel.use_kernels(NF4Linear.from_linear(linear)),
        "bitsandbytes": bnb_linear(linear),
    }
    inputs = (torch.randn(2, tokens, size, dtype=dtype).to(settings.device) for tokens in (1, 16, 128, 512))
    return [result for x, grad_y in inputs for result in train(layers, x, grad_y, settings)]


def train(layers: dict[str, nn.Module], x: Tensor, grad_y: Tensor, settings: Settings) -> list[Result]:
    tokens, size = x.shape
    steps = {name: step(layer, x, grad_y) for name, layer in layers.items()}
    race = Race(steps, settings, unit_bytes=4 * size * size)
    *ours, peer = steps
    return [race.result(f"{size}, T = {tokens}", name, peer, apart(race, name, peer)) for name in ours]


def apart(race: Race, name: str, peer: str) -> str:
    y, grad = map(relative_difference, race.outputs[name], race.outputs[peer])
    return f"{y:.0e}, gradient {grad:.0e} apart"


def step(layer: nn.Module, x: Tensor, grad_y: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
    """Forward and backward: the output, and the gradient of the input."""

    def run() -> tuple[Tensor, Tensor]:
        leaf = x.detach().requires_grad_()
        y = layer(leaf)
        (grad_x,) = torch.autograd.grad(y, leaf, grad_y)
        return y.detach(), grad_x

    return run


def bnb_linear(linear: nn.Linear) -> nn.Module:
    """The same layer in bitsandbytes."""
    from bitsandbytes.nn.modules import Linear4bit

    dtype, device = linear.weight.dtype, linear.weight.device
    layer = Linear4bit(linear.in_features, linear.out_features, False, compute_dtype=dtype, quant_type="nf4")
    layer.weight.data = linear.weight.detach()  # quantized by the move to a device, below
    # On some CPUs it would repack the weight in eval() and then lose the gradient of its input.
    layer.support_avx512bf16_for_cpu = False
    return layer.to(device)


if __name__ == "__main__":
    main("A 4-bit layer, forward and backward", measure)
