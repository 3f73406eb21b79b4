"""Grey levels in a place on a sheet."""

from __future__ import annotations

import numpy as np

from lora_edu.classroom.figures._canvas import Picture
from lora_edu.classroom.figures.palette import SOFT
from lora_edu.classroom.figures.schematic.parts import outline
from lora_edu.classroom.figures.schematic.sheet import Block


def grey(picture: Picture, block: Block, values: np.ndarray, limits: tuple[float, float]) -> Block:
    """Draw a matrix as grey levels into a place on the sheet, black at the first limit, with a thin outline."""
    view = picture.get_xlim(), picture.get_ylim()
    extent = block.x, block.x + block.width, block.y, block.y + block.height
    picture.imshow(
        values,
        cmap="gray",
        vmin=limits[0],
        vmax=limits[1],
        extent=extent,
        aspect="auto",
        interpolation="nearest",
    )
    picture.set(xlim=view[0], ylim=view[1])  # a picture would take the whole sheet
    outline(picture, block, SOFT, width=0.8)
    return block
