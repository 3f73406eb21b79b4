"""Colours that mean something: told apart by colour-blind readers, and readable as text."""

from itertools import combinations

import numpy as np
import pytest

from lora_edu.classroom.figures import palette

# Machado, Oliveira and Fernandes 2009, "A physiologically-based model for simulation of color vision deficiency",
# severity 1.0, on linear RGB.
SEEN = {
    "full sight": np.eye(3),
    "no green cones": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "no red cones": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}
LEAST = 12  # CIELAB distance; 2.3 is a just noticeable difference


def linear(color):
    parts = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ rgb.clip(0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", SEEN)
@pytest.mark.parametrize(
    "colors", [tuple(palette.ROLES.values()), palette.COLORS[:4]], ids=["roles", "first four"]
)
def test_colours_are_told_apart(colors, sight):
    seen = [lab(SEEN[sight] @ linear(color)) for color in colors]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) >= LEAST


def test_no_colour_has_two_meanings():
    roles = {color.lower() for color in palette.ROLES.values()}
    assert len(roles) == len(palette.ROLES) and not roles & {color.lower() for color in palette.COLORS}


@pytest.mark.parametrize("color", [*palette.ROLES.values(), *palette.COLORS])
def test_text_in_any_colour_can_be_read(color):
    assert palette.contrast(palette.readable(color), palette.PAPER) >= 4.5


@pytest.mark.parametrize("color", [palette.INK, palette.SOFT])
def test_ink_can_be_read(color):
    assert palette.contrast(color, palette.PAPER) >= 4.5


@pytest.mark.parametrize("role", palette.ROLES)
@pytest.mark.parametrize("share", [0.06, 0.1, 0.3, 0.5, 0.72, 0.92])
def test_digits_can_be_read_on_every_shade(role, share):
    shade = palette.mix(palette.ROLES[role], share)
    assert palette.contrast(palette.on(shade), shade) >= 4.5


def test_contrast_is_that_of_the_standard():
    assert palette.contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert palette.contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)


def test_an_unknown_role_is_named():
    with pytest.raises(ValueError, match=r"roles must map some of \['a'\] .* got \{'a': 'warm'\}"):
        palette.colors_of(["a"], {"a": "warm"})
