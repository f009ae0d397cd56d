"""Vaihingen: images and labels of one name are told apart, areas keep their own sizes, and every known flaw is met."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep import vaihingen
from data_prep.isprs_survey import AreaSurvey
from data_prep.sources import open_source
from sgma_jax.data.schema import IGNORE, read_manifest
from sgma_jax.errors import InputError
from tests.data.damage import copy_tree, repeat_top_folders, rewrite, zip_folders
from tests.data.make_vaihingen import COMPLETE, ERODED, TEST, TRAIN, scene_of, write_vaihingen
from tests.data_prep.isprs_runs import found, put_together, vaihingen_options

AREAS = ("1", "7", "4")
SHAPES = {area: scene_of(area).codes.shape for area in (*TRAIN, *TEST)}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three sound areas of different sizes, to harm."""
    (tmp_path / "splits.csv").write_text("area,split\n1,train\n7,val\n4,test\n")
    return write_vaihingen(tmp_path / "vaihingen", AREAS)


def convert(tree: Path, out: Path, **more: object) -> Path:
    vaihingen.convert_vaihingen(vaihingen_options(tree, out, **{"splits": str(tree.with_name("splits.csv")), **more}))
    return out


def survey(tree: Path, **more: object) -> AreaSurvey:
    with open_source(tree, tree.parent) as files:
        return vaihingen.survey(
            files, vaihingen_options(tree, Path(), **{"splits": str(tree.with_name("splits.csv")), **more})
        )


def test_the_official_split_is_the_contests_and_validation_never_touches_its_test(tmp_path: Path) -> None:
    assert (tuple(TRAIN), tuple(TEST)) == (vaihingen.TRAIN, vaihingen.TEST)
    surveyed = survey(write_vaihingen(tmp_path / "whole"), splits="official")
    splits = {a.id: a.split for a in surveyed.areas}
    assert {a for a in splits if splits[a] == "test"} == set(TEST)
    assert {a for a in splits if splits[a] == "validation"} == set(vaihingen.VALIDATION)
    assert {a for a in splits if splits[a] != "test"} == set(TRAIN)
    assert not surveyed.findings


def test_areas_of_every_size_come_back_whole(tree: Path, tmp_path: Path) -> None:
    wholes = put_together(convert(tree, tmp_path / "out", tile=48, stride=30), SHAPES)
    assert len({SHAPES[area] for area in AREAS}) == 3
    for area in AREAS:
        scene = scene_of(area)
        assert (wholes[area].label == np.where(scene.codes == 5, IGNORE, scene.codes)).all()
        assert (wholes[area].images["irrg"] == np.moveaxis(scene.bands[:3], 0, -1)).all()
        assert (wholes[area].images["dsm"][..., 0] == 250 + scene.ground + scene.height).all()
        assert all(mask.all() for mask in wholes[area].available.values())


def test_labels_are_told_from_images_by_their_folder_in_every_arrangement(tree: Path, tmp_path: Path) -> None:
    plain = read_manifest(convert(tree, tmp_path / "plain"))
    repeated = copy_tree(tree, tmp_path / "top")  # the root's own name means nothing
    repeat_top_folders(repeated)
    archives = zip_folders(tree, tmp_path / "archives")
    for number, source in enumerate((repeated, archives)):
        assert read_manifest(convert(source, tmp_path / f"out{number}")).shards == plain.shards


def test_an_image_that_lies_among_the_labels_is_not_taken_for_one(tree: Path, tmp_path: Path) -> None:
    name = "top_mosaic_09cm_area4.tif"
    (tree / COMPLETE / name).write_bytes((tree / "top" / name).read_bytes())
    rewrite(tree / COMPLETE / name, lambda values: np.where(values > 90, values, 200).astype(np.uint8))
    rewrite(tree / COMPLETE / name, lambda values: np.stack((values[0] | 128, values[1] & 127, values[2] | 128)))
    with pytest.raises(InputError, match=rf"{COMPLETE}/{name}, row 0, column 0.*magenta"):
        convert(tree, tmp_path / "out")


def test_a_label_of_area_9_without_an_image_is_noted_and_left_out(tmp_path: Path) -> None:
    tree = write_vaihingen(tmp_path / "vaihingen")
    for folder in (COMPLETE, ERODED):
        for path in list((tree / folder).glob("top_mosaic_09cm_area4*.tif")):
            (tree / folder / path.name.replace("area4", "area9")).write_bytes(path.read_bytes())
    surveyed = survey(tree, splits="official")
    assert found(surveyed) == {"label-without-image": "note"}
    assert "9" not in {area.id for area in surveyed.areas}


def test_eroded_evaluation_leaves_edges_out_of_evaluation_and_in_training(tree: Path, tmp_path: Path) -> None:
    wholes = put_together(convert(tree, tmp_path / "out", eroded_evaluation=True, tile=96), SHAPES)
    for area in AREAS:
        codes = scene_of(area).codes if area == "1" else scene_of(area).eroded
        assert (wholes[area].label == np.where(codes >= 5, IGNORE, codes)).all()
