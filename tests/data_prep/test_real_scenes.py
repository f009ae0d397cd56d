"""The real scenes convert with nothing but their folder, and every pixel that their READMEs count arrives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from sgma_jax.data.schema import IGNORE, read_manifest
from sgma_jax.data.source import open_source

pytestmark = pytest.mark.real_data
Run = Callable[..., tuple[int, str]]

# Pixels per class of train, validation and test, from the scenes' READMEs.
SCENES = {
    "zion30m": (
        ("rgb", "nir"),
        (
            (72454, 125405, 392737, 368806, 11845),
            (15040, 25014, 63424, 74437, 1773),
            (26069, 54420, 151117, 135272, 3779),
        ),
    ),
    "ign_grauduroi": (("rgb", "nir", "ndsm"), ((35247, 6100), (4497, 3503), (15090, 10302))),
    "stormlake30m": (
        ("red", "nir", "swir", "dem"),
        ((3197, 803, 1291, 2038, 80), (783, 100, 198, 303, 13), (1996, 413, 704, 1138, 276)),
    ),
}


@pytest.mark.parametrize("name", SCENES)
def test_a_real_scene_arrives_pixel_by_pixel(real_data: Path, tmp_path: Path, run_geotiff: Run, name: str) -> None:
    modalities, counts = SCENES[name]
    assert run_geotiff(real_data / name, tmp_path / "out", "--modalities", *modalities)[0] == 0
    manifest = read_manifest(tmp_path / "out")
    assert manifest.schema.names == modalities
    assert tuple(manifest.splits[s].labelled_pixels for s in ("train", "validation", "test")) == counts
    source = open_source(tmp_path / "out", "test")
    for i in range(0, len(source), 5):
        tile = source[i]
        y, x = map(int, tile.id.split("/")[1].split("_"))
        for row, modality in enumerate(source.schema.modalities):
            with rasterio.open(real_data / name / f"{modality.name}.tif") as file:
                expected = np.moveaxis(
                    file.read(window=((y, min(y + 256, file.height)), (x, min(x + 256, file.width)))), 0, -1
                )
                assert modality.dtype == file.dtypes[0]
            h, w = expected.shape[:2]
            seen = tile.available[row, :h, :w]
            np.testing.assert_array_equal(tile.images[modality.name][:h, :w][seen], expected[seen])
            assert seen[tile.label[:h, :w] != IGNORE].mean() > 0.99
