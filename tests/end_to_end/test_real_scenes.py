"""The real scenes go the whole way by the commands of their presets' headers; scores are in docs/results.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from data_prep import geotiff
from sgma_jax.data.schema import IGNORE

SHORT = (
    "--steps",
    2,
    "--warmup-steps",
    0,
    "--evaluate-every",
    2,
    "--log-every",
    1,
    "--data.batch-size",
    2,
    "--data.crop",
    32,
)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("scene", "preset", "sensors"),
    [
        pytest.param("zion30m", "zion", ("rgb", "nir"), marks=pytest.mark.long),
        pytest.param("ign_grauduroi", "grau_du_roi", ("rgb", "nir", "ndsm"), marks=pytest.mark.slow),
    ],
)
def test_a_real_scene_converts_trains_evaluates_and_is_mapped(
    scene: str,
    preset: str,
    sensors: tuple[str, ...],
    real_data: Path,
    tmp_path: Path,
    sgma: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ["--tile", "128", "--overlap", "64"] if preset == "grau_du_roi" else []
    monkeypatch.setattr(
        sys, "argv", ["geotiff", str(real_data / scene), str(tmp_path / "data"), "--modalities", *sensors, *options]
    )
    geotiff.main()
    train = sgma(
        "train", f"experiments/{preset}.py", "--data.path", tmp_path / "data", "--workdir", tmp_path / "run", *SHORT
    )
    assert train[0] == 0, train[2]
    assert sgma("evaluate", tmp_path / "run", "--split", "validation")[0] == 0
    report = json.loads((tmp_path / "run" / "evaluation" / "validation.json").read_text())
    assert len(report["subsets"]) == 2 ** len(sensors) - 1
    assert all(row["coverage"] > 0.99 for row in report["subsets"])
    with rasterio.open(real_data / scene / f"{sensors[0]}.tif") as file:
        grid, transform = file.crs, file.transform
        bounds = (*file.xy(70, 10, offset="ul"), *file.xy(10, 80, offset="ul"))
    given = [
        f"--sensor={name}={real_data / scene / f'{name}.tif'}" for name in (sensors[0], sensors[-1])
    ]  # a sensor less than was trained on
    status, _, err = sgma(
        "predict", tmp_path / "run", *given, "--out", tmp_path / "map.tif", "--bounds", *bounds, "--used"
    )
    assert status == 0, err
    with rasterio.open(tmp_path / "map.tif") as file:
        assert (file.crs, file.shape, file.transform.a) == (grid, (60, 70), transform.a)
        classes, used = file.read()
    assert (classes != IGNORE).mean() > 0.5
    np.testing.assert_array_equal(classes == IGNORE, used == IGNORE)
