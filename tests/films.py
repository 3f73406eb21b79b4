"""The strict run of the notebooks draws every picture of every slider, and no notebook runs a second time for that.

    pytest -p tests.films --nbval notebooks/*.ipynb    each slider writes its film to build/frames/
    python -m tests.films                              looks at what was drawn, and computes the numbers in every line
                                                       below a picture anew; exit 1 names what is wrong

As a plugin it gives the kernels of the learner's notebooks two settings: LORA_EDU_FRAMES (`widgets.frames`), and a
start-up script (`WATCH`) that notes of every picture what collides in it. Solutions draw the same pictures: not they.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import nbformat
import pytest

from lora_edu.classroom.widgets.frames import read_film
from lora_edu.classroom.widgets.pages import explorer_texts
from tests.browser.recomputed import EXPECTED

ROOT = Path(__file__).resolve().parents[1]
FRAMES = ROOT / "build" / "frames"
NOTES = "collisions.jsonl"
START_UP = FRAMES / "ipython" / "profile_default" / "startup" / "watch.py"
SETTINGS = {"LORA_EDU_FRAMES": str(FRAMES), "IPYTHONDIR": str(START_UP.parents[2])}
# In a kernel, before the first cell. A picture on a slider is drawn anew if its labels do not fit: only those count
# that a film then shows, so each note has the name that a film gives its picture.
WATCH = f"""
def watch():
    import hashlib
    import json
    from pathlib import Path

    from lora_edu.classroom import figures
    from lora_edu.classroom.figures import _canvas

    to_png = _canvas.to_png

    def noted(kind):
        def png_of(picture):
            png = to_png(picture)
            note = {{"kind": kind, "name": hashlib.sha256(png).hexdigest()[:16], "found": figures.collisions(picture)}}
            with Path({str(FRAMES / NOTES)!r}).open("a", encoding="utf-8") as file:
                file.write(json.dumps(note) + chr(10))
            return png

        return png_of

    figures.to_png, _canvas.to_png = noted("slider"), noted("picture")


watch()
del watch
"""


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # once, whatever the number of processes
        shutil.rmtree(FRAMES, ignore_errors=True)
        START_UP.parent.mkdir(parents=True)
        START_UP.write_text(WATCH, encoding="utf-8")


@pytest.hookimpl(tryfirst=True)  # the first cell's set-up starts the kernel
def pytest_runtest_setup(item: pytest.Item) -> None:
    drawn_here = item.path.suffix == ".ipynb" and item.path.parent == ROOT / "notebooks"
    for name, value in SETTINGS.items():
        os.environ.pop(name, None)
        if drawn_here:
            os.environ[name] = value


def faults() -> Iterator[str]:
    """In words, what is wrong with the pictures that the notebooks drew: of a slider, those that one move leads to."""
    notes = [json.loads(line) for line in (FRAMES / NOTES).read_text(encoding="utf-8").splitlines()]
    names: set[str] = {note["name"] for note in notes if note["kind"] == "picture"}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        texts = explorer_texts(nbformat.read(path, as_version=4))
        # Of 10's slider, tests/classroom/test_gpu_fits.py looks at the numbers.
        unchecked = [lambda *_: ()] * len(texts) if path.stem.startswith("10_") else []
        lines = EXPECTED.get(path.stem, unchecked)
        if len(lines) != len(texts):
            yield f"{path.name}: {len(texts)} sliders, and numbers are computed anew for {len(lines)}"
            continue
        for text, expected in zip(texts, lines, strict=True):
            film = read_film(FRAMES, text)
            if film is None:
                yield f"{path.name}: no film was drawn of the slider that says {text!r}"
                continue
            names |= {name.removesuffix(".webp") for moved in moves(film).values() for _, name, _ in moved}
            yield from (
                f"{path.name}: {fault}" for fault in [*_faults_of(film), *_wrong_lines(film, expected)]
            )
        if len(set(texts)) < len(texts):
            yield f"{path.name}: two sliders begin with the same line of text, which names a film"
    noted = {note["name"]: note["found"] for note in notes}
    yield from (f"{name}: never looked at" for name in sorted(names - noted.keys()))
    yield from (f"{name}: {found}" for name in sorted(names & noted.keys()) for found in noted[name])


def moves(film: dict[str, Any]) -> dict[str, list[tuple[str, str, str]]]:
    """For each slider the label, the picture and the line of text at each of its places, the others at their start."""
    sizes = [len(labels) for labels in film["labels"].values()]
    found: dict[str, list[tuple[str, str, str]]] = {}
    for control, (name, labels) in enumerate(film["labels"].items()):
        found[name] = []
        for place, label in enumerate(labels):
            index = 0
            for size, at in zip(
                sizes, [*film["start"][:control], place, *film["start"][control + 1 :]], strict=True
            ):
                index = index * size + at
            found[name].append((label, *film["frames"][index]))
    return found


def _faults_of(film: dict[str, Any]) -> Iterator[str]:
    for name, moved in moves(film).items():
        shown: dict[str, str] = {}
        for label, picture, text in moved:
            if picture in shown:
                yield f"{name} {shown[picture]} and {label} draw the same picture: {text}"
            if not re.search(r"\d", text):
                yield f"{name} {label} has no number below it: {text}"
            shown[picture] = label


def _wrong_lines(film: dict[str, Any], expected: Callable[..., Sequence[str]]) -> Iterator[str]:
    for labels, (_, text) in zip(product(*film["labels"].values()), film["frames"], strict=True):
        shown = " ".join(text.replace("`", "").split())  # as HTML shows it
        yield from (
            f"at {labels} {part!r} is not in {text!r}" for part in expected(*labels) if part not in shown
        )


def main() -> int:
    found = list(faults())
    print("\n".join(found), file=sys.stderr)
    films = [path for path in FRAMES.glob("*.json")]
    print(f"{len(films)} sliders drew {len(list(FRAMES.glob('*.webp')))} pictures: {len(found)} faults.")
    return 1 if found or not films else 0


if __name__ == "__main__":
    sys.exit(main())
