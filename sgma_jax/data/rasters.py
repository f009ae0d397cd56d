"""Windows of rasters on a grid, a label's or a scene's: pixels, and where there are any.

A sensor may differ from the grid in resolution, extent and CRS; it is warped window by window, so that memory depends
on the window and not on the scene, and nothing is copied to disk.
"""

from __future__ import annotations

import logging
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.warp import reproject, transform
from rasterio.windows import Window
from rasterio.windows import transform as window_transform

from sgma_jax.data.grid import Grid, crs_name, matrix_of, shift_between
from sgma_jax.data.values import is_brightness, is_nodata, overflows
from sgma_jax.errors import InputError

SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".img")
"""Suffixes of the files that converters and prediction take from a folder."""
OPEN_FILES = 64
"""Files kept open: a file laid out in strips would be decoded anew for every tile of a row if it were closed between
them."""
CACHE_MB = 256
"""Decoded blocks that GDAL keeps, per process. Left to itself it would take a share of the machine's memory, which
others may need."""
COARSER = 1.5
"""A source with more pixels than this per pixel of the grid is averaged, otherwise interpolated."""
LARGEST_SOURCE = 2**24
"""Pixels of a source that are warped at once; a window that needs more, because the source is much finer, is warped
in parts."""

# rasterio logs what it also raises; the user gets one line.
logging.getLogger("rasterio").addHandler(logging.NullHandler())


class Box(NamedTuple):
    """A square window of the label's grid; it may reach beyond the scene."""

    row: int
    column: int
    side: int


