"""What students handed in: their notebooks, as bytes, from folders and zip files.

Nothing is unpacked onto the disk. No link is followed, nothing but a plain file is opened, and everything has a limit:
files, their sizes, their number, the depth of folders, the size of a zip's table and what it unpacks to.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

MOST_NOTEBOOK = 20 << 20  # bytes
MOST_ZIP = 100 << 20
MOST_TABLE = 2 << 20  # bytes of a zip's table of contents: about 30,000 names
MOST_FILES = 2_000  # that are looked at, of a student
MOST_DEPTH = 6  # of folders
MOST_TRIES, MOST_ZIPS = 3, 5  # files that are opened for one number; zip files of one student
IGNORED = {"__MACOSX", ".ipynb_checkpoints", "solutions", "src"}

NUMBER = re.compile(r"(?:^|[^0-9])([0-9]{2}b?)_[^/]*\.ipynb$", re.IGNORECASE)


@dataclass
class HandIn:
    """A student's notebooks.

    Parameters
    ----------
    student : str
        The name of the folder or the zip file.
    notebooks : dict
        By number (``"04"``, ``"05b"``): the bytes of the notebook, or in words why they cannot be had.
    notes : list of str
        What was passed over.
    numbers : frozenset of str
        Of the notebooks that are asked for.
    tries : Counter
        How many files were opened for each number, and for zip files.
    """

    student: str
    notebooks: dict[str, bytes | str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    numbers: frozenset[str] = frozenset()
    tries: Counter[str] = field(default_factory=Counter)

    def wants(self, number: str | None, name: str) -> bool:
        """Whether a file of this number is to be opened: none was read yet, and not too many were tried."""
        if number not in self.numbers:
            return False
        self.tries[number] += 1
        if isinstance(self.notebooks.get(number), bytes):
            if self.tries[number] == 2:
                self.notes.append(f"a second notebook {number}, {name[-80:]}, is passed over")
            return False
        return self.tries[number] <= MOST_TRIES


def students(folder: Path) -> dict[str, list[Path]]:
    """The students in `folder` by name, and what each handed in: a folder, a zip file, or both.

    Raises
    ------
    ValueError
        `folder` is no folder, or nobody's hand-in lies in it.
    """
    if not folder.is_dir():
        raise ValueError(f"FOLDER must be a folder with one folder or zip file a student, got {folder}")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        is_zip = path.name.lower().endswith(".zip")
        if not path.name.startswith(".") and (is_zip or path.is_symlink() or path.is_dir()):
            found.setdefault(path.name[:-4] if is_zip else path.name, []).append(path)
    if not found:
        raise ValueError(f"FOLDER must hold one folder or zip file a student, and {folder} holds none")
    return found


def read(student: str, paths: list[Path], numbers: Collection[str]) -> HandIn:
    """What one student handed in of the notebooks with these numbers; whatever lies there."""
    hand_in = HandIn(student, numbers=frozenset(numbers))
    for path in paths:
        if path.is_symlink():
            hand_in.notes.append(f"{path.name} is a link, which is not followed")
        elif path.is_dir():
            _take_folder(path, hand_in)
        else:
            _take_zip(path, path.name, hand_in)
    return hand_in


def number_of(name: str) -> str | None:
    """The notebook's number in the name of a file, copies of Colab and of browsers included; None if it has none."""
    found = NUMBER.search(PurePosixPath(name.replace("\\", "/")).name)
    return found[1].lower() if found else None


# ---------------------------------------------------------------- folders


def _take_folder(folder: Path, hand_in: HandIn) -> None:
    for path in _files(folder, hand_in):
        if path.name.lower().endswith(".zip"):
            _take_zip(path, path.name, hand_in)
        elif hand_in.wants(number := number_of(path.name), path.name):
            hand_in.notebooks[str(number)] = _read_or_reason(path, MOST_NOTEBOOK)


