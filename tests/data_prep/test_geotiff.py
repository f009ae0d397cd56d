"""A user's rasters become tiles: the right pixels in the right place, and honest about where there are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import Affine, from_origin
from rasterio.warp import transform as warp_points

from data_prep.labels import LabelRules, survey_labels, tile_label
from data_prep.scenes import LabelledScene
from sgma_jax.data.rasters import Box, Rasters
from sgma_jax.data.schema import IGNORE, read_manifest
from sgma_jax.data.source import open_source

Write = Callable[..., Path]
Run = Callable[..., tuple[int, str]]
NORTH = 5_000_000
EAST = 500_000


@pytest.fixture
def scene(tmp_path: Path, write_raster: Write, rng: np.random.Generator) -> Path:
    """A folder with one scene of 70 x 50 pixels, split in three bands of rows."""
    folder = tmp_path / "scene"
    split = np.repeat(np.array([1, 0, 2, 3], np.uint8), (30, 5, 15, 20))[:, None] * np.ones((1, 50), np.uint8)
    write_raster(folder / "label.tif", rng.choice(np.array([0, 1, 2, 255], np.uint8), (70, 50)), nodata=255)
    write_raster(folder / "label_old.tif", np.zeros((70, 50), np.uint8))
    write_raster(folder / "split.tif", split)
    write_raster(folder / "rgb.tif", rng.integers(1, 60000, (3, 70, 50)).astype(np.uint16))
    write_raster(folder / "height.tif", rng.normal(100, 5, (70, 50)).astype(np.float32))
    return folder


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return np.moveaxis(file.read(), 0, -1)


@pytest.mark.parametrize("overlap", [0, 10])
def test_tiles_put_together_are_the_scene(scene: Path, tmp_path: Path, run_geotiff: Run, overlap: int) -> None:
    assert run_geotiff(scene, tmp_path / "out", "--tile", 32, "--overlap", overlap)[0] == 0
    manifest = read_manifest(tmp_path / "out")
    assert manifest.schema.names == ("height", "rgb")
    label, split = read(scene / "label.tif")[..., 0], read(scene / "split.tif")[..., 0]
    for code, name in enumerate(("train", "validation", "test"), 1):
        source = open_source(tmp_path / "out", name, ("rgb", "height"))
        found = np.full((70, 50), IGNORE, np.uint8)
        times = np.zeros((70, 50), int)
        for i in range(len(source)):
            tile = source[i]
            y, x = map(int, tile.id.split("/")[1].split("_"))
            h, w = min(32, 70 - y), min(32, 50 - x)
            for row, sensor in enumerate(("rgb", "height")):
                np.testing.assert_array_equal(
                    tile.images[sensor][:h, :w], read(scene / f"{sensor}.tif")[y : y + h, x : x + w]
                )
                expected = np.zeros((32, 32), bool)
                expected[:h, :w] = True  # padding is not available
                np.testing.assert_array_equal(tile.available[row], expected)
            kept = tile.label[:h, :w] != IGNORE
            assert (tile.label[h:] == IGNORE).all()
            assert (tile.label[:, w:] == IGNORE).all()
            assert kept.any()
            times[y : y + h, x : x + w] += kept
            found[y : y + h, x : x + w][kept] = tile.label[:h, :w][kept]
        wanted = (split == code) & (label != IGNORE)
        np.testing.assert_array_equal(found, np.where(wanted, label, IGNORE))
        assert ((times > 0) == wanted).all()
        assert name == "train" or times.max() == 1


@settings(max_examples=25)
@given(st.data())
def test_every_labelled_pixel_is_scored_in_exactly_one_tile(
    tmp_path_factory: pytest.TempPathFactory, write_raster: Write, data: st.DataObject
) -> None:
    height, width, tile = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70)), data.draw(st.integers(2, 40))
    overlap, seed = data.draw(st.integers(0, tile - 1)), data.draw(st.integers(0, 99))
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("scene")
    label, split = (
        rng.choice(np.array([0, 1, 2, 255], np.uint8), (height, width)),
        rng.integers(0, 4, (height, width)).astype(np.uint8),
    )
    label[0, 0], split[0, 0] = 1, 1  # a scene without any training pixel is refused
    scene = LabelledScene("s", {}, write_raster(folder / "label.tif", label), write_raster(folder / "split.tif", split))
    rasters = Rasters()
    rules = LabelRules(tile, overlap, (), (255,), {})
    survey = survey_labels(rasters, [scene], rules)
    for code, name in enumerate(("train", "validation", "test"), 1):
        times = np.zeros((height + tile, width + tile), int)
        for key in survey.tiles[name]:
            kept = tile_label(rasters, scene, key, tile, rules) != IGNORE
            assert kept.any()
            times[key.row.start : key.row.start + tile, key.column.start : key.column.start + tile] += kept
        wanted = np.zeros_like(times)
        wanted[:height, :width] = (split == code) & (label != 255)
        if name == "train":
            np.testing.assert_array_equal(times > 0, wanted > 0)
        else:
            np.testing.assert_array_equal(times, wanted)
    rasters.close()


def test_an_empty_cell_is_a_missing_sensor(manifest: Path, tmp_path: Path, run_geotiff: Run) -> None:
    assert run_geotiff(manifest, tmp_path / "out", "--tile", 32, "--classes", "road", "roof", "tree")[0] == 0
    source = open_source(tmp_path / "out", "train")
    assert source.schema.names == ("rgb", "dsm")
    assert source.schema.classes == ("road", "roof", "tree")
    lacking = source[1]
    assert lacking.id.startswith("b_label")
    assert lacking.available[0].all()
    assert not lacking.available[1].any()
    assert not lacking.images["dsm"].any()
    assert read_manifest(tmp_path / "out").splits["train"].records_available == (2, 1)


def test_modalities_chooses_and_orders(manifest: Path, tmp_path: Path, run_geotiff: Run) -> None:
    manifest.write_text(manifest.read_text().replace("rgb,dsm,", "rgb,notes,"))
    assert run_geotiff(manifest, tmp_path / "one", "--tile", 32, "--modalities", "rgb")[0] == 0
    assert read_manifest(tmp_path / "one").schema.names == ("rgb",)
    assert run_geotiff(manifest, tmp_path / "two", "--tile", 32, "--modalities", "notes", "rgb")[0] == 0
    assert read_manifest(tmp_path / "two").schema.names == ("notes", "rgb")


@pytest.mark.parametrize("kind", ["nodata", "nodata in one band", "nan", "infinity", "alpha", "mask"])
def test_a_hole_is_not_available_and_holds_zeros(
    tmp_path: Path, write_raster: Write, rng: np.random.Generator, kind: str
) -> None:
    hole = np.zeros((24, 24), bool)
    hole[5:11, 3:20] = True
    values = rng.integers(1, 200, (3, 24, 24)).astype(np.float32 if kind in ("nan", "infinity") else np.int16)
    more: dict[str, object] = {}
    if kind == "nodata":
        values[:, hole], more["nodata"] = -999, -999
    elif kind == "nodata in one band":
        values[1, hole], more["nodata"] = -999, -999
    elif kind in ("nan", "infinity"):
        values[1, hole] = np.nan if kind == "nan" else np.inf
    elif kind == "mask":
        more["mask"] = np.where(hole, 0, 255).astype(np.uint8)
    else:
        values = np.concatenate((values, np.where(hole, 0, 255)[None].astype(np.int16)))
        more["photometric"], more["alpha"] = "RGB", "YES"
    path = write_raster(tmp_path / "image.tif", values, **more)
    label = write_raster(tmp_path / "label.tif", np.zeros((24, 24), np.uint8))
    rasters = Rasters()
    pixels, available = rasters.image(path, label, Box(0, 0, 24))
    rasters.close()
    assert pixels.shape == (24, 24, 3)
    np.testing.assert_array_equal(available, ~hole)
    np.testing.assert_array_equal(pixels, np.where(hole[..., None], 0, np.moveaxis(values[:3], 0, -1)))


def test_zero_as_nodata_is_a_hole_only_where_all_bands_are_zero(tmp_path: Path, write_raster: Write) -> None:
    values = np.full((3, 16, 16), 9, np.uint8)
    values[0, 2], values[:, 5] = 0, 0  # a dark red, and a hole
    path = write_raster(tmp_path / "image.tif", values, nodata=0)
    rasters = Rasters()
    _, available = rasters.image(
        path, write_raster(tmp_path / "label.tif", np.zeros((16, 16), np.uint8)), Box(0, 0, 16)
    )
    rasters.close()
    assert available[2].all()
    assert not available[5].any()


def ramp(transform: Affine, height: int, width: int) -> np.ndarray:
    """A plane over the coordinates, as a raster with this transform samples it: 2 east + 3 south."""
    x = transform.c + transform.a * (np.arange(width) + 0.5) - EAST
    y = NORTH - (transform.f + transform.e * (np.arange(height) + 0.5))
    return (2 * x[None] + 3 * y[:, None]).astype(np.float32)


@pytest.mark.parametrize("metres", [0.25, 0.5, 2.0, 5.0])
def test_a_sensor_of_another_resolution_and_extent_lands_in_the_right_place(
    tmp_path: Path, write_raster: Write, metres: float
) -> None:
    label = write_raster(tmp_path / "label.tif", np.zeros((60, 60), np.uint8))
    # Covers 20 to 60 m east and 10 to 50 m south of the label's corner.
    place, count = from_origin(EAST + 20, NORTH - 10, metres, metres), int(40 / metres)
    image = write_raster(tmp_path / "image.tif", ramp(place, count, count), transform=place)
    rasters = Rasters()
    pixels, available = rasters.image(image, label, Box(0, 0, 64))
    footprint = np.zeros((64, 64), bool)
    footprint[10:50, 20:60] = True
    np.testing.assert_array_equal(available, footprint)
    edge = int(np.ceil(metres)) + 1  # interpolation has one neighbour only at the border
    inside = (slice(10 + edge, 50 - edge), slice(20 + edge, 60 - edge))
    expected = ramp(from_origin(EAST, NORTH, 1, 1), 64, 64)
    np.testing.assert_allclose(pixels[..., 0][inside], expected[inside], atol=0.02)
    assert not pixels[~footprint].any()
    # A window gives what the whole gives: no seams.
    part, seen = rasters.image(image, label, Box(17, 23, 16))
    np.testing.assert_allclose(part, pixels[17:33, 23:39], atol=0.02)
    np.testing.assert_array_equal(seen, available[17:33, 23:39])
    rasters.close()


def test_a_sensor_in_another_crs_is_warped_and_keeps_its_type(tmp_path: Path, write_raster: Write) -> None:
    label = write_raster(tmp_path / "label.tif", np.zeros((50, 50), np.uint8))
    lon, lat = (v[0] for v in warp_points("EPSG:32632", "EPSG:4326", [EAST], [NORTH]))
    step = 5e-6  # about half a metre
    place = from_origin(lon - 20 * step, lat + 20 * step, step, step)
    # Value: distance east in steps of the raster.
    image = write_raster(
        tmp_path / "image.tif",
        np.tile(np.arange(400, dtype=np.uint16) * 100, (400, 1)),
        crs="EPSG:4326",
        transform=place,
    )
    rasters = Rasters()
    pixels, available = rasters.image(image, label, Box(0, 0, 50))
    rasters.close()
    assert pixels.dtype == np.uint16
    assert available.all()
    x, y = np.meshgrid(EAST + np.arange(50) + 0.5, NORTH - np.arange(50) - 0.5)
    longitude = np.array(warp_points("EPSG:32632", "EPSG:4326", x.ravel(), y.ravel())[0]).reshape(50, 50)
    expected = ((longitude - place.c) / step - 0.5) * 100
    np.testing.assert_allclose(pixels[..., 0], expected, atol=25)  # a quarter of a source pixel


def test_a_hole_in_a_coarser_sensor_stays_a_hole_and_does_not_bleed(tmp_path: Path, write_raster: Write) -> None:
    label = write_raster(tmp_path / "label.tif", np.zeros((40, 40), np.uint8))
    values = np.full((20, 20), 50, np.float32)
    values[5:10, 5:10] = -9999
    image = write_raster(tmp_path / "image.tif", values, transform=from_origin(EAST, NORTH, 2, 2), nodata=-9999)
    rasters = Rasters()
    pixels, available = rasters.image(image, label, Box(0, 0, 40))
    rasters.close()
    hole = np.zeros((40, 40), bool)
    hole[10:20, 10:20] = True
    np.testing.assert_array_equal(available, ~hole)
    np.testing.assert_allclose(pixels[~hole], 50, atol=1e-4)


def test_statistics_leave_out_the_other_splits_and_holes(tmp_path: Path, write_raster: Write, run_geotiff: Run) -> None:
    folder = tmp_path / "scene"
    split = np.array([[1] * 20 + [3] * 20] * 32, np.uint8)
    values = np.where(split == 1, 10.0, 1e6).astype(np.float32)
    values[:, 5] = np.nan
    values[:, 6] = 30.0
    write_raster(folder / "height.tif", values)
    write_raster(folder / "label.tif", np.zeros((32, 40), np.uint8))
    write_raster(folder / "split.tif", split)
    assert run_geotiff(folder, tmp_path / "out", "--tile", 40)[0] == 0
    height = read_manifest(tmp_path / "out").schema.modalities[0]
    pixels = np.array([10.0] * 18 + [30.0])
    assert height.mean == pytest.approx((pixels.mean(),))
    assert height.std == pytest.approx((pixels.std(),))


def test_radar_intensities_become_decibels_and_zeros_become_holes(
    tmp_path: Path, write_raster: Write, run_geotiff: Run
) -> None:
    folder = tmp_path / "scene"
    values = np.full((20, 20), 100.0, np.float32)
    values[3], values[4] = 0.0, 0.001
    for name, raster in (
        ("sar", values),
        ("label", np.zeros((20, 20), np.uint8)),
        ("split", np.ones((20, 20), np.uint8)),
    ):
        write_raster(folder / f"{name}.tif", raster)
    assert run_geotiff(folder, tmp_path / "out", "--tile", 20, "--log-modalities", "sar")[0] == 0
    tile = open_source(tmp_path / "out", "train")[0]
    assert not tile.available[0, 3].any()
    assert tile.available[0].sum() == 19 * 20
    np.testing.assert_allclose(tile.images["sar"][4], -30, atol=1e-4)
    np.testing.assert_allclose(tile.images["sar"][5:], 20, atol=1e-4)
    (sar,) = read_manifest(tmp_path / "out").schema.modalities
    assert (sar.unit, sar.log) == ("decibel", True)


def test_bands_keep_the_names_that_their_file_gives_them_all(
    tmp_path: Path, write_raster: Write, run_geotiff: Run
) -> None:
    folder = tmp_path / "scene"
    write_raster(folder / "label.tif", np.zeros((20, 20), np.uint8))
    write_raster(folder / "split.tif", np.ones((20, 20), np.uint8))
    for name, descriptions in (("optical", ("red", "near infrared")), ("radar", ("VV", None))):
        with rasterio.open(write_raster(folder / f"{name}.tif", np.full((2, 20, 20), 7, np.uint8)), "r+") as file:
            file.descriptions = descriptions
    assert run_geotiff(folder, tmp_path / "out", "--tile", 20)[0] == 0
    modalities = read_manifest(tmp_path / "out").schema.modalities
    assert {m.name: m.band_names for m in modalities} == {"optical": ("red", "near infrared"), "radar": ()}


def test_rasters_without_crs_of_equal_size_count_as_aligned(
    tmp_path: Path, write_raster: Write, rng: np.random.Generator
) -> None:
    values = rng.integers(0, 255, (20, 20)).astype(np.uint8)
    image = write_raster(tmp_path / "image.tif", values, crs=None)
    label = write_raster(tmp_path / "label.tif", np.zeros((20, 20), np.uint8), crs=None)
    rasters = Rasters()
    pixels, available = rasters.image(image, label, Box(0, 0, 20))
    rasters.close()
    np.testing.assert_array_equal(pixels[..., 0], values)
    assert available.all()


def test_colours_come_from_the_labels_colour_table(tmp_path: Path, write_raster: Write, run_geotiff: Run) -> None:
    folder = tmp_path / "scene"
    label = np.array([[0, 1] * 10] * 20, np.uint8)
    write_raster(folder / "label.tif", label, colours={0: (1, 2, 3, 255), 1: (40, 50, 60, 255)})
    write_raster(folder / "split.tif", np.ones((20, 20), np.uint8))
    write_raster(folder / "rgb.tif", np.full((3, 20, 20), 7, np.uint8))
    assert run_geotiff(folder, tmp_path / "out", "--tile", 20)[0] == 0
    manifest = read_manifest(tmp_path / "out")
    assert manifest.schema.palette == ((1, 2, 3), (40, 50, 60))
    assert any("constant" in finding for finding in manifest.findings)  # rgb is 7 everywhere
    assert manifest.schema.modalities[0].std == (1.0, 1.0, 1.0)


def test_the_manifest_names_every_file_read_and_no_place_on_the_machine(
    manifest: Path, tmp_path: Path, run_geotiff: Run, write_raster: Write
) -> None:
    elsewhere = write_raster(
        tmp_path.parent / f"{tmp_path.name}_elsewhere" / "a_rgb.tif", np.ones((3, 32, 32), np.uint8)
    )
    manifest.write_text(manifest.read_text().replace("a_rgb.tif", str(elsewhere), 1))
    assert run_geotiff(manifest, tmp_path / "out", "--tile", 32)[0] == 0
    text = (tmp_path / "out" / "manifest.json").read_text()
    names = {source["path"] for source in json.loads(text)["sources"]}
    assert {"manifest.csv", "a_rgb.tif", "d_dsm.tif", "c_label.tif"} <= names
    assert str(tmp_path) not in text
    assert all(len(source["sha256"]) == 64 for source in json.loads(text)["sources"])


def test_tiles_that_no_sensor_saw_are_left_out_and_noted(tmp_path: Path, write_raster: Write, run_geotiff: Run) -> None:
    folder = tmp_path / "scene"
    write_raster(folder / "label.tif", np.zeros((32, 64), np.uint8))
    write_raster(folder / "split.tif", np.ones((32, 64), np.uint8))
    write_raster(folder / "nir.tif", np.arange(1024, dtype=np.uint16).reshape(32, 32))  # the left half
    assert run_geotiff(folder, tmp_path / "out", "--tile", 32)[0] == 0
    assert len(open_source(tmp_path / "out", "train")) == 1
    assert any("no sensor" in finding for finding in read_manifest(tmp_path / "out").findings)
