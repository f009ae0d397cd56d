"""Batches are the same for every number of processes, go on exactly where they stopped, and leave no record out."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgma_jax.config import DataConfig
from sgma_jax.data.pipeline import evaluation_batches, open_split, stack, training_batches
from sgma_jax.data.source import Source, open_source
from sgma_jax.data.transforms import to_sample
from sgma_jax.errors import InputError
from sgma_jax.structs import IGNORE, Batch

TRAIN, BATCH = 13, 4  # as conftest.py converts them
Config = Callable[..., DataConfig]


def take(batches: Any, count: int) -> list[Batch]:
    return [next(batches) for _ in range(count)]


def assert_same(left: Batch, right: Batch) -> None:
    assert left.images.keys() == right.images.keys()
    pairs = [(left.images[m], right.images[m]) for m in left.images]
    pairs += [(getattr(left, f), getattr(right, f)) for f in Batch._fields if f != "images"]
    for a, b in pairs:
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def joined(parts: list[Batch]) -> Batch:
    """The global batch of the local ones."""
    images = {m: np.concatenate([p.images[m] for p in parts]) for m in parts[0].images}
    return Batch(images, *(np.concatenate([getattr(p, f) for p in parts]) for f in Batch._fields if f != "images"))


def test_batches_have_the_shapes_and_types_of_the_glossary(city_config: Config) -> None:
    config = city_config()
    batch = next(training_batches(config, open_split(config, "train"), seed=0))
    assert {m: (i.shape, i.dtype.name) for m, i in batch.images.items()} == {
        "rgb": ((4, 32, 32, 3), "float32"),
        "dsm": ((4, 32, 32, 1), "float32"),
    }
    assert [
        (getattr(batch, f).shape, getattr(batch, f).dtype.name) for f in ("available", "kept", "labels", "ids", "drawn")
    ] == [
        ((4, 2, 32, 32), "bool"),
        ((4, 2), "bool"),
        ((4, 32, 32), "int32"),
        ((4,), "int32"),
        ((4,), "int32"),
    ]
    assert all(np.isfinite(i).all() for i in batch.images.values())


def test_the_same_seed_gives_the_same_batches_and_another_seed_others(city_config: Config) -> None:
    config = city_config()
    source = open_split(config, "train")
    first, again, other = (take(training_batches(config, source, seed=s), 8) for s in (5, 5, 6))
    for a, b in zip(first, again, strict=True):
        assert_same(a, b)
    assert not np.array_equal(np.concatenate([b.ids for b in first]), np.concatenate([b.ids for b in other]))


def test_every_record_comes_once_in_every_epoch_each_time_in_another_order_and_another_crop(
    city_config: Config,
) -> None:
    config = city_config()
    batches = take(training_batches(config, open_split(config, "train"), seed=0), TRAIN)
    epochs = np.concatenate([b.ids for b in batches]).reshape(-1, TRAIN)
    assert len(epochs) == BATCH
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(TRAIN))
    assert len({epoch.tobytes() for epoch in epochs}) == len(epochs)
    crops = {
        image.tobytes() for b in batches for image, number in zip(b.images["dsm"], b.ids, strict=True) if number == 0
    }
    assert len(crops) == len(epochs)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_global_batches_do_not_depend_on_the_number_of_processes(city_config: Config, processes: int) -> None:
    config = city_config()
    source = open_split(config, "train")
    alone = training_batches(config, source, seed=3)
    shares = [training_batches(config, source, seed=3, process=p, processes=processes) for p in range(processes)]
    for _ in range(7):  # more than two epochs
        parts = [next(s) for s in shares]
        assert {len(p.ids) for p in parts} == {BATCH // processes}
        assert_same(joined(parts), next(alone))


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("done", [1, 5])
def test_what_comes_next_depends_on_how_many_global_batches_were_read_alone(
    city_config: Config, done: int, processes: int
) -> None:
    """So a run goes on exactly, on any number of processes."""
    config = city_config()
    source = open_split(config, "train")
    told = take(training_batches(config, source, seed=1), done + 3)[done:]
    shares = [
        training_batches(config, source, seed=1, start=done, process=p, processes=processes) for p in range(processes)
    ]
    for want in told:
        assert_same(joined([next(s) for s in shares]), want)


def test_worker_processes_give_the_same_batches_also_when_they_are_killed(
    city_config: Config, capfd: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    want = take(training_batches(city_config(), open_split(city_config(), "train"), seed=1, start=2), 33)
    config = city_config(workers=2)
    batches = training_batches(config, open_split(config, "train"), seed=1, start=2)
    for a, b in zip(take(batches, 3), want[:3], strict=True):
        assert_same(a, b)
    time.sleep(1)  # until they wait in the middle of sending what nobody has asked for yet
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    for a, b in zip(take(batches, 30), want[3:], strict=True):
        assert_same(a, b)
    assert capfd.readouterr().err.count("a data worker died (exit code -9)") == 1
    batches.close()
    assert time.monotonic() - began < 100  # each start has two interpreters that import TFDS


def whole_tile(source: Source, number: int) -> Batch:
    """A record as a sample, without any choice made about it."""
    return to_sample(source[number], source.schema, number, np.ones(2, bool))


def window(array: np.ndarray, y: int, x: int, turns: int, flip: bool) -> np.ndarray:
    """Sixty pixels from (y, x) on, turned and then mirrored."""
    array = np.rot90(array[y : y + 60, x : x + 60], turns)
    return array[:, ::-1] if flip else array


def test_every_sample_is_one_oriented_window_of_its_record(city_config: Config) -> None:
    config = city_config(modality_dropout=0.0, crop=60)
    source = open_split(config, "train")
    for batch in take(training_batches(config, source, seed=2), 4):
        for i, number in enumerate(batch.ids):
            record = stack([whole_tile(source, int(number))])
            windows = [
                (y, x, turns, flip)
                for y in range(5) for x in range(5) for turns in range(4) for flip in (False, True)
                if np.array_equal(window(record.labels[0], y, x, turns, flip), batch.labels[i])
            ]  # fmt: skip
            assert any(
                all(np.array_equal(window(record.images[m][0], *w), batch.images[m][i]) for m in batch.images)
                and all(np.array_equal(window(record.available[0, m], *w), batch.available[i, m]) for m in range(2))
                for w in windows
            )


def test_without_augmentation_and_dropout_samples_keep_orientation_and_sensors(city_config: Config) -> None:
    config = city_config(augment=False, modality_dropout=0.0, crop=64)
    source = open_split(config, "train")
    for batch in take(training_batches(config, source, seed=2), 4):
        assert batch.kept.all()
        assert_same(batch, stack([whole_tile(source, int(n)) for n in batch.ids]))


def test_dropout_never_leaves_a_sample_without_a_sensor_that_its_crop_has(city_config: Config) -> None:
    config = city_config(modality_dropout=1.0)
    batches = take(training_batches(config, open_split(config, "train"), seed=0), 26)
    present = np.concatenate([b.available.any((2, 3)) for b in batches])
    kept = np.concatenate([b.kept for b in batches])
    assert (kept & present)[present.any(1)].any(1).all()
    assert not kept[present.all(1)].all()
    assert not present.all()  # the set has records that lack a sensor


@given(
    processes=st.sampled_from([1, 2, 4]),
    split=st.sampled_from(["train", "validation", "test"]),
    size=st.sampled_from([4, 8, 16]),
)
def test_evaluation_gives_each_record_once_and_pads_for_any_number_of_processes(
    city: Path, processes: int, split: str, size: int
) -> None:
    classes = open_source(city, split).schema.classes
    config = DataConfig(
        path=str(city), modalities=("rgb", "dsm"), bands=(3, 1), classes=classes, crop=32, evaluation_batch_size=size
    )
    source = open_split(config, split)
    shares = [list(evaluation_batches(config, source, process=p, processes=processes)) for p in range(processes)]
    assert {len(s) for s in shares} == {
        -(-len(source) // size)
    }  # every process takes part in every step, or they wait for ever
    batches = [joined(list(parts)) for parts in zip(*shares, strict=True)]
    assert {len(b.ids) for b in batches} == {size}
    ids = np.concatenate([b.ids for b in batches])
    np.testing.assert_array_equal(ids[ids >= 0], np.arange(len(source)))
    for batch in batches:
        padding = batch.ids == -1
        assert (batch.labels[padding] == IGNORE).all()
        assert not batch.available[padding].any()
        assert all(np.isfinite(i).all() for i in batch.images.values())
        for i in np.flatnonzero(~padding):
            example = source[int(batch.ids[i])]
            np.testing.assert_array_equal(batch.labels[i], example.label)
            np.testing.assert_array_equal(batch.available[i], example.available)
            assert batch.kept[i].all()


def test_sensors_come_in_the_presets_order(city_config: Config) -> None:
    one, other = city_config(), city_config(modalities=("dsm", "rgb"), bands=(1, 3))
    first, second = (next(evaluation_batches(c, open_split(c, "train"))) for c in (one, other))
    assert list(second.images) == ["dsm", "rgb"]
    np.testing.assert_array_equal(first.available[:, ::-1], second.available)
    for name in ("rgb", "dsm"):
        np.testing.assert_array_equal(first.images[name], second.images[name])


def test_a_crop_larger_than_the_tiles_is_an_input_error(city_config: Config) -> None:
    config = city_config(crop=65)
    with pytest.raises(InputError, match=r"data\.crop is 65 .* 64 pixels"):
        training_batches(config, open_split(config, "train"), seed=0)
    exact = city_config(crop=64)
    assert next(training_batches(exact, open_split(exact, "train"), seed=0)).labels.shape == (4, 64, 64)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"modalities": ("rgb", "lidar")}, "data.modalities"),
        ({"bands": (4, 1)}, "data.bands"),
        ({"classes": ("road", "roof")}, "data.classes"),
        ({"path": ""}, "data.path"),
        ({"path": "/nowhere"}, "/nowhere"),
    ],
)
def test_a_set_that_is_not_what_the_preset_expects_is_an_input_error_that_names_the_field(
    city_config: Config, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(InputError, match=field):
        open_split(city_config(**fields), "train")


def test_classes_in_another_order_are_another_schema(city_config: Config) -> None:
    classes = city_config().classes
    with pytest.raises(InputError, match=r"data\.classes"):
        open_split(city_config(classes=classes[::-1]), "train")


def test_an_unknown_split_is_an_input_error(city_config: Config) -> None:
    with pytest.raises(InputError, match="no split 'dev'"):
        open_split(city_config(), "dev")


def test_reading_batches_touches_no_accelerator(city: Path) -> None:
    """Importing is not enough to know: a pipeline is made and read, too."""
    program = f"""
