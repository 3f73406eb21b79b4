"""The record of the notebooks on a GPU: each in order, each failure with its cell. The notebooks here need no GPU."""

import os

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lora_edu.llm.files import write_json
from tools.build_notebooks import BuildError
from tools.run_on_gpu import ROOT, learner_notebooks, run_all


@pytest.fixture
def notebooks(tmp_path):
    """Two notebooks: the first fails in its third cell, the second says where runs go."""
    sources = {
        "00_fails": ["x = 1", "raise ValueError('tensors on two devices')", "x = 2"],
        "01_runs": ["import os; print(os.environ['LORA_EDU_RUNS'])"],
    }
    paths = []
    for name, cells in sources.items():
        paths.append(tmp_path / f"{name}.ipynb")
        nbformat.write(
            new_notebook(cells=[new_markdown_cell("words"), *map(new_code_cell, cells)]), paths[-1]
        )
    return paths


def test_a_failure_names_its_cell_and_the_next_notebook_still_runs(notebooks, tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_EDU_RUNS", os.environ.get("LORA_EDU_RUNS", ""))  # put back afterwards
    folder = tmp_path / "executed"
    failed, ran = run_all(notebooks, folder)
    assert failed["notebook"] == "00_fails.ipynb" and "cell 3 (" in failed["error"]
    assert failed["error"].endswith("ValueError: tensors on two devices")
    assert ran["error"] is None and ran["seconds"] > 0
    write_json(tmp_path / "record.json", [failed, ran])
    executed = [nbformat.read(folder / path.name, as_version=4).cells for path in notebooks]
    assert [len(cell.outputs) for cell in executed[0][1:]] == [0, 1, 0]  # the copy shows where it stopped
    assert executed[1][1].outputs[0].text.strip() == str(folder / "runs")


def test_the_learners_notebooks_in_order():
    paths = learner_notebooks([])
    assert paths == sorted((ROOT / "notebooks").glob("*.ipynb")) and len(paths) >= 14
    assert [path.name.split("_")[0] for path in learner_notebooks(["05b", "11", "03", "05"])] == [
        "03",
        "05",
        "05b",
        "11",
    ]
    with pytest.raises(BuildError, match="no source notebooks/src/77"):
        learner_notebooks(["77"])
