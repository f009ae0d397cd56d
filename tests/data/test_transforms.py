"""What is done to a tile is done to all of its sensors, its availability and its label alike."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sgma_jax.data.schema import IGNORE, Example, Modality, Schema
from sgma_jax.data.transforms import drop_modalities, padding_like, random_crop, random_orientation, to_sample

TILE = 12  # so that a pixel's number fits into the label's byte below 255
SENSORS = 8  # so that the eight masks can spell the number in bits
UNLIKELY = 1e-3
NUMBERS = np.arange(TILE * TILE).reshape(TILE, TILE)

seeds = st.integers(0, 2**32 - 1)


def numbered_tile() -> Example:
    """A tile in which every array says of every pixel where it lay: images with an offset per band, masks in binary."""
    bands = {"a": 1, "b": 3}
    images = {
        name: np.stack([NUMBERS + 1000 * band for band in range(count)], -1).astype(np.int32)
        for name, count in bands.items()
    }
    available = np.stack([(NUMBERS >> bit) & 1 for bit in range(SENSORS)]).astype(bool)
    return Example(images, available, NUMBERS.astype(np.uint8), "tile")


def numbers_of(example: Example) -> np.ndarray:
    """Where each pixel came from, after all arrays have been found to agree about it."""
    numbers = example.label.astype(np.int64)
    np.testing.assert_array_equal(
        sum(example.available[bit].astype(np.int64) << bit for bit in range(SENSORS)), numbers
    )
    for image in example.images.values():
        np.testing.assert_array_equal(image, np.stack([numbers + 1000 * band for band in range(image.shape[-1])], -1))
    assert example.id == "tile"
    return numbers


@given(seed=seeds, size=st.integers(1, TILE))
def test_a_crop_is_one_window_of_everything(seed: int, size: int) -> None:
    got = numbers_of(random_crop(numbered_tile(), size, np.random.default_rng(seed)))
    assert got.shape == (size, size)
    y, x = divmod(int(got[0, 0]), TILE)
    np.testing.assert_array_equal(got, NUMBERS[y : y + size, x : x + size])


def test_crops_lie_everywhere_equally_often() -> None:
    rng, places = np.random.default_rng(0), (TILE - 9 + 1) ** 2
    corners = Counter(int(numbers_of(random_crop(numbered_tile(), 9, rng))[0, 0]) for _ in range(100 * places))
    assert len(corners) == places
    assert stats.chisquare(list(corners.values())).pvalue > UNLIKELY


def test_crops_look_for_a_label_and_leave_an_unlabelled_tile_alone() -> None:
    tile, rng = numbered_tile(), np.random.default_rng(0)
    right = np.where(NUMBERS % TILE < TILE // 2, IGNORE, 0).astype(np.uint8)
    found = sum(bool((random_crop(tile._replace(label=right), 4, rng).label != IGNORE).any()) for _ in range(500))
    assert found / 500 > 0.95  # 1 - (3 / 9) ** 4 = 0.988; a single try would find one in 0.67
    empty = random_crop(tile._replace(label=np.full_like(tile.label, IGNORE)), 4, rng)
    assert empty.label.shape == (4, 4)


def test_orientations_are_the_eight_of_the_square_equally_often_and_of_everything() -> None:
    possible = {np.rot90(m, turns).tobytes() for m in (NUMBERS, NUMBERS[:, ::-1]) for turns in range(4)}
    rng = np.random.default_rng(0)
    seen = Counter(numbers_of(random_orientation(numbered_tile(), rng)).tobytes() for _ in range(800))
    assert set(seen) == possible
    assert stats.chisquare(list(seen.values())).pvalue > UNLIKELY


@pytest.mark.parametrize(
    "present", [(True, True, True), (True, False, True), (False, True, False), (True, True, False, True)]
)
def test_dropout_leaves_each_non_empty_subset_of_what_is_present_equally_often(present: tuple[bool, ...]) -> None:
    rng, here = np.random.default_rng(0), np.array(present)
    kept = Counter(tuple(drop_modalities(here, 1.0, rng)[here].tolist()) for _ in range(3000))
    assert len(kept) == 2 ** here.sum() - 1
    assert not any(not any(subset) for subset in kept)
    if len(kept) > 1:
        assert stats.chisquare(list(kept.values())).pvalue > UNLIKELY


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_dropout_happens_with_its_probability(probability: float) -> None:
    rng, present, tries = np.random.default_rng(0), np.array([True, True, False]), 3000
    whole = sum(bool(drop_modalities(present, probability, rng)[present].all()) for _ in range(tries))
    # Of the three subsets of two sensors, one is the whole.
    assert stats.binomtest(tries - whole, tries, probability * 2 / 3).pvalue > UNLIKELY


def test_dropout_changes_neither_its_argument_nor_a_record_without_sensors() -> None:
    rng, present = np.random.default_rng(0), np.array([True, True, True])
    for _ in range(20):
        drop_modalities(present, 1.0, rng)
    assert present.all()
    assert drop_modalities(np.zeros(3, bool), 1.0, rng).shape == (3,)


def schema_of(dtype: str, mean: tuple[float, ...], std: tuple[float, ...]) -> Schema:
    return Schema("s", (Modality("a", len(mean), "", dtype, mean, std),), ("x", "y"), ((0, 0, 0), (1, 1, 1)), TILE)


def sample_of(image: np.ndarray, schema: Schema) -> np.ndarray:
    side = image.shape[:2]
    example = Example({"a": image}, np.ones((1, *side), bool), np.zeros(side, np.uint8), "tile")
    got = to_sample(example, schema, 3, np.ones(1, bool)).images["a"]
    assert got.dtype == np.float32
    return got


@given(seed=seeds, dtype=st.sampled_from(["uint8", "int8", "uint16", "int16", "float32"]))
def test_images_are_normalised_per_band_by_the_statistics(seed: int, dtype: str) -> None:
    image = np.random.default_rng(seed).integers(0, 100, (4, 4, 2)).astype(dtype)
    mean, std = (20.0, -3.5), (4.0, 0.25)
    want = (image.astype(np.float64) - mean) / std
    np.testing.assert_allclose(sample_of(image, schema_of(dtype, mean, std)), want, rtol=1e-6)


def test_a_band_without_variance_becomes_finite() -> None:
    got = sample_of(np.full((4, 4, 1), 7, np.uint8), schema_of("uint8", (7.0,), (0.0,)))
    assert (got == 0).all()


@pytest.mark.parametrize("dtype", ["int32", "uint32", "float64"])
def test_normalising_loses_no_digits_of_numbers_that_float32_cannot_hold(dtype: str) -> None:
    """Such as heights in millimetres or times in seconds: a large offset, and small differences that tell."""
    offset = 300_000_000
    image = (offset + np.arange(16).reshape(4, 4, 1)).astype(dtype)
    got = sample_of(image, schema_of(dtype, (float(offset),), (4.0,)))
    np.testing.assert_allclose(got, np.arange(16).reshape(4, 4, 1) / 4.0, rtol=1e-6)


def test_a_sample_carries_label_availability_and_numbers_as_they_are() -> None:
    tile = numbered_tile()
    tile = tile._replace(images={"a": tile.images["a"]}, available=tile.available[:1])
    kept = np.array([True])
    got = to_sample(tile, schema_of("int32", (0.0,), (1.0,)), 41, kept)
    np.testing.assert_array_equal(got.labels, NUMBERS)
    np.testing.assert_array_equal(got.available, tile.available)
    np.testing.assert_array_equal(got.kept, kept)
    assert (int(got.ids), int(got.drawn)) == (41, 0)
    assert {np.asarray(a).dtype.name for a in (got.labels, got.ids, got.drawn)} == {"int32"}


def test_padding_counts_for_nothing() -> None:
    sample = to_sample(
        Example({"a": np.ones((4, 4, 1), np.uint8)}, np.ones((1, 4, 4), bool), np.zeros((4, 4), np.uint8), "t"),
        schema_of("uint8", (0.0,), (1.0,)),
        3,
        np.ones(1, bool),
    )
    got = padding_like(sample, -1)
    assert int(got.ids) == -1
    assert (got.labels == IGNORE).all()
    assert not got.available.any()
    assert (got.images["a"] == 0).all()
    for mine, theirs in zip(
        (got.labels, got.available, got.images["a"]), (sample.labels, sample.available, sample.images["a"]), strict=True
    ):
        assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
