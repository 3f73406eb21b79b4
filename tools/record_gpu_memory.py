"""Measure the peak memory of fine-tunes and write it beside what `lora_edu.llm.budget` predicts.

    python -m tools.record_gpu_memory [--seconds 460] [--processes 4]

Writes data/runs/gpu_memory.json. Each case trains three steps in a process of its own, through the trainer of
`lora_edu.llm.finetune`, under a limit of 14.5 GiB that stands for a T4. SmolLM2-135M is the real one; the larger
models have the published shapes and random weights, made on the GPU. What is compared is the peak of
`torch.cuda.max_memory_allocated` and the paged optimizer state, which PyTorch does not count. All tokens are scored.
Most cases run step by step, some from CUDA graphs (``cuda_graphs``).

Without a GPU a case measures resident memory instead: tests/llm/test_budget.py compares that.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import transformers
from torch import nn

from lora_edu.llm.base_model import DEFAULT_NAME, fetch_base_model, load_tokenizer, return_freed_memory
from lora_edu.llm.budget import resolve_config
from lora_edu.llm.files import write_json
from lora_edu.llm.finetune import FinetuneConfig
from lora_edu.llm.finetune.backends import backend_of
from lora_edu.llm.finetune.memory import predict_memory
from lora_edu.llm.finetune.recipe import Recipe, make_recipe
from lora_edu.llm.finetune.trainer import make_trainer
from lora_edu.llm.machine import limit_gpu_memory, without_flash_attention
from lora_edu.llm.provenance import provenance
from lora_edu.llm.surgery import linear_layers

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "data" / "runs" / "gpu_memory.json"
LIMIT_BYTES = int(14.5 * 2**30)
STEPS = 3
REAL = "SmolLM2-135M"
LARGE = ("SmolLM2-1.7B", "Mistral-7B", "Qwen2.5-7B")
DEFAULTS = {
    "method": "qlora",
    "backend": "peft",
    "dtype": "bfloat16",
    "r": 16,
    "gradient_checkpointing": True,
    "flash_attention": True,
    "cuda_graphs": False,
}


def plan() -> list[dict[str, Any]]:
    """The cases: what differs from `DEFAULTS`."""
    shapes = [{"batch": batch, "seq": seq} for batch, seq in ((1, 512), (4, 512), (1, 2048))]
    one = shapes[0]
    cases = [{"model": model} | shape for model, shape in product(LARGE, shapes)]
    cases += [{"model": model, "dtype": "float16"} | one for model in LARGE]
    # As on a T4, which has no flash attention.
    cases += [
        {"model": "Mistral-7B", "dtype": "float16", "flash_attention": False} | shapes[i] for i in (0, 2)
    ]
    cases += [{"model": LARGE[0], "method": "lora"} | shape for shape in shapes]
    # In 16 bits Mistral only just fits and Qwen does not: the prediction must say so.
    cases += [{"model": model, "method": "lora"} | one for model in LARGE[1:]]
    # lora_edu's own layers take the weights whole before they quantize them.
    cases += [{"model": LARGE[0], "backend": "scratch"} | one]
    cases += [
        {"model": LARGE[0], "method": method, "gradient_checkpointing": False} | one
        for method in ("lora", "qlora")
    ]
    small: dict[str, Any] = {"model": REAL, "batch": 8, "seq": 256}
    cases += [
        small | {"method": method, "backend": backend, "dtype": dtype, "gradient_checkpointing": False}
        for method, backend, dtype in product(("lora", "qlora"), ("peft", "scratch"), ("bfloat16", "float32"))
    ]
    cases += [
        small | {"method": "full", "dtype": dtype, "gradient_checkpointing": False}
        for dtype in ("bfloat16", "float32")
    ]
    cases += [small | {"method": method} for method in ("lora", "qlora")]
    return cases + replayed(small)


def replayed(small: dict[str, Any]) -> list[dict[str, Any]]:
    """The cases whose steps are replayed from CUDA graphs, where logits are never whole.

    None trains all weights: PyTorch counts a graph's memory as in use while it is captured, and Adam's moments come
    later. Those of adapters are small; those of all weights would be in no peak that it counts.
    """
    four, one = {"batch": 4, "seq": 512}, {"batch": 1, "seq": 512}
    cases = [small | {"gradient_checkpointing": False, "backend": backend} for backend in ("peft", "scratch")]
    cases += [small | {"gradient_checkpointing": False, "method": "lora"}]
    cases += [
        {"model": LARGE[0], "gradient_checkpointing": checkpointing} | four for checkpointing in (False, True)
    ]
    cases += [{"model": LARGE[0], "dtype": "float16"} | four]
    cases += [{"model": model} | one for model in LARGE[1:]]
    return [case | {"cuda_graphs": True} for case in cases]


class Meter(Protocol):
    """Bytes that are held now, and at most since the last reset."""

    def held(self) -> int: ...
    def peak(self) -> int: ...
    def reset(self) -> None: ...


class GpuMeter:
    """PyTorch's count of this process's tensors on the GPU, and bitsandbytes' of paged state."""

    def held(self) -> int:
        return torch.cuda.memory_allocated() + self.paged()

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated() + self.paged()

    def reset(self) -> None:
        torch.cuda.reset_peak_memory_stats()

    def paged(self) -> int:
        from bitsandbytes.functional import GlobalPageManager

        return sum(tensor.nbytes for tensor in cast(Any, GlobalPageManager.get_instance()).paged_tensors)


