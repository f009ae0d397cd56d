"""Grids of pixels: where they lie, and how two lie to each other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.io import DatasetReader

PLANE = CRS.from_epsg(3857)
"""[C] Any projected CRS: equal ones are compared without a transformation."""


class Grid(NamedTuple):
    """Rows and columns of pixels, and where they lie."""

    crs: CRS | None
    """None where nothing is known but rows and columns."""
    transform: Affine
    """From (column, row) to coordinates."""
    height: int
    width: int

    @property
    def placed(self) -> bool:
        """True where anything says where the pixels lie: a CRS, or a geotransform."""
        return self.crs is not None or self.transform != Affine.identity()

    def beside(self, other: Grid) -> tuple[Grid, Grid] | None:
        """Return both grids with CRSs that can be compared; None where one has no place.

        [C] A grid with a geotransform and no CRS counts as being in the other's. Where neither states one, both get
        PLANE.
        """
        if not (self.placed and other.placed):
            return None
        crs = self.crs or other.crs or PLANE
        return self._replace(crs=self.crs or crs), other._replace(crs=other.crs or crs)


def shift_between(image: Grid, grid: Grid) -> tuple[int, int] | None:
    """Row and column of the grid at which the raster's first pixel lies; None where its pixels are not the grid's."""
    if image.crs != grid.crs:
        return None
    place = np.linalg.inv(matrix_of(grid)) @ matrix_of(image)
    column, row = round(place[0, 2]), round(place[1, 2])
    # In pixels at the far corner.
    offset = (place - ((1, 0, column), (0, 1, row), (0, 0, 1))) * (image.width, image.height, 1)
    return (row, column) if np.abs(offset).max() < 0.01 else None


def matrix_of(dataset: DatasetReader | Grid) -> np.ndarray:
    """3 x 3 matrix from (column, row, 1) to coordinates."""
    return np.array(dataset.transform, np.float64).reshape(3, 3)


def crs_name(grid: Grid) -> str:
    """Return a grid's CRS for people, such as EPSG:32632."""
    code = grid.crs and grid.crs.to_authority()
    return ":".join(code) if code else f"a CRS of its own ({' '.join(str(grid.crs).split())[:60]} ...)"
