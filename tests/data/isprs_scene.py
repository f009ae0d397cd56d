"""A patch of an imaginary town as ISPRS publishes one: what Potsdam and Vaihingen have in common."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning

COLOURS = np.array(
    ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0), (0, 0, 0)), np.uint8
)
"""Impervious, building, low vegetation, tree, car, clutter; black between objects in the eroded labels."""
ABOVE_GROUND = np.array((0, 12, 0, 8, 2, 1), np.float32)
"""Metres."""


class Scene(NamedTuple):
    codes: np.ndarray
    """Class [rows, columns]."""
    eroded: np.ndarray
    """The same, 6 at the edges of objects."""
    bands: np.ndarray
    """Near infrared, red, green, blue [4, rows, columns]."""
    ground: np.ndarray
    height: np.ndarray
    """Metres above the ground, and of the ground above the sea."""


def draw_scene(seed: int, height: int, width: int) -> Scene:
    """Rectangles of every class on a road; what a sensor sees depends on the class. The same arguments give the same
    scene."""
    rng = np.random.default_rng(seed)
    codes = np.zeros((height, width), np.uint8)
    for number in range(max(24, height * width // 4000)):
        y, x = rng.integers(0, height), rng.integers(0, width)
        tall, wide = rng.integers(4, max(5, height // 3)), rng.integers(4, max(5, width // 3))
        codes[y : y + tall, x : x + wide] = number % 6
    edge = np.zeros(codes.shape, bool)
    edge[1:] |= codes[1:] != codes[:-1]
    edge[:, 1:] |= codes[:, 1:] != codes[:, :-1]
    brightness = np.array(
        (
            (60, 120, 110, 100),
            (50, 150, 80, 70),
            (180, 90, 120, 80),
            (200, 60, 90, 60),
            (80, 200, 40, 180),
            (90, 90, 60, 140),
        )
    )
    bands = np.moveaxis(brightness[codes], -1, 0) + rng.integers(-20, 21, (4, height, width))
    ground = 35 + 2 * np.sin(np.arange(width) / 40)[None] + np.arange(height)[:, None] / 200
    return Scene(
        codes,
        np.where(edge, 6, codes).astype(np.uint8),
        bands.astype(np.uint8),
        ground.astype(np.float32),
        ABOVE_GROUND[codes],
    )


def write(path: Path, values: np.ndarray, **profile: Any) -> None:
    """A raster [bands, rows, columns] or [rows, columns]; GeoTIFF unless the profile says otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = values if values.ndim == 3 else values[None]
    profile = {
        "driver": "GTiff",
        "count": len(values),
        "height": values.shape[1],
        "width": values.shape[2],
        "dtype": values.dtype,
        **profile,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # as much of what is published
        with rasterio.open(path, "w", **profile) as file:
            file.write(values)


def colours(codes: np.ndarray) -> np.ndarray:
    """Codes as a label's colours [3, rows, columns]."""
    return np.moveaxis(COLOURS[codes], -1, 0)
