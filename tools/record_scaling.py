"""Record how fine-tunes scale from one GPU to several, by data parallelism and by FSDP, into one JSON.

    python -m tools.record_scaling --output data/runs/scaling.json --revision $(git rev-parse HEAD)

Every run is ``lora_edu.llm.finetune`` in processes of its own, one run at a time, always with the same sentences an
optimizer step and the same sentences at once on a GPU. So with twice the GPUs each computes half as many micro-batches
a step, and the losses should not change. The course's model has its real weights. The larger shapes have random ones,
which changes neither time nor memory, and the course's tokenizer and vocabulary.

With ``--share-gpu`` the processes share one GPU, as if each were a machine of its own: that shows whether the losses
stay and what memory each takes. They talk through a socket, so FSDP's speed is another.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch
import transformers

from lora_edu.llm.base_model import DEFAULT_NAME, load_tokenizer
from lora_edu.llm.budget import resolve_config
from lora_edu.llm.files import write_json
from lora_edu.llm.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "scaling"
# The shapes are known to fit, and other records hold what the base answers.
COMMON = {"method": "qlora", "dtype": "bfloat16", "optimizer": "adamw", "r": 16, "seed": 0}
COMMON |= {"before_events": 0, "preflight": False, "save_every": 10**6}
COMMON |= {"cuda_graphs": "off"}  # several processes have none
SETTINGS: dict[str, dict[str, Any]] = {
    DEFAULT_NAME: {
        "batch_size": 32,
        "micro_batch_size": 8,
        "steps": 15,
        "test_events": 50,
        "eval_batch_size": 50,
    },
    "SmolLM2-1.7B": {
        "batch_size": 16,
        "micro_batch_size": 4,
        "steps": 10,
        "learning_rate": 1e-4,
        "test_events": 1,
    },
    "Mistral-7B": {
        "batch_size": 8,
        "micro_batch_size": 2,
        "steps": 10,
        "learning_rate": 1e-4,
        "test_events": 1,
    },
}
WAYS = {"peft": ("ddp", "fsdp"), "scratch": ("ddp",)}
PORT = "29577"
SHARED = {"CUDA_VISIBLE_DEVICES": "0", "NCCL_NET": "Socket", "NCCL_SOCKET_IFNAME": "lo"}
SHARED |= {"NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1", "NCCL_NVLS_ENABLE": "0"}
KEPT = (
    "losses",
    "exact_match",
    "exact_match_unseen",
    "seconds",
    "training_peak_gpu_memory_bytes",
    "processes",
)


def model_folder(shape: str) -> str:
    """Return what ``--model`` takes: the course's name, or a folder of random weights, made if missing."""
    if shape == DEFAULT_NAME:
        return shape
    folder = BUILD / shape
    if not folder.exists():
        tokenizer = load_tokenizer()
        config = resolve_config(shape)
        config.update({"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id})
        config.update({"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id})
        torch.manual_seed(0)
        with torch.device("cuda"):
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return str(folder)


def launches(way: str, processes: int, share_gpu: bool) -> list[tuple[list[str], dict[str, str]]]:
    """Return the arguments for Python, ahead of the module's own, and the environment of each program to start."""
    if processes == 1:
        return [([], {"CUDA_VISIBLE_DEVICES": "0"})]
    launcher = ["-m", "accelerate.commands.launch", "--config_file", f"configs/{way}.yaml"]
    launcher += ["--num_processes", str(processes)]
    if not share_gpu:
        return [(launcher, {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(processes)))})]
    # NCCL refuses two processes on one GPU of a host; by its name each has its own host, reached through a socket.
    launcher += [
        "--num_machines",
        str(processes),
        "--main_process_ip",
        "127.0.0.1",
        "--main_process_port",
        PORT,
    ]
    return [
        ([*launcher, "--machine_rank", str(rank)], SHARED | {"NCCL_HOSTID": f"lora_edu-{rank}"})
        for rank in range(processes)
    ]


def run(
    shape: str, backend: str, way: str, processes: int, share_gpu: bool, deadline: float
) -> dict[str, Any]:
    """Fine-tune once; return its settings with the record, or with what went wrong."""
    case = {"shape": shape, "backend": backend, "way": way, "gpus": 1 if share_gpu else processes}
    output = BUILD / "-".join(map(str, [*case.values(), processes])).replace(" ", "-")
    values = COMMON | SETTINGS[shape] | {"backend": backend, "model": model_folder(shape), "output": output}
    module = ["-m", "lora_edu.llm.finetune"]
    module += [part for key, value in values.items() for part in (f"--{key}", str(value))] + ["--overwrite"]
    start = time.monotonic()
    started = [
        subprocess.Popen(
            [sys.executable, *launch, *module],
            env=os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"} | environment,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for launch, environment in launches(way, processes, share_gpu)
    ]
    try:
        errors = [
            process.communicate(timeout=max(1.0, deadline - time.monotonic()))[1] for process in started
        ]
    except subprocess.TimeoutExpired:
        for process in started:
            process.terminate()  # not kill: the launcher must stop the processes that it started
            process.communicate()
        return case | {"failed": "not finished in the time given"}
    if any(process.returncode != 0 for process in started):
        print(*(text[-6000:] for text in errors), flush=True)
        return case | {"failed": errors[0][-500:]}
    record = json.loads((output / "run.json").read_text(encoding="utf-8"))
    result = case | {key: record[key] for key in KEPT}
    gib = [peak / 2**30 for peak in record["training_peak_gpu_memory_bytes"]]
    print(
        f"{time.monotonic() - start:4.0f} s",
        case,
        f"{record['seconds']['step']:.3f} s a step, last loss {record['losses'][-1]:.4f}, GiB {gib}",
        record["exact_match"],
        flush=True,
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--revision", required=True, help="git revision of this checkout")
    parser.add_argument("--shapes", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--gpus", nargs="+", type=int, default=[2], help="how many beside one, each in turn")
    parser.add_argument(
        "--share-gpu", action="store_true", help="all processes on one GPU: losses and memory"
    )
    parser.add_argument("--backends", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seconds", type=float, default=540, help="time for all of them")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    runs = [
        run(shape, backend, way, gpus, arguments.share_gpu, deadline)
        for shape in arguments.shapes
        for backend in arguments.backends
        for way, gpus in [("one GPU", 1), *product(WAYS[backend], arguments.gpus)]
    ]
    asked = f"--shapes {' '.join(arguments.shapes)} --backends {' '.join(arguments.backends)}"
    asked += f" --gpus {' '.join(map(str, arguments.gpus))}" + " --share-gpu" * arguments.share_gpu
    content = {"command": f"python -m tools.record_scaling {asked}"} | provenance()
    content |= {"revision": arguments.revision, "common": COMMON, "settings": SETTINGS, "runs": runs}
    write_json(arguments.output, content)


if __name__ == "__main__":
    main()
