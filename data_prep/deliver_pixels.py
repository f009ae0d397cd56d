"""Pixels of a DELIVER frame: windows of its images on the label's grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rasterio.windows import Window

from data_prep.tiling import Span
from sgma_jax.data.rasters import Rasters
from sgma_jax.data.schema import IGNORE

CLASSES = (
    "Building",
    "Fence",
    "Other",
    "Pedestrian",
    "Pole",
    "RoadLine",
    "Road",
    "SideWalk",
    "Vegetation",
    "Cars",
    "Wall",
    "TrafficSign",
    "Sky",
    "Ground",
    "Bridge",
    "RailTrack",
    "GroundRail",
    "TrafficLight",
    "Static",
    "Dynamic",
    "Water",
    "Terrain",
    "TwoWheeler",
    "Bus",
    "Truck",
)
PALETTE = (
    (70, 70, 70),
    (100, 40, 40),
    (55, 90, 80),
    (220, 20, 60),
    (153, 153, 153),
    (157, 234, 50),
    (128, 64, 128),
    (244, 35, 232),
    (107, 142, 35),
    (0, 0, 142),
    (102, 102, 156),
    (220, 220, 0),
    (70, 130, 180),
    (81, 0, 81),
    (150, 100, 100),
    (230, 150, 140),
    (180, 165, 180),
    (250, 170, 30),
    (110, 190, 160),
    (170, 120, 50),
    (45, 60, 150),
    (145, 170, 100),
    (0, 0, 230),
    (0, 60, 100),
    (0, 0, 70),
)
END = b"IEND\xaeB`\x82"
"""The last chunk of every PNG."""
_CODES = np.full(256, IGNORE, np.uint8)
_CODES[1 : len(CLASSES) + 1] = np.arange(len(CLASSES), dtype=np.uint8)


def channels_of(stored: int) -> int:
    """Channels that count of an image with 1 to 4: an alpha channel does not, whether of grey or of colour."""
    return 1 if stored < 3 else 3


def decode_label(raw: np.ndarray) -> np.ndarray:
    """Classes of the label's first channel (uint8): 1 to 25 are the classes 0 to 24, everything else is ignored."""
    codes: np.ndarray = _CODES[raw]
    return codes


def is_whole_png(path: Path) -> bool:
    """Return whether the file has a PNG's end; some writers leave a few bytes behind it."""
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - 1024))
        return END in file.read()


def read_label(rasters: Rasters, path: Path, row: Span, column: Span) -> np.ndarray:
    """uint8 [rows, columns]: the label's first channel, as stored."""
    return rasters.window(path, [1], _window(row, column))[0]


def read_image(
    rasters: Rasters, path: Path, channels: int, shape: tuple[int, int], row: Span, column: Span
) -> np.ndarray:
    """[rows, columns, channels] of a frame of `shape`: an image of another size is resized to it by nearest
    neighbour, as the set's authors do.

    Of four channels the first three are taken, a single one is repeated where three are asked for.
    """
    dataset = rasters.open(path)
    # PyTorch's rule for "nearest", which is the published loader's: pixel i of n shows pixel floor(i * m / n) of m.
    rows = np.arange(row.start, row.stop) * dataset.height // shape[0]
    columns = np.arange(column.start, column.stop) * dataset.width // shape[1]
    window = Window(int(columns[0]), int(rows[0]), int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1)
    values = rasters.window(path, list(range(1, channels_of(dataset.count) + 1)), window)
    values = values[:, (rows - rows[0])[:, None], columns - columns[0]]
    return np.ascontiguousarray(np.broadcast_to(np.moveaxis(values, 0, -1), (*values.shape[1:], channels)))


def _window(row: Span, column: Span) -> Window:
    return Window(column.start, row.start, column.stop - column.start, row.stop - row.start)
