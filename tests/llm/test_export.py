"""Adapters and models in the formats of other programs, read back by their own readers."""

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader, dequantize, get_tensor_name_map
from gguf.constants import MODEL_ARCH_NAMES
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
)

from lora_edu.llm import surgery
from lora_edu.llm.base_model import (
    DEFAULT_NAME,
    TIERS,
    cache_root,
    fetch_gguf,
    load_base_model,
    load_tokenizer,
)
from lora_edu.llm.checkpoint import load_adapter, save_adapter, write_adapter_files
from lora_edu.llm.export import (
    QUANTIZATIONS,
    export_gguf_adapter,
    export_gguf_model,
    export_merged,
    read_adapter,
    write_modelfile,
)
from lora_edu.llm.export.__main__ import main
from lora_edu.llm.export.model import require_plain_llama, tokenizer_fields
from lora_edu.llm.export.modelfile import ollama_template
from lora_edu.llm.export.source import find_base
from lora_edu.llm.finetune.backends import PeftBackend
from lora_edu.llm.gguf_layout import (
    ARCHITECTURES,
    architecture,
    gguf_name,
    interleave_rows,
    module_path,
    rotary_heads,
    separate_rows,
)
from tests.llm.conftest import make_tiny

IDS = torch.arange(24).reshape(2, 12)


@pytest.fixture(scope="module")
def tiny_folder(small_tokenizer, tmp_path_factory):
    """The small model with a small tokenizer of the base's kind."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(small_tokenizer)
    make_tiny(vocabulary=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tiny_folder):
    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def make_adapter(base, tiny_folder, tmp_path_factory):
    """A function that saves an adapter whose B is not zero, and returns its folder."""

    def make(targets="all-linear", **settings):
        model = surgery.add_lora(copy.deepcopy(base), targets, r=4, lora_alpha=6, **settings)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in surgery.lora_parameters(model):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
        model.config.name_or_path = str(tiny_folder)
        return save_adapter(model, tmp_path_factory.mktemp("adapter") / "captain")

    return make


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits.float()


def contents(file):
    return {key: field.contents() for key, field in GGUFReader(file).fields.items()}


def tensors_of(file):
    """Tensors of a GGUF file, dequantized, rows first."""
    return {t.name: torch.tensor(dequantize(t.data, t.tensor_type)) for t in GGUFReader(file).tensors}


def updates_of(file):
    """What llama.cpp adds to each weight: alpha / r times B A, by the rule of its get_scale."""
    tensors, alpha = tensors_of(file), contents(file)["adapter.lora.alpha"]
    pairs = {
        name.removesuffix(".lora_a"): (tensors[name], tensors[name.removesuffix("a") + "b"])
        for name in tensors
        if name.endswith(".lora_a")
    }
    return {name: alpha / A.shape[0] * B @ A for name, (A, B) in pairs.items()}


# ---------------------------------------------------------------- names and rows


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_names_are_those_of_the_package_gguf(base, kind):
    arch = next(a for a, name in MODEL_ARCH_NAMES.items() if name == ARCHITECTURES[kind].name)
    theirs = get_tensor_name_map(arch, base.config.num_hidden_layers)
    paths = [name.removesuffix(".weight") for name in base.state_dict() if not name.startswith("lm_head")]
    assert {path: gguf_name(path) for path in paths} == {p: f"{theirs.get_name(p)}.weight" for p in paths}
    assert [module_path(gguf_name(path)) for path in paths] == paths


@pytest.mark.parametrize(
    "path", ["lm_head", "embed_tokens", "model.layers.0.norm", "self_attn.q_proj", "mlp"]
)
def test_what_gguf_has_no_name_for_is_named(path):
    with pytest.raises(ValueError, match=rf"has none for {path}$"):
        gguf_name(path)


def turned(x, angles, *, interleaved):
    """Rotary embedding of one head's rows (tokens, features), with either pairing of features."""
    half = x.shape[1] // 2
    first, second = (x[:, 0::2], x[:, 1::2]) if interleaved else (x[:, :half], x[:, half:])
    cos, sin = angles.cos(), angles.sin()
    pair = first * cos - second * sin, first * sin + second * cos
    return torch.stack(pair, dim=2).flatten(1) if interleaved else torch.cat(pair, dim=1)


