"""Footprints are drawn as pycocotools draws them, whichever way they are written, and damaged ones are found and
never drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from data_prep.findings import Severity
from data_prep.footprints import Footprints, _runs, read_footprints

HEIGHT, WIDTH = 24, 32
SQUARE = [4, 2, 10, 2, 10, 8, 4, 8]


def read(folder: Path, *shapes: Any, **changes: Any) -> Footprints:
    """The footprints of an image a.tif with these annotations."""
    document = {
        "images": [{"id": 7, "file_name": "a.tif", "height": HEIGHT, "width": WIDTH}],
        "annotations": [{"id": number, "image_id": 7, "segmentation": shape} for number, shape in enumerate(shapes)],
        **changes,
    }
    path = folder / "footprints.json"
    path.write_text(json.dumps(document))
    return read_footprints(path, "footprints.json")


def box(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


def runs(mask: np.ndarray) -> list[int]:
    """COCO's runs, counted the slow way: down the columns, background first."""
    counts, value = [0], 0
    for pixel in mask.T.ravel():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def test_a_polygon_covers_the_pixels_between_its_corners(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(tmp_path, [SQUARE]).rasters["a"].mask(), box(2, 8, 4, 10))


def test_all_parts_of_a_building_are_drawn_and_united(tmp_path: Path) -> None:
    overlapping = [8, 6, 20, 6, 20, 12, 8, 12]
    mask = read(tmp_path, [SQUARE, overlapping]).rasters["a"].mask()
    np.testing.assert_array_equal(mask, box(2, 8, 4, 10) | box(6, 12, 8, 20))


def test_buildings_that_overlap_are_one_area(tmp_path: Path) -> None:
    raster = read(tmp_path, [SQUARE], [SQUARE], [[8, 6, 20, 6, 20, 12, 8, 12]]).rasters["a"]
    np.testing.assert_array_equal(raster.mask(), box(2, 8, 4, 10) | box(6, 12, 8, 20))
    assert raster.buildings == 3


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_runs_and_compressed_runs_draw_any_mask(
    tmp_path_factory: pytest.TempPathFactory, seed: int, share: float
) -> None:
    mask = np.random.default_rng(seed).random((HEIGHT, WIDTH)) < share
    size = [HEIGHT, WIDTH]
    compressed = {"size": size, "counts": coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()}
    folder = tmp_path_factory.mktemp("runs")
    for shape in ({"size": size, "counts": runs(mask)}, compressed):
        found = read(folder, shape)
        assert not found.findings
        np.testing.assert_array_equal(found.rasters["a"].mask(), mask)
    assert _runs(compressed["counts"]) == runs(mask)


def test_an_image_without_annotation_is_all_background(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert not found.rasters["a"].mask().any()
    assert found.rasters["a"].buildings == 0


def test_an_outline_over_the_edge_is_cut_there(tmp_path: Path) -> None:
    mask = read(tmp_path, [[-5, -5, 6, -5, 6, 4, -5, 4]]).rasters["a"].mask()
    np.testing.assert_array_equal(mask, box(0, 4, 0, 6))


def test_two_corners_are_no_box(tmp_path: Path) -> None:
    # pycocotools takes four numbers for x, y, width, height.
    found = read(tmp_path, [[2, 2, 9, 9], SQUARE])
    np.testing.assert_array_equal(found.rasters["a"].mask(), box(2, 8, 4, 10))
    assert [(f.severity, f.check) for f in found.findings] == [(Severity.NOTE, "footprint-without-area")]


@pytest.mark.parametrize("name", ["a_52.4902.tif", "a_52.4902", "train/rgb/a_52.4902.TIF", "train\\rgb\\a_52.4902.png"])
def test_an_image_is_known_by_its_name_without_folders_and_suffix(tmp_path: Path, name: str) -> None:
    assert list(read(tmp_path, images=[{"id": 7, "file_name": name, "height": HEIGHT, "width": WIDTH}]).rasters) == [
        "a_52.4902"
    ]


DAMAGED = {
    "no outline": [],
    "none at all": None,
    "odd count": [[1, 2, 3, 4, 5, 6, 7]],
    "not a number": [[1, 2, float("nan"), 4, 5, 6]],
    "text": [["a", 1, 2, 3, 4, 5]],
    "far outside": [[0, 0, 1e9, 0, 1e9, 1e9]],
    "runs of another size": {"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]},
    "runs too short": {"size": [HEIGHT, WIDTH], "counts": [5, 7]},
    "runs below zero": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH + 5, -5]},
    "compressed too short": {"size": [HEIGHT, WIDTH], "counts": "05"},
    "compressed empty": {"size": [HEIGHT, WIDTH], "counts": ""},
    "compressed broken off": {"size": [HEIGHT, WIDTH], "counts": "P"},
    "compressed foreign": {"size": [HEIGHT, WIDTH], "counts": "é!"},
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_footprint_is_refused_by_number_and_the_others_are_drawn(tmp_path: Path, kind: str) -> None:
    found = read(tmp_path, [SQUARE], DAMAGED[kind])
    (finding,) = found.findings
    assert finding.severity is Severity.REFUSED
    assert finding.check == "footprint-unreadable"
    assert "annotation 1 of a" in finding.place
    np.testing.assert_array_equal(found.rasters["a"].mask(), box(2, 8, 4, 10))


def test_no_annotation_is_lost_without_a_word(tmp_path: Path) -> None:
    found = read(tmp_path, annotations=[{"id": 3, "image_id": 8, "segmentation": [SQUARE]}])
    assert [(f.severity, f.check) for f in found.findings] == [(Severity.REFUSED, "footprint-without-image")]
    image = {"id": 7, "file_name": "a.tif", "height": HEIGHT, "width": WIDTH}
    found = read(tmp_path, images=[image, image | {"id": 8}])
    assert [(f.severity, f.check) for f in found.findings] == [(Severity.ERROR, "image-listed-twice")]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"images": [{}], "annotations": []}', '{"images": [], "annotations": [3]}']
)
def test_what_is_no_coco_document_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "footprints.json"
    path.write_text(text)
    found = read_footprints(path, "track2/footprints.json")
    assert [(f.severity, f.place) for f in found.findings] == [(Severity.ERROR, "track2/footprints.json")]
