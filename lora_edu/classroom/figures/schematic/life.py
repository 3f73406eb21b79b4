"""The life of a 4-bit weight: stored, made wide, used, dropped."""

from __future__ import annotations

from matplotlib.patches import Rectangle

from lora_edu.classroom.figures._canvas import Picture, text_width
from lora_edu.classroom.figures._sentences import number, sentence
from lora_edu.classroom.figures.palette import PAPER, ROLES, mix
from lora_edu.classroom.figures.schematic.parts import area, arrow, bits, rounded
from lora_edu.classroom.figures.schematic.sheet import SIZE, Block, sheet, word

WIDTH, LEFT, RIGHT = 10.8, 0.4, 10.4
NIGHT = "#1B2530"  # a dark sheet: nothing on it is wide


def weight_life(
    step: int,
    *,
    layers: int,
    wide: float,
    stored: float,
    unit: str = "MB",
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw a model's blocks in 4 bits at one moment of a training step: one is lit, all others are dark.

    Parameters
    ----------
    step : int
        0 … layers - 1 on the way forward, layers … 2 layers - 1 on the way back.
    layers : int
        How many there are, 2 to 60.
    wide : float
        What one weight takes while it is wide, in `unit`.
    stored : float
        What all blocks take in 4 bits, in `unit`.
    unit : str
        Of both.
    title, alt, ax
        As in `lines`; without a title, one that states both sizes.

    Raises
    ------
    ValueError
        If `layers` or `step` lies outside its range, or a size is not above 0.
    """
    if not 2 <= layers <= 60:
        raise ValueError(f"layers must be in 2 … 60, got {layers}")
    if not 0 <= step < 2 * layers:
        raise ValueError(f"step must be in 0 … {2 * layers - 1}, got {step}")
    if not min(wide, stored) > 0:
        raise ValueError(f"wide and stored must be above 0, got {wide} and {stored}")
    forward = step < layers
    lit = step if forward else 2 * layers - 1 - step
    pitch = (RIGHT - LEFT) / layers
    spot = LEFT + (lit + 0.5) * pitch
    broad = 0.78 * pitch
    finding = f"At any moment one weight is wide: {number(wide)} {unit} beside {number(stored)} {unit}"
    with sheet(WIDTH, 4.8, title=title or finding, alt=alt, ax=ax) as picture:
        dark = Block(LEFT - 0.12, 1.72, RIGHT - LEFT + 0.24, 2.1)
        picture.add_patch(rounded(dark, NIGHT, NIGHT, 0, radius=0.1))
        for reach in (0.42, 0.32, 0.22, 0.12):
            glow(picture, Block(spot - broad / 2 - reach, dark.y, broad + 2 * reach, dark.height), dark)
        for layer in range(layers):
            x = LEFT + (layer + 0.5) * pitch - broad / 2
            adapter = Rectangle((x, 1.84), broad, 0.17, facecolor=ROLES["trained"], linewidth=0)
            picture.add_patch(adapter)
            bits(picture, Block(x, 2.12, broad, 1.0))
        grown = max(broad, 0.3)
        area(picture, Block(spot - grown / 2, 3.17, grown, 0.55), "frozen", share=0.3)
        text = f"block {lit + 1}: a weight is made wide, used, dropped"
        half = text_width(text, SIZE, "bold") / 2 + 0.25
        say = min(max(spot, half), WIDTH - half)
        word(picture, (say, 4.02), text, role="frozen", weight="bold")
        for y, role, way, now in [
            (1.36, "activations", "forward", forward),
            (1.0, "gradients", "backward", not forward),
        ]:
            track(picture, y, role, way, spot if now else None)
        key = [
            ("codes", "stored in 4 bits"),
            ("frozen", "wide, for a moment"),
            ("trained", "A and B, always wide"),
        ]
        for index, (role, text) in enumerate(key):
            x = LEFT + index * 3.4
            area(picture, Block(x, 0.34, 0.3, 0.2), role, share=0.3 if role == "frozen" else 1)
            word(picture, (x + 0.4, 0.44), text, role=role, ha="left")
        picture.alt = sentence(
            f"{layers} blocks lie stored in 4 bits, {number(stored)} {unit} in all",
            f"On the way {'forward' if forward else 'back'}, a weight of block {lit + 1} is made wide: "
            f"{number(wide)} {unit} more",
            "The codes stay where they are; A and B of every block are always wide",
        )
    return picture


def glow(picture: Picture, light: Block, sheet_: Block) -> None:
    """Light falls on the sheet round the lit layer, and not beyond the sheet."""
    left, right = max(light.x, sheet_.x), min(light.x + light.width, sheet_.x + sheet_.width)
    picture.add_patch(
        Rectangle((left, light.y), right - left, light.height, facecolor="#FFFFFF", alpha=0.13, linewidth=0)
    )


def track(picture: Picture, y: float, role: str, way: str, spot: float | None) -> None:
    """Draw the way of a pass over all layers, and where it stands now."""
    weight = "normal" if spot is None else "bold"
    word(picture, (LEFT, y), way, role=role if spot else None, ha="left", soft=not spot, weight=weight)
    ends = [(LEFT + 1.15, y), (RIGHT, y)]
    start, end = ends if role == "activations" else ends[::-1]
    color = ROLES[role] if spot else mix(ROLES[role], 0.35)
    arrow(picture, start, end, dashed=role == "gradients", color=color)
    if spot is not None:
        picture.plot(
            [max(spot, LEFT + 1.25)],
            [y],
            marker="o",
            markersize=11,
            color=ROLES[role],
            markeredgecolor=PAPER,
            markeredgewidth=2,
            zorder=6,
        )
