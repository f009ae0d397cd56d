"""The picture of a scene and its maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from experiments.pictures.scene_maps import Arguments, draw
from sgma_jax.errors import InputError
from tests.prediction.local_scene import LocalModel, predict, save


class ScaleModel(LocalModel):
    """Says its robustness as a run does with --robustness scales."""

    def __init__(self) -> None:
        super().__init__()
        given = self.labels
        layers = tuple(
            f"robustness {sensor.name} stride {stride}" for sensor in given.modalities for stride in (4, 8, 16, 32)
        )
        self.labels = type(given)(given.modalities, given.bits, given.classes, given.palette, layers)

    def one(self, images, available):
        probabilities, robustness, used = super().one(images, available)
        return probabilities, np.repeat(robustness, 4, 0), used


def test_a_map_and_its_label_become_two_pictures(city_files: dict[str, Path], tmp_path: Path) -> None:
    out = predict(ScaleModel(), city_files, tmp_path / "map.tif")
    with rasterio.open(out) as file:
        label = save(tmp_path / "label.tif", file.read(1))
    sensors = tuple(f"{name}={path}" for name, path in city_files.items())
    written = draw(Arguments(out=tmp_path / "scene.png", sensor=sensors, map=(f"rgb+dsm={out}",), label=label))
    assert [path.name for path in written] == ["scene.png", "scene_robustness.png"]
    for path in written:
        assert np.asarray(Image.open(path)).std() > 10  # something is drawn
    other = save(tmp_path / "other.tif", np.zeros((10, 10), np.uint8))
    with pytest.raises(InputError, match="one grid"):
        draw(Arguments(out=tmp_path / "scene.png", sensor=sensors, map=(f"rgb+dsm={out}",), label=other))
    with pytest.raises(InputError, match=r"^rgb has 10 x 10"):  # also where a map has the sensor's name
        draw(Arguments(out=tmp_path / "scene.png", sensor=(f"rgb={other}",), map=(f"rgb={out}",), label=label))
    with pytest.raises(InputError, match="NAME=FILE"):
        draw(Arguments(out=tmp_path / "scene.png", sensor=("rgb.tif",), map=(f"rgb+dsm={out}",), label=label))