import sys
from sgma_jax.config import DataConfig
from sgma_jax.data.pipeline import evaluation_batches, open_split, training_batches
from sgma_jax.data.source import open_source
config = DataConfig(path={str(city)!r}, modalities=("rgb",), bands=(3,), classes=open_source({str(city)!r}, "train").schema.classes,
                    crop=32, batch_size=2, evaluation_batch_size=2)
next(training_batches(config, open_split(config, "train"), seed=0))
next(evaluation_batches(config, open_split(config, "test")))
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized(), "a JAX backend was initialised"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unreadable_record_is_a_sample_that_counts_for_nothing_and_the_others_stay_as_they_are(
    city: Path, city_config: Config, tmp_path: Path
) -> None:
    want = take(training_batches(city_config(), open_split(city_config(), "train"), seed=1), TRAIN)
    shutil.copytree(city, tmp_path / "rotten")
    shard = next((tmp_path / "rotten").rglob("*train.array_record*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(data)
    config = city_config(path=str(tmp_path / "rotten"), on_bad_record="skip")
    skipped = set()
    for batch, whole in zip(
        take(training_batches(config, open_split(config, "train"), seed=1), TRAIN), want, strict=True
    ):
        bad = batch.ids < -1
        np.testing.assert_array_equal(np.where(bad, -batch.ids - 2, batch.ids), whole.ids)
        skipped |= set((-batch.ids - 2)[bad].tolist())
        assert not batch.available[bad].any()
        assert (batch.labels[bad] == IGNORE).all()
        for name, images in batch.images.items():
            np.testing.assert_array_equal(images[~bad], whole.images[name][~bad])
    assert 0 < len(skipped) < TRAIN
    stopping = city_config(path=str(tmp_path / "rotten"))
    source = open_split(stopping, "train")
    with pytest.raises(
        InputError,
        match=rf"record {min(skipped)} of split 'train', in {shard.name}, cannot be read.*--data.on-bad-record skip",
    ):
        source[min(skipped)]
    with pytest.raises(InputError, match="cannot be read"):
        take(training_batches(stopping, source, seed=1), TRAIN)
    # A file that was cut off is refused before anything is trained, unless such records may be skipped.
    shard.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="has not the"):
        open_split(stopping, "train")
    assert (next(training_batches(config, open_split(config, "train"), seed=1)).ids < -1).all()
