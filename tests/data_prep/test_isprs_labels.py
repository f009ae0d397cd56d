"""Labels of Potsdam: clean and damaged ones are read alike, eroded ones only where they are asked for, and every
pixel counts once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sgma_jax.data.schema import IGNORE, read_manifest
from sgma_jax.errors import InputError
from tests.data.damage import re_encode, rewrite, tint_cars
from tests.data.make_potsdam import scene_of
from tests.data_prep.isprs_runs import TILES, convert_potsdam, found, put_together, survey_potsdam, write_small

SHAPES = dict.fromkeys(TILES, (64, 64))
LABEL = "5_Labels_all/top_potsdam_{}_label.tif"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Four sound tiles, to harm."""
    return write_small(tmp_path / "potsdam")


def labels_of(tile: str) -> np.ndarray:
    codes = scene_of(tile).codes
    return np.where(codes == 5, IGNORE, codes)


def remove_copies_for_participants(tree: Path) -> None:
    for path in (tree / "5_Labels_for_participants").iterdir():
        path.unlink()


@pytest.mark.parametrize("harm", [re_encode, tint_cars])
def test_off_palette_labels_are_read_as_the_clean_ones(harm: object, tree: Path, tmp_path: Path) -> None:
    remove_copies_for_participants(tree)
    harm(tree / LABEL.format("4_12"))  # type: ignore[operator]
    survey = survey_potsdam(tree)
    note = next(f for f in survey.findings if f.check == "off-palette")
    assert "4_12" in note.place
    assert ("1 colours" in note.message) == (harm is tint_cars)
    whole = put_together(convert_potsdam(tree, tmp_path / "out"), SHAPES)["4_12"]
    assert (whole.label == labels_of("4_12")).all()


def test_a_colour_of_no_class_is_an_error_with_tile_place_and_count(tree: Path, tmp_path: Path) -> None:
    def stain(values: np.ndarray) -> np.ndarray:
        values[:, 30:32, 17:20] = np.array((250, 3, 200)).reshape(3, 1, 1)
        return values

    rewrite(tree / LABEL.format("3_13"), stain)
    with pytest.raises(InputError, match=r"top_potsdam_3_13_label.tif, row 30, column 17: 6 pixels .*unknown-colour"):
        convert_potsdam(tree, tmp_path / "out", accept=("unknown-colour",))
    assert not (tmp_path / "out").exists()


def test_eroded_labels_under_the_names_of_full_ones_are_refused(tree: Path, tmp_path: Path) -> None:
    remove_copies_for_participants(tree)
    eroded = tree / "5_Labels_all_noBoundary" / "top_potsdam_2_10_label_noBoundary.tif"
    (tree / LABEL.format("2_10")).write_bytes(eroded.read_bytes())
    with pytest.raises(InputError, match=r"top_potsdam_2_10_label.tif.*black.*--accept eroded-label"):
        convert_potsdam(tree, tmp_path / "out")
    whole = put_together(convert_potsdam(tree, tmp_path / "out", accept=("eroded-label",)), SHAPES)["2_10"]
    assert (whole.label == np.where(scene_of("2_10").eroded >= 5, IGNORE, scene_of("2_10").eroded)).all()


def test_eroded_evaluation_leaves_edges_out_of_evaluation_and_in_training(tree: Path, tmp_path: Path) -> None:
    wholes = put_together(convert_potsdam(tree, tmp_path / "out", eroded_evaluation=True), SHAPES)
    for tile, split in TILES.items():
        scene = scene_of(tile)
        codes = scene.codes if split == "train" else scene.eroded
        assert (wholes[tile].label == np.where(codes >= 5, IGNORE, codes)).all()


def test_the_eroded_label_of_another_tile_is_refused(tree: Path, tmp_path: Path) -> None:
    folder = tree / "5_Labels_all_noBoundary"
    (folder / "top_potsdam_3_13_label_noBoundary.tif").write_bytes(
        (folder / "top_potsdam_2_10_label_noBoundary.tif").read_bytes()
    )
    assert found(survey_potsdam(tree, eroded_evaluation=True))["eroded-disagrees"] == "refused"
    assert "eroded-disagrees" not in found(survey_potsdam(tree))


def test_overlapping_tiles_train_on_every_pixel_and_score_each_once(tree: Path, tmp_path: Path) -> None:
    # put_together fails where a pixel is scored twice, and the labels below where one is not scored.
    wholes = put_together(convert_potsdam(tree, tmp_path / "out", tile=24, stride=17), SHAPES)
    assert all((whole.label == labels_of(tile)).all() for tile, whole in wholes.items())


def test_clutter_is_ignored_or_a_class(tree: Path, tmp_path: Path) -> None:
    wholes = put_together(convert_potsdam(tree, tmp_path / "out", clutter=True), SHAPES)
    assert all((whole.label == scene_of(tile).codes).all() for tile, whole in wholes.items())
    assert read_manifest(tmp_path / "out").schema.classes[5:] == ("clutter",)