def test_interleaved_rows_give_llama_cpps_pairing_the_same_attention():
    torch.manual_seed(0)
    heads, head_dim, tokens, hidden = 3, 8, 5, 12
    x = torch.randn(tokens, hidden, dtype=torch.float64)
    angles = torch.arange(tokens)[:, None] / 10.0 ** torch.linspace(0, 1, head_dim // 2, dtype=torch.float64)
    Q, K = (torch.randn(heads * head_dim, hidden, dtype=torch.float64) for _ in range(2))

    def scores(Q, K, interleaved):
        q, k = ((x @ W.T).reshape(tokens, heads, head_dim).unbind(1) for W in (Q, K))
        return torch.stack(
            [
                turned(a, angles, interleaved=interleaved) @ turned(b, angles, interleaved=interleaved).T
                for a, b in zip(q, k, strict=True)
            ]
        )

    there = scores(interleave_rows(Q, heads), interleave_rows(K, heads), True)
    assert torch.allclose(scores(Q, K, False), there, atol=1e-12)
    assert not torch.allclose(scores(Q, K, False), scores(Q, K, True), atol=0.1)
    assert torch.equal(separate_rows(interleave_rows(Q, heads), heads), Q)


@pytest.mark.parametrize(("make", "heads"), [(LlamaConfig, 2), (MistralConfig, 2), (Qwen2Config, None)])
def test_qwens_rows_stay_as_they_are(make, heads):
    config = make(num_attention_heads=4, num_key_value_heads=2)
    assert rotary_heads("model.layers.0.self_attn.k_proj", config) == heads
    assert rotary_heads("model.layers.0.self_attn.v_proj", config) is None


def test_another_kind_of_model_is_named():
    with pytest.raises(ValueError, match="base must be a model of type llama, mistral, qwen2, got gpt2"):
        architecture(GPT2Config())


# ---------------------------------------------------------------- the adapter alone


@pytest.mark.parametrize(
    ("targets", "settings"),
    [
        ("all-linear", {}),
        (["q_proj", "v_proj"], {}),
        ("all-linear", {"use_rslora": True}),
        (["model.layers.1.self_attn.k_proj"], {}),
    ],
)
def test_an_adapter_read_back_is_the_same_update(base, make_adapter, tmp_path, targets, settings):
    folder = make_adapter(targets, **settings)
    file = export_gguf_adapter(folder, tmp_path / "captain.gguf")
    model = load_adapter(copy.deepcopy(base), folder)
    wanted = {}
    for path, switch in surgery.switches(model).items():
        delta = switch.adapters["default"].delta_weight().detach()
        heads = rotary_heads(path, base.config)
        wanted[gguf_name(path)] = interleave_rows(delta, heads) if heads else delta
    found = updates_of(file)
    assert found.keys() == wanted.keys()
    assert max((found[name] - wanted[name]).abs().max().item() for name in wanted) < 1e-6


def test_the_head_of_an_adapter_says_what_llama_cpp_asks_for(make_adapter, tiny_folder, tmp_path):
    file = export_gguf_adapter(make_adapter(use_rslora=True), tmp_path / "captain.gguf")
    head = contents(file)
    assert head["general.type"] == "adapter" and head["general.architecture"] == "llama"
    assert head["adapter.type"] == "lora" and head["general.base_model.0.name"] == tiny_folder.name
    assert head["adapter.lora.alpha"] == pytest.approx(6 * 4**0.5)  # alpha / sqrt(r) = this / r


def test_every_number_of_a_16_bit_adapter_is_kept(base, make_adapter, tiny_folder, tmp_path):
    wide = load_adapter(copy.deepcopy(base), make_adapter())
    wide.config.name_or_path = str(tiny_folder)
    folder = save_adapter(wide.bfloat16(), tmp_path / "half")
    tensors = tensors_of(export_gguf_adapter(folder, tmp_path / "half.gguf"))
    A, _ = read_adapter(folder).layers["model.layers.1.mlp.down_proj"]
    assert A.dtype == torch.bfloat16
    assert torch.equal(tensors["blk.1.ffn_down.weight.lora_a"], A.float())


def of_peft(**settings):
    def make(base, folder):
        settings.setdefault("target_modules", ["q_proj"])
        model = get_peft_model(base, LoraConfig(r=4, task_type="CAUSAL_LM", **settings))
        model.save_pretrained(folder)

    return make


def added(add, **settings):
    return lambda base, folder: save_adapter(add(base, **settings), folder)


def without_alpha(base, folder):
    save_adapter(surgery.add_lora(base, ["q_proj"], r=4, lora_alpha=0), folder)


UNHELD = {
    "prefix": (added(surgery.add_prefix, num_virtual_tokens=3), "must describe a LoRA, got PREFIX_TUNING"),
    "bottleneck": (added(surgery.add_bottleneck, bottleneck=3), "must describe a LoRA, got BOTTLENECK"),
    "DoRA": (of_peft(use_dora=True), "use_dora = True is not supported"),
    "ranks": (of_peft(rank_pattern={"layers.0.self_attn.q_proj": 2}), "rank_pattern = .* is not supported"),
    "embeddings": (of_peft(modules_to_save=["embed_tokens"]), "modules_to_save = .* is not supported"),
    "the head": (of_peft(target_modules=["q_proj", "lm_head"]), r"only, got base_model\.model\.lm_head\."),
    "biases": (of_peft(bias="all"), "must have bias 'none', got 'all'"),
    "a start from the base": (of_peft(init_lora_weights="pissa"), "got 'pissa'"),
    "alpha 0": (without_alpha, "lora_alpha must not be 0 in GGUF"),
}


@pytest.mark.parametrize("case", UNHELD)
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings", "ignore:Model with")
def test_what_gguf_cannot_hold_is_refused_by_name_and_leaves_nothing(base, tiny_folder, tmp_path, case):
    make, message = UNHELD[case]
    make(copy.deepcopy(base), tmp_path / "adapter")
    with pytest.raises(ValueError, match=message):
        export_gguf_adapter(tmp_path / "adapter", tmp_path / "out" / "a.gguf", base=str(tiny_folder))
    assert not (tmp_path / "out").exists()


def over_peft(model, folder):
    PeftBackend().save(get_peft_model(model, LoraConfig(r=1, target_modules=["q_proj"])), folder)


def by_scratch(model, folder):
    save_adapter(surgery.add_lora(model, ["q_proj"], r=1, lora_alpha=1), folder)


@pytest.mark.parametrize("save", [over_peft, by_scratch])
def test_an_adapter_names_the_courses_model_and_no_folder_and_is_read_again(tmp_path, save):
    model, _ = load_base_model()
    assert Path(model.config.name_or_path).is_absolute()  # in this machine's cache
    save(model, tmp_path / "adapter")
    text = (tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8")
    assert json.loads(text)["base_model_name_or_path"] == "smollm2-135m"
    assert str(cache_root()) not in text
    read = read_adapter(tmp_path / "adapter")
    assert read.base.title == "HuggingFaceTB/SmolLM2-135M-Instruct" and len(read.layers) == 30


@pytest.mark.parametrize("save", [over_peft, by_scratch])
def test_an_adapter_over_a_folder_of_ones_own_names_it_as_it_was_given(tmp_path, tiny_folder, save):
    model, _ = load_base_model(str(tiny_folder))
    save(model, tmp_path / "adapter")
    assert read_adapter(tmp_path / "adapter").base.name == str(tiny_folder)


def test_an_adapter_of_another_base_is_refused(make_adapter, tmp_path):
    with pytest.raises(ValueError, match=r"must hold lora_A\.weight of shape"):
        export_gguf_adapter(make_adapter(), tmp_path / "a.gguf", base="smollm2-135m")


def test_a_base_must_be_known(make_adapter, tmp_path):
    folder = make_adapter()
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(ValueError, match=r"base must be given: .*adapter_config\.json names none"):
        export_gguf_adapter(folder, tmp_path / "a.gguf")
    elsewhere = json.dumps(config | {"base_model_name_or_path": "/of/another/machine"})
    (folder / "adapter_config.json").write_text(elsewhere)
    with pytest.raises(
        ValueError, match=r"base must be given: .* names /of/another/machine, which is not on"
    ):
        export_gguf_adapter(folder, tmp_path / "a.gguf")
    with pytest.raises(FileNotFoundError, match=r"has no adapter_config\.json"):
        export_gguf_adapter(tmp_path, tmp_path / "a.gguf")


def test_the_ending_of_a_file_is_gguf(make_adapter, tmp_path):
    with pytest.raises(ValueError, match=r"out must be a file that ends in \.gguf, got .*a\.bin"):
        export_gguf_adapter(make_adapter(), tmp_path / "a.bin")
    (tmp_path / "a.gguf").mkdir()
    with pytest.raises(ValueError, match=r"out must be a file .*a\.gguf \(a folder\)$"):
        export_gguf_adapter(make_adapter(), tmp_path / "a.gguf")


def test_a_failure_while_writing_leaves_what_was_there(make_adapter, tmp_path, monkeypatch):
    file, folder = tmp_path / "a.gguf", make_adapter()
    file.write_text("before")

    def fail(*_):
        raise OSError("the disk is gone")

    monkeypatch.setattr("gguf.GGUFWriter.write_tensors_to_file", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        export_gguf_adapter(folder, file)
    assert [p.name for p in tmp_path.iterdir()] == ["a.gguf"] and file.read_text() == "before"


# ---------------------------------------------------------------- merged


def test_a_merged_model_says_what_base_and_adapter_say_and_what_peft_merges(
    base, make_adapter, tiny_folder, tmp_path
):
    folder = make_adapter(use_rslora=True)
    out = export_merged(folder, tmp_path / "merged", dtype="float32")
    merged = AutoModelForCausalLM.from_pretrained(out)
    assert merged.dtype == torch.float32
    assert torch.allclose(logits(merged), logits(load_adapter(copy.deepcopy(base), folder)), atol=1e-4)
    theirs = PeftModel.from_pretrained(copy.deepcopy(base), folder).merge_and_unload()
    assert torch.allclose(logits(merged), logits(theirs), atol=1e-4)
    assert not torch.allclose(logits(merged), logits(base), atol=0.1)
    words = "At 14:30 the train."
    assert AutoTokenizer.from_pretrained(out).encode(words) == load_tokenizer(str(tiny_folder)).encode(words)


def test_sixteen_bits_are_rounded_once(base, make_adapter, tmp_path):
    folder = make_adapter(["v_proj"])
    merged = AutoModelForCausalLM.from_pretrained(export_merged(folder, tmp_path / "merged"))
    layer = load_adapter(copy.deepcopy(base), folder).model.layers[0].self_attn.v_proj
    sum_ = layer.base_layer.weight.bfloat16().float() + layer.adapters["default"].delta_weight()
    assert torch.equal(merged.model.layers[0].self_attn.v_proj.weight, sum_.bfloat16())
    assert torch.equal(
        merged.model.layers[0].mlp.up_proj.weight, base.model.layers[0].mlp.up_proj.weight.bfloat16()
    )


def test_an_adapter_of_qlora_is_merged_into_what_it_was_trained_over(base, make_adapter, tmp_path):
    import bitsandbytes.functional as bnb

    folder = make_adapter(["v_proj"])
    out = export_merged(folder, tmp_path / "merged", dtype="float32", quantization="nf4")
    merged = AutoModelForCausalLM.from_pretrained(out)
    layer = load_adapter(copy.deepcopy(base), folder).model.layers[0].self_attn.v_proj
    delta = layer.adapters["default"].delta_weight()
    for found, weight, added_ in (
        (merged.model.layers[0].self_attn.v_proj.weight, layer.base_layer.weight.data, delta),
        (merged.model.layers[1].mlp.down_proj.weight, base.model.layers[1].mlp.down_proj.weight.data, 0),
    ):
        rounded = bnb.dequantize_4bit(*bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=True))
        assert torch.allclose(found, rounded + added_, atol=1e-6)
    assert torch.equal(merged.model.embed_tokens.weight, base.model.embed_tokens.weight)
    assert "rounded to NF4 with double quantization" in (out / "README.md").read_text()


def test_a_merge_leaves_nothing_half_written_and_overwrites_nothing(make_adapter, tmp_path, monkeypatch):
    folder, out = make_adapter(), tmp_path / "merged"
    with pytest.raises(
        ValueError, match=r"dtype must hold every weight, torch\.float16 does not hold model\."
    ):
        monkeypatch.setattr("lora_edu.llm.export.source.Adapter.scaling", 1e9)
        export_merged(folder, out, dtype="float16")
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"must be new or empty, got .*merged"):
        export_merged(folder, out)
    with pytest.raises(ValueError, match="quantization must be None or 'nf4', got 'int4'"):
        export_merged(folder, tmp_path / "other", quantization="int4")
    assert [p.name for p in out.iterdir()] == ["mine.txt"] and [p.name for p in tmp_path.iterdir()] == [
        "merged"
    ]


# ---------------------------------------------------------------- a whole model as GGUF


def test_transformers_own_reader_reads_the_same_model(base, tiny_folder, tmp_path):
    export_gguf_model(tiny_folder, tmp_path / "tiny.gguf", "f32")
    again = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    assert torch.allclose(logits(again), logits(base), atol=1e-5)


def test_base_plus_adapter_is_merged_tensor_by_tensor(make_adapter, tiny_folder, tmp_path):
    folder = make_adapter()
    export_merged(folder, tmp_path / "merged", dtype="float32")
    merged = tensors_of(export_gguf_model(tmp_path / "merged", tmp_path / "merged.gguf", "f32"))
    alone = tensors_of(export_gguf_model(tiny_folder, tmp_path / "base.gguf", "f32"))
    updates = updates_of(export_gguf_adapter(folder, tmp_path / "captain.gguf"))
    assert len(updates) == 14 and alone.keys() == merged.keys()
    for name, weight in alone.items():
        assert torch.allclose(merged[name], weight + updates.get(name, 0), atol=1e-6)


# Over a block's largest number: half a step (in Q4_0 a whole one, at the end that the scale was not taken from), and
# the rounding of its 16-bit scale and minimum; 16 bits by their mantissa.
SCALE = 2**-11
BOUNDS = {
    "f32": 0,
    "bf16": 2**-8,
    "f16": SCALE,
    "q8_0": 0.5 / 127 + SCALE,
    "q4_1": 1 / 15 + 3 * SCALE,
    "q4_0": 1 / 8 + SCALE,
}


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_quantized_weights_stay_within_the_bound_of_their_format(tiny_folder, tmp_path, quantization):
    exact = tensors_of(export_gguf_model(tiny_folder, tmp_path / "exact.gguf", "f32"))
    file = export_gguf_model(tiny_folder, tmp_path / "a.gguf", quantization)
    found = tensors_of(file)
    kinds = {t.name: t.tensor_type.name for t in GGUFReader(file).tensors}
    for name, weight in exact.items():
        kind = "F32" if weight.ndim == 1 else QUANTIZATIONS[quantization][name == "token_embd.weight"]
        bound = BOUNDS[kind.lower()]
        largest = weight.reshape(-1, 32).abs().amax(1, keepdim=True)
        error = (found[name] - weight).reshape(-1, 32).abs()
        assert kinds[name] == kind
        assert (error <= bound * largest).all(), name
        assert bound == 0 or name.endswith("norm.weight") or error.max() > 0


def test_the_tokenizer_is_described_as_in_the_courses_own_file(tiny_folder, tmp_path):
    theirs = GGUFReader(fetch_gguf()).fields
    keys = {
        "tokenizer_model": "model",
        "tokenizer_pre": "pre",
        "token_list": "tokens",
        "token_types": "token_type",
        "token_merges": "merges",
        "unk_token_id": "unknown_token_id",
        "pad_token_id": "padding_token_id",
    }
    ours = tokenizer_fields(load_tokenizer())
    assert theirs["tokenizer.chat_template"].contents() == ours.pop("chat_template")
    assert len(ours) == 11
    few = slice(None, None, 50)  # of 49,152: each is unpacked by itself
    for key, value in ours.items():
        field = theirs[f"tokenizer.ggml.{keys.get(key, key)}"]
        if isinstance(value, list):
            assert len(value) == len(field.data) and value[few] == field.contents(few), key
        else:
            assert value == field.contents(), key
    # The small model's numbers are others; the names of what is said are the same.
    small = contents(export_gguf_model(tiny_folder, tmp_path / "a.gguf", "q8_0"))
    of_both = [{key for key in names if not key.startswith("general.")} for names in (theirs, small)]
    assert of_both[0] == of_both[1]


def test_what_is_not_written_is_named(base, tmp_path):
    for change, message in (
        ({"tie_word_embeddings": False}, "tie_word_embeddings = True, got False"),
        ({"attention_bias": True}, "attention_bias = False, got True"),
    ):
        config = copy.deepcopy(base.config)
        config.update(change)
        with pytest.raises(ValueError, match=message):
            require_plain_llama(config)
    with pytest.raises(ValueError, match="model_type = 'llama', got 'qwen2'"):
        require_plain_llama(Qwen2Config())
    with pytest.raises(ValueError, match=r"quantization must be one of f32, .*, got 'q2_k'"):
        export_gguf_model(tmp_path, tmp_path / "a.gguf", "q2_k")


def test_another_tokenizer_is_named(tiny_folder):
    tokenizer = load_tokenizer(str(tiny_folder))
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    with pytest.raises(ValueError, match="tokenizer of SmolLM's kind"):
        tokenizer_fields(tokenizer)


# ---------------------------------------------------------------- Ollama, cards, the command


def filled(template, system, prompt, response):
    """What Ollama makes of our template: one condition, three names."""
    condition, start, end = "{{ if .System }}", template.index("{{ if"), template.index("{{ end }}")
    inner = template[start + len(condition) : end]
    rest = template[end + len("{{ end }}") :]
    text = (inner if system else "") + rest
    for name, value in (("System", system), ("Prompt", prompt), ("Response", response)):
        text = text.replace("{{ ." + name + " }}", value)
    return text


@pytest.mark.parametrize("system", [None, "Answer as a captain."])
def test_ollamas_template_writes_the_models_own_text(tiny_folder, system):
    tokenizer = load_tokenizer(str(tiny_folder))  # the chat template is the base model's
    template, default, stop = ollama_template(tokenizer)
    turns = [("Hello?", "Aye."), ("Where to?", "North.")]
    messages = [{"role": "system", "content": system}] if system else []
    for user, reply in turns:
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]
    first, second = turns
    text = filled(template, system or default, *first) + filled(template, "", *second)
    assert text == tokenizer.apply_chat_template(messages, tokenize=False)
    assert stop == "<|im_end|>"


