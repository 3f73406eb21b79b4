"""QLoRA's base layer with its products by compiled code, that of the device where the layer lies."""

import importlib
from types import ModuleType

from torch import Tensor, nn

from lora_edu.methods import _validate
from lora_edu.methods.qlora import NF4Linear


def kernels_for(tensor: Tensor) -> ModuleType:
    """The compiled code for where ``tensor`` lies."""
    # Not before it is needed: numba and Triton are both optional.
    if isinstance(tensor, Tensor) and tensor.is_cuda:
        return triton_module("cuda")
    from lora_edu.accel import cpu

    return cpu


def triton_module(name: str) -> ModuleType:
    """A module of this folder that needs Triton, which is optional: not before it is needed."""
    return importlib.import_module(f"lora_edu.accel.{name}")


class CompiledNF4Linear(NF4Linear):
    """``NF4Linear`` with ``W`` made by compiled code, in forward and in backward."""

    @property
    def _products(self) -> ModuleType:
        return kernels_for(self.packed)


def use_kernels(model: nn.Module) -> nn.Module:
    """Give every ``NF4Linear`` in the model compiled products, in place; weights and adapters stay where they are.

    Returns
    -------
    nn.Module
        ``model``.

    Raises
    ------
    ModuleNotFoundError
        numba is not installed, for layers on the CPU; or Triton, for those on a GPU.
    ValueError
        The model holds no ``NF4Linear``, or one that lies elsewhere, or one on a GPU whose blocksize is no power of
        two above 1.
    """
    kinds = NF4Linear, CompiledNF4Linear  # a subclass of another kind would lose its forward
    layers = [m for m in model.modules() if isinstance(m, NF4Linear) and type(m) in kinds]
    _validate.require(bool(layers), "model", "a model with NF4Linear layers", type(model).__name__)
    for layer in layers:
        device = layer.packed.device
        _validate.require(device.type in ("cpu", "cuda"), "model", "on the CPU or a GPU", device)
        kernels_for(layer.packed).check_blocksize("blocksize of the model", layer.quant_state.blocksize)
    for layer in layers:
        layer.__class__ = CompiledNF4Linear  # the same buffers, another forward
    return model
