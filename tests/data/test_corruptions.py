"""A sensor fails in part as asked, where it was asked to, and always in the same way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sgma_jax.data.corruptions import BLOCK, LEVELS, Failure, corrupt, failures
from sgma_jax.structs import IGNORE, Batch

SENSORS = ("rgb", "dsm")
SIDE = 64
IDS = ["a", "b"]
EVERY = failures(SENSORS)


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = np.random.default_rng(0)
    images = {
        "rgb": rng.standard_normal((3, SIDE, SIDE, 3), np.float32),
        "dsm": rng.standard_normal((3, SIDE, SIDE, 1), np.float32),
    }
    available = rng.random((3, 2, SIDE, SIDE)) < 0.9
    labels = np.full((3, SIDE, SIDE), IGNORE, np.int32)
    return Batch(
        images, available, np.ones((3, 2), bool), labels, np.array([0, 1, -1], np.int32), np.zeros(3, np.int32)
    )


def equal(left: Any, right: Any) -> bool:
    return all(np.array_equal(left.images[m], right.images[m]) for m in SENSORS) and np.array_equal(
        left.available, right.available
    )


def test_the_protocol_has_every_kind_level_and_sensor_once() -> None:
    assert len(set(EVERY)) == len(EVERY) == len(SENSORS) * sum(map(len, LEVELS.values()))


@pytest.mark.parametrize("failure", EVERY[:: len(EVERY) // 7], ids=str)
def test_only_the_failing_sensor_changes_and_padding_stays_as_it_was(batch: Batch, failure: Failure) -> None:
    before = batch.images[failure.modality].copy(), batch.available.copy()
    failed = corrupt(batch, IDS, SENSORS, failure)
    place = SENSORS.index(failure.modality)
    assert np.array_equal(before[0], batch.images[failure.modality])
    assert np.array_equal(before[1], batch.available)
    assert np.array_equal(failed.images[SENSORS[1 - place]], batch.images[SENSORS[1 - place]])
    assert np.array_equal(failed.available[:, 1 - place], batch.available[:, 1 - place])
    assert not equal(failed, batch)
    assert np.array_equal(failed.images[failure.modality][2], batch.images[failure.modality][2])
    assert np.array_equal(failed.available[2], batch.available[2])
    assert failed.images[failure.modality].dtype == np.float32


@pytest.mark.parametrize("failure", EVERY[:: len(EVERY) // 7], ids=str)
def test_what_a_record_suffers_depends_on_the_seed_and_its_name_alone(batch: Batch, failure: Failure) -> None:
    failed, again = (corrupt(batch, IDS, SENSORS, failure) for _ in range(2))
    assert equal(failed, again)
    assert not equal(failed, corrupt(batch, IDS, SENSORS, failure, seed=1))
    # Record "b" alone, with the sensors in another order, at another place of a batch.
    alone = Batch({m: batch.images[m][1:2] for m in SENSORS}, batch.available[1:2, ::-1], *(x[1:2] for x in batch[2:]))
    turned = corrupt(alone, ["b"], SENSORS[::-1], failure)
    assert np.array_equal(turned.images[failure.modality][0], failed.images[failure.modality][1])
    assert np.array_equal(turned.available[0, ::-1], failed.available[1])


@pytest.mark.parametrize("ratio", LEVELS["partial_missing"])
def test_partial_missing_takes_whole_blocks_of_the_asked_share_and_more_of_the_same(batch: Batch, ratio: float) -> None:
    whole = batch._replace(available=np.ones_like(batch.available))
    seen = corrupt(whole, IDS, SENSORS, Failure("dsm", "partial_missing", ratio)).available[0, 1]
    blocks = seen.reshape(SIDE // BLOCK, BLOCK, SIDE // BLOCK, BLOCK).transpose(0, 2, 1, 3).reshape(-1, BLOCK * BLOCK)
    assert (blocks.all(1) | ~blocks.any(1)).all()
    assert (~blocks.any(1)).mean() == ratio
    less = corrupt(whole, IDS, SENSORS, Failure("dsm", "partial_missing", ratio / 2)).available[0, 1]
    assert not (seen & ~less).any()


def test_noise_has_the_asked_strength_and_leaves_availability(batch: Batch) -> None:
    for sigma in LEVELS["gaussian_noise"]:
        failed = corrupt(batch, IDS, SENSORS, Failure("rgb", "gaussian_noise", sigma))
        assert (failed.images["rgb"][:2] - batch.images["rgb"][:2]).std() == pytest.approx(sigma, rel=0.05)
        assert np.array_equal(failed.available, batch.available)
    for share in LEVELS["salt_and_pepper"]:
        image = corrupt(batch, IDS, SENSORS, Failure("dsm", "salt_and_pepper", share)).images["dsm"][0]
        changed = image != batch.images["dsm"][0]
        seen = batch.images["dsm"][0][batch.available[0, 1]]
        assert changed.mean() == pytest.approx(share, rel=0.25)
        assert set(image[changed]) == {seen.min(), seen.max()}


def test_misregistration_moves_by_the_asked_distance_and_what_comes_in_is_not_available(batch: Batch) -> None:
    whole = batch._replace(available=np.ones_like(batch.available))
    image = whole.images["dsm"][0, ..., 0]
    for distance in LEVELS["misregistration"]:
        failed = corrupt(whole, IDS, SENSORS, Failure("dsm", "misregistration", distance))
        seen, moved = failed.available[0, 1], failed.images["dsm"][0, ..., 0]
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        lost = SIDE - len(rows), SIDE - len(columns)
        assert np.hypot(*lost) == pytest.approx(distance, abs=0.75)
        assert seen.sum() == len(rows) * len(columns)
        down, right = rows[0] or -lost[0], columns[0] or -lost[1]
        assert np.array_equal(
            moved[seen].reshape(len(rows), -1), image[max(-down, 0) :, max(-right, 0) :][: len(rows), : len(columns)]
        )


def test_misregistration_moves_availability_with_the_image(batch: Batch) -> None:
    hole = np.ones_like(batch.available)
    hole[:, 1, 10:14, 20:23] = False
    marked = {**batch.images, "dsm": np.where(hole[:, 1], 1.0, 7.0)[..., None].astype(np.float32)}
    failed = corrupt(batch._replace(available=hole, images=marked), IDS, SENSORS, Failure("dsm", "misregistration", 4))
    for image, seen in zip(failed.images["dsm"][: len(IDS), ..., 0], failed.available[: len(IDS), 1], strict=True):
        assert (image == 7.0).sum() == 12
        assert not seen[image == 7.0].any()
        assert seen[image == 1.0].all()


def test_a_sensor_that_was_not_there_stays_absent(batch: Batch) -> None:
    absent = batch._replace(available=np.zeros_like(batch.available))
    for failure in EVERY:
        assert not corrupt(absent, IDS, SENSORS, failure).available.any()
