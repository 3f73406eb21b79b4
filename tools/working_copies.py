"""Copy the notebooks into work/, where a learner runs and changes them: `python tools/working_copies.py`.

git ignores work/, so `git pull` never meets a learner's changes. A copy that the learner has changed is never
overwritten: when its notebook has moved on, the new version is put beside it.

work/ lies beside notebooks/, so the links of a copy to its neighbours and to ../docs/ stay right. Translations in
notebooks/de are copied to work/de.
"""

import hashlib
import itertools
import json
import shutil
from pathlib import Path

from lora_edu.llm.files import write_json

ROOT = Path(__file__).resolve().parent.parent
RECORD = ".copied.json"  # for each notebook, the digest of every version that was copied


def digest(file: Path) -> str:
    """The file's content as a sha256 in hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def first_free(target: Path) -> Path:
    """The first name among NAME.new1.ipynb, NAME.new2.ipynb, ... that no file has."""
    names = (target.with_suffix(f".new{number}.ipynb") for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def update(source: Path, target: Path, copied: list[str]) -> Path | None:
    """Bring the working copy `target` of `source` up to date.

    Parameters
    ----------
    source, target
        The notebook of the repository and the learner's copy of it.
    copied
        Digests of the versions of `source` that were copied before.

    Returns
    -------
    The file that was written, or None when the learner already has this version.
    """
    if target.exists() and digest(source) in [digest(target), *copied[-1:]]:
        return None
    changed_by_learner = target.exists() and digest(target) not in copied
    destination = first_free(target) if changed_by_learner else target
    shutil.copyfile(source, destination)
    return destination


def copy_notebooks(source_folder: Path, work: Path) -> list[Path]:
    """Update the working copy of every notebook, say what was done, and return the files written."""
    work.mkdir(exist_ok=True)
    record_file = work / RECORD
    try:
        record = json.loads(record_file.read_text())
    except (FileNotFoundError, ValueError):  # cut off by a full disk, say: every copy then counts as changed
        record = {}
    written = []
    for source in sorted(source_folder.glob("*.ipynb")):
        target = work / source.name
        copied = record.setdefault(source.name, [])
        destination = update(source, target, copied)
        if destination is None:
            continue
        written.append(destination)
        copied.append(digest(source))
        if destination != target:
            print(f"{target.name} has your changes: the new version is {destination.name}, beside it.")
    write_json(record_file, record)
    return written


def copy_all(notebooks: Path, work: Path) -> None:
    """Update the copies of the English notebooks, and of each translation in a folder of its own: work/de."""
    copy_notebooks(notebooks, work)
    for translated in sorted(notebooks.glob("[a-z][a-z]")):
        if any(translated.glob("*.ipynb")):
            copy_notebooks(translated, work / translated.name)


if __name__ == "__main__":
    copy_all(ROOT / "notebooks", ROOT / "work")
