"""What does a step of QLoRA training cost at the sizes people fine-tune, against peft over bitsandbytes?

    python -m benchmarks.qlora_step --device cuda [--json FILE] [--quick] [--peer unsloth]

Published shapes with random weights, the same for all sides; NF4 with double quantization, rank 16 on all linear
layers, set up as ``lora_edu.llm.finetune`` sets them up; on a GPU in bfloat16 under autocast, as its Trainer has it. A
step is forward, backward and AdamW. Each side runs in a process of its own, one after the other:

``plain``, ``numba`` or ``triton``
    Our layers in plain PyTorch, and with the compiled products of ``lora_edu.accel``. ``triton, fused`` has its fused
    forwards, too.
``graph``, ``graph, fused``
    The two with kernels as one CUDA graph a step, AdamW in it; fused, the loss is computed of a few hundred tokens at a
    time. ``graph, fused, paged`` has paged 8-bit AdamW outside the graph, as a fine-tune's optimizer is.
``peft``, ``peft, graph``
    The professionals' libraries, step by step and in a graph.
``dense limit``
    Forward and the gradients of the inputs alone, over a base in 16 bits and without adapters, in a graph.

Memory is what a step takes beyond what is held, as a multiple of the model in float32. On a CPU only ``--quick`` is a
good idea.
"""

import argparse
import gc
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal, cast

if "--side" in sys.argv and "unsloth" in sys.argv:
    import unsloth  # pyright: ignore[reportMissingImports] # noqa: F401  # it patches what is imported later

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn

from benchmarks._harness import Result, Settings, compiler, extra_peak_bytes, main, timer
from lora_edu import accel
from lora_edu.llm.budget import count_parameters, resolve_config
from lora_edu.llm.finetune import FinetuneConfig
from lora_edu.llm.finetune.backends import backend_of
from lora_edu.llm.finetune.recipe import make_recipe
from lora_edu.llm.finetune.scored_loss import scored_loss
from lora_edu.llm.surgery import linear_layers
from tools.record_gpu_memory import linear_4bit

# Sentences, and tokens in each.
SIZES = {"SmolLM2-135M": (8, 256), "SmolLM2-1.7B": (4, 512), "Mistral-7B": (1, 512)}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 99}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
PEER = "peft"
ON_GPU = (
    *("plain", "triton", "triton, fused", "graph", "graph, fused", "graph, fused, paged"),
    *("peft, graph", "dense limit"),
)
# What a kernel does, by its name.
KINDS = {
    "optimizer": r"adam|multi_tensor|foreach",
    "dequantize": r"dequant",
    "attention": r"flash|fmha|attention|softmax_warp",
    "products": r"gemm|nvjet|cutlass|splitK|cublas|xmma",
    "copies": r"copy|Memcpy|Memset|fill",
}


@dataclass
class StepResult(Result):
    """A race of whole steps.

    Attributes
    ----------
    kernel_seconds, peer_kernel_seconds
        What the GPU computed of one step; the rest of its time it waited for the next launch. None on a CPU.
    kernels
        The same by kind.
    peak_bytes, peer_peak_bytes
        Most memory of the GPU in use, model included.
    """

    kernel_seconds: float | None = None
    peer_kernel_seconds: float | None = None
    kernels: dict[str, float] = field(default_factory=dict)
    peer_kernels: dict[str, float] = field(default_factory=dict)
    peak_bytes: int | None = None
    peer_peak_bytes: int | None = None

    def cells(self) -> list[str]:
        """The row of the table: milliseconds, those of kernels, GiB."""
        shown = [self.seconds, self.kernel_seconds, self.peer_seconds, self.peer_kernel_seconds]
        times = ["" if value is None else f"{1000 * value:.1f}" for value in shown]
        peaks = ["" if b is None else f"{b / 2**30:.2f}" for b in (self.peak_bytes, self.peer_peak_bytes)]
        return [*super().cells(), *times, *peaks]


HEADER = ["case", "ours", "peer", "ours/peer", "spread", "memory", "peer's", "agreement"]
HEADER += ["ms", "of kernels", "peer's", "of kernels", "peak GiB", "peer's"]


def measure(settings: Settings) -> list[Result]:
    sides = ["plain", compiler(settings.device)] if settings.device.type == "cpu" else list(ON_GPU)
    sides += [settings.peer] if settings.peer else []
    theirs = in_own_process(PEER, settings)
    results: list[Result] = []
    for side in sides:
        ours = in_own_process(side, settings)
        results += [compare(case, side, ours[case], theirs[case]) for case in ours]
    return sorted(results, key=lambda result: [row.case for row in results].index(result.case))


