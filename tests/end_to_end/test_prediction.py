"""`sgma predict` with a trained network: one scene, many, arrays, devices."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from data_prep.synthetic import render
from sgma_jax import Run, predict_image
from tests.end_to_end.test_commands import assert_one_line
from tests.prediction.local_scene import save

Command = Callable[..., tuple[int, str, str]]
WINDOWS = ("--window", 64, "--overlap", 32, "--batch", 2)
MEAN = (*WINDOWS, "--robustness", "mean")
"""As `predict_image` computes it, so that most tests share their programs."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sensors of a part of the city of the tiny run, in a folder; the heights have a hole in the south."""
    folder = tmp_path_factory.mktemp("scenes") / "first"
    example = render(0, "test", 1, 160)
    place = from_origin(500_000, 5_000_000, 0.4, 0.4)
    height = np.moveaxis(example.images["dsm"], -1, 0).copy()
    height[:, 90:] = np.nan
    save(folder / "rgb.tif", np.moveaxis(example.images["rgb"], -1, 0)[:, :, :100], transform=place)
    save(folder / "dsm.tif", height[:, :, :100], transform=place)
    return folder


def sensors(folder: Path) -> list[str]:
    return ["--sensor", f"rgb={folder / 'rgb.tif'}", "--sensor", f"dsm={folder / 'dsm.tif'}"]


