"""When is a product with a 4-bit weight faster than with a 16-bit one?

    python -m benchmarks.four_bit_layer --device cuda [--json FILE] [--quick] [--rounds N]

The linear layers of a 7B (Mistral's attention and MLP), from one token to a batch of 512: the weight in bf16, in
bitsandbytes' `Linear4bit` (which unpacks as it multiplies where tokens are few), in the course's `NF4Linear`, and in
that with the kernels of `lora_edu.accel`. All weights are equal, in NF4 with double quantization. Beside the clock
stands the time of the GPU's kernels, since a slow host hides short ones. The record names what the chip can do, too:
the bytes a second of a copy and the operations a second of a large product, both measured. A CPU computes in float32.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks._harness import Race, Settings, main, relative_difference
from lora_edu import accel
from lora_edu.methods.qlora import NF4Linear
from tools.record_gpu_memory import linear_4bit

SHAPES = ((4096, 4096), (14_336, 4096), (4096, 14_336))  # (out, in): q and o, gate and up, down
TOKENS = (1, 8, 64, 512)
CHIP = {"copy": 2**30, "product": 8192}  # bytes copied; width of a square product
HEADER = ["shape", "tokens", "pass", "way", "time", "to 16 bits", "kernels", "MB", "agreement"]


@dataclass
class Row:
    """One way at one size.

    Attributes
    ----------
    shape
        Of the weight: (out, in).
    tokens
        Rows of the input.
    way
        Who multiplies.
    passes
        "forward", without autograd, or "forward and backward", which makes the gradient of the input.
    seconds, kernel_seconds
        Median of one call by the clock, and of the GPU's kernels in it; None where there is no GPU.
    ratios
        Time over that of the 16-bit weight (on a CPU 32-bit), one a round.
    weight_bytes
        Stored for the weight.
    difference
        Of the output from the 16-bit product with the weight read back, as a share of it.
    """

    shape: tuple[int, int]
    tokens: int
    way: str
    passes: str
    seconds: float
    kernel_seconds: float | None
    weight_bytes: int
    difference: float
    ratios: list[float] = field(default_factory=list)

    def cells(self) -> list[str]:
        """The row of the table."""
        kernels = "" if self.kernel_seconds is None else f"{1e6 * self.kernel_seconds:.1f} us"
        shape = " x ".join(map(str, self.shape))
        times = [f"{1e6 * self.seconds:.1f} us", f"{median(self.ratios):.2f}", kernels]
        ends = [f"{self.weight_bytes / 1e6:.1f}", f"{self.difference:.1%} apart"]
        return [shape, str(self.tokens), self.passes, self.way, *times, *ends]


def measure(settings: Settings) -> list[Row]:
    shapes, tokens = ([(128, 64)], (1, 8)) if settings.quick else (SHAPES, TOKENS)
    return [row for shape in shapes for row in race_shape(shape, tokens, settings)]


def race_shape(shape: tuple[int, int], tokens: tuple[int, ...], settings: Settings) -> list[Row]:
    """All ways at one shape."""
    layers, stored = make_layers(shape, settings.device)
    rows = []
    for n, passes in product(tokens, ("forward", "forward and backward")):
        calls = {way: call(layer, n, shape, passes, settings.device) for way, layer in layers.items()}
        race = Race(calls, settings)
        wide = next(iter(layers))
        for way in layers:
            ratios = [a / b for a, b in zip(race.seconds[way], race.seconds[wide], strict=True)]
            difference = relative_difference(race.outputs[way], race.outputs[wide])
            seconds = median(race.seconds[way])
            kernels = kernel_seconds(calls[way], settings.device)
            rows.append(Row(shape, n, way, passes, seconds, kernels, stored[way], difference, ratios))
    return rows


def make_layers(shape: tuple[int, int], device: torch.device) -> tuple[dict[str, nn.Module], dict[str, int]]:
    """Each way's layer over one weight, and the bytes that it stores for it.

    The 16-bit weight is the 4-bit one read back, so that all ways compute the same product.
    """
    torch.manual_seed(0)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    dense = nn.Linear(shape[1], shape[0], bias=False, device=device, dtype=dtype).requires_grad_(False)
    plain, kernels = (NF4Linear.from_linear(dense) for _ in range(2))
    theirs = linear_4bit(dense)
    dense.weight.data = plain.dequantize()
    layers = {"bf16" if dtype is torch.bfloat16 else "fp32": dense, "bitsandbytes": theirs}
    layers |= {"lora_edu plain": plain, "lora_edu kernels": accel.use_kernels(kernels)}
    ours = sum(buffer.nbytes for buffer in plain.buffers())
    return layers, dict(zip(layers, [dense.weight.nbytes, ours, ours, ours], strict=True))


def call(
    layer: nn.Module, tokens: int, shape: tuple[int, int], passes: str, device: torch.device
) -> Callable[[], Tensor]:
    """The product of the layer with the same random rows each time."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(tokens, shape[1], generator=generator).to(device, dtype)

    @torch.no_grad()
    def forward() -> Tensor:
        return layer(x)

    inputs = x.clone().requires_grad_()
    grad_y = torch.ones(tokens, shape[0], device=device, dtype=dtype)

    def there_and_back() -> Tensor:
        inputs.grad = None
        y = layer(inputs)
        y.backward(grad_y)
        return y.detach()

    return forward if passes == "forward" else there_and_back


def kernel_seconds(run: Callable[[], Any], device: torch.device, calls: int = 20) -> float | None:
    """Time that the GPU is at work in one call (kernels, copies, memsets), the mean over ``calls``; None without a GPU.

    Gaps between kernels are left out.
    """
    if device.type == "cpu":
        return None
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(calls):
            run()
        torch.cuda.synchronize()
    return sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6 / calls


def chip(settings: Settings) -> dict[str, float]:
    """What the machine can do at most: a large copy, and a large product, each by the clock."""
    device, quick = settings.device, settings.quick
    source, target = torch.zeros(2, CHIP["copy"] // (1024 if quick else 1), dtype=torch.uint8, device=device)
    n = CHIP["product"] // (64 if quick else 1)
    square = torch.randn(n, n, device=device).to(torch.float32 if device.type == "cpu" else torch.bfloat16)
    race = Race({"copy": lambda: target.copy_(source), "product": lambda: square @ square}, settings)
    best = {name: min(seconds) for name, seconds in race.seconds.items()}
    moved, operations = 2 * source.nbytes, 2 * n**3
    return {
        "copy_bytes_a_second": moved / best["copy"],
        "peak_operations_a_second": operations / best["product"],
    }


if __name__ == "__main__":
    main((__doc__ or "").partition("\n")[0], measure, header=HEADER, also=chip)
