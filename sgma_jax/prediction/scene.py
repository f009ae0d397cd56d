"""A scene: the files of its sensors on one grid, read window by window."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rasterio.windows import Window

from sgma_jax.data.grid import Grid
from sgma_jax.data.raster_checks import check_raster
from sgma_jax.data.rasters import SUFFIXES, Rasters
from sgma_jax.data.schema import Modality
from sgma_jax.data.transforms import normalised
from sgma_jax.data.values import as_stored
from sgma_jax.errors import InputError
from sgma_jax.prediction.grids import File, extent_on, touches
from sgma_jax.prediction.windows import Tiling, reflect


class WindowData(NamedTuple):
    """All that the sensors saw in a window."""

    images: dict[str, np.ndarray]
    """Per sensor [window, window, bands] float32, normalised."""
    available: np.ndarray
    """[sensor, window, window] bool."""


@dataclass(frozen=True)
class ModalityFiles:
    """The files of one modality in a scene."""

    modality: Modality
    """The modality as the run was trained on it, and how its numbers come from the files'."""
    files: tuple[File, ...]
    bands: tuple[int, ...]
    """Numbers of the bands to take, from 1; all but alpha if empty."""


class Scene:
    """Modalities on a grid; may be read by many threads at once."""

    def __init__(self, sources: Sequence[ModalityFiles], grid: Grid, inputs: Sequence[Path] = ()) -> None:
        """Take `inputs` as the files that are read, those behind a VRT too."""
        self.sources, self.grid, self.inputs = tuple(sources), grid, tuple(inputs)
        self._local = threading.local()
        self._opened: list[Rasters] = []
        self._extents = {
            file: extent_on(grid, self._rasters().grid(file)) for source in sources for file in source.files
        }

    def read(self, tiling: Tiling, row: int, column: int) -> WindowData | None:
        """A window of the tiling, mirrored where it reaches beyond the scene; None where no sensor has a pixel."""
        return cut_window(
            tiling,
            row,
            column,
            [source.modality for source in self.sources],
            lambda part: [self._read(source, part) for source in self.sources],
        )

    def outside(self) -> list[str]:
        """Sensors that have no pixel on the grid."""
        whole = Window(0, 0, self.grid.width, self.grid.height)
        return [
            s.modality.name for s in self.sources if not any(touches(self._extents[file], whole) for file in s.files)
        ]

    def close(self) -> None:
        """Close all files."""
        for rasters in self._opened:
            rasters.close()

    def _rasters(self) -> Rasters:
        if not hasattr(self._local, "rasters"):
            self._local.rasters = Rasters()
            self._opened.append(self._local.rasters)
        rasters: Rasters = self._local.rasters
        return rasters

    def _read(self, source: ModalityFiles, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Values [rows, columns, bands] and availability; where files overlap the first one counts."""
        shape = (int(window.height), int(window.width))
        values: np.ndarray = np.zeros((*shape, source.modality.bands), np.float32)
        valid = np.zeros(shape, bool)
        for file in source.files:
            if not touches(self._extents[file], window):
                continue
            read, seen = self._rasters().on_grid(file, self.grid, window, source.bands, source.modality.nodata)
            found, seen = as_stored(np.moveaxis(read, 0, -1), seen, source.modality)
            if not valid.any():
                values, valid = found, seen
            else:
                values = np.where((seen & ~valid)[..., None], found, values)
                valid = valid | seen
            if valid.all():
                break
        return values, valid


def cut_window(
    tiling: Tiling,
    row: int,
    column: int,
    modalities: Sequence[Modality],
    read: Callable[[Window], Sequence[tuple[np.ndarray, np.ndarray]]],
) -> WindowData | None:
    """A window of the tiling, mirrored where it reaches beyond the scene; None where no sensor has a pixel.

    `read` returns values [rows, columns, bands] and availability [rows, columns] of every sensor for a part that
    lies inside the scene.
    """
    rows = reflect(tiling.start(row), tiling.window, tiling.height)
    columns = reflect(tiling.start(column), tiling.window, tiling.width)
    top, left = int(rows.min()), int(columns.min())
    parts = read(Window(left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top))
    if not any(available.any() for _, available in parts):
        return None
    place = np.ix_(rows - top, columns - left)
    images = {
        modality.name: normalised(values[place], modality)
        for modality, (values, _) in zip(modalities, parts, strict=True)
    }
    return WindowData(images, np.stack([available[place] for _, available in parts]))


def list_files(modality: str, given: Sequence[File]) -> tuple[File, ...]:
    """The rasters that a user names: files, or folders of tiles. InputError where there are none."""
    files: list[File] = []
    for item in given:
        if "://" in str(item) or str(item).startswith("/vsi"):
            files.append(item)
        elif Path(item).is_dir():
            found = sorted(
                p for p in Path(item).iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
            )
            if not found:
                raise InputError(
                    f"--sensor {modality}: the folder {item} holds no raster ({', '.join(SUFFIXES)}). Give another "
                    f"folder, or files."
                )
            files += found
        elif Path(item).is_file():
            files.append(Path(item))
        else:
            raise InputError(f"--sensor {modality}: the file {item} does not exist. Correct the path.")
    if not files:
        raise InputError(f"--sensor {modality} names no file; give {modality}=FILE.")
    return tuple(files)


def check_files(rasters: Rasters, source: ModalityFiles) -> None:
    """Open every file of a modality; InputError where one cannot be what the run was trained on, or nothing says where
    it lies."""
    modality = source.modality
    for file in source.files:
        bands = check_raster(rasters, file, source.bands)
        if len(bands) != modality.bands:
            choice = ",".join(map(str, range(1, modality.bands + 1)))
            raise InputError(
                f"{file} has {len(bands)} bands, but the run's sensor {modality.name!r} has {modality.bands}"
                f"{_band_names(modality)}. "
                f"Choose them with --bands {modality.name}={choice}, or give the right file."
            )


def _band_names(modality: Modality) -> str:
    return f" ({', '.join(modality.band_names)})" if modality.band_names else ""