def compare(case: str, side: str, ours: dict[str, Any], theirs: dict[str, Any]) -> StepResult:
    """The row of a side against peft."""
    return StepResult(
        case,
        side,
        PEER,
        f"third losses {ours['loss']:.4f} and {theirs['loss']:.4f}, "
        f"{ours['held']:.2f} and {theirs['held']:.2f} GiB held",
        [a / b for a, b in zip(ours["seconds"], theirs["seconds"], strict=True)],
        median(ours["seconds"]),
        median(theirs["seconds"]),
        ours["memory"],
        theirs["memory"],
        ours["kernel_seconds"],
        theirs["kernel_seconds"],
        ours["kernels"],
        theirs["kernels"],
        ours["peak_bytes"],
        theirs["peak_bytes"],
    )


def in_own_process(side: str, settings: Settings) -> dict[str, Any]:
    """What `run_side` measures, by case, in a fresh process."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.qlora_step",
        "--side",
        side,
        "--device",
        settings.device.type,
    ]
    command += ["--rounds", str(settings.rounds), *(["--quick"] if settings.quick else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_side(side: str, settings: Settings) -> dict[str, Any]:
    """Measure one side at each size."""
    names = list(SIZES)[:1] if settings.quick else list(SIZES)
    measured = {}
    for name in names:
        batch, tokens = (2, 8) if settings.quick else SIZES[name]
        ids = torch.randint(3, 99, (batch, tokens), generator=torch.Generator().manual_seed(0))
        measured[f"{name}, {batch} x {tokens}"] = run_size(side, name, ids.to(settings.device), settings)
        gc.collect()
        if settings.device.type == "cuda":
            torch._C._cuda_clearCublasWorkspaces()  # of streams that are gone
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    return measured


def run_size(side: str, name: str, ids: torch.Tensor, settings: Settings) -> dict[str, Any]:
    """Seconds of each round, seconds of kernels, memory, and the third loss."""
    model = make_model(side, name, settings)
    gc.collect()
    held = allocated(settings.device)
    if settings.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    run, loss = make_step(side, model, ids)
    run()
    seconds = []
    for _ in range(settings.rounds):
        start = timer()
        run()
        seconds.append(timer() - start)
    on_gpu = settings.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else None
    extra = extra_peak_bytes(run, settings.device) if peak is None else peak - held
    kernels = kernel_seconds(run) if on_gpu else {}
    return {
        "loss": loss,
        "held": held / 2**30,
        "seconds": seconds,
        "memory": None if extra is None else extra / (4 * count_parameters(shape(name, settings))),
        "kernel_seconds": sum(kernels.values()) if on_gpu else None,
        "kernels": kernels,
        "peak_bytes": peak,
    }


def make_model(side: str, name: str, settings: Settings) -> Any:
    """The model of a side."""
    if side == "unsloth":
        return unsloth_model(name, settings)
    if side == "dense limit":
        return dense_model(name, settings)
    if side.startswith("peft"):
        return peft_model(name, settings)
    model = scratch_model(name, settings)
    if "fused" in side:
        return accel.fuse(model)
    return model if side == "plain" else accel.use_kernels(model)


def make_step(side: str, model: Any, ids: torch.Tensor) -> tuple[Callable[[], Any], float]:
    """One optimizer step, always on the same tokens, and the loss of the third."""
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:  # of the dense limit, the gradients of the inputs
        model.get_input_embeddings().register_forward_hook(lambda module, inputs, y: y.requires_grad_())
        return captured(lambda: backward(model, ids))
    graph, paged = "graph" in side, "paged" in side
    optimizer = make_optimizer(trained, graph, paged)
    loss_of = chunked_loss if "fused" in side and graph else whole_loss

    def forward_backward() -> torch.Tensor:
        loss = loss_of(model, ids)
        loss.backward()
        return loss.detach()

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = forward_backward()
        optimizer.step()
        return loss

    if not graph:
        losses = [step().item() for _ in range(3)]
        return step, losses[2]
    return captured(step) if not paged else captured(forward_backward, optimizer)


def captured(
    step: Callable[[], torch.Tensor], outside: torch.optim.Optimizer | None = None
) -> tuple[Callable[[], Any], float]:
    """A step as a graph, after three as it is, and the loss of the third; an optimizer may stay `outside`."""
    losses: list[float] = []
    if not outside:
        return captured_runs(step, 3, losses), losses[2]
    for _ in range(3):  # bitsandbytes' optimizer keeps to the main stream
        outside.zero_grad()
        losses.append(step().item())
        outside.step()
    outside.zero_grad()
    replay = captured_runs(step, 1, [], outside.zero_grad)

    def run() -> None:
        replay()
        outside.step()

    return run, losses[2]


def captured_runs(
    step: Callable[[], torch.Tensor],
    before: int = 3,
    values: list[float] | None = None,
    then: Callable[[], Any] | None = None,
) -> Callable[[], torch.Tensor]:
    """A graph of `step`, after some runs of it; what those return goes to `values`, and `then` follows them."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(before):
            result = step()
            if values is not None:
                values.append(result.item())
    torch.cuda.current_stream().wait_stream(stream)
    if then:
        then()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        result = step()

    def replay(_of: Any = step) -> torch.Tensor:  # what the graph reads belongs to the step, so it must stay
        graph.replay()
        return result

    return replay


