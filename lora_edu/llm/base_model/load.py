"""Model, tokenizer and configuration, from the course's cache, a folder or a hub, ready for answers and training.

torch and transformers are imported where they are used: the command that only fetches should not wait for them.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lora_edu.llm.base_model.catalog import TIERS, require_recorded_shape
from lora_edu.llm.base_model.download import is_hub_id, require_consent, require_disk
from lora_edu.llm.base_model.fetch import DEFAULT_NAME, fetch_base_model
from lora_edu.llm.console import say

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def load_base_model(
    name: str = DEFAULT_NAME,
    dtype: "torch.dtype | str | None" = None,
    quantization: Literal["nf4"] | None = None,
    quant_storage: "torch.dtype | None" = None,
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Load a causal language model and its tokenizer, ready for greedy answers and for training.

    Parameters
    ----------
    name
        ``"smollm2-135m"`` (fetched when it is not on this machine yet), a local folder, or the id of a
        model hub, ``"owner/model"``. Weights are read from safetensors only. A hub's model shows bars while it is
        fetched and read. One above 1 GB is fetched only after `require_consent` was told yes.
    dtype
        Of the weights, or, with ``quantization``, of what stays unquantized and of the arithmetic:
        float32, bfloat16 or float16, as a ``torch.dtype`` or its name. None: float32 on a CPU; on a
        GPU bfloat16 from compute capability 8.0 on, float16 before (a T4 only emulates bfloat16).
    quantization
        ``"nf4"``: every ``nn.Linear`` but ``lm_head`` becomes bitsandbytes' ``Linear4bit``, 4-bit NormalFloat
        with double quantization (Dettmers et al. 2023, arXiv 2305.14314, section 3). None: no quantization.
    quant_storage
        The dtype in which bitsandbytes keeps 4-bit codes; None: uint8, bytes. What shards floating-point weights
        alone, such as FSDP under accelerate, wants the same codes as the bits of numbers of ``dtype``. Not looked at
        without ``quantization``.

    Returns
    -------
    model, tokenizer
        The model in eval mode, on the GPU if there is one. The tokenizer has a pad token. On a CPU, PyTorch
        from then on computes with as many threads as cores are free (`lora_edu.llm.threads`); where that
        changes their number, a line says so.

    Raises
    ------
    TypeError, ValueError
        ``name``, ``dtype`` or ``quantization`` is not one of the above; quantization would leave out matrices that are
        in no linear layer, such as a mixture's experts; the tokenizer can neither pad nor end a text; a model of
        `TIERS` has another shape or dtype than was recorded; and what `fetch_base_model` raises.
    PermissionError
        More than 1 GB would be fetched from a hub, and nobody said yes.
    OSError
        The hub has no such model with safetensors, or cannot be reached; its cache has no room; and what
        `fetch_base_model` raises.
    """
    from transformers import AutoModelForCausalLM

    if quantization not in (None, "nf4"):
        raise ValueError(f"quantization must be None or 'nf4', got {quantization!r}")
    dtype = resolve_dtype(dtype)
    source = locate(name)
    tokenizer = load_tokenizer(name)
    if quantization:
        _require_linear_layers(load_config(name))
    if _device().type == "cpu":
        _use_free_cores()
    with nullcontext() if is_hub_id(name) else _no_loading_bar(), _explain_hub_errors(name):
        model = AutoModelForCausalLM.from_pretrained(
            **source,
            dtype=dtype,
            quantization_config=_nf4_config(dtype, quant_storage) if quantization else None,
            device_map={"": _device()},
        )
    return make_ready(model, tokenizer), tokenizer


def locate(name: str = DEFAULT_NAME) -> dict[str, Any]:
    """Return where a model is, as the first arguments of transformers' ``from_pretrained``.

    Before that the small one is fetched if it is not here, and a hub is asked for nothing that `load_base_model` would
    not ask for: consent, disk and recorded shape come first. Weights are to be read from safetensors only.

    Raises
    ------
    TypeError, ValueError, PermissionError, OSError
        As `load_base_model`, of its name.
    """
    source = _resolve_name(name)
    if is_hub_id(name):
        require_consent(name)
        require_disk(name)
    require_recorded_shape(name, load_config(name))
    return {
        "pretrained_model_name_or_path": source,
        "revision": _revision(name),
        "use_safetensors": True,
    }


