"""The pictures of the scene viewer hold what the arrays hold, pixel by pixel."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from sgma_jax.data.schema import IGNORE, Schema
from sgma_jax.report import scenes
from sgma_jax.report.scenes import RIGHT, WRONG, draw_scene, draw_scenes, mean_over_scales
from tests.report.conftest import PALETTE, SCHEMA, SENSORS, random_answers, random_example


def pixels(uri: str) -> np.ndarray:
    """A picture's colours, [height, width, 4]."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))).convert("RGBA"))


def test_predictions_and_errors_are_those_of_the_arrays() -> None:
    example = random_example(0)
    answers = random_answers(example, 1)
    drawn = draw_scene(example, SCHEMA, answers, 384)
    assert set(drawn.answers) == {"+".join(s) for s in answers}
    for subset, (classes, _) in answers.items():
        found = drawn.answers["+".join(subset)]
        there = classes != IGNORE
        prediction = pixels(found.prediction)
        np.testing.assert_array_equal(prediction[..., 3] == 255, there)
        np.testing.assert_array_equal(prediction[there][:, :3], np.array(PALETTE)[classes[there]])
        judged = there & (example.label != IGNORE)
        errors = pixels(found.errors)
        np.testing.assert_array_equal(errors[..., 3] == 255, judged)
        np.testing.assert_array_equal(
            errors[judged][:, :3], np.where((classes == example.label)[judged][:, None], RIGHT, WRONG)
        )
        assert found.right == pytest.approx((classes == example.label)[judged].mean())
        assert list(found.robustness) == list(found.share) == list(subset)
        assert sum(v or 0.0 for v in found.share.values()) == pytest.approx(1.0, abs=1e-6)
    label = pixels(drawn.scene.label)
    np.testing.assert_array_equal(label[..., 3] == 255, example.label != IGNORE)


def test_inputs_are_transparent_where_a_sensor_is_absent() -> None:
    example = random_example(0)
    scene = draw_scene(example, SCHEMA, random_answers(example, 1), 384).scene
    for name, mask in zip(SENSORS, example.available, strict=True):
        np.testing.assert_array_equal(pixels(scene.inputs[name])[..., 3] > 127, mask)
        assert scene.coverage[name] == mask.mean()


def test_robustness_is_transparent_where_the_sensor_is_absent_and_brighter_where_it_is_larger() -> None:
    example = random_example(0)
    low, high = np.full((2, 8, 8), 0.1, np.float32), np.full((2, 8, 8), 0.9, np.float32)
    maps = np.stack([low[0], high[0]])
    maps[0, :, :4] = 0
    drawn = draw_scene(example, SCHEMA, {("rgb", "dsm"): (example.label, [maps])}, 384).answers["rgb+dsm"]
    rgb, dsm = pixels(drawn.robustness["rgb"]), pixels(drawn.robustness["dsm"])
    assert (rgb[:, :4, 3] == 0).all()
    assert (rgb[:, 4:, 3] == 255).all()
    assert dsm[..., :3].sum() > 2 * rgb[:, 4:, :3].sum()


def test_the_mean_over_scales_is_that_of_a_loop_and_sums_to_one() -> None:
    random = np.random.default_rng(3)
    maps = []
    for side in (8, 4, 3, 1):  # 3: a scale of which the finest is no multiple
        weights = random.random((3, side, side)).astype(np.float32)
        maps.append(weights / weights.sum(0))
    maps[0][:, :2, :2] = 0  # the finest scale sees nothing there
    got = mean_over_scales(maps)
    for y in range(8):
        for x in range(8):
            values = [m[:, y * m.shape[1] // 8, x * m.shape[2] // 8] for m in maps]
            np.testing.assert_allclose(got[:, y, x], np.mean([v for v in values if v.sum() > 0], axis=0), rtol=1e-6)
    np.testing.assert_allclose(got.sum(0), 1.0, rtol=1e-6)


def test_large_scenes_are_thinned_and_their_numbers_are_not() -> None:
    example = random_example(0)
    answers = random_answers(example, 1)
    whole, small = (draw_scene(example, SCHEMA, answers, side) for side in (384, 10))
    assert small.bytes() < whole.bytes()
    for key, answer in whole.answers.items():
        assert (small.answers[key].right, small.answers[key].share) == (answer.right, answer.share)
        np.testing.assert_array_equal(pixels(small.answers[key].prediction), pixels(answer.prediction)[::4, ::4])


def test_scenes_shrink_and_then_become_fewer_until_the_page_is_small_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [random_example(0), random_example(1)]
    answers = [
        [random_answers(e, 5 + i) for i, e in enumerate(examples)],
        [],
        [random_answers(e, 7 + i) for i, e in enumerate(examples)],
    ]
    monkeypatch.setattr(scenes, "SIDES", (384, 8))

    def drawn(most: int) -> tuple[list[int], int]:
        monkeypatch.setattr(scenes, "PICTURE_BYTES", most)
        found = draw_scenes(examples, SCHEMA, answers)
        return [len(own) for own in found], sum(s.bytes() for own in found for s in own)

    counts, whole = drawn(10**9)
    assert counts == [2, 0, 2]
    assert drawn(whole) == (counts, whole)
    counts, shrunk = drawn(whole - 1)
    assert counts == [2, 0, 2]
    assert shrunk < whole
    counts, one = drawn(shrunk - 1)
    assert counts == [1, 0, 1]
    assert one < shrunk
    assert drawn(1)[0] == [1, 0, 1]


def test_mean_fusion_without_maps_and_a_set_of_254_classes_can_be_drawn() -> None:
    example = random_example(0)
    drawn = draw_scene(example, SCHEMA, random_answers(example, 1, sgf=False), 384)
    assert drawn.answers["rgb"].robustness == {}
    assert drawn.answers["rgb"].share == {}
    many = Schema("many", SCHEMA.modalities, tuple(map(str, range(254))), tuple((i, 0, 0) for i in range(254)), 32)
    example = example._replace(label=np.where(example.label == IGNORE, IGNORE, 253).astype(np.uint8))
    label = pixels(draw_scene(example, many, {}, 384).scene.label)
    np.testing.assert_array_equal(label[..., 3] == 255, example.label != IGNORE)
    assert (label[example.label != IGNORE][:, 0] == 253).all()


def test_a_scene_without_labels_has_nothing_to_judge() -> None:
    example = random_example(0)
    example = example._replace(label=np.full_like(example.label, IGNORE))
    drawn = draw_scene(example, SCHEMA, random_answers(example, 1), 384)
    assert {a.right for a in drawn.answers.values()} == {None}
