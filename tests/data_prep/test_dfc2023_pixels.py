"""What is known about the pixels of a DFC2023 scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco

from data_prep.dfc2023_pixels import Seen, compose, read_modality
from data_prep.footprints import Raster, blank
from sgma_jax.data.rasters import Rasters
from sgma_jax.data.schema import IGNORE
from tests.prediction.local_scene import save

SIDE = 64


def seen(values: np.ndarray) -> Seen:
    return Seen(values, np.ones(values.shape[:2], bool))


def test_backscatter_is_clipped_at_both_ends() -> None:
    power = np.full((SIDE, SIDE, 1), 1.0, np.float32)
    power[0, :2, 0] = 1e-5, 1e5  # -50 and 50 dB
    decibels = compose({"sar": seen(power)}, blank(SIDE, SIDE), 150.0).images["sar"]
    assert tuple(decibels[0, :2, 0]) == (-30, 20)
    assert not decibels[1:].any()


def test_a_building_in_a_black_strip_stays_a_building() -> None:
    rgb = np.full((SIDE, SIDE, 3), 90, np.uint8)
    rgb[:, :32] = 0
    building = np.zeros((SIDE, SIDE), bool)
    building[10:20, 25:40] = True
    drawn = coco.encode(np.asfortranarray(building.astype(np.uint8)))
    label = compose({"rgb": seen(rgb)}, Raster(SIDE, SIDE, bytes(drawn["counts"]), 1), 150.0).label
    outside = np.zeros((SIDE, SIDE), bool)
    outside[:, :32] = True
    np.testing.assert_array_equal(label, np.where(building, 1, np.where(outside, IGNORE, 0)))


@pytest.mark.parametrize(("nodata", "missing"), [(0, 0), (-9999, 1)])
def test_zero_is_a_height_even_where_the_file_calls_it_nodata(nodata: float, missing: int, tmp_path: Path) -> None:
    heights = np.array([[0.0, 3.0], [-9999.0, 5.0]], np.float32)
    valid = read_modality(Rasters(), save(tmp_path / "dsm.tif", heights, nodata=nodata)).valid
    assert valid[0, 0]
    assert (~valid).sum() == missing