def test_a_modelfile_names_its_files_from_where_it_lies(tiny_folder, tmp_path):
    (tmp_path / "base.gguf").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "captain.gguf").touch()
    sub = tmp_path / "sub"
    files = tmp_path / "base.gguf", sub / "captain.gguf"
    out = write_modelfile(sub / "Modelfile", *files, base=str(tiny_folder))
    lines = out.read_text().splitlines()
    assert lines[:2] == ["FROM ./../base.gguf", "ADAPTER ./captain.gguf"]
    assert 'PARAMETER stop "<|im_end|>"' in lines
    with pytest.raises(FileNotFoundError, match="ADAPTER must be a file that exists"):
        write_modelfile(tmp_path / "Modelfile", tmp_path / "base.gguf", tmp_path / "none.gguf")
    assert not (tmp_path / "Modelfile").exists()


RUN = {
    "schema": 1,
    "config": {
        "method": "qlora",
        "train_file": "/home/me/events.jsonl",
        "batch_size": 2,
        "learning_rate": 1e-3,
    },
    "seed": 3,
    "losses": [2.0, 1.0],
    "n": {"before": 50, "seen": 200, "unseen": 100},
    "exact_match_before": 0.0,
    "exact_match": 0.955,
    "exact_match_unseen": None,
}


