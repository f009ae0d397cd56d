"""A converted set is whole or not there, holds what it was given, and counts it right."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import builder, synthetic
from data_prep.builder import Conversion, convert
from data_prep.tallies import Statistics
from data_prep.workspace import LOCK
from sgma_jax.data.schema import IGNORE, Example, Manifest, Modality, Schema, read_manifest
from sgma_jax.data.source import open_source
from sgma_jax.errors import InputError

SCHEMA = Schema(
    "toy",
    (Modality("rgb", 3, "", "uint8"), Modality("dsm", 1, "metre", "float32")),
    ("ground", "roof"),
    ((0, 0, 0), (9, 9, 9)),
    16,
)


def example(key: tuple[str, int]) -> Example:
    rng = np.random.default_rng((key[1], len(key[0])))
    available = rng.random((2, 16, 16)) < 0.7
    dsm = rng.normal(1000, 3, (16, 16, 1)).astype(np.float32)
    dsm[~available[1]] = np.nan
    label = rng.choice(np.array([0, 1, IGNORE], np.uint8), (16, 16))
    return Example(
        {"rgb": rng.integers(0, 256, (16, 16, 3)).astype(np.uint8), "dsm": dsm}, available, label, f"{key[0]}-{key[1]}"
    )


def conversion(
    read: Callable[[tuple[str, int]], Example | str] = example, train: int = 5
) -> Conversion[tuple[str, int]]:
    keys = {
        split: [(split, i) for i in range(count)] for split, count in (("train", train), ("validation", 2), ("test", 3))
    }
    return Conversion(SCHEMA, keys, read, converter="tests")


def nothing_but(folder: Path, *names: str) -> bool:
    return sorted(p.name for p in folder.iterdir()) == sorted(names)


def test_what_was_given_comes_back_in_order_with_zeros_where_nothing_was_seen(tmp_path: Path) -> None:
    convert(conversion(), tmp_path / "out")
    for split, count in (("train", 5), ("validation", 2), ("test", 3)):
        source = open_source(tmp_path / "out", split)
        assert len(source) == count
        for i in range(count):
            given, stored = example((split, i)), source[i]
            assert stored.id == source.record_id(i) == given.id
            np.testing.assert_array_equal(stored.available, given.available)
            np.testing.assert_array_equal(stored.label, given.label)
            for row, name in enumerate(("rgb", "dsm")):
                assert stored.images[name].dtype == given.images[name].dtype
                np.testing.assert_array_equal(
                    stored.images[name], np.where(given.available[row][..., None], given.images[name], 0)
                )


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    convert(conversion(), tmp_path / "out")
    assert not list((tmp_path / "temporary").iterdir())


def test_statistics_are_those_of_the_valid_training_pixels_alone(tmp_path: Path) -> None:
    manifest = convert(conversion(), tmp_path / "out")
    for row, modality in enumerate(manifest.schema.modalities):
        pixels = np.concatenate(
            [
                e.images[modality.name][e.available[row] & (e.label != IGNORE)]
                for e in (example(("train", i)) for i in range(5))
            ]
        ).astype(np.float64)
        np.testing.assert_allclose(modality.mean, pixels.mean(0), rtol=1e-8)
        np.testing.assert_allclose(modality.std, pixels.std(0), rtol=1e-8)


def test_counts_are_those_of_the_records(tmp_path: Path) -> None:
    counts = convert(conversion(), tmp_path / "out").splits["test"]
    examples = [example(("test", i)) for i in range(3)]
    assert counts.records == 3
    assert counts.labelled_pixels == tuple(sum(int((e.label == c).sum()) for e in examples) for c in (0, 1))
    assert counts.ignored_pixels == sum(int((e.label == IGNORE).sum()) for e in examples)
    assert counts.records_available == (3, 3)
    assert counts.pixels_available == tuple(sum(int(e.available[m].sum()) for e in examples) for m in (0, 1))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.floats(-1e6, 1e6), st.integers(0, 99))
def test_streamed_statistics_equal_those_of_all_pixels_at_once_however_large_the_offset(
    sizes: list[int], offset: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(offset, 1.0, (n, 2)) for n in sizes]
    whole = np.concatenate(parts)
    statistics = Statistics(2)
    for first in range(0, len(parts), 2):  # shards of two tiles
        shard = Statistics(2)
        for part in parts[first : first + 2]:
            shard.add(part)
        statistics.merge(shard)
    assert statistics.count == len(whole)
    if len(whole):
        mean, std = statistics.result()
        np.testing.assert_allclose(mean, whole.mean(0), rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(std, whole.std(0), rtol=1e-5, atol=1e-8)


def test_same_input_gives_the_same_bytes_in_any_process(tmp_path: Path) -> None:
    # The order of a protocol buffer's fields changes with the process's hash seed unless it is asked to keep still.
    for name, seed in (("one", "1"), ("two", "2")):
        command = [
            sys.executable,
            "-m",
            "data_prep.synthetic",
            str(tmp_path / name),
            "--train",
            "3",
            "--validation",
            "1",
            "--test",
            "1",
            "--size",
            "32",
        ]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed})
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path / "two") for p in (tmp_path / "two").rglob("*") if p.is_file())
    assert any("array_record" in str(f) for f in files)
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)
    assert not any(str(tmp_path).encode() in (tmp_path / "one" / f).read_bytes() for f in files)


def test_records_are_spread_over_shards_without_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "SHARD_BYTES", 2 * 16 * 16 * 10)  # two records each
    manifest = convert(conversion(), tmp_path / "out")
    assert sum("train" in shard.path for shard in manifest.shards) == 3
    source = open_source(tmp_path / "out", "train")
    assert [source.record_id(i) for i in range(len(source))] == [f"train-{i}" for i in range(5)]


@pytest.mark.parametrize("bare", [{0, 1}, {1, 4}, {3, 4}])
def test_a_key_with_nothing_in_it_leaves_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: set[int]
) -> None:
    monkeypatch.setattr(builder, "SHARD_BYTES", 2 * 16 * 16 * 10)  # so that a shard may stay empty
    convert(
        conversion(lambda key: "nothing is there" if key[1] in bare and key[0] == "train" else example(key)),
        tmp_path / "out",
    )
    source = open_source(tmp_path / "out", "train")
    assert [source[i].id for i in range(len(source))] == [f"train-{i}" for i in range(5) if i not in bare]


@pytest.mark.parametrize(
    "error", [InputError("the file x is broken"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_failure_while_reading_leaves_nothing_and_keeps_its_own_message(tmp_path: Path, error: BaseException) -> None:
    def failing(key: tuple[str, int]) -> Example:
        if key == ("validation", 1):
            raise error
        return example(key)

    with pytest.raises(type(error)) as caught:
        convert(conversion(failing), tmp_path / "new" / "out")
    assert str(caught.value) == str(error)
    assert nothing_but(tmp_path)


def test_a_failed_overwrite_leaves_the_old_set_as_it_was(tmp_path: Path) -> None:
    def failing(key: tuple[str, int]) -> Example:
        raise InputError("broken")

    before = convert(conversion(), tmp_path / "out")
    with pytest.raises(InputError, match="broken"):
        convert(conversion(failing), tmp_path / "out", overwrite=True)
    assert read_manifest(tmp_path / "out") == before
    assert len(open_source(tmp_path / "out", "train")) == 5
    assert nothing_but(tmp_path, "out")


def test_overwrite_replaces_a_converted_set_and_nothing_else(tmp_path: Path) -> None:
    convert(conversion(train=3), tmp_path / "out")
    with pytest.raises(InputError, match="--overwrite"):
        convert(conversion(), tmp_path / "out")
    convert(conversion(), tmp_path / "out", overwrite=True)
    assert len(open_source(tmp_path / "out", "train")) == 5
    damaged = tmp_path / "out" / "manifest.json"
    damaged.write_text(damaged.read_text()[:300])
    convert(conversion(), tmp_path / "out", overwrite=True)
    assert len(open_source(tmp_path / "out", "train")) == 5
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(InputError, match="other than a converted set"):
        convert(conversion(), tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter1.txt").read_text() == "years of work"


def test_an_empty_training_split_is_refused_and_an_empty_other_split_is_noted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="training split is empty"):
        convert(conversion(train=0), tmp_path / "out")
    assert nothing_but(tmp_path)
    manifest: Manifest = convert(
        conversion(lambda key: "nothing is there" if key[0] == "test" else example(key)), tmp_path / "out"
    )
    assert "split test is empty" in manifest.findings
    with pytest.raises(InputError, match=r"'test' is empty"):
        open_source(tmp_path / "out", "test")


def test_a_sensor_that_no_training_record_has_is_refused(tmp_path: Path) -> None:
    def blind(key: tuple[str, int]) -> Example:
        whole = example(key)
        return whole._replace(available=whole.available & np.array([True, False])[:, None, None])

    with pytest.raises(InputError, match="'dsm' is available in no labelled pixel of the training split"):
        convert(conversion(blind), tmp_path / "out")
    assert nothing_but(tmp_path)


def test_what_a_killed_run_left_is_cleared_but_a_living_runs_folder_is_not(tmp_path: Path) -> None:
    stale, living = tmp_path / ".out.converting-dead", tmp_path / ".out.converting-alive"
    stale.mkdir()
    (stale / "shard").write_text("half")
    living.mkdir()
    descriptor = os.open(living / LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    convert(conversion(), tmp_path / "out")
    os.close(descriptor)
    assert nothing_but(tmp_path, "out", living.name)


def test_a_file_system_without_locks_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    other = tmp_path / ".out.converting-other"
    other.mkdir()
    monkeypatch.setattr(fcntl, "flock", refuse)
    convert(conversion(), tmp_path / "out")
    assert nothing_but(tmp_path, "out", other.name)  # it might be alive


def test_killed_midway_out_is_not_there_and_the_next_run_completes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "data_prep.synthetic", str(tmp_path / "out"), "--size", "512", "--train", "200"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("try-*/records")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert time.monotonic() < deadline, "no shard was begun"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [p.name for p in tmp_path.iterdir()] != []
    assert not (tmp_path / "out").exists()
    synthetic.convert_city(synthetic.Options(tmp_path / "out", size=32, train=2, validation=1, test=1))
    assert nothing_but(tmp_path, "out")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, workers: str) -> None:
    # A limit on the size of files stops a write in the same place as a full disk would.
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "data_prep.synthetic",
            str(tmp_path / "out"),
            "--train",
            "30",
            "--validation",
            "1",
            "--workers",
            workers,
        ],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert str(tmp_path / "out") in last
    assert "Free some space" in last
    assert nothing_but(tmp_path)
