"""Scores are those of integer counts over a whole split, and the summary over subsets is what its words say."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sgma_jax.evaluation.metrics import (
    CALIBRATION_BINS,
    FAILURE_PROBABILITIES,
    LEVELS_PER_BIN,
    Tally,
    calibration,
    confidence_histogram,
    confusion_matrix,
    make_evaluation,
    scores,
    summarise,
)
from sgma_jax.modalities import subsets
from sgma_jax.runs.results import Extreme
from sgma_jax.structs import IGNORE

CLASSES = ("road", "roof", "lawn", "tree")
K = len(CLASSES)
SHAPE = (4, 3, 5)  # one shape, so that nothing compiles anew

label_maps = arrays(np.int32, SHAPE, elements=st.sampled_from([*range(K), IGNORE]))
prediction_maps = arrays(np.int32, SHAPE, elements=st.integers(0, K - 1))
masks = arrays(bool, SHAPE)
matrices = arrays(np.int64, (K, K), elements=st.sampled_from([0, 0, 1, 2, 7, 1000]))


def count(labels: np.ndarray, predictions: np.ndarray, counted: np.ndarray) -> np.ndarray:
    return np.asarray(confusion_matrix(jnp.asarray(labels), jnp.asarray(predictions), jnp.asarray(counted), K))


@given(labels=label_maps, predictions=prediction_maps, counted=masks)
def test_confusion_matrix_counts_what_a_double_loop_counts(
    labels: np.ndarray, predictions: np.ndarray, counted: np.ndarray
) -> None:
    want = np.zeros((K, K), np.int64)
    for label, prediction, counts in zip(labels.flat, predictions.flat, counted.flat, strict=True):
        if counts and label != IGNORE:
            want[label, prediction] += 1
    got = count(
        labels, np.where(counted, predictions, IGNORE), counted
    )  # pixels without an answer are predicted as 255
    assert np.issubdtype(got.dtype, np.integer)
    np.testing.assert_array_equal(got, want)


@given(labels=label_maps, predictions=prediction_maps, counted=masks)
def test_confusion_matrices_of_batches_add_up_to_that_of_the_whole(
    labels: np.ndarray, predictions: np.ndarray, counted: np.ndarray
) -> None:
    parts = [count(*(np.repeat(a[i : i + 1], 1, 0) for a in (labels, predictions, counted))) for i in range(SHAPE[0])]
    np.testing.assert_array_equal(sum(parts), count(labels, predictions, counted))


@given(predictions=prediction_maps, labels=label_maps)
def test_ignored_and_uncounted_pixels_change_nothing(predictions: np.ndarray, labels: np.ndarray) -> None:
    everything = np.ones(SHAPE, bool)
    assert count(np.full(SHAPE, IGNORE), predictions, everything).sum() == 0
    assert count(labels, predictions, ~everything).sum() == 0
    other = np.where(labels == IGNORE, (predictions + 1) % K, predictions)
    np.testing.assert_array_equal(count(labels, other, everything), count(labels, predictions, everything))


@given(
    labels=label_maps,
    predictions=prediction_maps,
    confidence=arrays(np.float32, SHAPE, elements=st.floats(0, 1, width=32)),
    counted=masks,
)
def test_calibration_is_that_of_a_loop_over_the_pixels(
    labels: np.ndarray, predictions: np.ndarray, confidence: np.ndarray, counted: np.ndarray
) -> None:
    histogram = np.asarray(confidence_histogram(*map(jnp.asarray, (labels, predictions, confidence, counted))))
    assert np.issubdtype(histogram.dtype, np.integer)
    got = calibration(histogram)
    inside = counted & (labels != IGNORE)
    of = np.minimum(
        (confidence * np.float32(CALIBRATION_BINS * LEVELS_PER_BIN)).astype(int) // LEVELS_PER_BIN, CALIBRATION_BINS - 1
    )
    error = 0.0
    for number, values in enumerate(got.bins):
        pixels = inside & (of == number)
        assert values.pixels == pixels.sum()
        if pixels.any():
            accuracy, mean = (labels == predictions)[pixels].mean(), confidence[pixels].mean()
            assert values.accuracy == pytest.approx(accuracy)
            assert values.confidence == pytest.approx(mean, abs=0.5 / (CALIBRATION_BINS * LEVELS_PER_BIN) + 1e-6)
            error += pixels.sum() * abs(accuracy - mean)
        else:
            assert values.accuracy is values.confidence is None
    if inside.any():
        assert got.ece == pytest.approx(error / inside.sum(), abs=1e-3)
    else:
        assert got.ece is None


def test_an_evaluation_names_matrix_coverage_and_calibration_of_every_subset() -> None:
    matrix, confidences = (
        np.diag([1, 2, 3, 0]).astype(np.int64),
        np.zeros((CALIBRATION_BINS * LEVELS_PER_BIN, 2), np.int64),
    )
    confidences[-1] = 0, 6
    half = Tally(matrix, 6, confidences)
    tallies = {
        ("rgb",): half.add(matrix, 12, confidences),
        ("sar",): Tally(matrix, 6),
        ("rgb", "sar"): Tally(0 * matrix, 0),
    }
    evaluation = make_evaluation(tallies, "test", ("rgb", "sar"), CLASSES)
    rgb, sar, both = evaluation.subsets
    assert np.array_equal(rgb.confusion, 2 * matrix)
    assert rgb.coverage == pytest.approx(12 / 18)
    assert rgb.calibration is not None
    assert rgb.calibration.ece == pytest.approx(0.0, abs=1e-3)
    assert rgb.calibration.bins[-1].pixels == 12
    assert sar.calibration is None
    assert both.coverage is None


def test_coverage_counts_what_is_seen_not_what_is_right() -> None:
    wrong = np.array([[1, 3], [0, 0]], np.int64)
    (row,) = make_evaluation({("rgb",): Tally(wrong, 8)}, "test", ("rgb",), ("a", "b")).subsets
    assert row.coverage == 0.5


def test_counts_stay_exact_beyond_two_to_the_24() -> None:
    side = 4100  # 16.81 million pixels of one class: a float32 would stop at 2^24 = 16.78 million
    got = np.asarray(
        confusion_matrix(
            jnp.zeros((1, side, side), jnp.int32),
            jnp.zeros((1, side, side), jnp.int32),
            jnp.ones((1, side, side), bool),
            2,
        )
    )
    assert got[0, 0] == side**2 > 2**24


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_scores_stay_exact_where_sums_leave_32_bits(dtype: type) -> None:
    many = 2**31 - 1
    got = scores(np.array([[many, many], [0, many]], dtype), ("a", "b"))
    assert got.oa == pytest.approx(2 / 3, rel=1e-12)
    assert got.iou == {"a": pytest.approx(0.5, rel=1e-12), "b": pytest.approx(0.5, rel=1e-12)}
    assert got.f1 == pytest.approx(2 / 3, rel=1e-12)


@given(matrix=matrices)
def test_scores_are_those_of_the_formulas(matrix: np.ndarray) -> None:
    iou, f1 = {}, []
    for k, name in enumerate(CLASSES):
        hits = int(matrix[k, k])
        missed, false = sum(int(matrix[k, j]) for j in range(K)) - hits, sum(int(matrix[j, k]) for j in range(K)) - hits
        iou[name] = hits / (hits + missed + false) if hits + missed + false else None
        if hits + missed + false:
            f1.append(2 * hits / (2 * hits + missed + false))
    known = [v for v in iou.values() if v is not None]
    got = scores(matrix, CLASSES)
    assert got.iou == pytest.approx(iou)
    if not known:
        assert (got.miou, got.f1, got.oa) == (None, None, None)
        return
    assert got.miou == pytest.approx(sum(known) / len(known))
    assert got.f1 == pytest.approx(sum(f1) / len(f1))
    assert got.oa == pytest.approx(sum(int(matrix[k, k]) for k in range(K)) / int(matrix.sum()))


def test_a_class_without_labels_and_predictions_does_not_count_but_one_that_is_only_predicted_does() -> None:
    matrix = np.array([[8, 0, 2], [0, 0, 0], [0, 0, 0]])
    got = scores(matrix, ("a", "nowhere", "predicted"))
    assert got.iou == {"a": pytest.approx(0.8), "nowhere": None, "predicted": 0.0}
    assert got.miou == pytest.approx(0.4)
    assert got.f1 == pytest.approx((16 / 18 + 0) / 2)


def test_scores_are_of_summed_counts_and_no_mean_of_images() -> None:
    easy, hard = np.array([[98, 0], [0, 2]]), np.array([[0, 0], [8, 0]])
    together = scores(easy + hard, ("a", "b")).miou
    assert together == pytest.approx((98 / 106 + 2 / 10) / 2)
    assert together != pytest.approx((scores(easy, ("a", "b")).miou + scores(hard, ("a", "b")).miou) / 2)


def by_failure_patterns(miou: dict[tuple[str, ...], float], modalities: tuple[str, ...], p: float) -> float:
    """Every pattern of failed sensors, given that what is left has a score."""
    expected = certain = 0.0
    for fails in itertools.product([True, False], repeat=len(modalities)):
        left = tuple(m for m, failed in zip(modalities, fails, strict=True) if not failed)
        if left in miou:
            probability = float(np.prod([p if failed else 1 - p for failed in fails]))
            expected, certain = expected + probability * miou[left], certain + probability
    return expected / certain


@given(data=st.data(), modalities=st.sampled_from([("r",), ("r", "d"), ("r", "d", "n"), ("r", "d", "n", "s")]))
def test_summary_is_that_of_brute_force(data: st.DataObject, modalities: tuple[str, ...]) -> None:
    miou = {s: data.draw(st.none() | st.floats(0, 1)) for s in subsets(modalities)}
    known = {s: v for s, v in miou.items() if v is not None}
    got = summarise(miou, modalities)
    assert set(got.bernoulli) == {"0.05", "0.1", "0.2"} == {str(p) for p in FAILURE_PROBABILITIES}
    if not known:
        assert got.average is got.top1 is got.last1 is None
        assert set(got.bernoulli.values()) == {None}
        return
    assert got.average == pytest.approx(np.mean(list(known.values())))
    for extreme, best in ((got.top1, max(known.values())), (got.last1, min(known.values()))):
        assert extreme is not None
        assert extreme.miou == best == known[extreme.modalities]
    for p in FAILURE_PROBABILITIES:
        assert got.bernoulli[str(p)] == pytest.approx(by_failure_patterns(known, modalities, p))


def test_summary_of_the_papers_potsdam_row_is_the_papers() -> None:
    """Table of arXiv 2603.02505, SGMA with PVT-v2-b2."""
    miou = dict(zip(subsets(("R", "D", "N")), (83.51, 57.05, 76.06, 86.62, 84.25, 82.56, 86.84), strict=True))
    got = summarise(miou, ("R", "D", "N"))
    assert got.average == pytest.approx(79.55, abs=0.01)
    assert got.last1 == Extreme(("D",), 57.05)
    assert got.top1 == Extreme(("R", "D", "N"), 86.84)
