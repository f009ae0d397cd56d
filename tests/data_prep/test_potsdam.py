"""Potsdam: what is converted is what was published, whatever the arrangement, and every known flaw is met."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from data_prep import potsdam
from data_prep.parallel import ParallelOptions
from sgma_jax.data.schema import IGNORE, read_manifest
from sgma_jax.errors import InputError
from tests.data.damage import (
    copy_tree,
    drop_last_column,
    re_encode,
    repeat_top_folders,
    rewrite,
    tint_cars,
    truncate,
    zip_files,
    zip_folders,
)
from tests.data.make_potsdam import TEST, TRAIN, scene_of, write_potsdam
from tests.data_prep.isprs_runs import (
    TILES,
    convert_potsdam,
    found,
    potsdam_options,
    put_together,
    survey_potsdam,
    write_small,
)

SHAPES = dict.fromkeys((*TRAIN, *TEST), (64, 64))
LABEL = "5_Labels_all/top_potsdam_{}_label.tif"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Four sound tiles, to harm."""
    return write_small(tmp_path / "potsdam")


def labels_of(tile: str) -> np.ndarray:
    codes = scene_of(tile).codes
    return np.where(codes == 5, IGNORE, codes)


def test_the_official_split_is_the_contests_and_validation_never_touches_its_test(tmp_path: Path) -> None:
    assert (tuple(TRAIN), tuple(TEST)) == (potsdam.TRAIN, potsdam.TEST)
    tree = write_potsdam(tmp_path / "whole", size=16)
    out = tmp_path / "out"
    options = potsdam_options(tree, out, splits="official", validation=potsdam.VALIDATION, tile=16)
    potsdam.convert_potsdam(options)
    splits = read_manifest(out).options["splits"]
    assert sorted(splits["test"]) == sorted(TEST)
    assert set(splits["validation"]) == set(potsdam.VALIDATION) < set(TRAIN)
    assert sorted(splits["train"] + splits["validation"]) == sorted(TRAIN)
    assert potsdam.Options(tree, out).areas.validation == potsdam.VALIDATION
    everything = survey_potsdam(tree, splits="official", validation=("none",), tile=16)
    assert [a.split for a in everything.areas].count("train") == 24
    assert found(everything)["no-validation"] == "note"


def test_padded_ids_of_heights_meet_unpadded_ids_of_images(tree: Path, tmp_path: Path) -> None:
    wholes = put_together(convert_potsdam(tree, tmp_path / "out", dsm="absolute", tile=40), SHAPES)
    assert set(wholes) == set(TILES)
    for tile, whole in wholes.items():
        scene = scene_of(tile)
        nir, red, green, blue = scene.bands
        assert (whole.label == labels_of(tile)).all()
        assert (whole.images["rgb"] == np.stack((red, green, blue), -1)).all()
        assert (whole.images["nir"][..., 0] == nir).all()
        assert (whole.images["dsm"][..., 0] == scene.ground + scene.height).all()
        assert all(mask.all() for mask in whole.available.values())
    assert {m.name: m.unit for m in read_manifest(tmp_path / "out").schema.modalities}["dsm"] == "metre"


def test_every_documented_arrangement_gives_the_same_records(tree: Path, tmp_path: Path) -> None:
    plain = read_manifest(convert_potsdam(tree, tmp_path / "plain"))
    repeated = copy_tree(tree, tmp_path / "img" / "3_Ortho_IRRG" / "rain")  # names of a root folder mean nothing
    repeat_top_folders(repeated)
    archives = zip_folders(repeated, tmp_path / "archives")
    outer = zip_files(tmp_path / "Potsdam.zip", archives, sorted(archives.iterdir()))
    for number, source in enumerate((repeated, archives, outer)):
        splits = source.with_name(f"{source.name}.csv")
        splits.write_text((tmp_path / "potsdam.csv").read_text())
        manifest = read_manifest(convert_potsdam(source, tmp_path / f"out{number}"))
        assert manifest.shards == plain.shards
        assert manifest.findings == plain.findings
        assert (manifest.schema, manifest.options, manifest.splits) == (plain.schema, plain.options, plain.splits)
    assert [s.path for s in read_manifest(tmp_path / "out2").sources] == ["Potsdam.zip"]
    assert {s.path.split("/")[0] for s in read_manifest(tmp_path / "out1").sources} == {
        *("1_DSM_normalisation.zip", "2_Ortho_RGB.zip", "4_Ortho_RGBIR.zip", "5_Labels_all.zip")
    }


