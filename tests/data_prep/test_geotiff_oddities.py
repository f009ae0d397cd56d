"""Likely mistakes in a user's rasters are told in the manifest, with the flag that mends them, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from sgma_jax.data.schema import read_manifest
from sgma_jax.data.source import open_source

Write = Callable[..., Path]
Run = Callable[..., tuple[int, str]]
SIDE = 32


@pytest.fixture
def convert(tmp_path: Path, write_raster: Write, run_geotiff: Run) -> Callable[..., tuple[int, str, tuple[str, ...]]]:
    """convert(flags, NAME=values ...) -> status, standard error, findings of one training scene."""

    def run(*flags: object, **rasters: Any) -> tuple[int, str, tuple[str, ...]]:
        made = {"label": np.random.default_rng(0).integers(0, 3, (SIDE, SIDE)).astype(np.uint8), **rasters}
        for name, values in made.items():
            if isinstance(values, np.ndarray):
                write_raster(tmp_path / f"{name}.tif", values)
        names = [name for name in made if name != "label"]
        lines = [",".join([*names, "label", "split"]), ",".join([f"{n}.tif" for n in [*names, "label"]] + ["train"])]
        (tmp_path / "scenes.csv").write_text("\n".join(lines) + "\n")
        out = tmp_path / "out"
        status, err = run_geotiff(tmp_path / "scenes.csv", out, "--tile", SIDE, "--overwrite", *flags)
        return status, err, read_manifest(out).findings if status == 0 else ()

    return run


def heights(fill: float, rows: int = 8) -> np.ndarray:
    values = np.random.default_rng(1).normal(100, 3, (SIDE, SIDE)).astype(np.float32)
    values[:rows] = fill
    return values


@pytest.mark.parametrize("fill", [-9999.0, -32768.0, 1e20])
def test_an_undeclared_fill_is_told_with_its_share_and_taken_out_where_it_is_named(
    fill: float, tmp_path: Path, convert: Any
) -> None:
    status, _, findings = convert(dsm=heights(fill))
    assert status == 0
    (told,) = [finding for finding in findings if finding.startswith("dsm is")]
    assert f"dsm is {fill:g} in 25 % of its pixels" in told
    assert f"--nodata dsm={fill:g}" in told
    assert open_source(tmp_path / "out", "train")[0].available.all()
    status, _, findings = convert("--nodata", f"dsm={fill:g}", dsm=heights(fill))
    assert status == 0
    assert not [finding for finding in findings if finding.startswith("dsm is")]
    seen = open_source(tmp_path / "out", "train")[0].available[0]
    assert not seen[:8].any()
    assert seen[8:].all()
    assert read_manifest(tmp_path / "out").schema.modalities[0].nodata == fill


def test_a_fill_in_a_thousandth_of_the_pixels_is_not_worth_a_word(convert: Any) -> None:
    values = heights(-9999.0, rows=0)
    values[0, 0] = -9999
    assert not [finding for finding in convert(dsm=values)[2] if finding.startswith("dsm")]
    values[0, 1] = -9999
    assert [finding for finding in convert(dsm=values)[2] if finding.startswith("dsm is -9999 in 0.195 %")]


def test_a_number_among_the_others_is_no_fill(convert: Any) -> None:
    values = np.random.default_rng(1).integers(-20_000, 20_000, (SIDE, SIDE)).astype(np.int16)
    values[:8] = -9999
    assert convert("--nodata", "dsm=-1", dsm=values)[2] == convert(dsm=values)[2]
    assert not [finding for finding in convert(dsm=values)[2] if finding.startswith("dsm")]


@pytest.mark.parametrize("limit", [np.finfo(np.float32).min, np.finfo(np.float32).max])
def test_the_ends_of_a_float_are_holes_and_told(limit: float, tmp_path: Path, convert: Any) -> None:
    status, _, findings = convert(dsm=heights(limit))
    assert status == 0
    assert "1 tile: dsm holds the lowest or largest number of its type, taken for a hole" in findings
    assert not open_source(tmp_path / "out", "train")[0].available[0, :8].any()


def test_decibels_that_are_taken_for_intensities_are_told(convert: Any) -> None:
    sar = np.random.default_rng(1).normal(-8, 6, (SIDE, SIDE)).astype(np.float32)
    findings = convert("--log-modalities", "sar", sar=sar)[2]
    assert [finding for finding in findings if "sar has numbers below 0" in finding and "--log-modalities" in finding]
    assert not [finding for finding in convert("--log-modalities", "sar", sar=abs(sar))[2] if "sar" in finding]


RGB = np.random.default_rng(2).integers(1, 250, (3, SIDE, SIDE)).astype(np.uint8)


def test_gaps_between_label_values_are_told_and_codes_close_them(tmp_path: Path, convert: Any) -> None:
    label = (np.random.default_rng(3).integers(1, 4, (SIDE, SIDE)) * 10).astype(np.uint8)
    findings = convert(rgb=RGB, label=label)[2]
    assert [f for f in findings if "hold 3 values, 10, 20, 30" in f and "--codes 10=NAME 20=NAME 30=NAME" in f]
    status, err, findings = convert("--codes", "20=shrub", "10=tree", "30=shrub", rgb=RGB, label=label)
    assert status == 0, err
    assert not [finding for finding in findings if "--codes" in finding]
    assert read_manifest(tmp_path / "out").schema.classes == ("shrub", "tree")
    want = np.where(label == 10, 1, 0)
    np.testing.assert_array_equal(open_source(tmp_path / "out", "train")[0].label, want)
    (tmp_path / "codes.csv").write_text("code,name\n20,shrub\n10,tree\n30,shrub\n")
    assert convert("--codes", tmp_path / "codes.csv", rgb=RGB, label=label)[0] == 0
    np.testing.assert_array_equal(open_source(tmp_path / "out", "train")[0].label, want)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--codes", "10=tree"), "20 at row"),
        (("--codes", "ten=tree"), "--codes has 'ten'"),
        (("--codes", "10=tree", "10=shrub"), "names the value 10 twice"),
        (("--codes", "nowhere.csv"), "neither CODE=NAME nor a CSV"),
        (("--codes", "10=tree", "--classes", "a"), "both name the classes"),
        (("--nodata", "dsm=-1"), "--nodata names 'dsm'"),
        (("--nodata", "rgb=none"), "give SENSOR=NUMBER"),
    ],
)
def test_flags_that_cannot_be_meant_are_one_line(flags: tuple[str, ...], says: str, convert: Any) -> None:
    label = np.full((SIDE, SIDE), 20, np.uint8)
    label[0] = 10
    status, err, _ = convert(*flags, rgb=RGB, label=label)
    assert (status, err.strip().count("\n")) == (2, 0)
    assert says in err


def test_a_mask_of_0_and_255_is_told(tmp_path: Path, convert: Any) -> None:
    label = np.random.default_rng(3).integers(0, 2, (SIDE, SIDE)).astype(np.uint8) * 255
    assert [f for f in convert(rgb=RGB, label=label)[2] if "0 and 255 only" in f and "--codes 0=background" in f]
    flags = ("--codes", "0=background", "255=building", "--ignore", "-1")
    assert convert(*flags, rgb=RGB, label=label)[0] == 0
    np.testing.assert_array_equal(open_source(tmp_path / "out", "train")[0].label, label // 255)


def test_several_values_can_be_ignored(tmp_path: Path, convert: Any) -> None:
    label = np.random.default_rng(3).integers(0, 5, (SIDE, SIDE)).astype(np.uint8)
    assert convert("--ignore", 3, 4, "--classes", "a", "b", "c", rgb=RGB, label=label)[0] == 0
    np.testing.assert_array_equal(open_source(tmp_path / "out", "train")[0].label, np.where(label > 2, 255, label))


def test_a_class_without_a_training_pixel_is_told(convert: Any) -> None:
    findings = convert("--classes", "a", "b", "c", "d", rgb=RGB)[2]
    assert "no training pixel is of the class d: nothing can be learnt about it" in findings


def test_a_label_that_was_compressed_with_loss_is_refused(tmp_path: Path, write_raster: Write, convert: Any) -> None:
    write_raster(tmp_path / "label.tif", np.zeros((SIDE, SIDE), np.uint8), compress="jpeg")
    status, err, _ = convert(rgb=RGB, label=None)
    assert (status, err.strip().count("\n")) == (2, 0)
    assert "label.tif is compressed with loss (jpeg)" in err


def changed(path: Path, what: str) -> None:
    with rasterio.open(path, "r+") as file:
        if what == "scales":
            file.scales = (1e-4,) * 3
        elif what == "offsets":
            file.offsets = (-0.1,) * 3
        elif what == "descriptions":
            file.descriptions = ("blue", "green", "red")
        else:
            file.colorinterp = (ColorInterp.blue, ColorInterp.green, ColorInterp.red)


@pytest.mark.parametrize("what", ["scales", "offsets", "descriptions", "colours"])
def test_a_file_whose_bands_mean_something_else_than_the_first_scenes_is_refused(
    what: str, manifest: Path, run_geotiff: Run, tmp_path: Path
) -> None:
    with rasterio.open(manifest.parent / "a_rgb.tif", "r+") as file:
        file.descriptions = ("red", "green", "blue")
        file.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    assert run_geotiff(manifest, tmp_path / "sound", "--tile", SIDE)[0] == 0
    changed(manifest.parent / "c_rgb.tif", what)
    status, err = run_geotiff(manifest, tmp_path / "out", "--tile", SIDE)
    assert (status, err.strip().count("\n")) == (2, 0)
    assert f"c_rgb.tif: the {what} of modality 'rgb' are" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("column", [0, 1])
def test_a_file_in_two_splits_is_refused(column: int, manifest: Path, run_geotiff: Run, tmp_path: Path) -> None:
    lines = manifest.read_text().splitlines()
    train, test = lines[1].split(","), lines[4].split(",")
    test[column] = train[column]
    manifest.write_text("\n".join([*lines[:4], ",".join(test)]) + "\n")
    status, err = run_geotiff(manifest, tmp_path / "out", "--tile", SIDE)
    assert (status, err.strip().count("\n")) == (2, 0)
    assert f"line 5: {manifest.parent / train[column]} is in the split test here and in train in line 2" in err
