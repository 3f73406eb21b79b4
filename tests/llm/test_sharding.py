"""A base spread over processes: what is refused, how the codes are stored, and that what trained comes back whole."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.finetune import FinetuneConfig, finetune
from lora_edu.llm.sharding import gather_trainable


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
    for switch in ("false", "true"):
        monkeypatch.setenv("ACCELERATE_USE_FSDP", switch)
        model, _ = load_base_model(str(tiny_folder), torch.bfloat16, "nf4")
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
