"""GeoTIFFs written row by row, checked, and put in their place whole."""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from sgma_jax.data.grid import Grid
from sgma_jax.data.rasters import CACHE_MB
from sgma_jax.errors import InputError
from sgma_jax.prediction.layers import Band
from sgma_jax.prediction.parts import fsync_folder, writable

BLOCK = 256
"""Side of a tile of the file, in pixels."""
Colours = Sequence[tuple[int, int, int]]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """All that a file says about its pixels."""

    dtype: str
    nodata: float
    bands: Sequence[Band]
    tags: dict[str, str]
    """Tags of the whole file."""
    colours: Colours = ()
    """Colours of the values 0, 1, ... of band 1."""
    names: Sequence[str] = ()
    """Names of the same values, which QGIS shows."""
    cog: bool = False
    """The file is cloud-optimised, with overviews."""
    overviews: str = "MODE"
    """GDAL's way to make an overview's pixels."""


def write_geotiff(path: Path, grid: Grid, rows: Iterable[np.ndarray], contents: Contents) -> None:
    """Write a tiled, compressed GeoTIFF of the grid from its rows [bands, some rows, width], top to bottom.

    The same rows make the same bytes. The file appears under its name when it is whole and has been read back. TIFF
    knows no names of values, and colours in files of one band only, so they are in NAME.aux.xml, where GDAL looks. What
    lay beside a file that is replaced (overviews, mask, statistics) goes with it. A full disk leaves what was there
    before.
    """
    bands, colours = contents.bands, contents.colours
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tif")
    final, auxiliary = temporary.with_suffix(".cog.tif"), path.with_name(path.name + ".aux.xml")
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "width": grid.width,
        "height": grid.height,
        "count": len(bands),
        "dtype": contents.dtype,
        "nodata": contents.nodata,
        "crs": grid.crs,
        "transform": grid.transform,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "compress": "deflate",
        "predictor": 3 if contents.dtype == "float32" else 1,
        "interleave": "band",
        "bigtiff": "if_safer",
    }
    if len(bands) > 1:
        profile["photometric"] = "minisblack"
    try:
        with writable(path.parent), _raster_errors(path), _environment():
            with rasterio.open(temporary, "w", **profile) as file:
                file.update_tags(**contents.tags)
                for number, (description, own) in enumerate(bands, 1):
                    file.set_band_description(number, description)
                    file.update_tags(number, **own)
                if colours and len(bands) == 1:
                    file.write_colormap(1, {code: (*colour, 255) for code, colour in enumerate(colours)})
                elif len(bands) > 1:
                    file.colorinterp = [ColorInterp.gray] + [ColorInterp.undefined] * (len(bands) - 1)
                written = _write_blocks(file, rows)
            _check(temporary, written)
            if contents.cog:
                resampling = {"overview_resampling": contents.overviews, "resampling": contents.overviews}
                options = {
                    "compress": "deflate",
                    "blocksize": BLOCK,
                    "bigtiff": "if_safer",
                    "num_threads": "1",
                    **resampling,
                }
                rasterio.shutil.copy(temporary, final, driver="COG", **options)
                _check(final, written)
            else:
                os.replace(temporary, final)
            _sync(final)
            for suffix in (".ovr", ".msk", ".msk.ovr", ".aux.xml"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            if colours or contents.names:
                _write_auxiliary(auxiliary, colours if len(bands) > 1 else (), contents.names)
            os.replace(final, path)
            fsync_folder(path.parent)
    finally:
        for left in (temporary, final):
            left.unlink(missing_ok=True)
            left.with_name(left.name + ".aux.xml").unlink(missing_ok=True)


def _write_blocks(file: Any, rows: Iterable[np.ndarray]) -> list[int]:
    """Write rows in whole rows of blocks, each once, so that no block is compressed twice; checksums of these."""
    waiting: list[np.ndarray] = []
    done, checksums = 0, []

    def flush(count: int) -> None:
        nonlocal done, waiting
        joined = np.concatenate(waiting, 1) if len(waiting) > 1 else waiting[0]
        for first in range(0, count, BLOCK):
            block = joined[:, first : min(first + BLOCK, count)]
            file.write(block, window=Window(0, done, block.shape[2], block.shape[1]))
            checksums.append(zlib.crc32(block.tobytes()))
            done += block.shape[1]
        waiting = [joined[:, count:]] if count < joined.shape[1] else []

    for part in rows:
        waiting.append(part)
        if count := sum(p.shape[1] for p in waiting) // BLOCK * BLOCK:
            flush(count)
    if waiting:
        flush(sum(p.shape[1] for p in waiting))
    return checksums


def _check(path: Path, checksums: list[int]) -> None:
    """Read a file back: GDAL does not always say that a disk was full."""
    with rasterio.open(path) as file:
        for number, expected in enumerate(checksums):
            first = number * BLOCK
            block = file.read(window=Window(0, first, file.width, min(BLOCK, file.height - first)))
            if zlib.crc32(block.tobytes()) != expected:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _write_auxiliary(path: Path, colours: Colours, names: Sequence[str]) -> None:
    """Write what a TIFF cannot say of its first band, as GDAL's own file beside it."""
    entries = "".join(f'<Entry c1="{r}" c2="{g}" c3="{b}" c4="255" />' for r, g, b in colours)
    table = f"<ColorInterp>Palette</ColorInterp><ColorTable>{entries}</ColorTable>" if colours else ""
    categories = "".join(f"<Category>{escape(name)}</Category>" for name in names)
    text = (
        f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{categories}</CategoryNames>{table}</PAMRasterBand>'
        f"</PAMDataset>\n"
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB, GDAL_PAM_ENABLED=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextlib.contextmanager
def _raster_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except RasterioError as error:
        reason = str(error.__cause__ or error).split("\n")[0]
        free = os.statvfs(path.parent)
        # What GDAL could not read back it could not write, and it does not say why.
        if free.f_bavail * free.f_frsize < 2**20 or "space" in reason.lower():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise InputError(f"{path} cannot be written ({reason}). Choose another --out.") from error
