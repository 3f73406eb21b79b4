"""The course beside Colab's packages at Colab's versions, from an empty folder, as a learner there opens it."""

import json
import math
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest

from tests.notebooks import test_other_models
from tools import build_notebooks, colab_environment
from tools.set_repo import present_slug

ROOT = Path(__file__).resolve().parents[2]
SLUG = present_slug(ROOT)
NOT_ON_COLAB = {"bitsandbytes", "gguf", "jaxtyping"}


@dataclass
class Colab:
    """A Python with Colab's packages and a folder that is empty at first."""

    python: Path
    folder: Path
    environment: dict[str, str]

    @property
    def clone(self) -> Path:
        return self.folder / SLUG.split("/")[1]

    def run(self, *arguments: str | Path, folder: Path | None = None, **variables: str) -> str:
        """What Python prints with these arguments, in the empty folder or another one."""
        result = subprocess.run(
            [self.python, *arguments],
            cwd=folder or self.folder,
            env=self.environment | variables,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-6000:]
        return result.stdout

    def versions(self) -> dict[str, str]:
        """The installed packages."""
        listed = json.loads(self.run("-m", "pip", "list", "--format=json"))
        return {package["name"].lower().replace("_", "-"): package["version"] for package in listed}


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Colab before the first cell; git finds this checkout, as it lies here, under its public address."""
    origin, folder = tmp_path_factory.mktemp("origin"), tmp_path_factory.mktemp("empty")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", f"--git-dir={origin}", f"--work-tree={ROOT}"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=course"]):
        subprocess.run([*git, *command], check=True)
    instead = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{origin.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://github.com/{SLUG}",
    }
    return Colab(colab_environment.make_environment(), folder, {**os.environ, **instead})


@pytest.fixture(scope="module")
def preinstalled(bare):
    """The packages before the first cell."""
    return bare.versions()


@pytest.fixture(scope="module")
def colab(bare, preinstalled):
    """Colab after the first cell."""
    code = build_notebooks.SETUP.format(slug=SLUG)
    assert bare.run("-c", code) == "Installing jaxtyping, gguf. Nothing that is already installed changes.\n"
    return bare


@pytest.fixture(scope="module")
def quantizing(colab):
    """Colab after the first cell of a notebook that quantizes."""
    code = f"{build_notebooks.SETUP.format(slug=SLUG)}\nensure_packages('bitsandbytes')"
    assert colab.run("-c", code) == "Installing bitsandbytes. Nothing that is already installed changes.\n"
    return colab


# ---------------------------------------------------------------- the first cell


def test_the_environment_is_colabs(preinstalled):
    lines = (ROOT / "requirements-colab.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(re.match(r"([\w.-]+)==(\S+)", line).groups() for line in lines if not line.startswith("#"))
    assert {name: version for name, version in preinstalled.items() if pinned.get(name) != version} == {
        "torch": preinstalled["torch"]
    }
    assert not NOT_ON_COLAB & set(preinstalled)


def test_the_first_cell_fetches_the_course_and_changes_no_package(colab, preinstalled):
    assert [path.name for path in colab.folder.iterdir()] == [colab.clone.name]
    after = colab.versions()
    assert {name: after.get(name) for name in preinstalled} == preinstalled
    assert {"jaxtyping", "gguf"} <= after.keys() - preinstalled.keys()


def test_the_first_cell_does_nothing_the_second_time(quantizing, preinstalled):
    before = quantizing.versions()
    code = build_notebooks.SETUP.format(slug=SLUG)
    assert quantizing.run("-c", f"{code}\nensure_packages('bitsandbytes')") == ""
    assert quantizing.versions() == before
    assert {name: before.get(name) for name in preinstalled} == preinstalled
    assert "bitsandbytes" in before


# ---------------------------------------------------------------- the course


def opened(number):
    """A notebook as a learner gets it."""
    [source] = build_notebooks.selected_sources([number], ROOT)
    return build_notebooks.compose(source, f"notebooks/{source.stem}.ipynb", SLUG)


def executed(colab, notebook, **variables):
    """What the cells of a notebook put out, run from top to bottom in Colab's kernel."""
    nbformat.write(notebook, colab.folder / "opened.ipynb")
    command = "nbconvert --execute --to=notebook --output=executed opened.ipynb"
    colab.run("-m", *command.split(), **variables)
    cells = nbformat.read(colab.folder / "executed.ipynb", as_version=4).cells
    return [output for cell in cells for output in cell.get("outputs", [])]


