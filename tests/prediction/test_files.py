"""What the files say about themselves, and that polygons are the pixels of the map."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.features import rasterize

from sgma_jax.errors import InputError
from sgma_jax.prediction.polygons import complete_polygons
from sgma_jax.prediction.windows import ONE
from tests.prediction.local_scene import LocalModel, city, predict, save

Files = dict[str, Path]


@pytest.mark.parametrize("cog", [False, True])
def test_a_map_of_several_bands_keeps_names_colours_nodata_and_place(
    cog: bool, city_files: Files, tmp_path: Path
) -> None:
    out = tmp_path / "map.tif"
    predict(LocalModel(), city_files, out, confidence=True, used=True, cog=cog, probabilities=tmp_path / "p.tif")
    with rasterio.open(out) as file:
        assert file.descriptions == ("class", "confidence", "used sensors", "robustness rgb", "robustness dsm")
        assert file.colormap(1)[2] == (0, 255, 0, 255)
        assert file.tags(1)["class_0"] == "ground"
        assert file.nodatavals == (255,) * 5
        assert file.profile["tiled"]
        assert file.compression.name == "deflate"
        assert file.crs == rasterio.CRS.from_epsg(32632)
        assert file.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == ("COG" if cog else None)
        values = file.read(1)
    with rasterio.open(tmp_path / "p.tif") as file:
        assert file.descriptions == ("probability ground", "probability building", "probability tree")
        assert np.isnan(file.nodata)
        np.testing.assert_allclose(file.read().sum(0), 1, atol=1e-5)
        np.testing.assert_array_equal(file.read().argmax(0), values)


@pytest.mark.parametrize("cog", [False, True])
def test_gdalinfo_finds_place_names_colours_and_nodata(cog: bool, city_files: Files, tmp_path: Path) -> None:
    """GDAL's own program, which need not be of the version that wrote the map."""
    if shutil.which("gdalinfo") is None:
        pytest.skip("gdalinfo is not installed: apt-get install gdal-bin")
    out = predict(LocalModel(), city_files, tmp_path / "map.tif", confidence=True, used=True, cog=cog)
    said = json.loads(
        subprocess.run(["gdalinfo", "-json", "-checksum", str(out)], capture_output=True, text=True, check=True).stdout
    )
    with rasterio.open(out) as file:
        assert said["size"] == [file.width, file.height]
        assert said["geoTransform"] == list(file.transform.to_gdal())
        assert [band["checksum"] for band in said["bands"]] == [file.checksum(i) for i in file.indexes]
    assert 'ID["EPSG",32632]' in said["coordinateSystem"]["wkt"]
    assert [band["description"] for band in said["bands"]] == [
        "class",
        "confidence",
        "used sensors",
        "robustness rgb",
        "robustness dsm",
    ]
    assert {band["noDataValue"] for band in said["bands"]} == {255}
    classes, _, used = said["bands"][:3]
    assert classes["colorTable"]["entries"][:3] == [[255, 255, 255, 255], [0, 0, 255, 255], [0, 255, 0, 255]]
    assert classes["metadata"][""]["class_1"] == "building"
    assert used["metadata"][""]["bit_1"] == "dsm"
    assert said["metadata"]["IMAGE_STRUCTURE"].get("LAYOUT") == ("COG" if cog else None)


def test_a_map_of_classes_alone_holds_its_colours_itself(tmp_path: Path) -> None:
    out = predict(
        NoRobustness(("dsm",)),
        {"dsm": save(tmp_path / "dsm.tif", city(600, 300)["dsm"])},
        tmp_path / "map.tif",
        cog=True,
    )
    with rasterio.open(out) as file:
        assert file.count == 1
        assert file.colormap(1)[1] == (0, 0, 255, 255)
        assert file.overviews(1)
    auxiliary = out.with_name("map.tif.aux.xml").read_text()  # TIFF has no names of values
    assert "<Category>building</Category>" in auxiliary
    assert "ColorTable" not in auxiliary


