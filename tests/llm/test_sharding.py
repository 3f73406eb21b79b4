"""A base spread over processes: what is refused, how the codes are stored, and that what trained comes back whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import yaml
from safetensors.torch import load_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lora_edu.llm.finetune import FinetuneConfig, finetune
from lora_edu.llm.finetune.backends import PeftBackend
from lora_edu.llm.finetune.recipe import make_recipe
from lora_edu.llm.finetune.sharding import gather_trainable

FSDP = Path(__file__).resolve().parents[2] / "configs" / "fsdp.yaml"


@pytest.fixture
def fsdp(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend": "scratch"}, "backend must be peft"),
        ({"method": "full"}, "method must be lora or qlora"),
        ({"dtype": "float32"}, "dtype must be bfloat16"),
        ({"resume": True}, "resume must be False"),
    ],
)
def test_what_cannot_be_sharded_is_refused_before_anything_is_written(fsdp, tmp_path, changes, message):
    settings = {"output": str(tmp_path / "run"), "dtype": "bfloat16"} | changes
    with pytest.raises(ValueError, match=f"{message} with FSDP"):
        finetune(FinetuneConfig(**settings))
    assert not list(tmp_path.iterdir())


def test_the_same_codes_are_stored_as_numbers_that_can_be_sharded(monkeypatch, tiny_folder):
    bits = []
    config = FinetuneConfig(output="unused", model=str(tiny_folder), dtype="bfloat16")
    for switch in ("false", "true"):
        monkeypatch.setenv("ACCELERATE_USE_FSDP", switch)
        model, _ = PeftBackend().load(make_recipe(config))
        weight = model.model.layers[0].self_attn.q_proj.weight
        assert weight.dtype == (torch.bfloat16 if switch == "true" else torch.uint8)
        bits.append(weight.data.contiguous().view(torch.uint8).flatten())
    assert torch.equal(*bits)


def gather_in_a_process(rank, rendezvous, folder):
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    model[0].requires_grad_(False)
    whole = {name: parameter.detach().clone() for name, parameter in model[1].named_parameters(prefix="1")}
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    assert model[1].weight.to_local().shape[0] < 3
    gathered = gather_trainable(model)
    torch.save((whole, gathered), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_every_process_gathers_the_whole_of_what_trains(tmp_path):
    rendezvous = (tmp_path / "rendezvous").as_uri()
    torch.multiprocessing.spawn(gather_in_a_process, (rendezvous, str(tmp_path)), nprocs=2)
    for rank in (0, 1):
        whole, gathered = torch.load(tmp_path / f"{rank}.pt")
        assert whole.keys() == gathered.keys() == {"1.weight", "1.bias"}
        assert all(torch.equal(whole[name], gathered[name]) for name in whole)


METHODS = ["qlora", "lora"]


@pytest.fixture(scope="module")
def trained(tiny_folder, few_events, few_to_learn, tmp_path_factory):
    """Folders of runs by (method, way): each process holds the whole base, or a part. One launch makes them all."""
    settings = yaml.safe_load(FSDP.read_text())["fsdp_config"]
    # What accelerate launch makes of the file.
    sharded = {"ACCELERATE_USE_FSDP": "true"} | {key.upper(): str(value) for key, value in settings.items()}
    root = tmp_path_factory.mktemp("trained")
    flags = ["--model", tiny_folder, "--train-file", few_to_learn, "--test-file", few_events]
    flags += ["--dtype", "bfloat16", "--optimizer", "adamw", "--steps", 8, "--batch-size", 4]
    flags += ["--micro-batch-size", 1, "--learning-rate", 1e-2, "--before-events", 0]
    folders = {(method, way): root / f"{method}-{way}" for method in METHODS for way in ("whole", "parts")}
    runs = [
        {
            "flags": [*map(str, flags), "--method", method, "--output", str(folder)],
            "environment": sharded if way == "parts" else {},
        }
        for (method, way), folder in folders.items()
    ]
    (root / "runs.json").write_text(json.dumps(runs))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, str(Path(__file__).with_name("launch_on_cpu.py")), str(root / "runs.json")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folders


@pytest.mark.parametrize("method", METHODS)
def test_a_sharded_run_learns_what_a_whole_one_learns(trained, method):
    """Two processes, in bfloat16: each holds the whole base, then each a part."""
    folders = [trained[method, way] for way in ("whole", "parts")]
    adapters = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in folders]
    whole, parts = (json.loads((folder / "run.json").read_text()) for folder in folders)
    assert whole["losses"][-1] < whole["losses"][0] - 0.3, "8 steps must teach something"
    assert parts["losses"] == pytest.approx(whole["losses"], rel=2e-3)
    assert parts["processes"] == 2
    assert parts["base"]["weights_sha256_before"]
    assert parts["base"]["weights_sha256_after"] is None, "no process has the whole base"
    assert len(parts["answers"]) == len(whole["answers"]) > 0
    assert adapters[0].keys() == adapters[1].keys()
    for name, tensor in adapters[0].items():
        assert (
            torch.nn.functional.cosine_similarity(tensor.flatten(), adapters[1][name].flatten(), 0) > 0.99
        ), name
