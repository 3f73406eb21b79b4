"""A PNG that is written in a fraction of the time: for a slider that moves, which nobody stores.

Of a picture's rows most are equal to the row above. A PNG may store the difference to it (filter "up"), which is one
subtraction for all pixels at once; then the fastest compression suffices. A general writer tries five filters a row.

Reference: Portable Network Graphics, W3C Recommendation, third edition, sections 5 (chunks) and 9 (filters).
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
UP = 2  # the filter: each byte less the one above it, modulo 256
EIGHT_BITS_RGBA = (8, 6, 0, 0, 0)  # depth, colour type; compression, filter and interlace methods


def quick_png(pixels: np.ndarray) -> bytes:
    """Encode pixels of shape (height, width, 4), uint8: red, green, blue, opacity."""
    height, width, _ = pixels.shape
    rows = pixels.reshape(height, 4 * width)
    filtered = np.empty((height, 1 + 4 * width), np.uint8)
    filtered[:, 0] = UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    chunks = [
        _chunk(b"IHDR", struct.pack(">II5B", width, height, *EIGHT_BITS_RGBA)),
        _chunk(b"IDAT", zlib.compress(filtered.data, 1)),
        _chunk(b"IEND", b""),
    ]
    return SIGNATURE + b"".join(chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
