"""The memory of a fine-tune, predicted from a configuration: the question, checked, and the answer, term by term.

How the bytes are counted stands in `moments`.
"""

from typing import Any

import torch
from transformers import PretrainedConfig

from lora_edu.llm.budget.count import resolve_config
from lora_edu.llm.budget.moments import FineTune
from lora_edu.llm.surgery import ALL_LINEAR
from lora_edu.methods import _validate

METHODS = ("full", "lora", "qlora")
BACKENDS = ("peft", "scratch")
OPTIMIZERS = ("adamw", "paged_adamw_8bit")
DEVICES = ("cpu", "cuda")
ARCHITECTURES = ("llama", "mistral", "qwen2")
"""The ``model_type`` of the architectures whose forward the formulas follow."""


class Ledger(dict[str, int]):
    """Bytes by term, which remembers the question.

    Attributes
    ----------
    settings
        Every argument of `memory_ledger`.
    """

    def __init__(self, terms: dict[str, int], settings: dict[str, Any]):
        super().__init__(terms)
        self.settings = settings

    @property
    def total(self) -> int:
        """The predicted peak, in bytes."""
        return sum(self.values())

    def but(self, **settings: Any) -> "Ledger":
        """Return the ledger of the same fine-tune with some settings changed."""
        return memory_ledger(**self.settings | settings)


def memory_ledger(
    config: PretrainedConfig | str,
    method: str = "qlora",
    batch: int = 1,
    seq: int = 512,
    r: int = 8,
    target_modules: list[str] | str = ALL_LINEAR,
    dtype: torch.dtype = torch.float32,
    optimizer: str = "adamw",
    gradient_checkpointing: bool = False,
    backend: str = "peft",
    device: str = "cpu",
    micro_batches: int = 1,
    flash_attention: bool = True,
    answers: int = 0,
    prompt: int = 0,
    new_tokens: int = 64,
    cuda_graphs: bool = False,
    scored: int | None = None,
    validation: int = 0,
) -> Ledger:
    """Predict the peak memory of a fine-tune by `lora_edu.llm.finetune`, from a configuration alone.

    Parameters
    ----------
    config
        A transformers configuration of one of `ARCHITECTURES`, or the name of a recorded shape.
    method
        ``"full"``, ``"lora"`` or ``"qlora"`` (NF4, double quantization).
    batch, seq
        Sequences at once in memory, and tokens of the longest.
    r, target_modules
        Of the adapters, as in `lora_edu.llm.surgery.add_lora`; not looked at for ``"full"``.
    dtype
        Of weights that are not quantized and, on a GPU, of products (autocast). Adapters are float32.
    optimizer
        ``"adamw"`` or ``"paged_adamw_8bit"``. Paged state is counted, though ``torch.cuda`` does not count it.
    gradient_checkpointing
        Whether only each layer's input is kept.
    backend
        ``"peft"`` (and bitsandbytes) or ``"scratch"`` (lora_edu's layers, which load the weights whole before they
        quantize them).
    device
        ``"cpu"``: resident memory of the process, without pages of the model's file that stay mapped after a 16-bit
        model was quantized: the system drops them when memory is short. ``"cuda"``: tensors on the GPU.
    micro_batches
        Forwards an optimizer step. With more than one, gradients wait through the next forward.
    flash_attention
        Whether the GPU has a fused kernel for 16-bit grouped-query attention: compute capability 8.0 on. In float32
        none has.
    answers, prompt, new_tokens
        Conversations that are answered at once before and after training, tokens of the longest, and the most that
        an answer adds. With 0 answers nothing is asked, and the ledger is that of the training.
    cuda_graphs
        Whether steps are replayed from CUDA graphs. Then no logits are whole but a trained head's, and gradients stay
        in memory.
    scored
        Tokens of a sequence, at most, that a loss is computed of; None: all. Not looked at where logits are whole.
    validation
        Tokens of the longest validation row; 0: no loss of validation rows is measured.

    Returns
    -------
    Ledger
        Bytes by `TERMS`; they sum to the predicted peak.

    Raises
    ------
    TypeError, ValueError
        An argument outside these bounds, or an architecture that the formulas do not follow.
    """
    settings = _checked(dict(locals()) | {"config": resolve_config(config)})
    plan = FineTune(**settings)
    return Ledger(max(plan.moments(), key=lambda terms: sum(terms.values())), settings)


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with whole numbers as Python's own, which never overflow."""
    kind = settings["config"].model_type
    allowed = f"of an architecture that the ledger knows, {', '.join(ARCHITECTURES)}"
    _validate.require(kind in ARCHITECTURES, "config", allowed, kind)
    for name, values in (
        ("method", METHODS),
        ("optimizer", OPTIMIZERS),
        ("backend", BACKENDS),
        ("device", DEVICES),
    ):
        _validate.require(settings[name] in values, name, f"one of {', '.join(values)}", repr(settings[name]))
    _validate.floating_dtype("dtype", settings["dtype"])
    graphs = _validate.flag("cuda_graphs", settings["cuda_graphs"])
    _validate.require(
        not graphs or settings["device"] == "cuda", "cuda_graphs", "False where device is not cuda", graphs
    )
    names = ["batch", "seq", "micro_batches"]
    names += ["r"] * (settings["method"] != "full") + ["scored"] * (settings["scored"] is not None)
    least = dict.fromkeys(names, 1) | dict.fromkeys(("answers", "prompt", "new_tokens", "validation"), 0)
    settings = settings | {"cuda_graphs": graphs}
    return settings | {name: _validate.integer(name, settings[name], low) for name, low in least.items()}
