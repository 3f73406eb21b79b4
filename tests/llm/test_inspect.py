"""What the inspector says of adapters whose updates are known."""

import copy
import json
import math
import re
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from lora_edu.llm import surgery
from lora_edu.llm.checkpoint import CONFIG_FILE, WEIGHTS_FILE, save_adapter
from lora_edu.llm.data import DATA
from lora_edu.llm.inspect import Update, describe, inspect_adapter, singular_values
from lora_edu.llm.inspect.__main__ import main
from lora_edu.llm.inspect.report import layer_shapes
from lora_edu.llm.surgery import linear_layers

CAPTAIN = DATA / "adapters" / "captain"


@pytest.fixture
def adapted(tiny):
    model = surgery.add_lora(tiny, "all-linear", r=4, lora_alpha=6, use_rslora=True)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in surgery.lora_parameters(model):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    model.config.name_or_path = "tiny"
    return model


@pytest.fixture
def saved(adapted, tmp_path):
    return save_adapter(adapted, tmp_path / "adapter")


def edit(folder, change, **settings_):
    """Change the tensors and the configuration of an adapter."""
    tensors = load_file(folder / WEIGHTS_FILE)
    change(tensors)
    save_file(tensors, folder / WEIGHTS_FILE)
    file = folder / CONFIG_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | settings_))
    return folder


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(6, 20), st.integers(6, 20), st.integers(0, 10**6))
def test_singular_values_are_those_of_the_whole_product(r, rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    A, B = torch.randn(r, columns, generator=generator), torch.randn(rows, r, generator=generator)
    whole = torch.linalg.svdvals(B.double() @ A.double())[:r]
    assert torch.allclose(singular_values(A, B), whole, rtol=1e-9, atol=1e-9)


def test_norms_are_those_of_the_updates(adapted, saved):
    report = inspect_adapter(saved)
    wanted = {
        p: s.adapters["default"].delta_weight().norm().item() for p, s in surgery.switches(adapted).items()
    }
    assert {u.path: pytest.approx(u.norm, rel=1e-5) for u in report.updates} == wanted
    assert [u.block for u in report.updates] == [0] * 7 + [1] * 7
    assert report.numbers == sum(p.numel() for p in surgery.lora_parameters(adapted)) == report.bytes // 4
    assert report.dtypes == ("float32",) and report.warnings == () and report.others == {}


def test_an_update_of_three_directions_is_a_copy_of_rank_3():
    update = Update("model.layers.0.mlp.up_proj", (9, 8), torch.tensor([4.0, 2.0, 1.0, 0.0]))
    assert [update.copy_rank(share) for share in (0.5, 0.9, 0.953, 0.99, 1.0)] == [1, 2, 3, 3, 3]
    assert update.r == 4 and update.norm == pytest.approx(math.sqrt(21))
    assert Update("a", (9, 8), torch.zeros(4)).copy_rank() == 0


def test_shapes_are_those_of_transformers_modules(tiny):
    found = {path: tuple(layer.weight.shape) for path, layer in linear_layers(tiny).items()}
    wanted = layer_shapes(tiny.config)
    assert found == {f"model.layers.{n}.{name}": shape for n in range(2) for name, shape in wanted.items()}


def test_the_captain_fits_its_base_and_no_other():
    report = inspect_adapter(CAPTAIN, base="smollm2-135m")
    assert report.fits == ("SmolLM2-135M", "smollm2-135m") and report.warnings == ()
    assert (len(report.updates), report.numbers) == (60, 460_800)
    shares = [update.relative_norm for update in report.updates]
    assert all(share is not None and 0.001 < share < 0.2 for share in shares)
    text = describe(report)
    assert "LORA, rank 8, alpha 16, scaled by alpha / r" in text and text.endswith("\nNothing looks wrong.")
    assert "self_attn.v_proj" in text and "192 x 576" in text and "of the weight" in text


Q0, V1 = (f"base_model.model.model.layers.{n}.self_attn.{name}_proj" for n, name in ((0, "q"), (1, "v")))


def broken(tensors):
    tensors[f"{Q0}.lora_A.weight"][0, 0] = math.nan


def still(tensors):
    tensors[f"{V1}.lora_B.weight"].zero_()


def halved(tensors):
    del tensors[f"{V1}.lora_B.weight"]


def unlike(tensors):
    key = f"{V1}.lora_B.weight"
    tensors[key] = tensors[key][:, :2].contiguous()


def left_out(tensors):
    for factor in "AB":
        del tensors[f"{Q0}.lora_{factor}.weight"]


def without_q(tensors):
    for key in [key for key in tensors if "q_proj" in key]:
        del tensors[key]


def mixed(tensors):
    tensors[f"{Q0}.lora_B.weight"] = tensors[f"{Q0}.lora_B.weight"].half()


def extra(tensors):
    tensors["base_model.model.lm_head.weight"] = torch.ones(3, 3)


def same(tensors):
    pass


SUSPECT = {
    "NaN": (broken, {}, rf"NaN or infinity in {Q0}\.lora_A\.weight"),
    "zero": (still, {}, "an update of zero, as before the first step, in model.layers.1.self_attn.v_proj$"),
    "half": (halved, {}, "A or B alone, without the other, in model.layers.1.self_attn.v_proj"),
    "unlike": (unlike, {}, "A of another rank than B in model.layers.1.self_attn.v_proj$"),
    "left out": (left_out, {}, "left out, though other blocks have it: block 0 self_attn.q_proj$"),
    "asked": (without_q, {}, "asked for by target_modules, but not in the file: q_proj"),
    "dtypes": (mixed, {}, r"several dtypes: torch\.float16, torch\.float32"),
    "extra": (extra, {}, "no part of a LoRA, and passed over here: base_model.model.lm_head.weight"),
    "rank": (same, {"r": 16}, "another rank than the configuration's 16 in .* and 11 more"),
    "ranks": (same, {"rank_pattern": {"q_proj": 4}}, "rank_pattern is set"),
    "start": (same, {"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' changes the base"),
    "base": (
        same,
        {"base_model_name_or_path": "/home/me/model"},
        "the base is named '/home/me/model', which is not",
    ),
    "no base": (same, {"base_model_name_or_path": None}, "the base is named None"),
    "DoRA": (same, {"use_dora": True}, "use_dora: the update is rescaled"),
}


@pytest.mark.parametrize("case", SUSPECT)
def test_what_looks_wrong_is_named_and_nothing_else(saved, case, capsys):
    change, config, message = SUSPECT[case]
    report = inspect_adapter(edit(saved, change, **config))
    (warning,) = report.warnings
    assert re.search(message, warning)
    assert main([str(saved)]) == 1
    assert f"! {warning}" in capsys.readouterr().out


Q_OF_BOTH = [f"model.layers.{n}.self_attn.q_proj" for n in range(2)]
CHOSEN = {
    "numbers": {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]},
    "expression": {"target_modules": r".*layers\.1\..*q_proj"},
    "excluded": {"target_modules": ["q_proj", "v_proj"], "exclude_modules": [Q_OF_BOTH[0]]},
    "paths": {"target_modules": Q_OF_BOTH[1:]},
    "start": {"target_modules": ["q_proj"], "init_lora_weights": "Gaussian"},
}


@pytest.mark.parametrize("case", CHOSEN)
def test_layers_that_were_not_asked_for_are_not_missed(tiny, tmp_path, case):
    model = get_peft_model(tiny, LoraConfig(**CHOSEN[case]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.peft_config["default"].base_model_name_or_path = "tiny"
    model.save_pretrained(tmp_path)
    assert inspect_adapter(tmp_path).warnings == ()


def test_of_chosen_layers_the_one_that_is_missing_is_named(adapted, tmp_path):
    layers = [f"model.layers.{n}.self_attn.{name}_proj" for n, name in ((0, "q"), (1, "q"), (1, "v"))]
    folder = save_adapter(adapted, tmp_path)
    edit(folder, left_out, target_modules=layers)
    assert (
        "left out, though other blocks have it: block 0 self_attn.q_proj" in inspect_adapter(folder).warnings
    )


def test_a_layer_that_ran_away_is_named(tmp_path):
    """Among thirty: of two layers neither can be ten times their median."""
    folder = shutil.copytree(CAPTAIN, tmp_path / "captain")

    def huge(tensors):
        tensors[f"{Q0}.lora_B.weight"] *= 100

    message = "an update 10 times as large as the median of its kind in model.layers.0.self_attn.q_proj"
    assert inspect_adapter(edit(folder, huge)).warnings == (message,)


def test_an_adapter_of_pefts_own_reads_the_same(tiny, tmp_path):
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(copy.deepcopy(tiny), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.peft_config["default"].base_model_name_or_path = "tiny"
    model.save_pretrained(tmp_path)
    report = inspect_adapter(tmp_path)
    layer = model.base_model.model.model.layers[1].mlp.down_proj
    assert report.warnings == () and report.updates[-2].path == "model.layers.1.mlp.down_proj"
    assert report.updates[-2].norm == pytest.approx(layer.get_delta_weight("default").norm().item(), rel=1e-5)


def test_other_kinds_are_sized_and_named(tiny, tmp_path):
    model = surgery.add_prefix(tiny, num_virtual_tokens=3)
    model.config.name_or_path = "tiny"
    report = inspect_adapter(save_adapter(model, tmp_path))
    assert report.updates == () and report.numbers == 3 * 2 * 2 * 32
    assert report.warnings == ("no LoRA but PREFIX_TUNING: sizes alone are reported",)
    assert "prompt_embeddings: 384 numbers" in describe(report)


def test_no_adapter_is_refused(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: folder must hold adapter_config.json")


def test_the_folder_of_a_fine_tune_is_as_good(saved, capsys):
    texts = []
    for folder in (saved, saved.parent):
        main([str(folder)])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and "rank 4, alpha 6" in texts[0]


def test_a_base_without_weights_here_is_refused():
    with pytest.raises(FileNotFoundError, match="must be a model on this machine, 'owner/model' is not here"):
        inspect_adapter(CAPTAIN, base="owner/model")
