"""A scene as GeoTIFFs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prediction.local_scene import city, save


@pytest.fixture
def city_files(tmp_path: Path) -> dict[str, Path]:
    """A scene of 200 x 170 pixels."""
    return {name: save(tmp_path / f"{name}.tif", values) for name, values in city(200, 170).items()}