def make_ready(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedModel":
    """Return the model that transformers has loaded in eval mode, ready for greedy answers and for training."""
    if getattr(model, "is_loaded_in_4bit", False):
        _avoid_cpu_repacking(model)
    return_freed_memory()
    _answer_greedily(model, tokenizer)
    return model.eval()


def load_tokenizer(name: str = DEFAULT_NAME) -> "PreTrainedTokenizerBase":
    """Load the tokenizer alone, with a pad token; the name as in `load_base_model`."""
    return _tokenizer(_resolve_name(name), name)


def _tokenizer(source: Path | str, name: str) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    with _explain_hub_errors(name):
        tokenizer = AutoTokenizer.from_pretrained(source, revision=_revision(name))
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                f"name must be a model whose tokenizer can pad or end a text, {name!r} has no token for it"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_config(name: str = DEFAULT_NAME) -> "PretrainedConfig":
    """Load the configuration alone, a file of a few kilobytes; the name as in `load_base_model`."""
    from transformers import AutoConfig

    source = _resolve_name(name)
    with _explain_hub_errors(name):
        return AutoConfig.from_pretrained(source, revision=_revision(name))


def weight_files(name: str = DEFAULT_NAME) -> list[Path]:
    """Return the safetensors of a model that is on this machine; the name as in `load_base_model`.

    Raises
    ------
    FileNotFoundError
        There are none: the folder holds other files, or the hub's cache has not got the model yet.
    """
    folder = _resolve_name(name)
    if isinstance(folder, str):
        from huggingface_hub import snapshot_download

        try:
            folder = snapshot_download(folder, revision=_revision(name), local_files_only=True)
        except OSError as error:
            raise FileNotFoundError(
                f"name must be a model on this machine, {name!r} is not here yet"
            ) from error
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"name must be a model with weights in safetensors, {folder} holds none")
    return files


def resolve_dtype(dtype: "torch.dtype | str | None") -> "torch.dtype":
    """Return the dtype that ``load_base_model`` makes of its argument.

    Raises
    ------
    TypeError, ValueError
        It is not float32, bfloat16 or float16, as a ``torch.dtype`` or its name, nor None.
    """
    import torch

    from lora_edu.llm.machine import has_bfloat16

    if dtype is None:
        if not torch.cuda.is_available():
            return torch.float32
        return torch.bfloat16 if has_bfloat16() else torch.float16
    allowed = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if not isinstance(dtype, (str, torch.dtype)):
        raise TypeError(f"dtype must be a torch.dtype, its name or None, got {type(dtype).__name__}")
    resolved = allowed.get(str(dtype).removeprefix("torch."))
    if resolved is None:
        raise ValueError(f"dtype must be one of {', '.join(allowed)} or None, got {dtype!r}")
    return resolved


def _resolve_name(name: str) -> Path | str:
    """Local folder or hub id that ``from_pretrained`` takes."""
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {type(name).__name__}")
    if name == DEFAULT_NAME:
        return fetch_base_model()
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if is_hub_id(name):
        return name
    raise ValueError(
        f"name must be {DEFAULT_NAME!r}, a folder that exists, or a hub id 'owner/model'; got {name!r}"
    )


def _revision(name: str) -> str:
    """The hub's commit that the course was pinned to, or the newest."""
    return (TIERS[name].revision if name in TIERS else None) or "main"


def _use_free_cores() -> None:
    """Share the machine: here, since all that computes for long on a CPU loads a model first, in every notebook.

    Silent where nothing changes, so that a free machine prints what it always printed.
    """
    import torch

    from lora_edu.llm.threads import use_free_cores

    before = torch.get_num_threads()
    reason = use_free_cores()
    if torch.get_num_threads() != before:
        say(reason)


def _device() -> "torch.device":
    import torch

    from lora_edu.llm.machine import pretend

    if torch.cuda.is_available():
        pretend()
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))  # set by accelerate launch
    return torch.device("cpu")


def _require_linear_layers(config: "PretrainedConfig") -> None:
    """Refuse, before a weight is read, a model most of which bitsandbytes would leave wide in silence."""
    import torch
    from transformers import AutoModelForCausalLM

    from lora_edu.llm.layers import require_all_in_linear_layers

    with torch.device("meta"):
        require_all_in_linear_layers(AutoModelForCausalLM.from_config(config), "quantization 'nf4'")


def _nf4_config(dtype: "torch.dtype", quant_storage: "torch.dtype | None") -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=quant_storage or torch.uint8,
        llm_int8_skip_modules=["lm_head"],
    )


def _avoid_cpu_repacking(model: "PreTrainedModel") -> None:
    """Keep bitsandbytes from repacking 4-bit weights on CPUs with AVX512-BF16.

    There an evaluation rewrites the weights into another layout, after which training silently loses the
    gradient of a layer's input and merging gives garbage (bitsandbytes 0.50.2).
    """
    from bitsandbytes.nn.modules import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def return_freed_memory() -> None:
    """Let glibc give back what was freed, which it keeps otherwise: 200 MB after quantizing, more after training."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _answer_greedily(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Make ``model.generate`` deterministic and able to stop, whatever defaults the model came with."""
    generation = model.generation_config
    if generation.eos_token_id is None:
        generation.eos_token_id = tokenizer.eos_token_id
    generation.pad_token_id = tokenizer.pad_token_id
    # Sampling values left in place make generate() warn that it ignores them.
    generation.update(do_sample=False, temperature=None, top_p=None, top_k=None)


@contextmanager
def _no_loading_bar() -> Iterator[None]:
    """Hide transformers' bar of loaded tensors, a second long and different on each run."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@contextmanager
def _explain_hub_errors(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            f"could not load {name!r} from safetensors: {error}\n"
            f"Is the name right and the network up? {DEFAULT_NAME!r} needs neither hub nor account."
        ) from error
