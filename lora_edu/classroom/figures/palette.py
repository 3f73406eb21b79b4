"""The course's colours: one meaning each, in every notebook.

A colour never speaks alone. What is frozen is hatched and carries a lock; lines differ in stroke and marker
too, bars in hatch. Readers with red or green blindness tell any two of them apart: a test simulates both
(tests/classroom/test_figures_palette.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.colors import to_hex, to_rgb

# What a thing *is* in training decides its colour.
ROLES = {
    "frozen": "#56738F",  # the base weight W: never changed
    "trained": "#E8751A",  # A and B, and whatever else training moves
    "codes": "#5B3FA0",  # weights stored in 4 bits
    "scales": "#EBC12F",  # absmax and other constants of quantization
    "activations": "#2BA898",  # what flows forward: x, Ax, y
    "gradients": "#C2185B",  # what flows backward
    "optimizer": "#5C3A1E",  # its averages
}
INK, SOFT, GRID = "#22303C", "#5A6772", "#D9DCDD"  # text; lesser text; lines that only help the eye
PAPER, EDGE = "#FCFBF8", "#D8D5CC"  # the card that a picture lies on

# For lines and bars that are compared and have no role. They avoid the colours above.
COLORS = ("#1F6FD1", INK, "#9AA5AE", "#6FA52E", "#86C3F0", "#2B3F8C", "#CDB98C")
FORM, COPIED = (
    COLORS[0],
    COLORS[3],
)  # of an answer: what is the same in each, and what comes from the question
LINE_STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HATCHES = ("", "//", "..", "xx", "\\\\", "oo", "--")
ROLE_HATCHES = {"frozen": "////"}

CONTRAST = 4.5  # of text with what it stands on: WCAG 2.2, 1.4.3


def mix(color: str, share: float, ground: str = PAPER) -> str:
    """A colour thinned with the ground it stands on: `share` 1 is the colour, 0 the ground."""
    red, green, blue = (
        share * a + (1 - share) * b for a, b in zip(to_rgb(color), to_rgb(ground), strict=True)
    )
    return to_hex((red, green, blue))


def luminance(color: str) -> float:
    """Relative luminance, 0 to 1 (WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def readable(color: str, ground: str = PAPER) -> str:
    """The colour, darkened until text in it can be read on the ground."""
    share = 1.0
    while contrast(color_ := mix(color, share, "#000000"), ground) < CONTRAST:
        share -= 0.05
    return color_


def on(color: str) -> str:
    """Ink where it can be read on the colour, else black or white, one of which always can."""
    if contrast(INK, color) >= CONTRAST:
        return INK
    return max(("#FFFFFF", "#000000"), key=lambda text: contrast(text, color))


def colors_of(names: Sequence[str], roles: Mapping[str, str] | None) -> list[str]:
    """A colour for each name: that of its role, or the next one without a meaning.

    Raises
    ------
    ValueError
        If a role is unknown or belongs to no name.
    """
    roles = roles or {}
    if set(roles) - set(names) or set(roles.values()) - set(ROLES):
        raise ValueError(f"roles must map some of {list(names)} to some of {list(ROLES)}, got {dict(roles)}")
    free = iter(COLORS * (len(names) // len(COLORS) + 1))
    return [ROLES[roles[name]] if name in roles else next(free) for name in names]