@pytest.mark.parametrize("number", ["00", "01"])
def test_a_notebook_runs_in_colabs_kernel(colab, number):
    """ipykernel 6, IPython 7 and ipywidgets 7 show the live widget and its static picture."""
    shown = [set(output.data) for output in executed(colab, opened(number)) if "data" in output]
    assert {build_notebooks.WIDGET_VIEW} in shown and {"image/png"} in shown


def test_the_fine_tune_runs_in_colabs_kernel(quantizing, tmp_path):
    """Notebook 10, every cell, with few steps of a tiny model in place of the course's."""
    vocabulary = test_other_models.write_model("llama", tmp_path / "model")
    notebook = opened("10")
    for old, new in test_other_models.FEW_STEPS:
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new) if cell.cell_type == "code" else cell.source
    tiny = {"LORA_EDU_MODEL": str(tmp_path / "model"), "LORA_EDU_RUNS": str(tmp_path / "runs")}
    outputs = executed(quantizing, notebook, **tiny, LORA_EDU_ANSWERS="4x12", TQDM_DISABLE="1")
    printed = "".join(output.text for output in outputs if "text" in output)
    _, trained = test_other_models.numbers_of("llama", vocabulary)
    assert f"trainable params: {trained:,} " in printed
    assert (tmp_path / "runs" / "mine" / "adapter" / "adapter_config.json").is_file()


# What answers are told, and what the ledger adds up, needs no library's other version; stored pictures are of one
# matplotlib. That a figure draws the same twice is seen with our versions. Nobody grades there, or has our Node.
LEFT_OUT = (
    "test_checks_fooled.py",
    "test_checks_right_ways.py",
    "test_gpu_fits.py",
    "test_grade_parts.py",
    "test_grade_remote.py",
    "test_grade_sandbox.py",
    "test_outside.py",
    "test_pictures_page.py",
    "test_speed_page.py",
)


def test_the_tests_of_the_classroom_pass(quantizing):
    ignored = (f"--ignore=tests/classroom/{name}" for name in LEFT_OUT)
    printed = quantizing.run(
        *("-m", "pytest", "-q", "-p", "tests.ci_guard", "-k", "not redrawing", "tests/classroom", *ignored),
        folder=quantizing.clone,
        PYTHONPATH=str(quantizing.clone),  # of the kernels that tests start
    )
    assert re.search(r"^\d+ passed", printed.splitlines()[-1])


PEFT_ON_A_PLAIN_LAYER = """
from importlib.metadata import version
from lora_edu.classroom import doctor
from peft import LoraConfig, get_peft_model
from torch import nn
model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), LoraConfig(r=1, target_modules=["0"]))
print(version("torchao"), type(model.base_model.model[0]).__name__)
"""


def test_peft_works_beside_the_old_torchao(colab):
    assert colab.run("-c", PEFT_ON_A_PLAIN_LAYER, folder=colab.clone) == "0.10.0 Linear\n"


def test_the_base_model_is_the_same_to_the_last_bit(colab, base_model_folder, tmp_path):
    """Colab's transformers reads the GGUF file as ours does."""
    colab.run("-m", "lora_edu.llm.base_model", folder=colab.clone, LORA_EDU_CACHE=str(tmp_path))
    [weights] = tmp_path.rglob("model.safetensors")
    assert weights.read_bytes() == (base_model_folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("backend", ["peft", "scratch"])
def test_three_steps_of_the_real_base(quantizing, preinstalled, backend):
    flags = "--steps 3 --batch-size 2 --test-events 2 --before-events 0"
    command = ["-m", "lora_edu.llm.finetune", *flags.split(), "--backend", backend, "--output", backend]
    quantizing.run(*command, folder=quantizing.clone)
    record = json.loads((quantizing.clone / backend / "run.json").read_text(encoding="utf-8"))
    assert len(record["losses"]) == 3 and all(map(math.isfinite, record["losses"]))
    assert record["losses"][2] < record["losses"][0]
    base = record["base"]
    assert base["weights_sha256_after"] == base["weights_sha256_before"]
    assert base["adapter_off_difference"] == 0.0
    installed = {name: preinstalled.get(name) for name in ("torch", "transformers", "peft", "accelerate")}
    assert record["versions"].items() >= installed.items()