def _files(folder: Path, hand_in: HandIn) -> Iterator[Path]:
    """The notebooks and zip files below a folder, nearest first; links are noted and passed over."""
    waiting, seen = [(folder, 0)], 0
    while waiting:
        place, depth = waiting.pop(0)
        try:
            with os.scandir(place) as listed:
                entries = sorted(itertools.islice(listed, MOST_FILES + 1), key=lambda e: _late(e.name))
        except OSError as error:
            hand_in.notes.append(f"{place.name} cannot be read: {error.strerror}")
            continue
        for entry in entries:
            seen += 1
            if seen > MOST_FILES:
                hand_in.notes.append(f"more than {MOST_FILES} files: the rest is passed over")
                return
            if entry.name in IGNORED:
                continue
            if entry.is_dir(follow_symlinks=False) and number_of(entry.name) is None:
                if depth < MOST_DEPTH:
                    waiting.append((Path(entry.path), depth + 1))
            elif number_of(entry.name) or entry.name.lower().endswith(".zip"):
                yield Path(entry.path)


def _read_or_reason(path: Path, most: int) -> bytes | str:
    """The bytes of a plain file, or why they are not read."""
    flags = (
        os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    try:
        if path.is_symlink():
            return "it is a link, which is not followed"
        descriptor = os.open(path, flags)
    except OSError as error:
        return f"it cannot be opened: {error.strerror}"
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return "it is no plain file"
    with os.fdopen(descriptor, "rb") as file:
        try:
            data = file.read(most + 1)
        except OSError as error:
            return f"it cannot be read: {error.strerror}"
    return data if len(data) <= most else f"it is larger than {most >> 20} MiB"


# ---------------------------------------------------------------- zip files


def _take_zip(path: Path, name: str, hand_in: HandIn) -> None:
    hand_in.tries["zip"] += 1
    if hand_in.tries["zip"] > MOST_ZIPS:
        return
    data = _read_or_reason(path, MOST_ZIP)
    fault = data if isinstance(data, str) else _fault_of_table(data)
    if fault or isinstance(data, str):
        hand_in.notes.append(f"{name}: {fault}")
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in _notebooks(archive):
                if hand_in.wants(number := number_of(entry.filename), entry.filename):
                    hand_in.notebooks[str(number)] = _unpacked(archive, entry)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, LookupError, OSError, struct.error) as error:
        hand_in.notes.append(f"{name} cannot be read: {type(error).__name__}")


def _fault_of_table(data: bytes) -> str | None:
    """Why a zip's table of contents is not read, by the record at the zip's end; None if it may be."""
    end = data.rfind(b"PK\x05\x06", max(0, len(data) - (1 << 16) - 22))
    if end < 0 or len(data) < end + 22:
        return "it is no zip file"
    size = struct.unpack_from("<I", data, end + 12)[0]
    if size > MOST_TABLE or data[max(0, end - 20) : end].startswith(b"PK\x06\x07"):
        return "its table of contents is too large"
    return None


def _notebooks(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The notebooks in a zip, nearest to its top first, links and ignored folders left out."""
    entries = [entry for entry in archive.infolist() if number_of(entry.filename) and not _is_left_out(entry)]
    return sorted(entries, key=lambda e: (e.filename.count("/"), *_late(e.filename)))[:MOST_FILES]


def _late(name: str) -> tuple[bool, str]:
    """The order in which names are looked at: of a copy of the whole course ``work/`` comes before ``notebooks/``."""
    return "notebooks" in PurePosixPath(name.replace("\\", "/")).parts, name


def _is_left_out(entry: zipfile.ZipInfo) -> bool:
    parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
    is_link = stat.S_ISLNK(entry.external_attr >> 16)
    return entry.is_dir() or is_link or parts[-1].startswith("._") or bool(IGNORED & set(parts))


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes | str:
    """A file of a zip, in memory; it is unpacked no further than a notebook may be large, whatever its size claims."""
    if entry.flag_bits & 1:
        return "it is encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others may ask for any memory
        return "it is packed in a rare way"
    try:
        with archive.open(entry) as file:
            data = file.read(MOST_NOTEBOOK + 1)
    except (
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
    ) as error:
        return f"it cannot be unpacked: {type(error).__name__}"
    return data if len(data) <= MOST_NOTEBOOK else f"it is larger than {MOST_NOTEBOOK >> 20} MiB"
