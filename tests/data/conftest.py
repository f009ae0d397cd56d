"""A small converted set that the tests of the input pipeline share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.synthetic import CLASSES, Options, convert_city
from sgma_jax.config import DataConfig

TRAIN, VALIDATION, TEST = 13, 5, 7  # no multiples of any batch size in use


@pytest.fixture(scope="session")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic city, smallest: its record 5 lacks the rgb wholly, record 7 rgb and nir in part."""
    out = tmp_path_factory.mktemp("city") / "set"
    convert_city(Options(out=out, size=64, train=TRAIN, validation=VALIDATION, test=TEST))
    return out


@pytest.fixture
def city_config(city: Path) -> Callable[..., DataConfig]:
    """A configuration that reads the city; keywords replace fields."""

    def make(**fields: object) -> DataConfig:
        settings = {
            "path": str(city),
            "modalities": ("rgb", "dsm"),
            "bands": (3, 1),
            "classes": CLASSES,
            "crop": 32,
            "batch_size": 4,
        }
        return DataConfig(**{"evaluation_batch_size": 4, **settings, **fields})  # type: ignore[arg-type]

    return make
