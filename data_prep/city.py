"""A city from above, drawn from a random generator: what stands where, how high it is and what colour it has.

Nothing here knows about sensors; `data_prep.synthetic` looks at the city with four of them. Lengths are in pixels of
GROUND_SAMPLE metres, heights in metres.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

GROUND_SAMPLE = 0.4
"""Metres per pixel: a car is 11 x 5 pixels, a house 20 to 60."""
IMPERVIOUS, BUILDING, LOW_VEGETATION, TREE, CAR = range(5)

# Roofs repeat the greys of streets and yards on purpose: by colour alone they cannot be told apart.
ROOFS = np.array(
    [
        (102, 101, 103),
        (64, 64, 68),
        (157, 154, 148),
        (126, 124, 120),
        (150, 84, 66),
        (118, 92, 74),
        (118, 127, 138),
        (84, 83, 84),
    ],
    np.float32,
)
ROOF_SHARES = np.array([0.24, 0.2, 0.14, 0.14, 0.1, 0.06, 0.04, 0.08])
CARS = np.array(
    [(225, 225, 222), (38, 38, 42), (128, 130, 134), (170, 172, 176), (158, 34, 32), (40, 66, 130), (196, 168, 60)],
    np.float32,
)
CAR_SHARES = np.array([0.24, 0.22, 0.18, 0.14, 0.1, 0.08, 0.04])


class City(NamedTuple):
    """The contents of a tile. All arrays [size, size], `colour` with a last axis of red, green, blue (0 to 255)."""

    label: np.ndarray
    terrain: np.ndarray
    """Height of the bare ground."""
    height: np.ndarray
    """Height of roofs, crowns and cars above it."""
    colour: np.ndarray
    infrared: np.ndarray
    """Near infrared, 0 to 255."""


class _Canvas(NamedTuple):
    label: np.ndarray
    height: np.ndarray
    colour: np.ndarray
    infrared: np.ndarray

    def at(self, window: tuple[slice, slice]) -> _Canvas:
        """Return a window of it, which shares its memory."""
        return _Canvas(*(layer[window] for layer in self))


class _Streets(NamedTuple):
    angle: float
    """Direction of the streets, in radians."""
    along: tuple[np.ndarray, np.ndarray]
    """Pixels of the carriageways that run along the angle, and across it."""
    paved: np.ndarray
    """Carriageways and pavements."""
    parking: np.ndarray


def smooth_noise(rng: np.random.Generator, size: int, cell: float) -> np.ndarray:
    """Noise float32 [size, size] of about unit variance that changes over `cell` pixels."""
    count = max(2, int(np.ceil(size / cell)) + 2)
    position = (np.arange(size) / cell).astype(np.float32) + rng.random(dtype=np.float32)
    index = np.minimum(position.astype(int), count - 2)
    part = position - index
    grid = rng.standard_normal((count, count), dtype=np.float32)
    # Elementwise and not as matrix products: those differ in the last bit between machines.
    rows = grid[index] * (1 - part)[:, None] + grid[index + 1] * part[:, None]
    # Bilinear interpolation averages neighbours, which costs a third of the standard deviation per axis.
    return 1.5 * (rows[:, index] * (1 - part) + rows[:, index + 1] * part)


def draw_city(rng: np.random.Generator, size: int) -> City:
    """A piece of city, size x size pixels."""
    terrain = 32 + 1.2 * rng.standard_normal() + 1.0 * smooth_noise(rng, size, 90) + 0.3 * smooth_noise(rng, size, 30)
    canvas = _Canvas(
        np.full((size, size), LOW_VEGETATION, np.uint8),
        np.zeros((size, size), np.float32),
        np.zeros((size, size, 3), np.float32),
        np.zeros((size, size), np.float32),
    )
    streets = _draw_ground(rng, canvas)
    _draw_buildings(rng, canvas, streets)
    _draw_cars(rng, canvas, streets)
    _draw_trees(rng, canvas, streets)
    return City(canvas.label, terrain.astype(np.float32), canvas.height, canvas.colour, canvas.infrared)


def _draw_ground(rng: np.random.Generator, canvas: _Canvas) -> _Streets:
    size = len(canvas.label)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    bend = rng.uniform(0, 7) * smooth_noise(rng, size, 120)
    u = -x * np.sin(angle) + y * np.cos(angle) + bend + rng.uniform(0, 1000)
    v = x * np.cos(angle) + y * np.sin(angle) + rng.uniform(0, 1000)
    (period_u, period_v), (width_u, width_v) = rng.uniform((85, 120), (120, 200)), rng.uniform(14, 23, 2)
    from_u, from_v = np.abs(u % period_u - period_u / 2), np.abs(v % period_v - period_v / 2)
    road_u, road_v = from_u < width_u / 2, from_v < width_v / 2
    road = road_u | road_v
    pavement = ~road & ((from_u < width_u / 2 + 4) | (from_v < width_v / 2 + 4))
    kind = rng.random((7, 7))[(u // period_u).astype(int) % 7, (v // period_v).astype(int) % 7]
    parking = ~road & ~pavement & (kind < 0.22) & (smooth_noise(rng, size, 40) < 1.0)
    yard = ~road & ~pavement & (kind > 0.4) & (smooth_noise(rng, size, 22) > 0.75)

    lawn = np.array((92, 116, 66), np.float32) + rng.uniform(-12, 12, 3).astype(np.float32)
    dry = np.clip(0.35 + 0.4 * smooth_noise(rng, size, 35) + rng.uniform(-0.3, 0.3), 0, 1)[..., None]
    canvas.colour[:] = lawn * (1 - dry) + np.array((136, 126, 92), np.float32) * dry
    canvas.infrared[:] = 172 - 55 * dry[..., 0] + 7 * smooth_noise(rng, size, 4)
    grain = smooth_noise(rng, size, 9)
    for mask, grey in (
        (road, rng.uniform(72, 125)),
        (pavement, rng.uniform(125, 165)),
        (parking, rng.uniform(75, 140)),
        (yard, rng.uniform(95, 160)),
    ):
        paint = grey * np.array((1.0, 0.99, 0.97), np.float32) + 5 * grain[mask][:, None]
        _paint(canvas, mask, IMPERVIOUS, 0.0, paint, 0.82 * paint[:, 0])
    middle = (road_u & ~road_v & (from_u < 0.8) & (v % 22 < 11)) | (road_v & ~road_u & (from_v < 0.8) & (u % 22 < 11))
    canvas.colour[middle], canvas.infrared[middle] = 205, 165
    return _Streets(
        angle,
        (road_u & ~road_v & (from_u > 3.2) & (from_u < width_u / 2 - 2.6), road_v & ~road_u & (from_v > 3.2)),
        road | pavement,
        parking,
    )


def _draw_buildings(rng: np.random.Generator, canvas: _Canvas, streets: _Streets) -> None:
    size = len(canvas.label)
    taken = streets.paved.copy()
    tries = int(np.ceil((size + 30) ** 2 / 420))
    lengths = np.sort(np.exp(rng.normal(np.log(27), 0.5, tries)).clip(8, 110))[
        ::-1
    ]  # large first: small ones fill the gaps
    for length in lengths:
        width = length * rng.uniform(0.45, 1.0)
        turn = streets.angle + rng.integers(2) * np.pi / 2 if rng.random() < 0.55 else rng.uniform(0, np.pi)
        centre, height, style = rng.uniform(-15, size + 15, 2), rng.gamma(4.0, 1.6) + 2.6, rng.random(6)
        colour = ROOFS[rng.choice(len(ROOFS), p=ROOF_SHARES)] + rng.uniform(-9, 9)
        window, a, b = _local(centre, turn, 0.5 * np.hypot(length, width) + 4, size)
        if a.size == 0:
            continue
        near = (np.abs(a) < length / 2 + 3) & (np.abs(b) < width / 2 + 3)
        if not near.any() or (taken[window] & near).any() or (streets.parking[window] & near).mean() > 0.1:
            continue
        mask = (np.abs(a) < length / 2) & (np.abs(b) < width / 2)
        if style[0] < 0.35 and length > 22:  # L-shaped
            mask &= ~((a > length * (style[1] - 0.5) * 0.6) & (b > width * (style[2] - 0.5) * 0.6))
        if not mask.any():
            continue
        gabled = style[3] < 0.45 and width < 45
        roof = np.full(a.shape, height, np.float32)
        if gabled:
            roof += 0.3 * GROUND_SAMPLE * (width / 2 - np.abs(b)).clip(0) * 1.6
        else:  # plant rooms, skylights
            roof += 1.5 * (
                (np.abs(a - length * (style[4] - 0.5) * 0.6) < 3) & (np.abs(b - width * (style[5] - 0.5) * 0.6) < 2.5)
            )
        seams = 3.5 * np.sign(np.sin(a * 1.3)) if style[4] < 0.4 else 0.0
        paint = np.clip(
            colour + (np.zeros(a.shape) + seams)[..., None] + rng.normal(0, 2.5, a.shape)[..., None], 20, 235
        )[mask]
        _paint(canvas.at(window), mask, BUILDING, roof[mask], paint, 0.8 * paint[:, 0] + 6)
        taken[window] |= near


def _draw_cars(rng: np.random.Generator, canvas: _Canvas, streets: _Streets) -> None:
    size = len(canvas.label)
    taken = canvas.label != IMPERVIOUS
    places = (
        (streets.along[0], streets.angle, 300),
        (streets.along[1], streets.angle + np.pi / 2, 300),
        (streets.parking, None, 130),
    )
    for mask, angle, area in places:
        pixels = np.flatnonzero(mask)
        rows = streets.angle + rng.integers(2) * np.pi / 2  # one direction of parking for a tile
        for _ in range(rng.poisson(pixels.size / area)):
            centre = np.array(np.unravel_index(rng.choice(pixels), mask.shape), np.float64)
            turn = (rows if angle is None else angle) + rng.normal(0, 0.06)
            van = rng.random() < 0.12
            length, width = (
                (rng.uniform(15, 24), rng.uniform(5.6, 6.4)) if van else (rng.uniform(9.5, 12.5), rng.uniform(4.4, 5.4))
            )
            colour = CARS[rng.choice(len(CARS), p=CAR_SHARES)] + rng.uniform(-12, 12)
            window, a, b = _local(centre, turn, length / 2 + 3, size)
            near = (np.abs(a) < length / 2 + 1) & (np.abs(b) < width / 2 + 1)
            if (taken[window] & near).any():
                continue
            body = (np.abs(2 * a / length) ** 4 + np.abs(2 * b / width) ** 4) < 1
            glass = ((np.abs(a - length * 0.17) < 1.1) | (np.abs(a + length * 0.33) < 0.8)) & (np.abs(b) < width * 0.4)
            paint = np.where((glass & (not van))[..., None], 45, colour)[body]
            _paint(canvas.at(window), body, CAR, 2.9 if van else 1.5, paint, 0.85 * paint[:, 0] + 8)
            taken[window] |= near


def _draw_trees(rng: np.random.Generator, canvas: _Canvas, streets: _Streets) -> None:
    size = len(canvas.label)
    built = canvas.label == BUILDING
    for _ in range(rng.poisson(size * size / 1300 * rng.choice((0.5, 1.0, 1.8)))):
        cluster = rng.uniform(-8, size + 8, 2)
        crown = np.array(
            ((58, 84, 46), (72, 98, 52), (88, 104, 58), (104, 92, 56))[rng.choice(4, p=(0.4, 0.3, 0.2, 0.1))],
            np.float32,
        )
        for _ in range(1 + rng.poisson(rng.choice((0.2, 1.5, 6.0)))):
            centre, radius = cluster + rng.normal(0, 9, 2), rng.uniform(3.5, 13)
            top, phase, lobes = (
                rng.uniform(0.55, 1.0) * (2.2 + radius * 0.95),
                rng.uniform(0, 6.28, 2),
                rng.uniform(0.04, 0.13, 2),
            )
            tint, brightness = rng.uniform(-8, 8, 3).astype(np.float32), rng.uniform(150, 225)
            row, column = (min(max(int(c), 0), size - 1) for c in centre)
            if built[row, column] or (streets.paved[row, column] and rng.random() < 0.75):
                continue
            window, a, b = _local(centre, 0.0, radius * 1.3, size)
            if a.size == 0:
                continue
            bearing = np.arctan2(b, a)
            edge = radius * (1 + lobes[0] * np.sin(3 * bearing + phase[0]) + lobes[1] * np.sin(7 * bearing + phase[1]))
            distance = np.hypot(a, b) / edge
            leaves = rng.random(a.shape, dtype=np.float32)
            height = top * np.sqrt(np.clip(1 - distance**2, 0, 1)) * 0.6 + 0.4 * top + 1.1 * leaves - 0.5
            mask = (distance + 0.12 * leaves < 1.03) & (height > canvas.height[window])
            shade = (0.72 + 0.56 * leaves[mask])[:, None]
            _paint(
                canvas.at(window),
                mask,
                TREE,
                height[mask],
                (crown + tint) * shade,
                brightness * (0.8 + 0.4 * leaves[mask]),
            )


def _local(
    centre: np.ndarray, turn: float, radius: float, size: int
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """The window around a centre (row, column), and in it the coordinates along and across the direction `turn`."""
    low = [min(max(math.floor(c - radius), 0), size) for c in centre]
    high = [min(max(math.ceil(c + radius) + 1, 0), size) for c in centre]
    y = np.arange(low[0], high[0], dtype=np.float32)[:, None] - np.float32(centre[0])
    x = np.arange(low[1], high[1], dtype=np.float32)[None] - np.float32(centre[1])
    cos, sin = np.float32(math.cos(turn)), np.float32(math.sin(turn))
    return (slice(low[0], high[0]), slice(low[1], high[1])), x * cos + y * sin, y * cos - x * sin


def _paint(
    canvas: _Canvas,
    mask: np.ndarray,
    label: int,
    height: float | np.ndarray,
    colour: np.ndarray,
    infrared: np.ndarray,
) -> None:
    canvas.label[mask] = label
    canvas.height[mask] = height
    canvas.colour[mask] = colour
    canvas.infrared[mask] = infrared