def make_optimizer(trained: list[nn.Parameter], graph: bool, paged: bool) -> torch.optim.Optimizer:
    if paged:
        from bitsandbytes.optim.adamw import PagedAdamW8bit

        for p in trained:  # its steps would move what is not contiguous
            p.data = p.data.contiguous()
        return PagedAdamW8bit(trained, lr=1e-4)
    if not graph:
        return torch.optim.AdamW(trained, lr=1e-4)
    rate = torch.tensor(1e-4, device=trained[0].device)
    return torch.optim.AdamW(trained, lr=rate, fused=True, capturable=True)


def whole_loss(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """transformers' loss, all logits in memory."""
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.device.type == "cuda"):
        return model(input_ids=ids, labels=ids, use_cache=False).loss


def chunked_loss(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The same, a part of the logits after the other, each by one kernel."""
    from lora_edu.accel.loss import fused_part  # needs Triton

    with torch.autocast(ids.device.type, torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        count = ids.shape[0] * (ids.shape[1] - 1)
        return scored_loss(
            hidden,
            model.lm_head.weight,
            ids,
            torch.full((), count, device=ids.device),
            ids.numel(),
            part=fused_part,
        )


def backward(model: Any, ids: torch.Tensor) -> torch.Tensor:
    loss = whole_loss(model, ids)
    loss.backward()
    return loss.detach()


def kernel_seconds(run: Callable[[], Any]) -> dict[str, float]:
    """Seconds that the kernels of one call ran, by kind."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as record:
        run()
        torch.cuda.synchronize()
    seconds: dict[str, float] = {}
    for event in record.key_averages():
        kind = next(
            (kind for kind, name in KINDS.items() if re.search(name, event.key, re.IGNORECASE)), "other"
        )
        spent = getattr(event, "self_device_time_total", 0) / 1e6
        if spent:
            seconds[kind] = seconds.get(kind, 0.0) + spent
    return seconds


def scratch_model(name: str, settings: Settings) -> nn.Module:
    """lora_edu's layers."""
    return attach(dense_model(name, settings), "scratch")


def peft_model(name: str, settings: Settings) -> nn.Module:
    """peft's, over bitsandbytes'."""
    model: Any = dense_model(name, settings)
    for path, layer in linear_layers(model).items():
        model.set_submodule(path, linear_4bit(cast(nn.Linear, layer)))
    model.is_loaded_in_4bit = True  # what transformers' quantizer sets, and peft asks
    return attach(model, "peft")


def unsloth_model(name: str, settings: Settings) -> nn.Module:
    """unsloth's, of a folder that holds the same random weights."""
    from tempfile import TemporaryDirectory

    from unsloth import FastLanguageModel  # pyright: ignore[reportMissingImports]

    with TemporaryDirectory() as folder:
        cast(Any, dense_model(name, settings)).save_pretrained(folder)
        words = {"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3}  # it asks for a tokenizer, which nothing uses
        special = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), words, strict=True))
        tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
        model, _ = FastLanguageModel.from_pretrained(folder, dtype=torch.bfloat16, load_in_4bit=True)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return FastLanguageModel.get_peft_model(
        model, r=16, lora_alpha=16, target_modules=modules, use_gradient_checkpointing=False
    )


def dense_model(name: str, settings: Settings) -> nn.Module:
    """The shape with the same random weights each time, in 16 bits on a GPU and 32 on a CPU."""
    torch.manual_seed(0)
    with settings.device:
        model = transformers.AutoModelForCausalLM.from_config(
            shape(name, settings), dtype=dtype_on(settings.device)
        )
    return model.requires_grad_(False)


def shape(name: str, settings: Settings) -> Any:
    config: Any = resolve_config(name)
    if settings.quick:
        config.update(TINY)
    return config


def attach(model: Any, side: Literal["scratch", "peft"]) -> nn.Module:
    """Adapters as the fine-tune attaches them; A the same on both sides, and B zero."""
    dtype: Any = str(model.dtype).partition(".")[2]
    config = FinetuneConfig(output=".", method="qlora", backend=side, dtype=dtype, r=16)
    torch.manual_seed(0)
    return backend_of("qlora", side).attach(model, make_recipe(config))


def dtype_on(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated() if device.type == "cuda" else 0


def child() -> None:
    """Measure the side that ``--side`` names; the last line printed is what was measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side")
    parser.add_argument("--device")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    settings = Settings(torch.device(options.device), options.quick, options.rounds)
    print(json.dumps(run_side(options.side, settings)))


if __name__ == "__main__":
    if "--side" in sys.argv:
        child()
    else:
        main("A step of QLoRA training", measure, HEADER)