def bands(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        values: np.ndarray = file.read()
    return values


def test_a_scene_becomes_a_map_that_says_what_it_holds(
    tiny_run: Path, scene: Path, sgma: Command, tmp_path: Path
) -> None:
    out = tmp_path / "map.tif"
    more = ("--confidence", "--used", "--robustness", "scales")
    status, printed, err = sgma("predict", tiny_run, *sensors(scene), "--out", out, *WINDOWS, *more)
    assert status == 0, err
    assert printed.split() == [str(out)]
    with rasterio.open(out) as file:
        assert (file.height, file.width, file.crs, file.nodata) == (160, 100, rasterio.CRS.from_epsg(32632), 255)
        scales = [f"robustness {s} stride {stride}" for s in ("rgb", "dsm") for stride in (4, 8, 16, 32)]
        assert file.descriptions == ("class", "confidence", "used sensors", *scales)
        assert file.tags(1)["class_1"] == "building"
        assert file.colormap(1)[1] == (0, 0, 255, 255)
        assert (file.tags(3)["bit_0"], file.tags(3)["bit_1"]) == ("rgb", "dsm")
        assert file.tags()["step"] == "20"
        values = file.read()
    assert (values[0] < 5).all()
    assert (values[1] <= 100).all()
    assert set(values[2, :85].ravel()) == {3}
    assert set(values[2, 96:].ravel()) == {1}
    shares = values[3:].reshape(2, 4, 160, 100).astype(int)
    assert (abs(shares.sum(0) - 100) <= 1).all()
    assert (shares[0, :, 128:] == 100).all()


def test_arrays_give_what_files_give_and_holes_what_fewer_sensors_give(
    tiny_run: Path, scene: Path, sgma: Command, tmp_path: Path
) -> None:
    run = Run(tiny_run)
    rgb, height = (np.moveaxis(bands(scene / f"{name}.tif"), 0, -1) for name in ("rgb", "dsm"))
    both = predict_image(run, {"dsm": height[..., 0], "rgb": rgb}, window=64, overlap=32, batch=2)
    out, alone_out = tmp_path / "map.tif", tmp_path / "rgb_map.tif"
    assert sgma("predict", tiny_run, *sensors(scene), "--out", out, *MEAN)[0] == 0
    np.testing.assert_array_equal(bands(out)[0], both.classes)
    np.testing.assert_allclose(both.probabilities.sum(-1), 1, atol=1e-5)
    assert both.used["dsm"][:85].all()
    assert not both.used["dsm"][96:].any()
    assert both.robustness["rgb"][96:] == pytest.approx(1)

    assert sgma("predict", tiny_run, *sensors(scene)[:2], "--out", alone_out, *MEAN)[0] == 0
    alone = predict_image(run, {"rgb": rgb}, window=64, overlap=32, batch=2)
    np.testing.assert_array_equal(bands(alone_out)[0], alone.classes)
    # A window's length south of the hole's edge no window sees the heights.
    np.testing.assert_allclose(both.probabilities[90 + 64 :], alone.probabilities[90 + 64 :], atol=1e-4)
    whole = predict_image(run, {"rgb": rgb, "dsm": np.nan_to_num(height)}, window=64, overlap=32, batch=2)
    np.testing.assert_allclose(both.probabilities[: 90 - 64], whole.probabilities[: 90 - 64], atol=1e-4)


def test_intensities_become_the_decibels_that_the_run_was_trained_on(
    tiny_run: Path, scene: Path, sgma: Command, tmp_path: Path
) -> None:
    power = save(tmp_path / "power.tif", 10 ** (bands(scene / "dsm.tif") / 10))
    asked, known = tmp_path / "asked.tif", tmp_path / "known.tif"
    expected = tmp_path / "expected.tif"
    assert sgma("predict", tiny_run, *sensors(scene)[2:], "--out", expected, *MEAN)[0] == 0
    given = ("--sensor", f"dsm={power}")
    assert sgma("predict", tiny_run, *given, "--out", asked, *MEAN, "--log-sensors", "dsm")[0] == 0
    assert (bands(asked)[0] == bands(expected)[0]).mean() > 0.999
    moved = shutil.copytree(tiny_run, tmp_path / "moved")
    fields = json.loads((moved / "schema.json").read_text())
    fields["schema"]["modalities"][1]["log"] = True
    (moved / "schema.json").write_text(json.dumps(fields))
    assert sgma("predict", moved, *given, "--out", known, *MEAN)[0] == 0
    np.testing.assert_array_equal(bands(known), bands(asked))


def test_many_scenes_in_one_call_and_the_one_that_fails_is_told_at_the_end(
    tiny_run: Path, scene: Path, sgma: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "scenes"
    for name in ("a", "b", "c"):
        shutil.copytree(scene, folder / name)
    (folder / "b" / "rgb.tif").write_bytes(b"no raster")
    (folder / "c" / "dsm.tif").unlink()
    status, printed, err = sgma("predict", tiny_run, "--scenes", folder, "--out", tmp_path / "maps", *MEAN, "--used")
    assert status == 1
    assert printed.split() == [str(tmp_path / "maps" / "a.tif"), str(tmp_path / "maps" / "c.tif")]
    assert "1 of 3 scenes failed, the others are done" in err
    assert "b: " in err.splitlines()[-1]
    assert "rgb.tif is no raster that can be opened" in err.splitlines()[-1]
    assert set(np.unique(bands(tmp_path / "maps" / "c.tif")[1])) == {1}
    listed = tmp_path / "scenes.csv"
    listed.write_text("id,rgb,dsm\nonly_rgb,scenes/a/rgb.tif,\nboth,scenes/a/rgb.tif,scenes/a/dsm.tif\n")
    assert sgma("predict", tiny_run, "--scenes", listed, "--out", tmp_path / "listed", *MEAN)[0] == 0
    np.testing.assert_array_equal(bands(tmp_path / "listed" / "both.tif")[0], bands(tmp_path / "maps" / "a.tif")[0])


def test_bad_arguments_are_one_line(tiny_run: Path, scene: Path, sgma: Command, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "map.tif")
    rgb = f"rgb={scene / 'rgb.tif'}"
    assert_one_line(sgma("predict", *out), "needs the folder of a run")
    assert_one_line(sgma("predict", tiny_run, *out), "--sensor NAME=FILE")
    assert_one_line(sgma("predict", tiny_run, "--sensor", "rgb", *out), "NAME=FILE")
    assert_one_line(sgma("predict", tiny_run, "--sensor", f"sar={scene / 'rgb.tif'}", *out), "sar", "rgb, dsm")
    assert_one_line(sgma("predict", tiny_run, "--sensor", "rgb=nowhere.tif", *out), "nowhere.tif does not exist")
    assert_one_line(sgma("predict", tiny_run, "--sensor", f"dsm={scene / 'rgb.tif'}", *out), "3 bands", "--bands dsm=1")
    assert_one_line(
        sgma("predict", tiny_run, "--sensor", rgb, *out, "--window", 50), "--window is 50", "multiple of 32"
    )
    assert_one_line(sgma("predict", tiny_run, "--sensor", rgb, *out, "--overlap", 48), "--overlap is 48")
    assert_one_line(sgma("predict", tiny_run, "--sensor", rgb, *out, "--memory", "much"), "--memory is 'much'")
    assert_one_line(sgma("predict", tiny_run, "--sensor", rgb, *out, "--memory", "1kB"), "one row of windows")
    assert_one_line(sgma("predict", tiny_run, "--sensor", rgb, *out, "--shard", "3/2"), "--shard is 3/2")
    twice = ("--bands", "rgb=1", "--bands", "rgb=2,3")
    assert_one_line(sgma("predict", tiny_run, "--sensor", rgb, *out, *twice), "'rgb' twice")
    twice = ("--polygons", "car.gpkg", "--polygons", "car=b.gpkg")
    assert_one_line(sgma("predict", tiny_run, "--sensor", rgb, *out, *twice), "'car' twice")
    assert_one_line(sgma("predict", tiny_run, "--sensor", rgb, *out, "--grid", "dsm"), "--grid names 'dsm'")
    assert_one_line(sgma("predict", tiny_run, "--sensor", rgb, *out, "--polygons", "lake=a.gpkg"), "no class 'lake'")
    assert_one_line(sgma("predict", "--merge", *out), "nothing to merge")
    (tmp_path / "scenes.csv").write_text(f"id,rgb\nrgb,{scene / 'rgb.tif'}\n")
    before = (scene / "rgb.tif").read_bytes()
    into = ("--scenes", tmp_path / "scenes.csv", "--out", scene, "--overwrite")
    assert_one_line(sgma("predict", tiny_run, *into), f"would replace {scene / 'rgb.tif'}", "another folder")
    assert (scene / "rgb.tif").read_bytes() == before
    assert not (tmp_path / "map.tif.parts").exists()


def test_a_run_is_enough_by_itself_and_an_older_one_says_what_to_do(
    tiny_run: Path, scene: Path, sgma: Command, tmp_path: Path
) -> None:
    moved = shutil.copytree(tiny_run, tmp_path / "moved")
    config = moved / "config.json"
    config.write_text(config.read_text().replace('"path": "', '"path": "gone'))
    assert sgma("predict", moved, *sensors(scene)[:2], "--out", tmp_path / "map.tif", *MEAN)[0] == 0
    (moved / "schema.json").unlink()
    result = sgma("predict", moved, *sensors(scene)[:2], "--out", tmp_path / "other.tif", *MEAN)
    assert_one_line(result, "no schema.json", "sgma train")


@pytest.mark.slow
def test_the_same_bytes_on_one_device_and_on_four_with_any_batch(tiny_run: Path, scene: Path, tmp_path: Path) -> None:
    maps = []
    for devices, batch in ((1, 1), (1, 4), (2, 2), (4, 8)):
        out = tmp_path / f"{devices}_{batch}.tif"
        command = [
            sys.executable,
            "-c",
            "from sgma_jax.cli import main; main()",
            "predict",
            str(tiny_run),
            *sensors(scene),
            "--out",
            str(out),
        ]
        command += [
            "--window",
            "64",
            "--overlap",
            "32",
            "--batch",
            str(batch),
            "--confidence",
            "--robustness",
            "scales",
        ]
        environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        subprocess.run(command, check=True, capture_output=True, timeout=600, env=environment)
        maps.append(out.read_bytes())
    assert maps[1:] == maps[:-1]
