"""DFC2023 track 2: every trap of the set is in the synthetic tree, and the converter is fooled by none of them."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep import dfc2023, doctor
from data_prep.sources import open_source as open_tree
from sgma_jax.data.rasters import Rasters
from sgma_jax.data.schema import IGNORE, Example, read_manifest
from sgma_jax.data.source import open_source
from tests.data import make_dfc2023 as tree

SIZE = 128
Run = Callable[..., tuple[int, str]]
RGB, DSM, SAR = range(3)


@pytest.fixture(scope="session")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set as it is delivered. Not to be changed."""
    root = tmp_path_factory.mktemp("dfc2023")
    tree.make_dfc2023(root, size=SIZE)
    return root


@pytest.fixture(scope="session")
def converted(delivered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted set."""
    out = tmp_path_factory.mktemp("converted") / "dfc2023"
    dfc2023.convert_dfc2023(dfc2023.Options(delivered, out, tile=SIZE))
    return out


@pytest.fixture
def spoiled(delivered: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(delivered, tmp_path / "source"))


def examples(out: Path) -> dict[str, Example]:
    """Every record by the name of its scene."""
    splits = [split for split, counts in read_manifest(out).splits.items() if counts.records]
    sources = [open_source(out, split) for split in splits]
    return {
        example.id.split("/")[0]: example for source in sources for example in (source[i] for i in range(len(source)))
    }


def survey(source: Path, tmp_path: Path, **options: object) -> dfc2023.Survey:
    (tmp_path / "scratch").mkdir(exist_ok=True)
    with open_tree(source, tmp_path / "scratch") as files:
        assert dfc2023.recognise(files)
        return dfc2023.survey(files, dfc2023.Options(source, Path(), **options))  # type: ignore[arg-type]


def checks(found: dfc2023.Survey) -> dict[str, str]:
    return {finding.check: finding.severity.value for finding in found.findings}


def test_every_pixel_arrives(converted: Path) -> None:
    records = examples(converted)
    assert set(records) == set(tree.SCENES)
    for stem in set(tree.SCENES) - {tree.STRIP, tree.BLUNDER}:
        expected, example = tree.sensors(stem, SIZE), records[stem]
        np.testing.assert_array_equal(example.images["rgb"], np.moveaxis(expected["rgb"], 0, -1))
        np.testing.assert_array_equal(example.images["dsm"], expected["dsm"][0][..., None])
        positive = expected["sar"][0] > 0
        decibels = np.clip(10 * np.log10(expected["sar"][0][positive].astype(np.float64)), -30, 20)
        np.testing.assert_allclose(example.images["sar"][positive, 0], decibels, rtol=1e-6)
        np.testing.assert_array_equal(example.available[SAR], positive)
        assert example.available[[RGB, DSM]].all()
        np.testing.assert_array_equal(example.label, tree.building_mask(stem, SIZE))
    manifest = read_manifest(converted)
    assert [(m.name, m.bands, m.dtype, m.unit) for m in manifest.schema.modalities] == [
        ("rgb", 3, "uint8", "digital number"),
        ("dsm", 1, "float32", "metre"),
        ("sar", 1, "float32", "decibel"),
    ]
    rgb, _, sar = manifest.schema.modalities
    assert (rgb.band_names, sar.log, sar.clip) == (("red", "green", "blue"), True, (-30.0, 20.0))


def test_black_strips_are_not_available_and_not_background(converted: Path) -> None:
    example = examples(converted)[tree.STRIP]
    strip = np.zeros((SIZE, SIZE), bool)
    strip[:, : tree.STRIP_COLUMNS] = True
    high = strip.copy()
    high[: -tree.STRIP_HIGH] = False
    np.testing.assert_array_equal(example.available[RGB], ~strip)
    np.testing.assert_array_equal(example.available[DSM], ~strip | high)
    assert example.available[SAR, 1:].all()
    np.testing.assert_array_equal(example.label == IGNORE, strip)


def test_a_black_shadow_is_not_a_strip(converted: Path) -> None:
    example = examples(converted)["SV_Berlin_52.5200_13.4000"]
    shadow = (example.images["rgb"] == 0).all(-1)
    assert shadow[0].any()
    assert example.available[RGB][shadow].all()
    assert (example.label[shadow] != IGNORE).all()


def test_stereo_blunders_at_the_border_are_not_available(converted: Path) -> None:
    example = examples(converted)[tree.BLUNDER]
    np.testing.assert_array_equal(~example.available[DSM], tree.sensors(tree.BLUNDER, SIZE)["dsm"][0] > 150)
    assert not example.available[DSM].all()


def test_a_scene_without_annotation_is_all_background(converted: Path) -> None:
    assert (examples(converted)[tree.EMPTY].label == 0).all()


def test_scenes_without_crs_are_laid_pixel_on_pixel(converted: Path) -> None:
    assert tree.BARE in examples(converted)
    assert any("no-crs" in finding for finding in read_manifest(converted).findings)


def test_a_city_is_in_one_split_whatever_the_satellite(converted: Path) -> None:
    for split in ("train", "validation", "test"):
        source = open_source(converted, split)
        cities = {source.record_id(i).split("_")[1] for i in range(len(source))}
        assert cities == {city for city, own in tree.SPLITS.items() if own == split}
    assert read_manifest(converted).options["assigned"] == tree.SPLITS


def test_both_layouts_hold_the_same_pixels(converted: Path, tmp_path: Path, run_converter: Run) -> None:
    names = tree.make_dfc2023(tmp_path / "source", layout="readme", size=SIZE, without_crs=(), inside="DFC_Track_2")
    status, error = run_converter(dfc2023, tmp_path / "source", tmp_path / "out", "--tile", SIZE)
    assert status == 0, error
    delivered, readme = examples(converted), examples(tmp_path / "out")
    assert set(readme) == set(names)
    for name, stem in names.items():
        np.testing.assert_array_equal(readme[name].label, delivered[stem].label)
        np.testing.assert_array_equal(readme[name].available, delivered[stem].available)
        for sensor in ("rgb", "dsm", "sar"):
            np.testing.assert_array_equal(readme[name].images[sensor], delivered[stem].images[sensor])
    # P0001 names no city: UTM zones take their place.
    assert set(read_manifest(tmp_path / "out").options["assigned"]) == {f"EPSG:{zone}" for zone in tree.ZONES.values()}


def test_archive_or_folder_and_one_worker_or_two_give_the_same_bytes(
    converted: Path, delivered: Path, tmp_path: Path, run_converter: Run
) -> None:
    archive = tmp_path / "track2.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(delivered.rglob("*")):
            file.write(path, path.relative_to(delivered))
    for out, source, workers in (("again", delivered, 2), ("unpacked", archive, 1)):
        status, error = run_converter(dfc2023, source, tmp_path / out, "--tile", SIZE, "--workers", workers)
        assert status == 0, error
        for shard in (converted / "records").iterdir():
            assert shard.read_bytes() == (tmp_path / out / "records" / shard.name).read_bytes()
    assert (tmp_path / "again" / "manifest.json").read_bytes() == (converted / "manifest.json").read_bytes()
    assert [source.path for source in read_manifest(tmp_path / "unpacked").sources] == ["track2.zip"]


def test_each_pixel_of_validation_and_test_is_scored_once(
    converted: Path, delivered: Path, tmp_path: Path, run_converter: Run
) -> None:
    status, error = run_converter(dfc2023, delivered, tmp_path / "out", "--tile", 64, "--stride", 40)
    assert status == 0, error
    whole, cut = read_manifest(converted).splits, read_manifest(tmp_path / "out").splits
    for split in ("validation", "test"):
        assert cut[split].records > whole[split].records
        assert cut[split].labelled_pixels == whole[split].labelled_pixels


def test_a_scene_that_lacks_a_sensor_is_kept_without_it(spoiled: Path, tmp_path: Path, run_converter: Run) -> None:
    stem = "SV_Berlin_52.5300_13.4500"
    (spoiled / "track2" / "train" / "rgb" / f"{stem}.tif").unlink()
    assert run_converter(dfc2023, spoiled, tmp_path / "out", "--tile", SIZE)[0] == 0
    example = examples(tmp_path / "out")[stem]
    assert not example.available[RGB].any()
    assert example.available[DSM].all()
    np.testing.assert_array_equal(example.label, tree.building_mask(stem, SIZE))


@pytest.mark.parametrize("name", ["img", "rain", "val", "train"])
def test_the_name_of_the_source_itself_means_nothing(delivered: Path, tmp_path: Path, name: str) -> None:
    source = Path(shutil.copytree(delivered, tmp_path / name))
    assert len(survey(source, tmp_path).scenes) == len(tree.SCENES)
    assert len(survey(source / "track2", tmp_path).scenes) == len(tree.SCENES)


def test_track_1_and_copies_beside_it_are_not_taken_for_it(spoiled: Path, tmp_path: Path) -> None:
    # Track 1 has more scenes of the same names, but no heights.
    for number in range(20):
        for sensor in ("rgb", "sar"):
            path = spoiled / "track1" / "train" / sensor / f"SV_Berlin_52.{number}_13.1.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    shutil.copytree(spoiled / "track2" / "train" / "dsm", spoiled / "dsm")
    found = survey(spoiled, tmp_path)
    assert {scene.name for scene in found.scenes} == set(tree.SCENES)
    assert checks(found)["another-copy"] == "note"


def test_the_reader_of_tiles_can_be_sent_to_another_process(delivered: Path, tmp_path: Path) -> None:
    key = dfc2023.plan_tiles(survey(delivered, tmp_path).scenes, SIZE, None)["test"][0]
    reader = dfc2023.TileReader(Rasters(), SIZE, 150.0)
    copy, same = pickle.loads(pickle.dumps((reader, key)))
    first, second = reader(key), copy(same)
    assert first.id == second.id
    np.testing.assert_array_equal(first.images["sar"], second.images["sar"])


TRAIN = Path("track2") / "train"
DOCUMENT = Path("track2") / "buildings_only_train.json"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])


def forget_image(path: Path) -> None:
    document = json.loads(path.read_text())
    document["images"] = [image for image in document["images"] if image["id"] != 3]
    document["annotations"] = [entry for entry in document["annotations"] if entry["image_id"] != 3]
    path.write_text(json.dumps(document))


BAD = {
    "a truncated file": (
        TRAIN / "sar" / f"{tree.SCENES[4]}.tif",
        cut,
        ("unreadable", f"track2/train/sar/{tree.SCENES[4]}.tif", "Download"),
    ),
    "no raster": (
        TRAIN / "rgb" / f"{tree.SCENES[4]}.tif",
        lambda p: p.write_text("x"),
        ("unreadable", f"rgb/{tree.SCENES[4]}.tif"),
    ),
    "another type": (
        TRAIN / "dsm" / f"{tree.SCENES[4]}.tif",
        lambda p: tree.write(p, np.zeros((1, SIZE, SIZE), np.uint8), ""),
        ("wrong-type", "uint8"),
    ),
    "a height one column short": (
        TRAIN / "dsm" / f"{tree.SCENES[4]}.tif",
        lambda p: tree.write(p, np.zeros((1, SIZE, SIZE - 1), np.float32), ""),
        ("wrong-size", f"{SIZE} x {SIZE - 1}"),
    ),
    "coordinates of another scene": (
        TRAIN / "dsm" / f"{tree.SCENES[4]}.tif",
        lambda p: tree.write(p, np.zeros((1, SIZE, SIZE), np.float32), tree.SCENES[0]),
        ("not-aligned", "--accept not-aligned"),
    ),
    "no sensor folder": (TRAIN / "dsm", shutil.rmtree, ("sensor-missing", "no scene has dsm", "train/dsm")),
    "no annotations": (DOCUMENT, Path.unlink, ("no-annotations", "buildings_only_train.json")),
    "broken annotations": (
        DOCUMENT,
        lambda p: p.write_text("{"),
        ("annotations-unreadable", "track2/buildings_only_train.json"),
    ),
    "annotations of nothing": (
        DOCUMENT,
        lambda p: p.write_text('{"images": [], "annotations": []}'),
        ("scene-not-annotated", "not listed"),
    ),
    "a scene that nobody annotated": (
        DOCUMENT,
        forget_image,
        ("scene-not-annotated", tree.SCENES[3], "--accept scene-not-annotated"),
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_line_with_file_and_remedy(
    spoiled: Path, tmp_path: Path, run_converter: Run, kind: str
) -> None:
    name, spoil, words = BAD[kind]
    spoil(spoiled / name)
    status, error = run_converter(dfc2023, spoiled, tmp_path / "out", "--tile", SIZE)
    assert status == 2
    assert all(word in error.splitlines()[-1] for word in words), error
    assert error.splitlines()[-1].startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_findings_of_all_files_are_listed_before_the_error(spoiled: Path, tmp_path: Path, run_converter: Run) -> None:
    for sensor in ("rgb", "sar"):
        cut(spoiled / TRAIN / sensor / f"{tree.SCENES[7]}.tif")
    status, error = run_converter(dfc2023, spoiled, tmp_path / "out", "--tile", SIZE)
    assert status == 2
    for place in (f"rgb/{tree.SCENES[7]}.tif", f"sar/{tree.SCENES[7]}.tif", f"rgb/{tree.STRIP}.tif", tree.EMPTY):
        assert place in error


def test_scenes_are_read_even_where_their_annotations_are_missing(spoiled: Path, tmp_path: Path) -> None:
    (spoiled / DOCUMENT).unlink()
    cut(spoiled / TRAIN / "sar" / f"{tree.SCENES[7]}.tif")
    assert {check for check, severity in checks(survey(spoiled, tmp_path)).items() if severity == "error"} == {
        "no-annotations",
        "unreadable",
    }


def test_the_doctor_knows_the_set(spoiled: Path, run_converter: Run) -> None:
    assert run_converter(doctor, spoiled)[0] == 0
    cut(spoiled / TRAIN / "sar" / f"{tree.SCENES[7]}.tif")
    assert run_converter(doctor, spoiled)[0] == 1
    assert run_converter(doctor, spoiled / TRAIN / "sar")[0] == 2


def test_a_damaged_footprint_is_left_out_only_when_accepted(spoiled: Path, tmp_path: Path, run_converter: Run) -> None:
    document = json.loads((spoiled / DOCUMENT).read_text())
    document["annotations"][0]["segmentation"] = []
    (spoiled / DOCUMENT).write_text(json.dumps(document))
    status, error = run_converter(dfc2023, spoiled, tmp_path / "out", "--tile", SIZE)
    assert status == 2
    assert "--accept footprint-unreadable" in error
    assert run_converter(dfc2023, spoiled, tmp_path / "out", "--tile", SIZE, "--accept", "footprint-unreadable")[0] == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--tile", 8), ("--tile", "16")),
        (("--tile", 64, "--stride", 65), ("--stride", "65")),
        (("--max-height", 0), ("--max-height",)),
        (("--splits", "nowhere.csv"), ("--splits", "nowhere.csv", "city")),
        (("--accept", "nonsense"), ("--accept", "nonsense")),
    ],
)
def test_bad_options_name_the_flag(
    delivered: Path, tmp_path: Path, run_converter: Run, flags: tuple[object, ...], words: tuple[str, ...]
) -> None:
    status, error = run_converter(dfc2023, delivered, tmp_path / "out", *flags)
    assert status == 2
    assert all(word in error.splitlines()[-1] for word in words), error
