"""When a layer in few bits is faster: its speed over its tokens, and the roof that the hardware puts over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import Picture, drawing
from lora_edu.classroom.figures._marks import SIZE, label, name_lines, spread, tick, word_above
from lora_edu.classroom.figures._sentences import count_of, listed, number, sentence
from lora_edu.classroom.figures.palette import COLORS, INK, LINE_STYLES, MARKERS, PAPER, SOFT, mix

ROOM = 200  # times as far as the first place: where the names of cited speeds stand
SPEEDS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)


def speed_by_tokens(
    speeds: Mapping[str, ArrayLike],
    *,
    tokens: Sequence[int],
    cited: Mapping[str, float] | None = None,
    base: str = "16 bits",
    ylim: tuple[float, float] | None = None,
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw how many times as fast as a base some ways are, over the tokens at once; both axes logarithmic.

    Parameters
    ----------
    speeds : mapping of str to array
        Way to one number a place, shape (tokens,), above 0; at 1 it is as fast as the base.
    tokens : sequence of int
        Ascending, above 0; from 1 if there are cited speeds.
    cited : mapping of str to float, optional
        What others report at one token, by a name: drawn as open marks at the left.
    base : str
        What 1 is called.
    ylim : (float, float), optional
        Where the y axis begins and ends, for lines that a slider moves.
    title, alt, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty, a way has not one speed for each number of tokens, a speed is not above 0, or the numbers of
        tokens do not ascend from 1 as far as they must.
    """
    _check_tokens(tokens, from_one=bool(cited))
    drawn = {name: np.asarray(values, dtype=float) for name, values in speeds.items()}
    for name, values in drawn.items():
        if values.shape != (len(tokens),) or not (values > 0).all():
            raise ValueError(f"{name} must be {len(tokens)} speeds above 0, got {values}")
    places, others = np.asarray(tokens, dtype=float), dict(cited or {})
    with drawing(alt, ax) as picture:
        picture.axhline(1, color=INK, linewidth=1.4, linestyle=(0, (1, 1.5)))
        for index, values in enumerate(drawn.values()):
            style = LINE_STYLES[index % len(LINE_STYLES)], MARKERS[index % len(MARKERS)]
            picture.plot(places, values, color=COLORS[index], linestyle=style[0], marker=style[1])
        picture.set(xscale="log", yscale="log")
        picture.set_xlim(places[0] / (ROOM if others else 1.3), places[-1] * 1.15)
        if ylim is not None:
            picture.set_ylim(*ylim)
        picture.xaxis.set(major_locator=FixedLocator(places.tolist()), minor_locator=NullLocator())
        picture.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        picture.yaxis.set(major_locator=FixedLocator(SPEEDS), minor_locator=NullLocator())
        picture.yaxis.set_major_formatter(FuncFormatter(_fraction))
        label(picture, "tokens at once", f"times as fast as {base}", title)
        _cite(picture, float(places[0]), others)
        ends = [(float(places[-1]), float(values[-1])) for values in drawn.values()]
        name_lines(picture, list(drawn), ends, COLORS[: len(drawn)])
        picture.alt = sentence(
            title,
            f"Times as fast as {base}",
            *(f"{name}: {_at_ends(tokens, values)}" for name, values in drawn.items()),
            f"Reported at one token: {listed(f'{name} {number(x)}' for name, x in others.items())}"
            if others
            else "",
        )
    return picture


