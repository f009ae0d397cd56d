"""Bad input: exit status 2, one line that names file, field and way out, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from rasterio.transform import Affine

Write = Callable[..., Path]
Run = Callable[..., tuple[int, str]]


class Case(NamedTuple):
    """What is done to a sound manifest, the flags, and what the line must say."""

    spoil: Callable[[Path, Write], object]
    says: tuple[str, ...]
    flags: tuple[str, ...] = ()


def edit(old: str, new: str) -> Callable[[Path, Write], object]:
    def spoil(manifest: Path, write: Write) -> None:
        assert old in manifest.read_text()
        manifest.write_text(manifest.read_text().replace(old, new, 1))

    return spoil


def replace(name: str, values: np.ndarray, **more: object) -> Callable[[Path, Write], object]:
    return lambda manifest, write: write(manifest.parent / name, values, **more)


def cut(name: str, share: float) -> Callable[[Path, Write], object]:
    def spoil(manifest: Path, write: Write) -> None:
        path = manifest.parent / name
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return spoil


def nothing(manifest: Path, write: Write) -> None:
    """The manifest stays sound; the flags are wrong."""


def without_labels(manifest: Path, write: Write) -> None:
    for name in "abcd":
        write(manifest.parent / f"{name}_label.tif", np.full((32, 32), 255, np.uint8))


def odd_label(manifest: Path, write: Write) -> None:
    label = np.zeros((32, 32), np.uint8)
    label[20, 7:10] = 9
    write(manifest.parent / "c_label.tif", label)


CASES = {
    "an unknown column": Case(
        edit("dsm,label,split\na_rgb.tif,a_dsm.tif", "remark,label,split\na_rgb.tif,cloudy"),
        ("line 2", "'remark'", "remove the column"),
    ),
    "a misspelt column": Case(
        edit("rgb,dsm,label", "rgbb,dsm,label"), ("line 1", "'rgb'", "'rgbb'"), ("--modalities", "rgb", "dsm")
    ),
    "a modality named twice in the header": Case(edit("rgb,dsm,label", "rgb,rgb,label"), ("line 1", "'rgb'", "twice")),
    "a modality named twice by flag": Case(nothing, ("--modalities", "'rgb'", "twice"), ("--modalities", "rgb", "rgb")),
    "no label column": Case(edit("rgb,dsm,label,split", "rgb,dsm,truth,split"), ("line 1", "'label'")),
    "no split column": Case(edit("rgb,dsm,label,split", "rgb,dsm,label,fold"), ("line 1", "'split'", "'split_raster'")),
    "a missing file": Case(edit("a_dsm.tif", "lost.tif"), ("line 2", "'dsm'", "lost.tif", "does not exist")),
    "a missing label": Case(edit("a_label.tif", "lost.tif"), ("line 2", "'label'", "lost.tif")),
    "a record with no sensor": Case(edit("b_rgb.tif,,", ",,"), ("line 3", "no sensor", "rgb, dsm")),
    "an unknown split": Case(edit("c_label.tif,val", "c_label.tif,dev"), ("line 4", "'split'", "'dev'", "validation")),
    "a cell too many": Case(edit("a_label.tif,train", "a_label.tif,train,x"), ("line 2", "5 cells for 4 columns")),
    "two records of one name": Case(edit("b_label.tif", "a_label.tif"), ("line 3", "'a_label'", "line 2", "'id'")),
    "an empty training split": Case(
        lambda m, w: m.write_text(m.read_text().replace("train", "test")),
        ("'train'", "empty", "Assign"),
        ("--tile", "32"),
    ),
    "an asked split without labels": Case(
        replace("d_label.tif", np.full((32, 32), 255, np.uint8)), ("'test'", "empty")
    ),
    "no labelled pixel": Case(without_labels, ("a_label.tif", "no labelled pixel")),
    "a label outside the classes": Case(
        odd_label,
        ("c_label.tif", "9 at row 20, column 7", "3 pixels", "--classes", "--ignore"),
        ("--classes", "a", "b", "c"),
    ),
    "a label of floats": Case(
        replace("a_label.tif", np.zeros((32, 32), np.float32)), ("a_label.tif", "float32", "integers")
    ),
    "a label of three bands": Case(
        replace("a_label.tif", np.zeros((3, 32, 32), np.uint8)), ("a_label.tif", "one band")
    ),
    "another number of bands": Case(
        replace("c_rgb.tif", np.zeros((4, 32, 32), np.uint8), photometric="MINISBLACK"),
        ("c_rgb.tif", "4 bands", "3 of uint8"),
    ),
    "another type": Case(
        replace("c_dsm.tif", np.zeros((32, 32), np.int16)), ("c_dsm.tif", "int16", "float32", "a_dsm.tif")
    ),
    "another size and no CRS": Case(
        replace("c_rgb.tif", np.ones((3, 16, 16), np.uint8), crs=None, transform=Affine.identity()),
        ("c_rgb.tif", "c_label.tif", "does not say where it lies", "gdal_edit"),
    ),
    "a TIFF cut in its header": Case(cut("c_rgb.tif", 0.01), ("c_rgb.tif", "Restore")),
    "a TIFF cut in its pixels": Case(cut("c_rgb.tif", 0.7), ("c_rgb.tif", "cannot be read", "truncated")),
    "a label cut in its pixels": Case(cut("d_label.tif", 0.7), ("d_label.tif", "cannot be read", "truncated")),
    "not a raster": Case(lambda m, w: (m.parent / "a_dsm.tif").write_text("hello"), ("a_dsm.tif", "no raster")),
    "a sensor that nobody has": Case(
        lambda m, w: m.write_text(
            "\n".join(
                ",".join([c[0], c[1] if i == 0 else "", *c[2:]])
                for i, c in enumerate(r.split(",") for r in m.read_text().split())
            )
        ),
        ("'dsm'", "no record has it"),
    ),
    "no records": Case(lambda m, w: m.write_text("rgb,label,split\n"), ("manifest.csv", "no record")),
    "an empty file": Case(lambda m, w: m.write_text(""), ("manifest.csv", "empty")),
    "semicolons": Case(lambda m, w: m.write_text(m.read_text().replace(",", ";")), ("manifest.csv", "commas")),
    "not text": Case(lambda m, w: m.write_bytes(b"\xff\xfe\x00\x81"), ("manifest.csv", "CSV")),
    "an overlap as large as the tile": Case(nothing, ("--overlap", "32"), ("--overlap", "32")),
    "decibels of an unknown sensor": Case(nothing, ("--log-modalities", "'sar'"), ("--log-modalities", "sar")),
    "a class named twice": Case(nothing, ("classes", "twice"), ("--classes", "a", "a", "b")),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_with_the_way_out_and_nothing_is_left(
    manifest: Path, tmp_path: Path, write_raster: Write, run_geotiff: Run, name: str
) -> None:
    case = CASES[name]
    case.spoil(manifest, write_raster)
    before = sorted(tmp_path.iterdir())
    status, errors = run_geotiff(manifest, tmp_path / "out", "--tile", 32, *case.flags)
    assert status == 2
    lines = [line for line in errors.splitlines() if line.strip() and not line.startswith("converting")]
    assert len(lines) == 1, errors
    assert lines[0].startswith("error: ")
    for word in case.says:
        assert word in lines[0], lines[0]
    assert sorted(tmp_path.iterdir()) == before


def test_the_sound_manifest_of_these_cases_converts(manifest: Path, tmp_path: Path, run_geotiff: Run) -> None:
    assert run_geotiff(manifest, tmp_path / "out", "--tile", 32)[0] == 0


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("label.tif", None, ("has no label.tif",)),
        ("split.tif", None, ("has no split.tif",)),
        ("nir.tif", None, ("no sensor",)),
        ("split.tif", np.full((20, 20), 4, np.uint8), ("split.tif", "value 4 at row 0, column 0")),
        ("split.tif", np.ones((20, 21), np.uint8), ("split.tif", "20 x 21", "label's grid")),
        ("split.tif", np.full((20, 20), 3, np.uint8), ("'train' is empty", "split.tif")),
        ("nir.TIFF", np.ones((20, 20), np.uint8), ("'nir' is named twice",)),
    ],
)
def test_a_folder_that_is_no_scene_is_one_line(
    tmp_path: Path, write_raster: Write, run_geotiff: Run, name: str, values: np.ndarray | None, says: tuple[str, ...]
) -> None:
    folder = tmp_path / "scene"
    for raster in ("nir", "label", "split"):
        write_raster(folder / f"{raster}.tif", np.ones((20, 20), np.uint8))
    if values is None:
        (folder / name).unlink()
    else:
        write_raster(folder / name, values)
    status, errors = run_geotiff(folder, tmp_path / "out", "--tile", 20)
    assert status == 2
    assert all(word in errors for word in says), errors
    assert [p.name for p in tmp_path.iterdir()] == ["scene"]


def test_the_command_itself_ends_with_status_2_and_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "data_prep.geotiff", str(tmp_path / "lost"), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f"error: {tmp_path / 'lost'} does not exist. Give a manifest (CSV) or a folder with one scene."
    ]