class CpuMeter:
    """Resident memory of this process (Linux)."""

    def held(self) -> int:
        return self._status("VmRSS")

    def peak(self) -> int:
        return self._status("VmHWM")

    def reset(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again (man 5 proc)

    def _status(self, field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Train a few steps in this process; return bytes predicted, by term, and bytes measured, by stage."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        limit_gpu_memory(LIMIT_BYTES)
    case = DEFAULTS | case
    if on_gpu and not case["flash_attention"]:
        without_flash_attention()
    with tempfile.TemporaryDirectory() as folder:
        recipe = make_recipe(settings(case, folder))
        ledger = predict_memory(recipe, case["model"], case["seq"]).but(
            flash_attention=case["flash_attention"]
        )
        result: dict[str, Any] = {"predicted": ledger, "predicted_bytes": ledger.total}
        try:
            measured = train(recipe, Path(folder), case["seq"], GpuMeter() if on_gpu else CpuMeter())
        except torch.cuda.OutOfMemoryError as error:
            return result | {"out_of_memory": str(error).partition(".")[0]}
    peak = max(size for name, size in measured.items() if name.endswith("_peak"))
    return result | {"measured": measured, "measured_bytes": peak, "ratio": round(ledger.total / peak, 4)}


def settings(case: dict[str, Any], folder: str) -> FinetuneConfig:
    """The settings that `lora_edu.llm.finetune` would be given."""
    return FinetuneConfig(
        output=folder,
        model=case["model"],
        method=case["method"],
        backend=case["backend"],
        dtype=case["dtype"],
        r=case["r"],
        batch_size=case["batch"],
        micro_batch_size=case["batch"],
        gradient_checkpointing=case["gradient_checkpointing"],
        steps=STEPS,
        cuda_graphs="on" if case["cuda_graphs"] else "off",
    )


def train(recipe: Recipe, folder: Path, seq: int, meter: Meter) -> dict[str, int]:
    """Bytes held after each stage of a fine-tune, and the peak within it."""
    measured = {"start": meter.held()}
    backend = backend_of(recipe.method, recipe.backend)
    if recipe.model == REAL:
        model, tokenizer = backend.load(replace(recipe, model=DEFAULT_NAME))
    else:
        model, tokenizer = random_model(recipe), load_tokenizer()
    gc.collect()
    measured |= {"loading_peak": meter.peak(), "loaded": meter.held()}
    meter.reset()
    transformers.set_seed(0)
    model = backend.attach(model, recipe)
    model.config.use_cache = False
    gc.collect()
    return_freed_memory()
    measured |= {"attaching_peak": meter.peak(), "attached": meter.held()}
    meter.reset()
    ids = torch.randint(3, model.config.vocab_size, (STEPS * recipe.batch_size, seq)).tolist()
    examples = [{"input_ids": row, "attention_mask": [1] * seq, "labels": row} for row in ids]
    trainer = make_trainer(recipe, backend, model, tokenizer, examples, folder)
    trainer.args.save_strategy = transformers.trainer_utils.SaveStrategy.NO  # else the last step saves
    trainer.train()
    measured |= {"training_peak": meter.peak(), "trained": meter.held()}
    if isinstance(meter, GpuMeter):
        measured |= {"paged_optimizer": meter.paged(), "reserved": torch.cuda.max_memory_reserved()}
    return measured


def random_model(recipe: Recipe) -> Any:
    """A published shape with random weights; bitsandbytes' layers are made one by one, as it reads a file."""
    dtype = recipe.dtype
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device("meta"):
        model: Any = transformers.AutoModelForCausalLM.from_config(resolve_config(recipe.model), dtype=dtype)
    if recipe.quantized and recipe.backend == "peft":
        for path, layer in linear_layers(model).items():
            layer = cast(nn.Linear, layer)
            dense = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device, dtype)
            model.set_submodule(path, linear_4bit(dense.requires_grad_(False)))
        model.is_loaded_in_4bit = True  # what transformers' quantizer sets, and peft asks
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                mean = 1.0 if type(module).__name__.endswith("Norm") else 0.0
                values = torch.empty_like(parameter, device=device).normal_(mean, 0.02)
                setattr(module, name, nn.Parameter(values, requires_grad=False))
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config=model.config).to(device)
    return model.eval()


