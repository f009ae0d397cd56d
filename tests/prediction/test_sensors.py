"""What sensors a scene has where, and on what grid."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine, from_origin

from sgma_jax.errors import InputError
from tests.prediction.local_scene import LocalModel, city, predict, save

Files = dict[str, Path]
EAST, NORTH = 500_000, 5_000_000


def bands(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        values: np.ndarray = file.read()
    return values


def test_far_inside_a_hole_is_the_run_without_the_sensor_and_far_outside_the_run_with_it(tmp_path: Path) -> None:
    values = city(320, 200)
    whole = {name: save(tmp_path / f"{name}.tif", v) for name, v in values.items()}
    holed = values["dsm"].copy()
    holed[:, 160:] = np.nan
    model = LocalModel(window=64)
    full = bands(predict(model, whole, tmp_path / "full.tif", overlap=32, confidence=True))
    hole = predict(
        model,
        {**whole, "dsm": save(tmp_path / "hole.tif", holed)},
        tmp_path / "map.tif",
        overlap=32,
        used=True,
        confidence=True,
    )
    without = predict(
        LocalModel(("rgb",), window=64), {"rgb": whole["rgb"]}, tmp_path / "rgb_map.tif", overlap=32, confidence=True
    )
    got = bands(hole)
    np.testing.assert_array_equal(got[:2, : 160 - 64], full[:2, : 160 - 64])
    np.testing.assert_array_equal(got[:2, 160 + 64 :], bands(without)[:2, 160 + 64 :])
    assert (got[0, 160 + 64 :] != full[0, 160 + 64 :]).any()
    assert set(got[2, :96].ravel()) == {3}
    assert set(got[2, 224:].ravel()) == {1}


def test_where_no_sensor_has_a_pixel_there_is_no_answer_and_nothing_is_computed(tmp_path: Path) -> None:
    values = city(400, 64)["dsm"]
    values[:, 100:300] = -9999
    model = LocalModel(("dsm",), window=64, batch=1)
    out = predict(
        model,
        {"dsm": save(tmp_path / "dsm.tif", values, nodata=-9999)},
        tmp_path / "map.tif",
        overlap=0,
        confidence=True,
    )
    got = bands(out)
    expected = np.zeros((400, 64), bool)
    expected[100:300] = True
    for band in got:
        np.testing.assert_array_equal(band == 255, expected)
    assert len(model.calls) == 5  # of 7 windows


def test_masks_alpha_and_nodata_are_holes(tmp_path: Path) -> None:
    rgb = city(64, 64)["rgb"]
    mask = np.full((64, 64), 255, np.uint8)
    mask[:20] = 0
    alpha = np.concatenate([rgb, mask[None]])
    files = {
        "masked": save(tmp_path / "masked.tif", rgb, mask=mask),
        "alpha": save(tmp_path / "alpha.tif", alpha, photometric="RGB", alpha="yes"),
        "nodata": save(tmp_path / "nodata.tif", np.where(mask > 0, rgb, 0).astype(np.uint8), nodata=0),
    }
    for name, file in files.items():
        got = bands(predict(LocalModel(("rgb",)), {"rgb": file}, tmp_path / f"{name}_map.tif"))[0]
        np.testing.assert_array_equal(got == 255, mask == 0, err_msg=name)


def test_tiles_of_one_sensor_are_the_raster_that_they_were_cut_from(city_files: Files, tmp_path: Path) -> None:
    rgb = bands(city_files["rgb"])
    tiles = []
    for row in range(0, 200, 70):
        for column in range(0, 170, 90):
            place = from_origin(EAST + column, NORTH - row, 1, 1)
            tiles.append(
                save(
                    tmp_path / "tiles" / f"{row}_{column}.tif",
                    rgb[:, row : row + 70, column : column + 90],
                    transform=place,
                )
            )
    whole = predict(LocalModel(), city_files, tmp_path / "map.tif")
    for given in (tiles, tmp_path / "tiles"):
        cut = predict(LocalModel(), {**city_files, "rgb": given}, tmp_path / "cut.tif", overwrite=True)
        with rasterio.open(cut) as left, rasterio.open(whole) as right:
            assert left.transform == right.transform
            np.testing.assert_array_equal(left.read(), right.read())


def test_a_sensor_of_another_resolution_crs_and_extent_lands_in_its_place(tmp_path: Path) -> None:
    rgb = np.full((3, 100, 100), 100, np.uint8)
    step = 1e-5  # degrees, about a metre
    lon, lat = (v[0] for v in rasterio.warp.transform("EPSG:32632", "EPSG:4326", [EAST + 50], [NORTH - 100]))
    height = save(
        tmp_path / "dsm.tif",
        np.full((60, 60), 20, np.float32),
        crs="EPSG:4326",
        transform=from_origin(lon, lat + 30 * step, step, step),
    )
    out = predict(
        LocalModel(window=32), {"rgb": save(tmp_path / "rgb.tif", rgb), "dsm": height}, tmp_path / "map.tif", used=True
    )
    used = bands(out)[1]
    assert (
        used[75:, 52:95] == 3
    ).all()  # south-east quarter: 30 steps north of the southern edge are 33 m, east of the middle
    assert (used[:60] == 1).all()
    assert (used[:, :49] == 1).all()


def test_sensors_that_do_not_overlap_are_predicted_each_where_it_is(tmp_path: Path) -> None:
    files = {
        "rgb": save(tmp_path / "rgb.tif", city(64, 64)["rgb"]),
        "dsm": save(tmp_path / "dsm.tif", city(64, 64)["dsm"], transform=from_origin(EAST + 1000, NORTH, 1, 1)),
        "corner": save(
            tmp_path / "corner.tif", city(64, 64)["dsm"], transform=from_origin(EAST + 60, NORTH - 62, 1, 1)
        ),
    }
    apart = bands(
        predict(LocalModel(window=32), {"rgb": files["rgb"], "dsm": files["dsm"]}, tmp_path / "apart.tif", used=True)
    )
    assert set(apart[1].ravel()) == {1}
    corner = bands(
        predict(
            LocalModel(window=32), {"rgb": files["rgb"], "dsm": files["corner"]}, tmp_path / "corner_map.tif", used=True
        )
    )
    expected = np.ones((64, 64), np.uint8)
    expected[62:, 60:] = 3
    np.testing.assert_array_equal(corner[1], expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (33, 31)])
def test_rasters_of_any_shape(size: tuple[int, int], tmp_path: Path) -> None:
    out = predict(
        LocalModel(("dsm",)), {"dsm": save(tmp_path / "dsm.tif", np.full(size, 12, np.float32))}, tmp_path / "map.tif"
    )
    got = bands(out)[0]
    assert got.shape == size
    assert (got != 255).all()


def test_radar_in_int16_with_nodata_keeps_its_values(tmp_path: Path) -> None:
    values = np.round(city(64, 64)["dsm"]).astype(np.int16)
    values[:, :5, :5] = -32768
    files = {
        "int": save(tmp_path / "int.tif", values, nodata=-32768),
        "float": save(tmp_path / "float.tif", values.astype(np.float32), nodata=-32768),
    }
    left, right = (
        bands(predict(LocalModel(("dsm",)), {"dsm": f}, tmp_path / f"{n}_map.tif", confidence=True))
        for n, f in files.items()
    )
    np.testing.assert_array_equal(left, right)
    assert (left[0, :5, :5] == 255).all()


@pytest.mark.parametrize(
    ("name", "crs", "transform"),
    [
        ("south-up", "EPSG:32632", Affine(1, 0, EAST, 0, 1, NORTH)),
        ("pixels that are not square", "EPSG:32632", Affine(0.5, 0, EAST, 0, -2, NORTH)),
        ("geographic", "EPSG:4326", Affine(1e-5, 0, 9, 0, -1e-5, 45)),
        ("rotated", "EPSG:32632", Affine(0.8, 0.6, EAST, 0.6, -0.8, NORTH)),
        ("without a place", None, Affine.identity()),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_the_map_lies_where_the_sensor_lies(name: str, crs: str | None, transform: Affine, tmp_path: Path) -> None:
    values = city(80, 70)
    files = {n: save(tmp_path / f"{n}.tif", v, crs=crs, transform=transform) for n, v in values.items()}
    upright = {n: save(tmp_path / f"{n}_upright.tif", v) for n, v in values.items()}
    with (
        rasterio.open(predict(LocalModel(), files, tmp_path / "map.tif")) as got,
        rasterio.open(predict(LocalModel(), upright, tmp_path / "upright.tif")) as expected,
    ):
        assert got.transform.almost_equals(transform, 1e-12)
        assert got.crs == (None if crs is None else rasterio.CRS.from_user_input(crs))
        np.testing.assert_array_equal(got.read(), expected.read())


def test_the_grid_can_be_another_sensors_or_asked_for(tmp_path: Path) -> None:
    coarse = save(tmp_path / "dsm.tif", city(50, 50)["dsm"], transform=from_origin(EAST, NORTH, 2, 2))
    files = {"rgb": save(tmp_path / "rgb.tif", city(100, 100)["rgb"]), "dsm": coarse}

    def place(**options: object) -> tuple[int, int, float]:
        with rasterio.open(
            predict(LocalModel(window=32), files, tmp_path / "map.tif", overwrite=True, **options)
        ) as file:
            assert (file.read(1) != 255).mean() > 0.9
            return file.width, file.height, file.transform.a

    assert place() == (100, 100, 1)
    assert place(grid="dsm") == (50, 50, 2)
    assert place(resolution=(4.0, 4.0)) == (25, 25, 4)
    assert place(bounds=(EAST + 10, NORTH - 60, EAST + 40, NORTH - 20)) == (30, 40, 1)
    width, height, degrees = place(crs="EPSG:4326")
    assert degrees < 1e-3
    assert 70 < height < 140
    assert 70 < width < 140


def test_a_much_finer_sensor_is_averaged_in_parts_as_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fine = save(tmp_path / "dsm.tif", city(600, 600)["dsm"], transform=from_origin(EAST, NORTH, 0.1, 0.1))
    files = {"rgb": save(tmp_path / "rgb.tif", city(60, 60)["rgb"]), "dsm": fine}
    at_once = bands(predict(LocalModel(), files, tmp_path / "map.tif", confidence=True))
    monkeypatch.setattr("sgma_jax.data.rasters.LARGEST_SOURCE", 2**14)
    np.testing.assert_array_equal(bands(predict(LocalModel(), files, tmp_path / "parts.tif", confidence=True)), at_once)


def test_files_that_cannot_be_placed_are_refused_with_a_way_out(tmp_path: Path) -> None:
    rgb = save(tmp_path / "rgb.tif", city(40, 40)["rgb"])
    bare = save(tmp_path / "dsm.tif", city(30, 30)["dsm"], crs=None, transform=Affine.identity())
    with pytest.raises(InputError, match=r"dsm\.tif states no CRS.*gdal_edit"):
        predict(LocalModel(), {"rgb": rgb, "dsm": bare}, tmp_path / "map.tif")
    points = [
        rasterio.control.GroundControlPoint(r, c, EAST + c, NORTH - r) for r, c in ((0, 0), (0, 40), (40, 0), (40, 40))
    ]
    gcps = tmp_path / "gcps.tif"
    with rasterio.open(
        gcps, "w", driver="GTiff", count=3, height=40, width=40, dtype="uint8", gcps=points, crs="EPSG:32632"
    ) as file:
        file.write(city(40, 40)["rgb"])
    with pytest.raises(InputError, match=r"gcps\.tif has ground control points.*gdalwarp"):
        predict(LocalModel(("rgb",)), {"rgb": gcps}, tmp_path / "map.tif")
    with pytest.raises(InputError, match=r"dsm\.tif has 1 bands.*--bands rgb=1,2,3"):
        predict(LocalModel(("rgb",)), {"rgb": bare}, tmp_path / "map.tif")
    with pytest.raises(InputError, match="no coordinate reference system"):
        predict(LocalModel(("rgb",)), {"rgb": rgb}, tmp_path / "map.tif", crs="EPSG:0")
    with pytest.raises(InputError, match="--bounds"):
        predict(LocalModel(("rgb",)), {"rgb": rgb}, tmp_path / "map.tif", bounds=(0, 1, 0, 2))
    with pytest.raises(InputError, match=r"no sensor has a pixel"):
        predict(LocalModel(("rgb",)), {"rgb": rgb}, tmp_path / "map.tif", bounds=(0, 0, 10, 10))
    assert not (tmp_path / "map.tif").exists()


@pytest.mark.parametrize(
    ("factor", "offset", "told"), [(1, 0, False), (1 / 255, 0, True), (40, 0, True), (1, 400, True), (1, 20, False)]
)
def test_values_of_another_world_than_the_runs_are_told(
    factor: float, offset: float, told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = city(96, 96)["rgb"].astype(np.float32) * np.float32(factor) + np.float32(offset)
    predict(LocalModel(("rgb",)), {"rgb": save(tmp_path / "rgb.tif", values)}, tmp_path / "map.tif")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: rgb is")]
    assert len(lines) == told
    assert all("standard deviations from what the run was trained on" in line for line in lines)


def test_several_files_that_do_not_say_where_they_lie_are_refused(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / "tiles" / f"{number}.tif", city(40, 40)["dsm"], crs=None, transform=Affine.identity())
    with pytest.raises(InputError, match=r"0\.tif does not say where it lies.* 2 files"):
        predict(LocalModel(("dsm",)), {"dsm": tmp_path / "tiles"}, tmp_path / "map.tif")


def test_files_without_crs_lie_where_their_geotransforms_say(tmp_path: Path) -> None:
    values = city(64, 64)["dsm"]
    whole = predict(LocalModel(("dsm",)), {"dsm": save(tmp_path / "whole.tif", values)}, tmp_path / "a.tif", overlap=32)
    for number, part in enumerate((values[:, :24], values[:, 24:])):
        place = from_origin(EAST, NORTH - 24 * number, 1, 1)
        save(tmp_path / "tiles" / f"{number}.tif", part, crs=None, transform=place)
    tiles = predict(LocalModel(("dsm",)), {"dsm": tmp_path / "tiles"}, tmp_path / "b.tif", overlap=32)
    np.testing.assert_array_equal(bands(tiles), bands(whole))


def test_a_hole_that_the_run_knows_of_is_one_in_its_scenes(tmp_path: Path) -> None:
    values = city(96, 96)["dsm"]
    declared, silent = values.copy(), values.copy()
    declared[:, :40] = silent[:, :40] = -9999
    model = LocalModel(("dsm",))
    expected = predict(model, {"dsm": save(tmp_path / "a.tif", declared, nodata=-9999)}, tmp_path / "a_map.tif")
    knowing = LocalModel(("dsm",))
    knowing.labels = dataclasses.replace(
        knowing.labels, modalities=tuple(dataclasses.replace(m, nodata=-9999.0) for m in knowing.labels.modalities)
    )
    found = predict(knowing, {"dsm": save(tmp_path / "b.tif", silent)}, tmp_path / "b_map.tif")
    np.testing.assert_array_equal(bands(found), bands(expected))
    assert (bands(found)[0, :30] == 255).all()


def test_a_map_of_a_scene_across_180_degrees_is_refused_in_words_about_the_scene(tmp_path: Path) -> None:
    place = from_origin(820_000 - 64 * 60, 8_020_000, 60, 60)
    scene = save(tmp_path / "dsm.tif", city(128, 128)["dsm"], crs="EPSG:32760", transform=place)
    with pytest.raises(InputError, match=r"dsm\.tif reaches from .* across 180 degrees.*another --crs"):
        predict(LocalModel(("dsm",)), {"dsm": scene}, tmp_path / "map.tif", crs="EPSG:4326")
