"""Values of a raster on another grid: how they are averaged, interpolated and rounded, and which are values at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.windows import Window

from sgma_jax.data.grid import Grid
from sgma_jax.data.rasters import Rasters
from sgma_jax.data.schema import Modality
from sgma_jax.data.values import as_stored, decibels
from sgma_jax.prediction.scene import ModalityFiles, Scene
from sgma_jax.prediction.windows import Tiling
from tests.prediction.local_scene import save

EAST, NORTH, UTM = 500_000, 5_000_000, CRS.from_epsg(32632)


def on_grid(path: Path, pixel: float, first: float, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """One row of a raster, on pixels of that size from `first` metres east of the raster's edge."""
    grid = Grid(UTM, from_origin(EAST + first, NORTH - 4, pixel, pixel), 2, columns)
    values, valid = Rasters().on_grid(path, grid, Window(0, 0, columns, 2))
    return values[0, 0], valid[0]


def test_warped_integers_are_rounded(tmp_path: Path) -> None:
    path = save(tmp_path / "ramp.tif", np.tile(np.arange(40, dtype=np.int16), (20, 1)))
    values, valid = on_grid(path, 1.0, 5.7, 20)  # pixel centres at 0.7 of the way from one value to the next
    assert valid.all()
    np.testing.assert_array_equal(values, np.arange(6, 26))


@pytest.mark.parametrize(("finer", "averaged"), [(1.4, False), (1.6, True)])
def test_a_source_is_averaged_from_one_and_a_half_times_finer_on(finer: float, averaged: bool, tmp_path: Path) -> None:
    stripes = np.tile(np.array([0.0, 100.0], np.float32), (40, 60))
    values, valid = on_grid(save(tmp_path / "stripes.tif", stripes), finer, 10 * finer, 20)
    assert valid.all()
    integral = np.concatenate([[0.0], np.cumsum(stripes[0])])
    means = np.diff(np.interp(finer * np.arange(10, 31), np.arange(len(integral)), integral)) / finer
    assert np.allclose(values, means, atol=1e-3) == averaged


def test_a_coarser_source_is_interpolated(tmp_path: Path) -> None:
    heights = np.tile(np.random.default_rng(0).normal(size=40).astype(np.float32), (20, 1))
    values, _ = on_grid(save(tmp_path / "heights.tif", heights), 0.5, 10, 20)
    between = np.interp(10.25 + 0.5 * np.arange(20), np.arange(40) + 0.5, heights[0])
    np.testing.assert_allclose(values, between, atol=1e-5)


def test_values_are_clipped_after_their_logarithm() -> None:
    values, available = np.array([[1e-5], [100.0], [1e9]], np.float32), np.array([True, True, False])
    sar = Modality("sar", 1, "decibel", "float32", log=True, clip=(-30.0, 19.5))
    stored, seen = as_stored(values, available, sar)
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored[:2, 0], [-30, 19.5])
    np.testing.assert_array_equal(seen, available)
    counts, _ = as_stored(np.array([[3], [300]], np.uint16), available[:2], Modality("c", 1, "", "uint16", clip=(5, 9)))
    assert (counts.dtype, counts.tolist()) == (np.uint16, [[5], [9]])


def test_intensities_of_zero_and_below_are_not_available() -> None:
    values, available = decibels(np.array([[-0.5], [0.0], [100.0], [100.0]]), np.array([True, True, True, False]))
    np.testing.assert_array_equal(available, [False, False, True, False])
    assert values[2] == pytest.approx(20.0)
    assert np.isfinite(values).all()


def test_of_overlapping_files_of_a_sensor_the_first_counts_where_it_has_pixels(tmp_path: Path) -> None:
    first = np.full((32, 32), 1.0, np.float32)
    first[2:5, 2:5] = -1
    paths = (
        save(tmp_path / "first.tif", first, nodata=-1),
        save(tmp_path / "second.tif", np.full((32, 32), 2.0, np.float32)),
    )
    modality = Modality("dsm", 1, "metre", "float32", (0.0,), (1.0,))
    scene = Scene([ModalityFiles(modality, paths, ())], Grid(UTM, from_origin(EAST, NORTH, 1, 1), 32, 32))
    read = scene.read(Tiling(32, 32, 32, 0), 0, 0)
    scene.close()
    assert read is not None
    np.testing.assert_array_equal(read.images["dsm"][..., 0], np.where(first == -1, 2.0, 1.0))
