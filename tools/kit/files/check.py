"""Is this kit whole? `python3 check.py` compares every file with SHA256SUMS; it needs Python 3.6 and nothing else."""

import hashlib
import sys
from pathlib import Path

SUMS = "SHA256SUMS"
LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")  # what file managers leave; "._" files are of macOS too


def digest(path):
    """The sha256 of a file, in hexadecimal."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            total.update(block)
    return total.hexdigest()


def names(folder):
    """The files of a kit but the list itself: paths within `folder`, with "/", in order."""
    files = (path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    listed = (file for file in files if file.name not in LITTER and not file.name.startswith("._"))
    return sorted({file.relative_to(folder).as_posix() for file in listed} - {SUMS})


def faults(folder):
    """One line for each file that is missing, changed, or not of the kit."""
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    expected = {name: total for total, _, name in (line.partition("  ") for line in lines)}
    present = set(names(folder))
    found = ["missing: " + name for name in sorted(set(expected) - present)]
    found += ["not of this kit: " + name for name in sorted(present - set(expected))]
    both = sorted(present & set(expected))
    return found + ["changed: " + name for name in both if digest(folder / name) != expected[name]]


def main():
    """Check the kit that this file lies in."""
    folder = Path(__file__).resolve().parent
    try:
        found = faults(folder)
    except OSError as error:
        sys.exit(f"The kit cannot be read: {error}")
    if found:
        sys.exit("\n".join(found + ["This kit is not as it was made: copy it anew."]))
    print(f"The kit is whole: {len(names(folder))} files. sha256 of {SUMS}:\n{digest(folder / SUMS)}")


if __name__ == "__main__":
    main()