class NoRobustness(LocalModel):
    """A model that was not asked for robustness."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        given = self.labels
        self.labels = type(given)(given.modalities, given.bits, given.classes, given.palette, ())

    def one(self, images, available):
        probabilities, robustness, used = super().one(images, available)
        return probabilities, robustness[:0], used


def marked(seed: int, height: int = 90, width: int = 60) -> np.ndarray:
    mask: np.ndarray = np.random.default_rng(seed).random((height // 3, width // 3)) < 0.55
    return np.kron(mask, np.ones((3, 3), bool))


@pytest.mark.parametrize("rows", [1, 7, 32, 90])
def test_polygons_are_whole_however_the_rows_arrive(rows: int) -> None:
    mask = marked(4)
    found = list(complete_polygons(mask[first : first + rows] for first in range(0, len(mask), rows)))
    whole = list(complete_polygons([mask]))
    assert sorted(area for _, area in found) == sorted(area for _, area in whole)
    assert sum(area for _, area in found) == mask.sum()
    drawn = np.zeros(mask.shape, np.int32)
    for outline, _ in found:
        drawn += rasterize([outline], mask.shape)
    np.testing.assert_array_equal(drawn, mask)  # every pixel once


def test_polygons_go_to_a_geopackage_with_class_and_area(city_files: Files, tmp_path: Path) -> None:
    pyogrio = pytest.importorskip("pyogrio")
    shapely = pytest.importorskip("shapely")
    with pytest.raises(InputError, match="no class 'lake'"):
        predict(LocalModel(), city_files, tmp_path / "map.tif", polygons={"lake": Path("a.gpkg")})
    out = predict(
        LocalModel(),
        city_files,
        tmp_path / "map.tif",
        polygons={"building": tmp_path / "building.gpkg"},
        overwrite=True,
    )
    with rasterio.open(out) as file:
        building = file.read(1) == 1
        crs, transform = file.crs, file.transform
    meta, _, geometries, (names, codes, pixels) = pyogrio.raw.read(tmp_path / "building.gpkg")
    assert list(meta["fields"]) == ["class", "code", "pixels"]
    assert rasterio.CRS.from_user_input(meta["crs"]) == crs
    assert set(names) == {"building"}
    assert set(codes) == {1}
    assert pixels.sum() == building.sum()
    shapes = shapely.from_wkb(geometries)
    assert shapely.is_valid(shapes).all()
    drawn = rasterize([s for s in shapes if s.area > 0], building.shape, transform=transform)
    assert (drawn.astype(bool) != building).mean() < 0.1  # simplified by at most a pixel at the edges


def test_polygons_without_their_packages_are_one_line(
    city_files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyogrio", None)
    with pytest.raises(InputError, match=r"--polygons needs the package pyogrio.*pip install"):
        predict(LocalModel(), city_files, tmp_path / "map.tif", polygons={"building": Path("building.gpkg")})


PEAK = """
import sys
from pathlib import Path
from experiments.benchmarks.timing import peak_resident
from tests.prediction.local_scene import LocalModel, predict
from sgma_jax.prediction.windows import Answers
import numpy as np
class Cheap(LocalModel):
    def __call__(self, images, available):
        shape = (self.batch, self.window, self.window)
        classes, layers = np.full((self.batch, 3, *shape[1:]), 20000, np.uint16), np.zeros((self.batch, 2, *shape[1:]), np.uint16)
        return Answers(classes, layers, np.ones(shape, np.uint16))
folder = Path(sys.argv[1])
predict(Cheap(window=256, batch=4), {"rgb": folder / "rgb.tif", "dsm": folder / "dsm.tif"}, folder / "map.tif", confidence=True)
print(peak_resident() // 1024)
"""


def peak_kilobytes(folder: Path, height: int, width: int) -> int:
    """Peak resident set of a process that predicts a scene of this size."""
    for name, count, dtype in (("rgb", 3, "uint8"), ("dsm", 1, "float32")):
        profile = {
            "driver": "GTiff",
            "count": count,
            "height": height,
            "width": width,
            "dtype": dtype,
            "crs": "EPSG:32632",
        }
        place = {"transform": rasterio.transform.from_origin(0, 0, 1, 1), "tiled": True, "compress": "deflate"}
        folder.mkdir(exist_ok=True)
        with rasterio.open(folder / f"{name}.tif", "w", **profile, **place) as file:
            block = np.full((count, 256, width), 7, dtype)
            for row in range(0, height, 256):
                rows = min(256, height - row)
                file.write(block[:, :rows], window=rasterio.windows.Window(0, row, width, rows))
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(folder)], capture_output=True, text=True, timeout=1200, check=True
    )
    return int(done.stdout.split()[-1])


@pytest.mark.slow
def test_a_scene_ten_times_as_high_takes_the_same_memory(tmp_path: Path) -> None:
    assert peak_kilobytes(tmp_path / "high", 40_000, 4_000) < 1.1 * peak_kilobytes(tmp_path / "square", 4_000, 4_000)


def test_memory_does_not_grow_with_the_height(tmp_path: Path) -> None:
    """The test above in small, with room for what the process takes anyway."""
    assert peak_kilobytes(tmp_path / "high", 6_000, 600) < 1.1 * peak_kilobytes(tmp_path / "square", 1_500, 600)


class TwoThirds(LocalModel):
    """The first class everywhere, with probability 2/3; sensors share alike."""

    def one(self, images: dict[str, np.ndarray], available: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        probabilities, robustness, used = super().one(images, available)
        shares = np.array([2 / 3, 1 / 3, 0.0])[:, None, None] * np.ones(probabilities.shape[1:])
        return np.rint(ONE * shares).astype(np.uint16), robustness, used


def test_percent_bands_are_rounded(city_files: Files, tmp_path: Path) -> None:
    with rasterio.open(predict(TwoThirds(), city_files, tmp_path / "map.tif", confidence=True)) as file:
        confidence = file.read(2)
    assert set(np.unique(confidence)) <= {67, 255}
    assert (confidence == 67).any()
