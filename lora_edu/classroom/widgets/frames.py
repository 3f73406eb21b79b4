"""The film of a slider: every picture that it can show, drawn where Python runs, for pages where none does.

A film is a JSON file and its pictures, WebP files named by their content, so that equal pictures are one file::

    {"labels": {"rank": ["1", "2", ...]},    what the sliders say, by name
     "start": [0],                           where each slider stands at first
     "width": 720,                           of the picture on the page, in pixels
     "frames": [["5d41....webp", "Rank 1: ..."], ...]}    all combinations, the last slider's the fastest

The JSON is named by the line of text below the start picture. A notebook stores that line too: so a film belongs to a
cell of an executed notebook, and to the same cell of a stored one that a test has just run again.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from lora_edu.llm.files import whole, write_json

FOLDER_VARIABLE = "LORA_EDU_FRAMES"
MOST_COMBINATIONS = 500
MOST_BYTES = 40_000_000
LOSSLESS_BYTES = 60_000
"""A larger picture is no chart but a photograph, which loses nothing visible at `QUALITY`."""
QUALITY = 82


def frames_folder() -> Path | None:
    """Where films are to be written, if anywhere: the folder that LORA_EDU_FRAMES names."""
    name = os.environ.get(FOLDER_VARIABLE)
    return Path(name) if name else None


def combinations(controls: Mapping[str, Sequence]) -> int:
    """How many pictures the sliders can show."""
    return math.prod(len(values) for values in controls.values())


def film_name(text: str) -> str:
    """Name of the film whose start picture has this line of text."""
    return f"{hashlib.sha256(text.strip().encode()).hexdigest()[:16]}.json"


def read_film(folder: Path, text: str) -> dict | None:
    """The film whose start picture has this line of text; None if `folder` holds none."""
    path = folder / film_name(text)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write_film(
    folder: Path,
    labels: Mapping[str, Sequence[str]],
    start: Sequence[int],
    pictures: Iterable[tuple[bytes, str]],
    width: int,
) -> Path:
    """Write a film to `folder`; return the JSON's path.

    Parameters
    ----------
    labels : mapping
        What each slider says, by its name.
    start : sequence of int
        Place of each slider at first.
    pictures : iterable of (bytes, str)
        PNG and line of text for every combination, the last slider's the fastest.
    width : int
        Of a picture on the page, in pixels.

    Raises
    ------
    ValueError
        If there are more than 500 combinations, or the folder then holds more than 40 MB.
    """
    sizes = [len(texts) for texts in labels.values()]
    if combinations(labels) > MOST_COMBINATIONS:
        raise ValueError(f"controls must have at most {MOST_COMBINATIONS} combinations, got {sizes}")
    frames = [[_write_picture(folder, png), text] for png, text in pictures]
    if (size := sum(path.stat().st_size for path in folder.glob("*.webp"))) > MOST_BYTES:
        raise ValueError(
            f"the frames in {folder} take {size / 1e6:.0f} MB, more than {MOST_BYTES / 1e6:.0f}: fewer values, "
            "or empty the folder if it holds frames of older runs"
        )
    film = {"labels": dict(labels), "start": list(start), "width": width, "frames": frames}
    index = sum(place * math.prod(sizes[k + 1 :]) for k, place in enumerate(start))
    return write_json(folder / film_name(frames[index][1]), film)


def _write_picture(folder: Path, png: bytes) -> str:
    """Name of the WebP file that shows the same as `png`."""
    path = folder / f"{hashlib.sha256(png).hexdigest()[:16]}.webp"
    if not path.exists():
        with whole(path) as [partial]:
            partial.write_bytes(to_webp(png))
    return path.name


def to_webp(png: bytes) -> bytes:
    """The picture as WebP: pixel for pixel, unless that is so large that it must be a photograph."""
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    lossless, lossy = io.BytesIO(), io.BytesIO()
    image.save(lossless, "WEBP", lossless=True, exact=True, method=4)
    if len(lossless.getvalue()) <= LOSSLESS_BYTES:
        return lossless.getvalue()
    image.save(lossy, "WEBP", quality=QUALITY, method=4)
    return lossy.getvalue()
