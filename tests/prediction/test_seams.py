"""What a map is must not depend on how the scene was cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st

from sgma_jax.data.transforms import normalised
from sgma_jax.prediction.windows import ONE, WEIGHT, Blender, Tiling, reflect
from tests.prediction.local_scene import LocalModel, predict

Files = dict[str, Path]


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        values: np.ndarray = file.read()
    return values


@given(size=st.integers(1, 700), cells=st.integers(1, 8), share=st.integers(0, 4))
def test_weights_of_all_windows_add_up_to_one_at_every_pixel_and_units_cover_every_row_once(
    size: int, cells: int, share: int
) -> None:
    window = 32 * cells
    tiling = Tiling(size, 1, window, min(32 * share, window // 2 // 32 * 32))
    total = np.zeros(size + 2 * window, int)
    for row in range(tiling.rows):
        first = tiling.start(row) + window
        total[first : first + window] += tiling.weights(row, tiling.rows)
    assert set(total[window : window + size]) == {WEIGHT}
    units = [tiling.unit(row) for row in range(tiling.rows)]
    assert [u[0] for u in units] == [0, *(u[1] for u in units[:-1])]
    assert units[-1][1] == size
    assert {tiling.start(row) % 32 for row in range(tiling.rows)} == {0}


@given(first=st.integers(-300, 300), count=st.integers(1, 200), size=st.integers(1, 50))
def test_reflection_is_that_of_numpy_and_the_same_for_every_window(first: int, count: int, size: int) -> None:
    before, after = max(0, -first), max(0, first + count - size)
    mode = "edge" if size == 1 else "reflect"
    padded = np.pad(np.arange(size), (before, after), mode=mode)
    np.testing.assert_array_equal(reflect(first, count, size), padded[first + before : first + before + count])


def whole(model: LocalModel, files: Files) -> np.ndarray:
    """The model on the whole image at once."""
    images = {m.name: normalised(np.moveaxis(read(files[m.name]), 0, -1), m) for m in model.labels.modalities}
    shape = next(iter(images.values())).shape[:2]
    return model.one(images, np.ones((len(images), *shape), bool))[0].astype(float) / ONE


@pytest.mark.parametrize(("window", "overlap"), [(64, 32), (128, 32), (128, 64), (96, 32)])
def test_tiles_equal_the_whole_image_for_a_model_that_looks_a_quarter_of_the_overlap_far(
    window: int, overlap: int, city_files: Files, tmp_path: Path
) -> None:
    model = LocalModel(window=window, reach=overlap // 4)
    predict(model, city_files, tmp_path / "map.tif", overlap=overlap, probabilities=tmp_path / "p.tif")
    inside = slice(model.reach, -model.reach)
    expected = whole(model, city_files)[:, inside, inside]
    np.testing.assert_allclose(read(tmp_path / "p.tif")[:, inside, inside], expected, atol=1e-4)
    # Beyond its edges the scene is mirrored, so even there nothing is cut off.
    assert (read(tmp_path / "map.tif")[0] != 255).all()
    assert (read(tmp_path / "map.tif")[0][inside, inside] == expected.argmax(0)).mean() > 0.999


def test_a_model_that_looks_further_shows_that_the_test_above_can_fail(city_files: Files, tmp_path: Path) -> None:
    model = LocalModel(window=64, reach=24)
    predict(model, city_files, tmp_path / "map.tif", overlap=32, probabilities=tmp_path / "p.tif")
    difference = np.abs(read(tmp_path / "p.tif") - whole(model, city_files))[:, 24:-24, 24:-24]
    assert difference.max() > 1e-2


def test_the_same_bytes_for_any_batch_and_strip(city_files: Files, tmp_path: Path) -> None:
    maps = []
    for number, (batch, memory) in enumerate([(1, 0), (3, 100_000_000), (7, 1_000_000), (50, 0)]):
        out = tmp_path / f"{number}" / "map.tif"
        out.parent.mkdir()
        more = {"confidence": True, "used": True, "robustness": "mean", "probabilities": out.with_name("p.tif")}
        model = LocalModel(window=64, batch=batch)
        predict(model, city_files, out, overlap=32, memory=memory, **more)
        assert {shape[0] for shape in model.calls} == {batch}  # the device sees one shape only
        maps.append((out.read_bytes(), out.with_name("p.tif").read_bytes()))
    assert maps[1:] == maps[:-1]


def test_blending_does_not_depend_on_how_many_rows_are_held() -> None:
    rng = np.random.default_rng(1)
    tiling = Tiling(300, 200, 64, 32)
    answers = {
        (r, c): (rng.integers(0, ONE + 1, (3, 64, 64), np.uint16), rng.integers(0, 2, (64, 64)).astype(np.uint16))
        for r in range(tiling.rows)
        for c in range(tiling.columns)
    }

    def blend(strip: int) -> list[np.ndarray]:
        blender, parts = Blender(tiling, 3, 0, 0, strip), []
        for row in range(tiling.rows):
            if row and row % strip == 0:
                blender.move_to(row)
            for column in range(tiling.columns):
                probabilities, used = answers[row, column]
                blender.add(row, column, probabilities, np.zeros((0, 64, 64), np.uint16), used)
            parts.append(np.concatenate([np.array(a).reshape(-1) for a in blender.finish(row)]))
        return parts

    for left, right in zip(blend(1), blend(4), strict=True):
        np.testing.assert_array_equal(left, right)
