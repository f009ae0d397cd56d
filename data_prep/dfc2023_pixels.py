"""Pixels of a DFC2023 scene: what each sensor saw, where it saw anything, and what is known about the ground."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rasterio.features import rasterize, shapes, sieve

from data_prep.dfc2023_files import MODALITY_NAMES
from data_prep.footprints import Raster
from sgma_jax.data.rasters import Box, Rasters
from sgma_jax.data.schema import IGNORE, Modality
from sgma_jax.data.values import as_stored

BUILDING = 1
MODALITIES = {
    "rgb": Modality("rgb", 3, "digital number", "uint8", band_names=("red", "green", "blue")),
    "dsm": Modality("dsm", 1, "metre", "float32"),
    # [C] The range of the clipping: what was measured in the set lies between -16 and 11 dB.
    "sar": Modality("sar", 1, "decibel", "float32", log=True, clip=(-30.0, 20.0)),
}
"""The sensors; their files have the same bands and types, SAR as intensities."""
STRIP = 1024
"""[C] Pixels of a black area at a scene's edge from which it is taken for the end of the image and not for a shadow.
Those of the set have 2,000 and more."""


class Seen(NamedTuple):
    """The pixels of one file."""

    values: np.ndarray
    """[height, width, bands], as stored."""
    valid: np.ndarray
    """bool [height, width]: not nodata, not masked and finite."""


class Pixels(NamedTuple):
    """One whole scene."""

    images: dict[str, np.ndarray]
    """Sensor -> [height, width, bands]; SAR in decibels. Only of the sensors that the scene has."""
    available: np.ndarray
    """bool [sensor, height, width]."""
    label: np.ndarray
    """uint8 [height, width]."""
    strip: np.ndarray
    """bool [height, width]: outside the optical image."""
    too_high: np.ndarray
    """bool [height, width]: heights that no building of the set has."""


def read_modality(rasters: Rasters, path: Path) -> Seen:
    """A file's pixels. InputError where it cannot be read."""
    dataset = rasters.open(path)
    box = Box(0, 0, max(dataset.shape))
    if len(rasters.bands(path)) > 1:
        values, valid = rasters.image(path, path, box)
        return Seen(values[: dataset.height, : dataset.width], valid[: dataset.height, : dataset.width])
    values = rasters.plain(path, box)
    valid = np.isfinite(values)
    # 0 is ground, and two thirds of the heights: a nodata value of 0 is not to be believed.
    if dataset.nodata is not None and dataset.nodata != 0:
        valid &= values != values.dtype.type(dataset.nodata)
    return Seen(values[..., None], valid)


def compose(seen: Mapping[str, Seen], footprints: Raster, max_height: float) -> Pixels:
    """The scene as it is converted."""
    shape = (footprints.height, footprints.width)
    available = np.stack([seen[name].valid if name in seen else np.zeros(shape, bool) for name in MODALITY_NAMES])
    rgb, dsm, sar = available  # views: what is changed below is changed in `available`
    images = {name: part.values for name, part in seen.items()}
    building = footprints.mask()
    label = building.astype(np.uint8) * BUILDING
    strip, too_high = np.zeros(shape, bool), np.zeros(shape, bool)
    if "rgb" in images:
        strip = find_strip(images["rgb"])
        rgb &= ~strip
        # Footprints were drawn on the optical image: where it ends, no footprint does not mean no building.
        label[strip & ~building] = IGNORE
    if "dsm" in images:
        height = images["dsm"][..., 0]
        too_high = dsm & (height > max_height)
        dsm &= ~too_high & ~(strip & (height == 0))
    if "sar" in images:
        images["sar"], sar[:] = as_stored(images["sar"], sar, MODALITIES["sar"])
    return Pixels(images, available, label, strip, too_high)


def find_strip(rgb: np.ndarray) -> np.ndarray:
    """bool [height, width]: large black areas that touch the edge of the image [height, width, 3]."""
    black = (rgb == 0).all(-1)
    if black.sum() < STRIP:
        return np.zeros_like(black)
    large = black & (sieve(black.astype(np.uint8), STRIP) > 0)
    height, width = black.shape
    touching = []
    for shape, _ in shapes(large.astype(np.uint8), mask=large):
        x, y = np.array(shape["coordinates"][0]).T
        if x.min() == 0 or y.min() == 0 or x.max() == width or y.max() == height:
            touching.append((shape, 1))
    return rasterize(touching, black.shape).astype(bool) if touching else np.zeros_like(black)