def test_a_killed_conversion_leaves_no_set_and_the_next_one_clears_up(tree: Path, tmp_path: Path) -> None:
    archives = zip_folders(tree, tmp_path / "archives")
    (tmp_path / "archives.csv").write_text((tmp_path / "potsdam.csv").read_text())
    place = tmp_path / "place"
    # Stands still when the archives are unpacked and checked.
    code = (
        "import sys, time, data_prep.isprs_conversion as c; c.settle = lambda *_: print('there', flush=True) or "
        "time.sleep(600); "
    )
    code += "from data_prep.potsdam import main; main()"
    arguments = [str(archives), str(place / "out"), "--splits", str(tmp_path / "archives.csv"), "--tile", "64"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        process.kill()
    assert list(place.rglob("*.tif"))
    assert not (place / "out").exists()
    convert_potsdam(archives, place / "out")
    assert [p.name for p in place.iterdir()] == ["out"]


def test_a_fourth_band_marked_as_alpha_is_near_infrared_all_the_same(tree: Path, tmp_path: Path) -> None:
    path = tree / "4_Ortho_RGBIR" / "top_potsdam_2_10_RGBIR.tif"
    with rasterio.open(path) as file:
        assert file.colorinterp[3] == rasterio.enums.ColorInterp.alpha, "the synthetic tree should have the trap"

    def darken(values: np.ndarray) -> np.ndarray:
        values[3, :20] = 0
        return values

    rewrite(path, darken)
    (tree / "3_Ortho_IRRG" / "top_potsdam_2_10_IRRG.tif").unlink()
    (tree / "2_Ortho_RGB" / "top_potsdam_2_10_RGB.tif").unlink()  # so that colour comes from the same file
    whole = put_together(convert_potsdam(tree, tmp_path / "out"), SHAPES)["2_10"]
    assert whole.available["nir"].all()
    assert whole.available["rgb"].all()
    assert (whole.images["rgb"] == np.moveaxis(scene_of("2_10").bands[1:], 0, -1)).all()


def test_near_infrared_comes_from_irrg_where_there_is_no_rgbir(tree: Path, tmp_path: Path) -> None:
    for path in (tree / "4_Ortho_RGBIR").iterdir():
        path.unlink()
    wholes = put_together(convert_potsdam(tree, tmp_path / "out"), SHAPES)
    assert all((whole.images["nir"][..., 0] == scene_of(tile).bands[0]).all() for tile, whole in wholes.items())


@pytest.mark.parametrize("harm", ["missing", "no bytes", "black"])
def test_a_missing_or_empty_normalised_dsm_is_refused_and_when_accepted_not_available(
    harm: str, tree: Path, tmp_path: Path
) -> None:
    path = tree / "1_DSM_normalisation" / "dsm_potsdam_04_12_normalized_lastools.jpg"
    if harm == "missing":
        path.unlink()
    elif harm == "no bytes":
        path.write_bytes(b"")
    else:
        rewrite(path, np.zeros_like)
    assert found(survey_potsdam(tree))["missing-sensor"] == "refused"
    assert "missing-sensor" not in found(survey_potsdam(tree, dsm="ownapproach"))
    with pytest.raises(InputError, match=r"1_DSM_normalisation.*4_12.*--accept missing-sensor"):
        convert_potsdam(tree, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    wholes = put_together(convert_potsdam(tree, tmp_path / "out", accept=("missing-sensor",)), SHAPES)
    assert {tile: bool(whole.available["dsm"].any()) for tile, whole in wholes.items()} == {
        t: t != "4_12" for t in TILES
    }
    assert any(line.startswith("accepted: ") and "4_12" in line for line in read_manifest(tmp_path / "out").findings)


@pytest.mark.parametrize("first", [False, True])
def test_a_dsm_one_column_short_is_not_available_in_that_column_alone(first: bool, tree: Path, tmp_path: Path) -> None:
    path = tree / "1_DSM" / "dsm_potsdam_03_13.tif"
    if first:  # the file's position tells
        with rasterio.open(path) as file:
            place = file.transform
        rewrite(path, lambda values: values[..., 1:], transform=from_origin(place.c + 0.05, place.f, 0.05, 0.05))
    else:
        drop_last_column(path)
    assert found(survey_potsdam(tree, dsm="absolute"))["short-dsm"] == "note"
    whole = put_together(convert_potsdam(tree, tmp_path / "out", dsm="absolute", tile=32), SHAPES)["3_13"]
    there = np.ones((64, 64), bool)
    there[:, 0 if first else -1] = False
    scene = scene_of("3_13")
    assert (whole.available["dsm"] == there).all()
    assert (whole.images["dsm"][..., 0][there] == (scene.ground + scene.height)[there]).all()
    assert whole.available["rgb"].all()


def test_near_infrared_that_differs_between_irrg_and_rgbir_is_an_error(tree: Path, tmp_path: Path) -> None:
    def disturb(values: np.ndarray) -> np.ndarray:
        values[0, 5, 9] += 1
        return values

    rewrite(tree / "3_Ortho_IRRG" / "top_potsdam_4_12_IRRG.tif", disturb)
    with pytest.raises(InputError, match=r"top_potsdam_4_12_.*row 5, column 9.*1 pixels.*nir-disagrees"):
        convert_potsdam(tree, tmp_path / "out")
    assert "nir-disagrees" not in found(survey_potsdam(tree, modalities=("rgb", "dsm")))


def test_the_unit_of_a_normalised_height_is_measured_and_never_assumed(tree: Path) -> None:
    assert {m.name: m.unit for m in survey_potsdam(tree).modalities}["dsm"] == "decimetre"
    for path in (tree / "1_DSM_normalisation").iterdir():
        rewrite(path, lambda values: (values // 3).astype(np.uint8))
    assert {m.name: m.unit for m in survey_potsdam(tree).modalities}["dsm"] == ""
    for path in (tree / "1_DSM").iterdir():
        path.unlink()
    assert {m.name: m.unit for m in survey_potsdam(tree).modalities}["dsm"] == ""


def test_a_truncated_file_is_named_and_the_other_findings_are_listed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    truncate(tree / "2_Ortho_RGB" / "top_potsdam_2_10_RGB.tif")
    tint_cars(tree / LABEL.format("3_13"))
    splits = str(tree.with_name("potsdam.csv"))
    monkeypatch.setattr("sys.argv", ["potsdam", str(tree), str(tmp_path / "out"), "--splits", splits, "--tile", "64"])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as end:
        potsdam.main()
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert "off-palette" in error
    last = error.strip().splitlines()[-1]
    assert last.startswith("error: 2_Ortho_RGB/top_potsdam_2_10_RGB.tif: ")
    assert "Download or unpack it again." in last
    assert sorted(p.name for p in tmp_path.iterdir()) == ["potsdam", "potsdam.csv"]


def test_files_of_another_size_or_place_are_not_laid_over_each_other(tree: Path) -> None:
    rewrite(tree / "2_Ortho_RGB" / "top_potsdam_2_10_RGB.tif", lambda values: values[:, :-1])
    with rasterio.open(tree / "1_DSM" / "dsm_potsdam_03_13.tif") as other:
        elsewhere = other.transform
    rewrite(tree / "1_DSM" / "dsm_potsdam_04_12.tif", lambda values: values, transform=elsewhere)
    survey = survey_potsdam(tree, dsm="absolute")
    assert (found(survey)["size"], found(survey)["misplaced"]) == ("error", "refused")


def test_two_different_files_for_one_tile_are_an_error_and_two_equal_ones_are_not(tree: Path) -> None:
    copy = tree / "copy" / LABEL.format("2_10")
    copy.parent.mkdir(parents=True)
    copy.write_bytes((tree / LABEL.format("2_10")).read_bytes())
    assert "ambiguous-file" not in found(survey_potsdam(tree))
    re_encode(copy)
    assert found(survey_potsdam(tree))["ambiguous-file"] == "error"


def test_holes_of_a_height_model_are_not_available(tree: Path, tmp_path: Path) -> None:
    holes = {(3, 4): np.nan, (10, 11): -32767.0, (20, 21): 1e30}

    def tear(values: np.ndarray) -> np.ndarray:
        for place, value in holes.items():
            values[0][place] = value
        return values

    rewrite(tree / "1_DSM" / "dsm_potsdam_02_10.tif", tear, nodata=-32767.0)
    assert found(survey_potsdam(tree, dsm="absolute"))["holes"] == "note"
    available = put_together(convert_potsdam(tree, tmp_path / "out", dsm="absolute"), SHAPES)["2_10"].available["dsm"]
    assert sorted(zip(*np.nonzero(~available), strict=True)) == sorted(holes)


def test_tiles_that_are_not_there_are_refused_by_name(tree: Path, tmp_path: Path) -> None:
    (tree / LABEL.format("3_13")).unlink()
    survey = survey_potsdam(tree)
    assert found(survey)["missing-label"] == "refused"
    official = survey_potsdam(tree, splits="official")
    missing = next(f for f in official.findings if f.check == "missing-image")
    assert missing.severity.value == "refused"
    assert "2_11" in missing.message


def test_a_sensor_without_any_file_is_left_out_by_name_only(tree: Path, tmp_path: Path) -> None:
    for product in ("3_Ortho_IRRG", "4_Ortho_RGBIR"):
        for path in (tree / product).iterdir():
            path.unlink()
    with pytest.raises(InputError, match=r"no-sensor.*--modalities rgb dsm"):
        convert_potsdam(tree, tmp_path / "out")
    convert_potsdam(tree, tmp_path / "out", modalities=("rgb", "dsm"))
    assert read_manifest(tmp_path / "out").schema.names == ("rgb", "dsm")


def test_the_disputed_tile_is_told_and_can_be_dropped(tmp_path: Path) -> None:
    tree = write_potsdam(tmp_path / "potsdam", ("7_10", "2_10", "2_13"))
    (tmp_path / "potsdam.csv").write_text("tile,split\n7_10,train\n2_10,train\n2_13,test\n")
    assert found(survey_potsdam(tree))["disputed-labels"] == "note"
    dropped = survey_potsdam(tree, drop=("7_10",))
    assert "disputed-labels" not in found(dropped)
    assert [a.id for a in dropped.areas] == ["2_10", "2_13"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tile": 8}, "--tile is 8"),
        ({"stride": 65}, "--stride is 65"),
        ({"modalities": ("sar",)}, "--modalities names 'sar'"),
        ({"modalities": ("rgb", "rgb")}, "twice"),
        ({"drop": ("02_10",)}, "--drop names '02_10'"),
        ({"splits": "official", "validation": ("2_13",)}, "--validation names '2_13'"),
        ({"validation": ("2_11",)}, "already says what validation is"),
        ({"splits": "nowhere.csv"}, "--splits names nowhere.csv"),
        ({"accept": ("nothing",)}, "--accept names 'nothing'"),
    ],
)
def test_an_option_that_cannot_be_meant_is_one_clear_error(
    options: dict[str, object], words: str, tree: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        convert_potsdam(tree, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_the_number_of_workers_changes_no_byte(tree: Path, tmp_path: Path) -> None:
    alone = convert_potsdam(tree, tmp_path / "alone", tile=16)
    together = convert_potsdam(tree, tmp_path / "together", tile=16, parallel=ParallelOptions(workers=2))
    assert (together / "manifest.json").read_bytes() == (alone / "manifest.json").read_bytes()
