"""A picture to compress, painted with a few inequalities."""

from __future__ import annotations

import numpy as np


def evening(height: int = 192, width: int = 288) -> np.ndarray:
    """A house, a fence, hills and a low sun, as a matrix of grey levels.

    Edges along rows and columns (house, fence) have low rank; a disc and sloping lines (sun, roof, hills) have
    not. So the picture shows which parts the first singular values take.

    Parameters
    ----------
    height, width : int
        Size in pixels.

    Returns
    -------
    np.ndarray
        Shape (height, width), float64, from 0 (black) to 1 (white).
    """
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1.5, width), indexing="ij")
    picture = 0.5 + 0.35 * y
    picture[(x - 1.12) ** 2 + (y - 0.3) ** 2 < 0.14**2] = 1.0  # sun
    picture[y > 0.52 + 0.07 * np.sin(5 * x) + 0.03 * np.sin(13 * x)] = 0.45  # hills
    picture[y > 0.72 + 0.02 * np.sin(7 * x + 2)] = 0.3  # meadow
    in_house = (x > 0.2) & (x < 0.68)
    picture[in_house & (y > 0.45) & (y < 0.85)] = 0.85  # walls
    picture[(y > 0.22 + np.abs(x - 0.44)) & (y < 0.47)] = 0.15  # roof
    picture[(np.abs(x - 0.32) < 0.05) & (np.abs(y - 0.58) < 0.06)] = 0.2  # window
    picture[(np.abs(x - 0.56) < 0.05) & (y > 0.52) & (y < 0.85)] = 0.1  # door
    in_fence = (x > 0.76) & (y > 0.76) & (y < 0.92)
    picture[in_fence & (((x - 0.76) % 0.09 < 0.03) | (np.abs(y - 0.83) < 0.015))] = 0.95
    return picture
