"""Rows of a learner's own data, wherever they lie: JSON Lines, a list in JSON, a table in CSV, or the hub.

What is wrong with one row is kept beside it, so that a reader may stop at the first such row
(`lora_edu.llm.data.conversations`) or list them all (`lora_edu.llm.data.doctor`).
"""

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from lora_edu.llm.data.lines import numbered_lines, read_text
from lora_edu.llm.files import parse_json, shown


class Row(NamedTuple):
    """What one row holds, and where it stands; `fault` says why it cannot be read, where it cannot."""

    place: str
    record: Any
    fault: str = ""


def read_rows(source: str, config: str | None = None, split: str = "train") -> list[Row]:
    """Read every row of a file or of a data set on the Hugging Face hub.

    Parameters
    ----------
    source
        A file that ends in .jsonl, .json (a list of objects) or .csv (with a header and commas), or a hub id,
        ``"owner/name"`` (needs the package datasets).
    config, split
        Of the data set on the hub: its configuration (None: its only or default one) and split, such as ``"train"``
        or ``"train[:500]"``. A file has neither.

    Raises
    ------
    FileNotFoundError
        There is neither such a file nor such an id.
    ValueError
        The file is of another kind, is no UTF-8 text, or holds no row; or a file of the hub's data set is damaged.
    OSError
        The hub cannot be reached, or the package datasets is missing.
    """
    file = Path(source)
    if file.is_file():
        if file.suffix.lower() not in _READERS:
            allowed = ", ".join(_READERS)
            raise ValueError(f"dataset must be a file that ends in one of {allowed}, got {source!r}")
        rows = list(_READERS[file.suffix.lower()](file))
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not source.endswith(tuple(_READERS)):
        rows = _hub_rows(source, config, split)
    else:
        raise FileNotFoundError(
            f"dataset must be an existing JSON Lines file or a hub id 'owner/name', got {source!r}"
        )
    if not rows:
        raise ValueError(f"dataset must hold at least one line, {source} holds none")
    return rows


def _json_lines(file: Path) -> Iterable[Row]:
    for line, place in numbered_lines(file):
        try:
            yield Row(place, parse_json(line, place))
        except ValueError as error:
            yield Row(place, None, str(error))


def _json(file: Path) -> Iterable[Row]:
    text = read_text(file)
    if not text.lstrip().startswith("["):  # JSON Lines go by this name, too
        return _json_lines(file)
    return [Row(f"{file}, row {n}", row) for n, row in enumerate(parse_json(text, str(file)), start=1)]


def _table(file: Path) -> Iterable[Row]:
    reader = csv.DictReader(io.StringIO(read_text(file), newline=""), strict=True)
    names = list(reader.fieldnames or [])
    if len(set(names)) < len(names) or (len(names) == 1 and re.search("[;\t]", names[0])):
        raise ValueError(
            f"{file} must begin with the names of its columns, all different, with commas between, got {names}"
        )
    while True:
        place = f"{file}, line {reader.line_num + 1}"
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(place, None, f"{place} must be a row of CSV: {error}")
            return  # where the next row begins is not known
        fault = ""
        if None in record or None in record.values():
            fault = f"{place} must have {len(names)} values, as many as the header, got {shown(record)}"
        yield Row(place, record, fault)


_READERS = {".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json, ".csv": _table}


def _hub_rows(name: str, config: str | None, split: str) -> list[Row]:
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise OSError(
            f"there is no file {name!r} here. If it names a data set on the hub, the package datasets is needed to "
            "read it: run `pip install datasets`"
        ) from error
    try:
        rows = datasets.load_dataset(name, config, split=split)
    except datasets.exceptions.DatasetGenerationError as error:
        reason = error.__cause__ or error
        if isinstance(reason, OSError):  # a full disk, say
            raise reason from error
        raise ValueError(f"dataset must be one whose files can be read, {name} is not: {reason}") from error
    return [Row(f"{name}, row {number}", row) for number, row in enumerate(rows, start=1)]
