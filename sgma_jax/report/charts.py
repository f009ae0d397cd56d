"""Charts as inline SVG: curves and reliability diagrams. Colours are variables of style.css, so that they follow
light, dark and print.

Every chart is an image with a title and a description for readers who do not see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape

from sgma_jax.runs.results import Calibration
from sgma_jax.show.tables import percent

WIDTH, HEIGHT = 400, 240
LEFT, RIGHT, TOP, BOTTOM = 44, 92, 12, 34
"""Margins of a chart of curves; on the right stand the names of the lines."""
MOST_POINTS = 120
"""Points of a line; longer ones are shown as means of equal stretches."""
MARKED_POINTS = 24
"""Lines of at most so many points mark each, with its value as a tooltip."""
LABEL_DISTANCE = 13.0


class Line(NamedTuple):
    """One line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str
    """Class in style.css: "c0" .. "c7" are the sensors' colours, "ink" is that of the text; "dashed" may follow."""


class Axis(NamedTuple):
    """The upright axis of a chart."""

    name: str
    low: float | None = None
    """Where the axis begins; None lets the data decide."""
    high: float | None = None


def line_chart(identity: str, title: str, lines: Sequence[Line], axis: Axis, *, across: str = "step") -> Markup:
    """Curves over `across`. `identity` is unique in the page; lines without points are left out, and without any
    line it is empty."""
    lines = [line._replace(points=_thinned(line.points)) for line in lines if line.points]
    if not lines:
        return Markup()
    x_end = max(x for line in lines for x, _ in line.points)
    x_begin = min(0.0, *(x for line in lines for x, _ in line.points))
    values = [y for line in lines for _, y in line.points]
    ticks = nice_ticks(min(values) if axis.low is None else axis.low, max(values) if axis.high is None else axis.high)
    low, high = min(ticks[0], *values), max(ticks[-1], *values)

    def place(x: float, y: float) -> tuple[float, float]:
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        return LEFT + (x - x_begin) / max(x_end - x_begin, 1e-12) * (right - LEFT), bottom - (y - low) / max(
            high - low, 1e-12
        ) * (bottom - TOP)

    parts = [_upright(ticks, lambda y: place(x_begin, y)[1], WIDTH - RIGHT)]
    for tick in nice_ticks(x_begin, x_end, 4):
        if x_begin <= tick <= x_end:
            parts.append(_text(place(tick, low)[0], HEIGHT - BOTTOM + 16, f"{tick:g}", "tick middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 3, across, "tick middle"))
    heights = _apart([place(*line.points[-1])[1] for line in lines])
    for line, height in zip(lines, heights, strict=True):
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (place(*p) for p in line.points))
        parts.append(Markup('<path class="line {}" d="M{}"/>').format(line.style, path))
        if len(line.points) <= MARKED_POINTS:
            for x, y in line.points:
                cx, cy = (f"{v:.1f}" for v in place(x, y))
                name = f"{line.name}, {across} {x:g}: {y:.4g}"
                parts.append(
                    Markup('<circle class="dot {}" cx="{}" cy="{}" r="3"><title>{}</title></circle>').format(
                        line.style, cx, cy, name
                    )
                )
        end = place(*line.points[-1])
        parts.append(
            Markup('<path class="lead {}" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>').format(
                line.style, *end, WIDTH - RIGHT + 10, height
            )
        )
        parts.append(_text(WIDTH - RIGHT + 13, height + 4, _short(line.name), f"name {line.style}"))
    said = "; ".join(f"{line.name} from {line.points[0][1]:.3g} to {line.points[-1][1]:.3g}" for line in lines)
    return _image(identity, title, f"{axis.name} over {across} {x_begin:g} to {x_end:g}: {said}.", parts, WIDTH, HEIGHT)


def reliability_chart(identity: str, title: str, calibration: Calibration) -> Markup:
    """Share of right answers over their probability, against the diagonal, and below how many pixels answer so."""
    side, left, top, share_top, share_height = 220.0, 44.0, 12.0, 262.0, 44.0
    count = len(calibration.bins)
    most = max(b.pixels for b in calibration.bins) or 1
    total = sum(b.pixels for b in calibration.bins) or 1
    parts = [_upright([0, 0.2, 0.4, 0.6, 0.8, 1.0], lambda y: top + side * (1 - y), left + side)]
    for number, one in enumerate(calibration.bins):
        if one.accuracy is None or one.confidence is None:
            continue
        x, width = left + side * number / count, side / count
        said = (
            f"probability {number / count:.2f} to {(number + 1) / count:.2f}: {one.pixels:,} pixels, "
            f"{percent(one.accuracy)} % right"
        )
        said += f", mean probability {percent(one.confidence)} %"
        bars = [
            ("bar", top + side * (1 - one.accuracy), side * one.accuracy),
            ("share", share_top, share_height * one.pixels / most),
        ]
        gap = sorted((one.accuracy, one.confidence))
        bars.append(("gap", top + side * (1 - gap[1]), side * (gap[1] - gap[0])))
        inner = [
            Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
                kind, x + 0.75, y, width - 1.5, height
            )
            for kind, y, height in bars
        ]
        parts.append(Markup("<g><title>{}</title>{}</g>").format(said, Markup("").join(inner)))
    parts.append(Markup('<path class="diagonal" d="M{} {}L{} {}"/>').format(left, top + side, left + side, top))
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1):
        parts.append(_text(left + side * tick, top + side + 15, f"{tick:g}", "tick middle"))
    parts.append(
        _text(
            left + side / 2,
            share_top + share_height + 14,
            "probability of the answer (below: share of pixels)",
            "tick middle",
        )
    )
    confident = calibration.bins[-1].pixels / total
    said = f"Share of right answers by their probability; expected calibration error {percent(calibration.ece)} %. "
    said += f"{percent(confident)} % of the pixels answer with a probability above {1 - 1 / count:.2f}."
    return _image(identity, title, said, parts, 290, 324)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers that span low to high: multiples of 1, 2 or 5 times a power of ten."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _upright(ticks: Sequence[float], place: Callable[[float], float], right: float) -> Markup:
    parts = []
    for tick in ticks:
        y = place(tick)
        parts.append(Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(LEFT, y, right))
        parts.append(_text(LEFT - 6, y + 4, f"{tick:g}", "tick end"))
    return Markup("").join(parts)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MOST_POINTS points: the means of equal stretches; the last point stays as it is."""
    if len(points) <= MOST_POINTS:
        return list(points)
    stretches = np.array_split(np.asarray(points[:-1], float), MOST_POINTS - 1)
    return [(float(x), float(y)) for x, y in (s.mean(0) for s in stretches)] + [points[-1]]


def _apart(heights: Sequence[float]) -> list[float]:
    """The heights moved, in their order, so that names at them do not overlap, and kept inside the chart."""
    order = np.argsort(heights, kind="stable")
    placed = np.asarray(heights, float)
    for above, below in pairwise(order):
        placed[below] = max(placed[below], placed[above] + LABEL_DISTANCE)
    if (over := placed[order[-1]] - (HEIGHT - BOTTOM)) > 0:
        placed[order[-1]] -= over
        for below, above in pairwise(order[::-1]):
            placed[above] = min(placed[above], placed[below] - LABEL_DISTANCE)
    return placed.tolist()


def _short(name: str, most: int = 13) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _text(x: float, y: float, text: str, style: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(style, x, y, text)


def _image(identity: str, title: str, description: str, parts: Sequence[Markup], width: float, height: float) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{id}-title {id}-description">'
        '<title id="{id}-title">{title}</title><desc id="{id}-description">{description}</desc>{parts}</svg>'
    ).format(
        width=width,
        height=height,
        id=escape(identity),
        title=title,
        description=description,
        parts=Markup("").join(parts),
    )
