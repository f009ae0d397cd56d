"""Rasters that cannot be meant as they are: refused by converter and prediction alike, before anything is read of them.

The numbers of such a file could be read, and would be wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader

from sgma_jax.data.grid import matrix_of
from sgma_jax.data.rasters import Rasters
from sgma_jax.data.schema import DTYPES
from sgma_jax.errors import InputError

LOOK = 256
"""Rows and columns of an alpha band that are looked at."""


def check_raster(rasters: Rasters, path: Path | str, chosen: Sequence[int] = ()) -> list[int]:
    """Return the numbers of a sensor's bands in a file: those `chosen`, all but alpha by default.

    Raises InputError for a file without bands or of several pages, bands of several or unknown types, a palette, and a
    place that is none.
    """
    dataset = rasters.open(path)
    check_place(dataset, path)
    if dataset.subdatasets:
        first = dataset.subdatasets[0]
        raise InputError(
            f"{path} holds {len(dataset.subdatasets)} rasters (pages or subdatasets), of which one can be read. Give "
            f"one of them ({first}), or make them the bands of one file (gdalbuildvrt -separate)."
        )
    bands = list(chosen) or rasters.bands(path)
    if not dataset.count:
        raise InputError(f"{path} has no band. Give a raster with data.")
    if not bands:
        raise InputError(f"{path} has an alpha band and nothing else. Give a raster with data.")
    if wrong := [band for band in bands if not 1 <= band <= dataset.count]:
        raise InputError(f"{path} has {dataset.count} bands, and band {wrong[0]} is not among them. Correct --bands.")
    types = [dataset.dtypes[band - 1] for band in bands]
    if len(set(types)) > 1:
        raise InputError(
            f"{path} has bands of several types ({', '.join(dict.fromkeys(types))}), and a sensor has one. Make them "
            f"alike (gdal_translate -ot Float32), or give them to sensors of their own."
        )
    if types[0] not in DTYPES:
        raise InputError(f"{path} is of type {types[0]}. Convert the raster to one of {', '.join(DTYPES)}.")
    if any(dataset.colorinterp[band - 1] == ColorInterp.palette for band in bands):
        raise InputError(
            f"{path} is a palette image: its numbers are places in a table of colours, no brightness. Expand it "
            f"(gdal_translate -expand rgb IN OUT)."
        )
    for band in () if chosen else set(dataset.indexes) - set(bands):
        if not _is_mask(dataset, band):
            raise InputError(
                f"{path}: band {band} is marked as alpha, but holds other values than a mask's two. If it is data, say "
                f"so (gdal_edit.py -colorinterp_{band} undefined {Path(path).name})."
            )
    return bands


def _is_mask(dataset: DatasetReader, band: int) -> bool:
    """Return whether a band, looked at coarsely, holds 0 and one other value, but for a hundredth: soft edges [C]."""
    shape = (min(dataset.height, LOOK), min(dataset.width, LOOK))
    _, counts = np.unique(dataset.read(band, out_shape=shape), return_counts=True)
    return bool(np.sort(counts)[:-2].sum() <= 0.01 * counts.sum())


def check_place(dataset: DatasetReader, path: Path | str) -> None:
    """Raise InputError for a raster that lies where ground control points say, and for one whose place is none."""
    if dataset.crs is None and (dataset.gcps[0] or dataset.rpcs):
        raise InputError(
            f"{path} has ground control points or RPCs only, no grid of its own. Warp it first (gdalwarp -r bilinear "
            f"-t_srs EPSG:... IN OUT)."
        )
    matrix = matrix_of(dataset)
    if not np.isfinite(matrix).all():
        raise InputError(f"{path} lies nowhere: its geotransform is not finite. Correct it (gdal_edit.py -a_ullr ...).")
    if np.linalg.det(matrix) == 0:
        raise InputError(
            f"{path} has pixels of no size (its geotransform is singular). Correct it (gdal_edit.py -a_ullr ...)."
        )