class Rasters:
    """Opens rasters once and reads windows of them. Everything that goes wrong names the file.

    A pickled one arrives without open files and opens its own. Not for two threads at once.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[Path | str, DatasetReader] = OrderedDict()
        self._overflowed = False

    def __reduce__(self) -> tuple[type[Rasters], tuple[()]]:
        return Rasters, ()

    def open(self, path: Path | str) -> DatasetReader:
        """The open file; it stays open until many others were."""
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        try:
            # Many published files state no place; where it is needed, `is_aligned` says so. Masks lie in files beside
            # the raster's, and a setting that is usual for buckets would hide them.
            beside = (
                {} if str(path).startswith("/vsi") or "://" in str(path) else {"GDAL_DISABLE_READDIR_ON_OPEN": False}
            )
            with warnings.catch_warnings(), rasterio.Env(**beside):
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                dataset = rasterio.open(path)
        except (RasterioError, CRSError, OSError) as error:
            raise InputError(
                f"{path} is no raster that can be opened ({_reason(error)}). Restore the file, or correct the path."
            ) from error
        self._open[path] = dataset
        if len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return dataset

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1].close()

    def files(self, path: Path | str) -> list[Path]:
        """Return the files behind a raster on this machine: itself, masks and the like beside it, a VRT's sources."""
        found: dict[Path, None] = {}
        waiting = [path]
        while waiting:
            inner = waiting.pop()
            for name in self.open(inner).files:
                part = Path(name)
                if part.is_file() and part not in found:
                    found[part] = None
                    waiting += [part] if part.suffix.lower() == ".vrt" and str(part) != str(inner) else []
        return list(found)

    def overflowed(self) -> bool:
        """Return whether numbers that no measurement has (see `values.overflows`) were met since the last call."""
        found, self._overflowed = self._overflowed, False
        return found

    def bands(self, path: Path | str) -> list[int]:
        """Numbers of the bands that hold data: all but the alpha band."""
        dataset = self.open(path)
        return [
            i for i, meaning in zip(dataset.indexes, dataset.colorinterp, strict=True) if meaning != ColorInterp.alpha
        ]

    def is_aligned(self, path: Path, label: Path) -> bool:
        """Return whether a raster's pixels are the label's. InputError where they are not and nothing says how they
        lie."""
        image, grid = self.grid(path), self.grid(label)
        same_size = image[2:] == grid[2:]
        both = image.beside(grid)
        if both is None:
            if same_size:
                return True
            without = label if image.placed else path
            raise InputError(
                f"{path} has {image.height} x {image.width} pixels and {label} has {grid.height} x {grid.width}, but "
                f"{without.name} does not say where it lies, "
                "so one cannot be laid over the other. Write its place into it (gdal_edit.py -a_srs EPSG:... -a_ullr "
                "...), or resample it to the label's grid."
            )
        return same_size and shift_between(*both) == (0, 0)

    def grid(self, path: Path | str) -> Grid:
        """The raster's own grid."""
        dataset = self.open(path)
        return Grid(dataset.crs, dataset.transform, dataset.height, dataset.width)

    def plain(self, path: Path, box: Box, band: int = 1) -> np.ndarray:
        """One band where the box and the raster overlap, as stored (for labels)."""
        dataset = self.open(path)
        window = Window(
            box.column, box.row, min(box.side, dataset.width - box.column), min(box.side, dataset.height - box.row)
        )
        return self._read(path, band, window)

    def codes(self, path: Path, box: Box | tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Return band 1 where the box, or the rows first to last, and the raster overlap; and where it says something:
        nodata and what a mask leaves out do not."""
        dataset = self.open(path)
        if isinstance(box, Box):
            height, width = min(box.side, dataset.height - box.row), min(box.side, dataset.width - box.column)
            window = Window(box.column, box.row, width, height)
        else:
            window = Window(0, box[0], dataset.width, box[1] - box[0])
        values, valid = self._pixels(path, [1], window)
        return values[0], valid

    def window(self, path: Path, bands: list[int], window: Window) -> np.ndarray:
        """Bands [bands, rows, columns] of a window inside the raster, as stored: no band is taken for a mask."""
        return self._read(path, bands, window)

    def image(self, path: Path, label: Path, box: Box, nodata: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Pixels [side, side, bands] in the raster's own type, 0 where there are none, and availability [side, side].

        `nodata` is one more value that stands for a hole, besides those that the file declares.
        """
        bands = self.bands(path)
        pixels = np.zeros((box.side, box.side, len(bands)), self.open(path).dtypes[bands[0] - 1])
        available = np.zeros((box.side, box.side), bool)
        grid = self.grid(label)
        height, width = min(box.side, grid.height - box.row), min(box.side, grid.width - box.column)
        self.is_aligned(path, label)  # raises where nothing says how the two lie
        values, valid = self.on_grid(path, grid, Window(box.column, box.row, width, height), nodata=nodata)
        available[:height, :width] = valid
        pixels[:height, :width] = np.moveaxis(values, 0, -1)
        return pixels, available

    def on_grid(
        self, path: Path | str, grid: Grid, window: Window, bands: Sequence[int] = (), nodata: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values [bands, rows, columns] of a window of the grid in the raster's own type, 0 where there are none,
        and availability [rows, columns].

        `bands` are numbers from 1, all but the alpha band if none is named. Where the raster has the grid's pixels
        they are taken as they are, otherwise warped. A raster without a place lies with its first pixel on the
        grid's first.
        """
        image, bands = self.open(path), list(bands) or self.bands(path)
        rows, columns = int(window.height), int(window.width)
        values = np.zeros((len(bands), rows, columns), image.dtypes[bands[0] - 1])
        valid = np.zeros((rows, columns), bool)
        both = self.grid(path).beside(grid)
        shift = shift_between(*both) if both else (0, 0)
        if both and shift is None:
            return self._warped(path, bands, both, window, nodata)
        assert shift is not None
        first_row, first_column = int(window.row_off) - shift[0], int(window.col_off) - shift[1]
        top, left = max(0, first_row), max(0, first_column)
        bottom, right = min(image.height, first_row + rows), min(image.width, first_column + columns)
        if top < bottom and left < right:
            inside = (slice(top - first_row, bottom - first_row), slice(left - first_column, right - first_column))
            read, valid[inside] = self._pixels(path, bands, Window(left, top, right - left, bottom - top), nodata)
            values[:, *inside] = np.where(valid[inside], read, np.zeros((), values.dtype))
        return values, valid

    def _pixels(
        self, path: Path | str, bands: list[int], window: Window, nodata: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values [bands, rows, columns] of the raster's own pixels, and where they are data: nodata, mask, alpha and
        NaN are not."""
        dataset = self.open(path)
        values = self._read(path, bands, window)
        valid = np.isfinite(values).all(0)
        if (extreme := overflows(values)).any():
            self._overflowed |= not all(
                is_nodata(values[i][extreme[i]], dataset.nodatavals[b - 1]).all() for i, b in enumerate(bands)
            )
            valid &= ~extreme.any(0)
        # GDAL takes an alpha band of some types for data, so it is read as the band that it is.
        for band in set(dataset.indexes) - set(self.bands(path)):
            valid &= self._read(path, band, window) > 0
        if MaskFlags.per_dataset in dataset.mask_flag_enums[bands[0] - 1]:
            valid &= self._read(path, bands[0], window, mask=True) > 0
        nodatas = [dataset.nodatavals[band - 1] for band in bands]
        missing = np.stack([is_nodata(band, value) for band, value in zip(values, nodatas, strict=True)])
        # A pixel is a hole where every band says so. A value that no brightness has spoils it in one band already.
        spoilt = [not is_brightness(values.dtype, value) for value in nodatas]
        valid &= ~(missing.all(0) | missing[spoilt].any(0))
        if nodata is not None:
            valid &= ~is_nodata(values, nodata).any(0)
        return values, valid

    def _warped(
        self, path: Path | str, bands: list[int], both: tuple[Grid, Grid], window: Window, nodata: float | None
    ) -> tuple[np.ndarray, np.ndarray]:
        image, (own, grid) = self.open(path), both
        dtype, shape = np.dtype(image.dtypes[bands[0] - 1]), (int(window.height), int(window.width))
        try:
            source, density = self._source_window(own, grid, window)
        except (CPLE_BaseError, RasterioError) as error:
            raise InputError(
                f"{path} is in {crs_name(own)} and is to be laid over a grid in {crs_name(grid)}, which PROJ cannot do "
                f"({_reason(error)}). If the two are one CRS, write it into both (gdal_edit.py -a_srs EPSG:...)."
            ) from error
        if source is None:
            return np.zeros((len(bands), *shape), dtype), np.zeros(shape, bool)
        if source.width * source.height > LARGEST_SOURCE and max(shape) > 1:
            parts = [self._warped(path, bands, both, part, nodata) for part in _halves(window)]
            axis = 1 if shape[0] >= shape[1] else 2
            return np.concatenate([p[0] for p in parts], axis), np.concatenate([p[1] for p in parts], axis - 1)
        values, valid = self._pixels(path, bands, source, nodata)
        place = {
            "src_transform": image.window_transform(source),
            "src_crs": own.crs,
            "dst_transform": window_transform(window, grid.transform),
            "dst_crs": grid.crs,
        }
        # Holes become NaN in every band, which the warper leaves out of its means.
        warped = np.full((len(bands), *shape), np.nan)
        reproject(
            np.where(valid, values.astype(np.float64), np.nan),
            warped,
            **place,
            src_nodata=np.nan,
            dst_nodata=np.nan,
            resampling=Resampling.average if density > COARSER else Resampling.bilinear,
        )
        seen = np.zeros(shape, np.uint8)
        reproject(valid.astype(np.uint8), seen, **place, resampling=Resampling.nearest, init_dest_nodata=True)
        available = (seen > 0) & np.isfinite(warped).all(0)
        warped = np.where(available, warped, 0.0)
        if np.issubdtype(dtype, np.integer):
            limits = np.iinfo(dtype)
            warped = np.clip(np.rint(warped), limits.min, limits.max)
        return warped.astype(dtype), available

    @staticmethod
    def _source_window(image: Grid, grid: Grid, window: Window) -> tuple[Window | None, float]:
        """Return the pixels of a raster that a window of the grid needs, and how many there are along one of the grid.

        None where the two do not touch.
        """
        edge = np.linspace(0.0, 1.0, 17)
        across = np.concatenate((edge, edge, np.zeros(17), np.ones(17))) * window.width + window.col_off
        down = np.concatenate((np.zeros(17), np.ones(17), edge, edge)) * window.height + window.row_off
        x, y, _ = matrix_of(grid) @ (across, down, np.ones_like(down))
        points = np.array(transform(grid.crs, image.crs, x, y))
        points = points[:, np.isfinite(points).all(0)]
        if not points.size:
            return None, 0.0
        columns, rows, _ = np.linalg.inv(matrix_of(image)) @ (*points, np.ones(points.shape[1]))
        density = float(max(np.ptp(columns) / window.width, np.ptp(rows) / window.height))
        margin = 2 + density
        left, top = max(0, int(columns.min() - margin)), max(0, int(rows.min() - margin))
        right, bottom = (
            min(image.width, int(columns.max() + margin) + 1),
            min(image.height, int(rows.max() + margin) + 1),
        )
        if right <= left or bottom <= top:
            return None, density
        return Window(left, top, right - left, bottom - top), density

    def _read(self, path: Path | str, bands: int | list[int], window: Window, mask: bool = False) -> np.ndarray:
        dataset = self.open(path)
        try:
            with rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
                values: np.ndarray = (
                    dataset.read_masks(bands, window=window) if mask else dataset.read(bands, window=window)
                )
        except (RasterioError, OSError) as error:
            place = f"rows {int(window.row_off)} to {int(window.row_off + window.height)}"
            raise InputError(
                f"{path} cannot be read at {place} ({_reason(error)}): it is truncated or damaged. Restore the file."
            ) from error
        return values


def _halves(window: Window) -> tuple[Window, Window]:
    """The window in two, along its longer side."""
    if window.height >= window.width:
        first = int(window.height) // 2
        return (
            Window(window.col_off, window.row_off, window.width, first),
            Window(window.col_off, window.row_off + first, window.width, window.height - first),
        )
    first = int(window.width) // 2
    return (
        Window(window.col_off, window.row_off, first, window.height),
        Window(window.col_off + first, window.row_off, window.width - first, window.height),
    )


def _reason(error: BaseException) -> str:
    """Return GDAL's own words, which rasterio keeps as the cause."""
    return str(error.__cause__ or error).split("\n")[0]
