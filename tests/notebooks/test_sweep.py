"""Every value of every slider, drawn: the one thing that running a notebook does not do."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from tools import build_notebooks
from tools.set_repo import present_slug

ROOT = Path(__file__).resolve().parents[2]
WITH_SLIDERS = [
    source
    for source in build_notebooks.selected_sources([], ROOT)
    if re.search(r"\bexplore\(", source.read_text(encoding="utf-8"))
]
# Runs in the notebook's kernel, before its first cell: what collides in each picture, by its hash.
MEASURE = """
def measure():
    import hashlib

    from lora_edu.classroom import figures
    from lora_edu.classroom.figures import _canvas

    to_png, shown, explored = _canvas.to_png, {}, {}

    def measured_into(found):
        def measured(picture):
            png = to_png(picture)
            found[hashlib.sha256(png).hexdigest()] = figures.collisions(picture)
            return png

        return measured

    figures.to_png, _canvas.to_png = measured_into(explored), measured_into(shown)
    return shown, explored


shown_collisions, explored_collisions = measure()
"""
# Runs in the notebook's kernel, after its last cell: for each explorer, pictures and texts by control.
SWEEP = """
import gc
import hashlib
import json

from lora_edu.classroom.widgets import Explorer
from lora_edu.classroom.widgets import frames as frames_module

explorers = [thing for thing in gc.get_objects() if type(thing) is Explorer]
frames = []
assert len({explorer.caption.value for explorer in explorers}) == len(explorers)  # it names the film
for explorer in explorers:
    assert frames_module.combinations(explorer.controls) <= frames_module.MOST_COMBINATIONS, explorer.controls
    explorer.sweep()
    frames.append([])
    for name, values in explorer.controls.items():
        drawn = [explorer.frame(**{**explorer.start, name: value}) for value in values]
        frames[-1].append([(hashlib.sha256(png).hexdigest(), text) for png, text in drawn])
kept = {digest for controls in frames for control in controls for digest, _ in control}
collisions = [*shown_collisions.values(), *(explored_collisions[digest] for digest in kept)]
print(json.dumps({"frames": frames, "collisions": [found for found in collisions if found]}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("source", WITH_SLIDERS, ids=lambda source: source.stem)
def test_every_value_of_every_control_draws(source):
    path = f"notebooks/{source.stem}.ipynb"
    notebook = build_notebooks.compose(source, path, present_slug(ROOT))
    explorers = sum(len(re.findall(r"^explore\(", cell.source, re.M)) for cell in notebook.cells)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(MEASURE))
    notebook.cells.append(nbformat.v4.new_code_cell(SWEEP))
    build_notebooks.execute(notebook, path, ROOT / "notebooks")
    result = json.loads(notebook.cells[-1].outputs[0].text)
    assert result["collisions"] == []
    swept = result["frames"]
    assert len(swept) == explorers > 0
    for frames in (control for controls in swept for control in controls):
        pictures, texts = zip(*frames, strict=True)
        assert len(set(pictures)) == len(pictures), f"two values draw the same picture: {texts}"
        assert all(re.search(r"\d", text) for text in texts), texts
