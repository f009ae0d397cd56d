"""The grid of a map: that of a sensor's files, or one that is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.transform import Affine, from_origin
from rasterio.warp import calculate_default_transform, transform_bounds
from rasterio.windows import Window

from sgma_jax.data.grid import Grid
from sgma_jax.data.rasters import Rasters
from sgma_jax.errors import InputError

File = Path | str
"""A file, or an address that GDAL reads."""


def reference_grid(
    rasters: Rasters,
    modalities: Mapping[str, Sequence[File]],
    reference: str,
    crs: str = "",
    resolution: tuple[float, float] | None = None,
    bounds: tuple[float, float, float, float] | None = None,
) -> Grid:
    """The grid of the named sensor (of all its files together), or the one that the other arguments ask for.

    `resolution` (x, y) and `bounds` (left, bottom, right, top) are in units of `crs`, by default the named sensor's.
    InputError where files cannot be laid over each other because they state no CRS.
    """
    grids = [(file, rasters.grid(file)) for files in modalities.values() for file in files]
    first, grid = next((f, g) for f, g in grids if f in modalities[reference])
    _check_places(grids, first, bool(crs or resolution or bounds))
    if several := next((files for files in modalities.values() if len(files) > 1), ()):
        for file in several:
            if not rasters.grid(file).placed:
                raise InputError(
                    f"{file} does not say where it lies, and neither rows nor columns tell it of {len(several)} files. "
                    f"Write its place into it (gdal_edit.py -a_srs EPSG:... -a_ullr ...)."
                )
    if len(modalities[reference]) > 1:
        grid = _union(grid, [g for f, g in grids if f in modalities[reference]])
    if not (crs or resolution or bounds):
        return grid
    assert grid.crs is not None  # _check_places
    try:
        target = CRS.from_user_input(crs) if crs else grid.crs
    except CRSError as error:
        raise InputError(
            f"--crs is {crs!r}, which is no coordinate reference system ({error}). Give one such as EPSG:32632."
        ) from error
    if target != grid.crs or grid.transform.b or grid.transform.d:
        left, bottom, right, top = _bounds(grid)
        transform, _, _ = calculate_default_transform(
            grid.crs, target, grid.width, grid.height, left=left, bottom=bottom, right=right, top=top
        )
        pixel = (abs(transform.a), abs(transform.e))
    else:
        pixel = (abs(grid.transform.a), abs(grid.transform.e))
    x, y = resolution or pixel
    if not (np.isfinite((x, y)).all() and x > 0 and y > 0):
        raise InputError(f"--resolution is {x} {y}; give the positive width and height of a pixel in units of the CRS.")
    left, bottom, right, top = bounds or transform_bounds(grid.crs, target, *_bounds(grid))
    if bounds is None and not (np.isfinite((left, bottom, right, top)).all() and left < right and bottom < top):
        raise InputError(
            f"{first} reaches from {left:g} to {right:g} in {target}, so it may lie across 180 degrees, where that CRS "
            f"begins anew. Choose another --crs, such as the file's own."
        )
    if not (np.isfinite((left, bottom, right, top)).all() and left < right and bottom < top):
        raise InputError(
            f"--bounds is {left} {bottom} {right} {top}; give left, bottom, right, top in units of the CRS, as "
            f"gdalwarp -te does."
        )
    # A raster's edge must not cost a row because of rounding.
    return Grid(
        target,
        from_origin(left, top, x, y),
        max(1, int(np.ceil((top - bottom) / y - 1e-6))),
        max(1, int(np.ceil((right - left) / x - 1e-6))),
    )


def _check_places(grids: Sequence[tuple[File, Grid]], first: File, needed: bool) -> None:
    """Raise InputError where files that do not say where they lie cannot be laid over the others."""
    reference = next(grid for file, grid in grids if file == first)
    if needed and reference.crs is None:
        raise InputError(
            f"{first} states no CRS, which --crs, --resolution and --bounds refer to. Write it into the file "
            f"(gdal_edit.py -a_srs EPSG:...), or leave them out."
        )
    for file, grid in grids:
        if not grid.placed and (needed or reference.placed or grid[2:] != reference[2:]):
            raise InputError(
                f"{file} states no CRS and no place, so it cannot be laid over a grid with one or of another size "
                f"({first}). Write its place into it (gdal_edit.py -a_srs EPSG:... -a_ullr ...), or resample it to the "
                f"same rows and columns."
            )
        if grid.placed and not reference.placed:
            raise InputError(
                f"{first} states no CRS and no place, but {file} does. Write its place into it (gdal_edit.py -a_srs "
                f"EPSG:... -a_ullr ...)."
            )


def _bounds(grid: Grid) -> tuple[float, float, float, float]:
    """Left, bottom, right, top of all four corners."""
    x, y = _corners(grid, 0, 0, grid.height, grid.width)
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def _corners(grid: Grid, top: float, left: float, bottom: float, right: float) -> tuple[np.ndarray, np.ndarray]:
    columns, rows = np.array([left, right, left, right]), np.array([top, top, bottom, bottom])
    t = grid.transform
    return t.a * columns + t.b * rows + t.c, t.d * columns + t.e * rows + t.f


def _union(grid: Grid, others: Sequence[Grid]) -> Grid:
    """The first grid, extended over the others."""
    boxes = np.array([_on(grid, other) for other in others])
    top, left = np.floor(boxes[:, :2].min(0) + 1e-3).astype(int)
    bottom, right = np.ceil(boxes[:, 2:].max(0) - 1e-3).astype(int)
    t = grid.transform
    moved = Affine(t.a, t.b, t.a * left + t.b * top + t.c, t.d, t.e, t.d * left + t.e * top + t.f)
    return Grid(grid.crs, moved, int(bottom - top), int(right - left))


def _on(grid: Grid, other: Grid) -> tuple[float, float, float, float]:
    """First row and column, last row and column of another grid's extent, in this grid's pixels; infinite where it
    cannot be said."""
    both = grid.beside(other)
    if both is None:
        return 0.0, 0.0, other.height, other.width
    grid, other = both
    try:
        left, bottom, right, top = transform_bounds(other.crs, grid.crs, *_bounds(other))
    except (RasterioError, CRSError, CPLE_BaseError):
        left, bottom, right, top = (np.nan,) * 4
    if not np.isfinite((left, bottom, right, top)).all():
        return -np.inf, -np.inf, np.inf, np.inf
    inverse = np.linalg.inv(np.array(grid.transform, np.float64).reshape(3, 3))
    columns, rows, _ = inverse @ ((left, right, left, right), (top, top, bottom, bottom), np.ones(4))
    return rows.min(), columns.min(), rows.max(), columns.max()


def extent_on(grid: Grid, other: Grid) -> tuple[float, float, float, float]:
    """Rows and columns (first row, first column, last row, last column) of a grid that another may touch."""
    top, left, bottom, right = _on(grid, other)
    return top - 2, left - 2, bottom + 2, right + 2


def touches(extent: tuple[float, float, float, float], window: Window) -> bool:
    """Return whether an extent and a window share a pixel."""
    top, left, bottom, right = extent
    return bool(
        top < window.row_off + window.height
        and bottom > window.row_off
        and left < window.col_off + window.width
        and right > window.col_off
    )
