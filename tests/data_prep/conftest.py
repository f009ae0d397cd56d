"""Small real GeoTIFFs, and a converter run as its command would, without a new process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine, from_origin

from data_prep import geotiff

ORIGIN = from_origin(500_000, 5_000_000, 1.0, 1.0)


def _write(
    path: Path,
    values: np.ndarray,
    *,
    crs: str | None = "EPSG:32632",
    transform: Affine = ORIGIN,
    mask: np.ndarray | None = None,
    **more: Any,
) -> Path:
    values = values if values.ndim == 3 else values[None]
    colours = more.pop("colours", None)
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {
        "driver": "GTiff",
        "count": len(values),
        "height": values.shape[1],
        "width": values.shape[2],
        "dtype": values.dtype,
    }
    with rasterio.open(path, "w", **profile, crs=crs, transform=transform, **more) as file:
        file.write(values)
        if mask is not None:
            file.write_mask(mask)
        if colours is not None:
            file.write_colormap(1, colours)
    return path


@pytest.fixture(scope="session")
def write_raster() -> Callable[..., Path]:
    """write_raster(path, values [bands, rows, columns] or [rows, columns], crs=, transform=, nodata=, ...)."""
    return _write


@pytest.fixture
def run_geotiff(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """run_geotiff(SOURCE, OUT, *flags) -> exit status and what stood on standard error."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["geotiff", *map(str, arguments)])
        status = 0
        try:
            geotiff.main()
        except SystemExit as end:
            status = int(end.code or 0)
        return status, capsys.readouterr().err

    return run


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def manifest(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A sound manifest: four records of 32 x 32 pixels with rgb and dsm, one of them without dsm."""
    lines = ["rgb,dsm,label,split"]
    for name, split in (("a", "train"), ("b", "train"), ("c", "val"), ("d", "test")):
        _write(tmp_path / f"{name}_rgb.tif", rng.integers(1, 255, (3, 32, 32)).astype(np.uint8))
        _write(tmp_path / f"{name}_dsm.tif", rng.normal(100, 5, (32, 32)).astype(np.float32))
        _write(tmp_path / f"{name}_label.tif", rng.integers(0, 3, (32, 32)).astype(np.uint8))
        lines.append(f"{name}_rgb.tif,{'' if name == 'b' else f'{name}_dsm.tif'},{name}_label.tif,{split}")
    path = tmp_path / "manifest.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def run_converter(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """run_converter(MODULE, SOURCE, OUT, *flags) -> exit status and what stood on standard error; in this process."""

    def run(module: Any, *arguments: object) -> tuple[int, str]:
        # Wide, so that no word of a table is broken in two.
        monkeypatch.setenv("COLUMNS", "400")
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        status = 0
        try:
            module.main()
        except SystemExit as end:
            status = int(end.code or 0)
        return status, capsys.readouterr().err

    return run