def test_a_card_tells_base_data_scores_and_what_it_was_merged_into(make_adapter, tiny_folder, tmp_path):
    make_adapter().rename(tmp_path / "adapter")
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    card = export_gguf_adapter(tmp_path, tmp_path / "events.gguf").with_suffix(".md").read_text()
    assert (
        f"base_model: {tiny_folder.name}\n" in card and "| fine-tuned, seen patterns | 95.5% | 200 |" in card
    )
    assert "unseen" not in card and "seed 3" in card and "events.jsonl" in card and "/home/me" not in card
    merged = export_merged(tmp_path, tmp_path / "merged")
    text = (merged / "README.md").read_text()
    assert (
        f"**Merged into:** the weights of {tiny_folder.name} as they come, in bfloat16. The adapter was trained over"
        in text
    )
    for file in merged.iterdir():
        assert str(tmp_path.parent) not in file.read_text(encoding="utf-8", errors="ignore")


@pytest.mark.parametrize("run", ['{"schema": 1}', "[]", "no JSON", json.dumps(RUN | {"config": {}})])
def test_another_programs_record_is_no_record(make_adapter, tmp_path, run):
    make_adapter().rename(tmp_path / "adapter")
    (tmp_path / "run.json").write_text(run)
    assert read_adapter(tmp_path).run is None


