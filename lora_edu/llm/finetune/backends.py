"""The three ways to train: peft over transformers, our own layers, or every weight.

Each loads a base, attaches what trains, saves and restores it, and can switch it off. All take a `Recipe` and ask the
machine nothing.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from lora_edu.llm import surgery
from lora_edu.llm.base_model import known_as, load_base_model
from lora_edu.llm.checkpoint import load_adapter, save_adapter, write_adapter_files
from lora_edu.llm.finetune.fusing import fuse
from lora_edu.llm.finetune.recipe import Recipe


class Backend(Protocol):
    """What a way of training must be able to do."""

    def load(self, recipe: Recipe) -> tuple[Any, Any]:
        """Return the base model and its tokenizer."""
        ...

    def attach(self, model: Any, recipe: Recipe) -> Any:
        """Return the model with what trains in it, everything else frozen."""
        ...

    def save(self, model: Any, folder: Path) -> None:
        """Write what trained."""
        ...

    def restore(self, model: Any, folder: Path) -> None:
        """Read what `save` wrote into an attached model."""
        ...

    def disabled(self, model: Any) -> AbstractContextManager[None]:
        """Return a context in which the model is its base."""
        ...

    weights_folder: str


class PeftBackend:
    """peft over transformers, and bitsandbytes for the 4-bit base: what professionals run."""

    weights_folder = "adapter"

    def load(self, recipe: Recipe) -> tuple[Any, Any]:
        # accelerate shards floating-point weights alone: there the codes are stored as the bits of such numbers.
        storage = recipe.dtype if recipe.sharded else torch.uint8
        return load_base_model(
            recipe.model, recipe.dtype, "nf4" if recipe.quantized else None, quant_storage=storage
        )

    def attach(self, model: Any, recipe: Recipe) -> PeftModel:
        if recipe.quantized:
            widen_residual_stream(model)
        lora = LoraConfig(
            r=recipe.lora.r,
            lora_alpha=cast(int, recipe.lora.lora_alpha),
            lora_dropout=recipe.lora.lora_dropout,
            use_rslora=recipe.lora.use_rslora,
            target_modules=recipe.lora.target_modules,
            task_type="CAUSAL_LM",
        )
        return cast(PeftModel, get_peft_model(model, lora))

    def save(self, model: PeftModel, folder: Path) -> None:
        self.write(model, get_peft_model_state_dict(model), folder)

    def write(self, model: PeftModel, tensors: dict[str, Tensor], folder: Path) -> None:
        """Write the adapter's configuration, which names its base as `save_adapter` does, and these tensors."""
        # Not model.save_pretrained, which adds a model card to every checkpoint.
        adapter_config: dict[str, Any] = model.peft_config["default"].to_dict() | {"inference_mode": True}
        if name := adapter_config["base_model_name_or_path"]:
            adapter_config["base_model_name_or_path"] = known_as(name)
        jsonable = {k: sorted(v) if isinstance(v, set) else v for k, v in adapter_config.items()}
        write_adapter_files(folder, jsonable, {k: v.detach().cpu().contiguous() for k, v in tensors.items()})

    def restore(self, model: PeftModel, folder: Path) -> None:
        model.load_adapter(str(folder), "default", is_trainable=True)

    def disabled(self, model: PeftModel) -> AbstractContextManager[None]:
        return model.disable_adapter()


class ScratchBackend:
    """lora_edu's own layers, the ones that the notebooks build."""

    weights_folder = "adapter"

    def load(self, recipe: Recipe) -> tuple[Any, Any]:
        return load_base_model(recipe.model, recipe.dtype)

    def attach(self, model: Any, recipe: Recipe) -> nn.Module:
        lora = recipe.lora
        settings: dict[str, Any] = {
            name: getattr(lora, name) for name in ("r", "lora_alpha", "lora_dropout", "use_rslora")
        }
        if not recipe.quantized:
            return surgery.add_lora(model, lora.target_modules, **settings)
        widen_residual_stream(model)
        surgery.add_qlora(model, lora.target_modules, compute_dtype=recipe.dtype, **settings)
        return fuse(model) if recipe.fused else model

    def save(self, model: Any, folder: Path) -> None:
        save_adapter(model, folder)

    def restore(self, model: Any, folder: Path) -> None:
        load_adapter(model, folder)

    def disabled(self, model: Any) -> AbstractContextManager[None]:
        return surgery.disable_adapter(model)


class FullBackend:
    """Every weight trains: the yardstick, not an adapter."""

    weights_folder = "model"

    def load(self, recipe: Recipe) -> tuple[Any, Any]:
        return load_base_model(recipe.model, recipe.dtype)

    def attach(self, model: Any, recipe: Recipe) -> Any:
        return model.requires_grad_(True)

    def save(self, model: Any, folder: Path) -> None:
        model.save_pretrained(folder)

    def restore(self, model: Any, folder: Path) -> None:
        # lm_head shares the embedding's weight and is therefore not in the file.
        model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)

    def disabled(self, model: Any) -> AbstractContextManager[None]:
        return nullcontext()


def backend_of(method: str, backend: str) -> Backend:
    """Return the way of training that a method and a backend name."""
    if method == "full":
        return FullBackend()
    return ScratchBackend() if backend == "scratch" else PeftBackend()


def widen_residual_stream(model: Any) -> None:
    """Make what passes between the layers float32, at the cost of the norms alone; no change in float32.

    A norm with a float32 weight gives float32, so each block adds float32 to the stream, which in float16 may
    overflow. peft's ``prepare_model_for_kbit_training`` widens embedding and head too: 4 GiB for a vocabulary of
    152,000. Here they stay as they are, and the head turns its input into its own dtype.
    """
    for module in model.modules():
        if type(module).__name__.endswith("Norm"):
            module.float()
    head = model.get_output_embeddings()
    head.register_forward_pre_hook(lambda head, inputs: (inputs[0].to(head.weight.dtype), *inputs[1:]))