def roof_by_tokens(
    ways: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    tokens: Sequence[int],
    bandwidth: float,
    peak: float,
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw the roof of a chip and, below it, one line a way from few tokens to many.

    On the slope memory is the limit, on the flat arithmetic. Points of the first and the last way carry their number of
    tokens.

    Parameters
    ----------
    ways : mapping of str to sequence of (operations, bytes moved, seconds)
        At least two ways, for each one triple a number of tokens, all above 0.
    tokens : sequence of int
        Ascending.
    bandwidth, peak : float
        Bytes and operations a second, above 0: the slope of the roof and its flat.
    title, alt, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty, there are fewer than two ways, a number is not above 0, a way has not one triple for
        each number of tokens, or these do not ascend.

    References
    ----------
    Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model for multicore
    architectures", Communications of the ACM 52 (4), doi 10.1145/1498765.1498785.
    """
    _check_tokens(tokens, from_one=False)
    triples = {name: np.asarray(values, dtype=float) for name, values in ways.items()}
    if len(triples) < 2:
        raise ValueError(f"ways must be at least two, got {list(triples)}")
    for name, values in triples.items():
        if values.shape != (len(tokens), 3):
            raise ValueError(f"{name} must be {len(tokens)} triples, one a number of tokens, got {values}")
    for name, values in {"bandwidth": bandwidth, "peak": peak, **triples}.items():
        if not np.min(values) > 0:
            raise ValueError(f"{name} must be above 0, got {values}")
    bend = peak / bandwidth
    points = {name: (v[:, 0] / v[:, 1], v[:, 0] / v[:, 2]) for name, v in triples.items()}
    with drawing(alt, ax) as picture:
        low = min(float(x.min()) for x, _ in points.values()) / 8
        high = max(bend, *(float(x.max()) for x, _ in points.values())) * 3
        roof = np.array([low, bend, high])
        picture.loglog(roof, np.minimum(peak, bandwidth * roof), color=INK, linewidth=3)
        picture.axvspan(low, bend, color=mix(SOFT, 0.1), zorder=0)
        for index, (x, y) in enumerate(points.values()):
            style = LINE_STYLES[index % len(LINE_STYLES)], MARKERS[index % len(MARKERS)]
            picture.loglog(x, y, color=COLORS[index], linestyle=style[0], marker=style[1], markersize=9)
        picture.set_xlim(low, high)
        picture.set_ylim(min(float(y.min()) for _, y in points.values()) / 5, 3 * peak)
        picture.xaxis.set_major_formatter(FuncFormatter(tick))
        first, *_, last = points.values()
        _number_points(picture, first, tokens, above=True)
        _number_points(picture, last, tokens, above=False)
        label(picture, "operations a byte that must be moved", "operations a second", title)
        for word, place in (
            ("reading is the limit", (low * bend) ** 0.5),
            ("arithmetic is", (bend * high) ** 0.5),
        ):
            word_above(picture, place, word)
        name_lines(
            picture,
            list(points),
            [(float(x[-1]), float(y[-1])) for x, y in points.values()],
            COLORS[: len(points)],
        )
        picture.alt = sentence(
            f"The roof bends at {number(bend)} operations a byte",
            *(
                f"{name}: {_reached(tokens, x, y, np.minimum(peak, bandwidth * x))}"
                for name, (x, y) in points.items()
            ),
        )
    return picture


def _check_tokens(tokens: Sequence[int], *, from_one: bool) -> None:
    counts = list(tokens)
    if not counts or counts[0] < 1 or (np.diff(counts) <= 0).any():
        raise ValueError(f"tokens must be one or more numbers that ascend, the first 1 or more, got {counts}")
    if from_one and counts[0] != 1:
        raise ValueError(f"tokens must begin with 1 where speeds at one token are cited, got {counts}")


def _fraction(value: float, _: int | None = None) -> str:
    """A power of two as one says it.

    >>> _fraction(4), _fraction(0.125)
    ('4', '1/8')
    """
    return f"{value:g}" if value >= 1 else f"1/{1 / value:g}"


def _at_ends(tokens: Sequence[int], values: np.ndarray) -> str:
    return listed(f"{number(float(value))} at {token:,}" for token, value in zip(tokens, values, strict=True))


def _reached(tokens: Sequence[int], x: np.ndarray, y: np.ndarray, allowed: np.ndarray) -> str:
    """How far below the roof a way stands with the fewest and the most tokens."""
    ends = {count_of(tokens[place], "token"): y[place] / allowed[place] for place in (0, -1)}
    places = [f"{number(float(x[place]))} operations a byte" for place in (0, -1)]
    return listed(
        f"{share:.0%} of what it allows at {name} ({place})"
        for (name, share), place in zip(ends.items(), places, strict=True)
    )


def _number_points(
    picture: Picture, line: tuple[np.ndarray, np.ndarray], tokens: Sequence[int], *, above: bool
) -> None:
    for x, y, token in zip(*line, tokens, strict=True):
        picture.annotate(
            count_of(token, "token") if token == tokens[0] else f"{token:,}",
            (x, y),
            (-7, 6) if above else (8, -5),
            textcoords="offset points",
            ha="right" if above else "left",
            va="bottom" if above else "top",
            fontsize=SIZE,
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1, "alpha": 0.85},
        )


def _cite(picture: Picture, place: float, cited: Mapping[str, float]) -> None:
    """Open marks at one token, named to their left so that no two names meet."""
    if not cited:
        return
    for speed in cited.values():
        picture.plot([place], [speed], "o", color=PAPER, markeredgecolor=INK, markeredgewidth=2, markersize=9)
    texts = [
        picture.annotate(
            f"{name}: {speed:g}",
            (place, speed),
            (-14, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=SIZE,
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.5},
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 4},
        )
        for name, speed in cited.items()
    ]
    picture.text(0.02, 0.04, "open marks:\nreported", transform=picture.transAxes, fontsize=SIZE, color=SOFT)

    def place_names() -> None:
        height = picture.bbox.height
        at = [picture.transData.transform((place, speed))[1] - picture.bbox.y0 for speed in cited.values()]
        tall = [SIZE * 1.4 / 72 * picture.canvas.figure.dpi / height] * len(texts)
        points_a_dot = 72 / picture.canvas.figure.dpi
        for text, wanted, y in zip(texts, at, spread([a / height for a in at], tall), strict=True):
            text.set_position((-22, (y * height - wanted) * points_a_dot))

    picture.before_drawing.append(place_names)