def test_a_large_base_is_fetched_only_when_it_is_allowed(make_adapter, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("LORA_EDU_DOWNLOAD", raising=False)
    large = "HuggingFaceTB/SmolLM2-1.7B-Instruct"
    assert main(["merged", str(make_adapter()), str(tmp_path / "m"), "--base", large]) == 2
    assert "If you want that, set --allow-download and run again" in capsys.readouterr().err


@pytest.mark.parametrize("more", [1, -1])
def test_a_tokenizer_of_another_size_than_the_embedding_is_refused(tiny_folder, tmp_path, more):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + more}))
    with pytest.raises(ValueError, match="a token for each row of the embedding"):
        export_gguf_model(folder, tmp_path / "a.gguf")


def test_what_was_merged_names_the_base_of_its_weights(make_adapter, tiny_folder, tmp_path, monkeypatch):
    tier = TIERS[DEFAULT_NAME]
    monkeypatch.setitem(TIERS, "tiny", dataclasses.replace(tier, name="tiny", source=tiny_folder.name))
    merged = export_merged(make_adapter(), tmp_path / "mine")
    for folder in (merged, export_merged(make_adapter(), tmp_path / "again", base=str(merged))):
        card = export_gguf_model(folder, tmp_path / "a.gguf").with_suffix(".md").read_text()
        assert (
            f"base_model: {tiny_folder.name}\nbase_model_relation: finetune\nlicense: {tier.licence.lower()}\n"
            in card
        )
        assert f"The model **{folder.name}**" in card and f"weights of {tiny_folder.name}, changed" in card