def linear_4bit(dense: nn.Linear) -> Any:
    """bitsandbytes' layer of the same weight, as transformers makes it."""
    import bitsandbytes

    bnb = cast(Any, bitsandbytes.nn)
    layer = bnb.Linear4bit(
        dense.in_features,
        dense.out_features,
        dense.bias is not None,
        compute_dtype=dense.weight.dtype,
        quant_type="nf4",
        device="meta",
    )
    weight = bnb.Params4bit(
        dense.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
    )
    layer.weight = weight.to(dense.weight.device)  # the move quantizes
    layer.bias = dense.bias
    return layer


def measure_apart(case: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Measure a case in a process of its own; whatever goes wrong is its result."""
    command = [sys.executable, "-m", "tools.record_gpu_memory", "--case", json.dumps(case)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, env=environment, cwd=ROOT, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not finished in {seconds:.0f} s"}
    if done.returncode != 0:
        return {"failed": done.stderr[-1500:]}
    return json.loads(done.stdout.splitlines()[-1])


def record_case(case: dict[str, Any], deadline: float) -> dict[str, Any]:
    """Measure a case if there is time, and print what came out."""
    start = time.monotonic()
    result = measure_apart(case, max(1.0, min(150.0, deadline - start)))
    shown = {key: result[key] for key in ("ratio", "out_of_memory", "failed") if key in result}
    print(f"{time.monotonic() - start:4.0f} s", case, shown, flush=True)
    return {"case": DEFAULTS | case} | result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--case", help="measure this one, as JSON, in this process, and print the result")
    parser.add_argument("--output", type=Path, default=TARGET)
    parser.add_argument("--revision", help="git revision, where the checkout does not know it")
    parser.add_argument("--processes", type=int, default=4, help="cases side by side on the GPU")
    parser.add_argument("--seconds", type=float, default=460, help="time for all of them")
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(json.loads(arguments.case))))
        return
    fetch_base_model()  # before the processes that would all want to
    deadline = time.monotonic() + arguments.seconds
    with ThreadPoolExecutor(arguments.processes) as pool:
        cases = list(pool.map(lambda case: record_case(case, deadline), plan()))
    record = {"command": "python -m tools.record_gpu_memory"} | provenance()
    if arguments.revision:
        record["revision"] = arguments.revision
    record |= {"limit_bytes": LIMIT_BYTES, "steps": STEPS, "cases": cases}
    write_json(arguments.output, record)


if __name__ == "__main__":
    main()