def test_the_courses_own_model_is_known_beside_a_folder_of_its_name(tmp_path, monkeypatch):
    (tmp_path / DEFAULT_NAME).mkdir()
    monkeypatch.chdir(tmp_path)
    base = find_base(DEFAULT_NAME)
    assert base.title == TIERS[DEFAULT_NAME].hub_id and base.licence == "apache-2.0"


def test_a_folder_that_is_not_there_is_no_name_of_the_courses_model(tmp_path):
    with pytest.raises(ValueError, match=r"name must be 'smollm2-135m', a folder that exists, or a hub id"):
        export_gguf_model(tmp_path / "typo" / DEFAULT_NAME, tmp_path / "a.gguf")


def test_the_command(make_adapter, tiny_folder, tmp_path, capsys):
    folder, out = make_adapter(), tmp_path / "a.gguf"
    assert main(["adapter", str(folder), str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n" and out.is_file()
    assert main(["merged", str(folder), str(tmp_path / "m"), "--dtype", "float16"]) == 0
    assert main(["model", str(tmp_path / "m"), str(tmp_path / "m.gguf"), "--quantization", "q4_0"]) == 0
    modelfile = ["modelfile", str(tmp_path / "Modelfile"), "--model", str(tmp_path / "m.gguf")]
    assert main([*modelfile, "--base", str(tiny_folder)]) == 0
    capsys.readouterr()
    assert main(["adapter", str(tmp_path), str(out)]) == 2
    assert capsys.readouterr().err.startswith("error: folder must hold an adapter in PEFT's format")


def test_the_courses_personas_are_exported_by_name(tmp_path):
    from lora_edu.llm.data import DATA

    file = export_gguf_adapter(DATA / "adapters" / "captain", tmp_path / "captain.gguf")
    card = file.with_suffix(".md").read_text()
    assert contents(file)["general.base_model.0.name"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert len(tensors_of(file)) == 120 and "| numbers | 460,800 |" in card and "apache-2.0" in card


def test_two_files_of_an_adapter_are_not_changed(make_adapter, tmp_path):
    folder = make_adapter()
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    export_gguf_adapter(folder, tmp_path / "a.gguf")
    export_merged(folder, tmp_path / "m")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_adapter_files_that_are_damaged_are_named(tiny_folder, tmp_path):
    write_adapter_files(tmp_path, {"peft_type": "LORA", "base_model_name_or_path": str(tiny_folder)}, {})
    with pytest.raises(ValueError, match="must give r as a number, got None"):
        export_gguf_adapter(tmp_path, tmp_path / "a.gguf")
