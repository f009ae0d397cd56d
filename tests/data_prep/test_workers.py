"""Several processes write what one writes, and none of them outlives, blocks or garbles a conversion that ends
early."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest

from data_prep import builder, synthetic
from data_prep.builder import Conversion, convert
from data_prep.synthetic import CityReader
from sgma_jax.data.schema import Example
from sgma_jax.data.source import open_source
from sgma_jax.errors import InputError, is_disk_full

Key = tuple[str, int]
SIDE = 32


class Stubborn(Exception):
    """An error that cannot be sent from process to process."""

    def __init__(self, path: str, line: int) -> None:
        super().__init__(f"{path}: line {line} is odd")


@dataclass(frozen=True)
class Troubled:
    """Draws the city, but for one key."""

    kind: str
    at: Key = ("train", 3)

    def __call__(self, key: Key) -> Example | str:
        if key == self.at:
            if self.kind == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.kind == "bad input":
                raise InputError("scene_7.tif is broken. Restore the file.")
            if self.kind == "full disk":
                raise OSError(errno.ENOSPC, "No space left on device")
            if self.kind == "memory":
                raise MemoryError
            if self.kind == "stubborn":
                raise Stubborn("scene_7.tif", 3)
        return CityReader(0, SIDE)(key)


def city(read: Callable[[Key], Example | str]) -> Conversion[Key]:
    keys = {
        split: [(split, i) for i in range(count)] for split, count in (("train", 7), ("validation", 2), ("test", 1))
    }
    return Conversion(synthetic.schema(SIDE), keys, read, converter="tests")


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes import this file by its name."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two records each: six shards in all."""
    monkeypatch.setattr(builder, "SHARD_BYTES", 2 * SIDE**2 * 17)


@pytest.mark.usefixtures("small_shards")
def test_any_number_of_workers_writes_the_same_bytes_and_counts_every_tile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(city(CityReader(0, SIDE)), tmp_path / "1")
    assert sum("array_record" in name for name in content(tmp_path / "1")) == 6
    for workers in (2, 3):
        capsys.readouterr()
        convert(city(CityReader(0, SIDE)), tmp_path / str(workers), workers=workers)
        assert "10/10 tiles" in capsys.readouterr().err
        assert content(tmp_path / str(workers)) == content(tmp_path / "1")


def test_the_command_with_workers_writes_what_it_writes_alone(
    manifest: Path, tmp_path: Path, run_geotiff: Callable[..., tuple[int, str]]
) -> None:
    # As a process of its own and from another folder, because the workers must find what it defines and what it was
    # given.
    assert run_geotiff(manifest, tmp_path / "alone", "--tile", 32)[0] == 0
    command = [sys.executable, "-m", "data_prep.geotiff", "manifest.csv", "together", "--tile", "32", "--workers", "2"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    assert content(tmp_path / "together") == content(tmp_path / "alone")


@pytest.mark.usefixtures("importable", "small_shards")
def test_a_worker_that_the_system_kills_ends_the_conversion_with_one_line_that_names_memory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"SIGKILL.*memory.*--workers"):
        convert(city(Troubled("killed")), tmp_path / "out", workers=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("kind", ["bad input", "full disk", "stubborn"])
def test_what_went_wrong_in_a_worker_arrives_as_what_it_was(tmp_path: Path, kind: str) -> None:
    with pytest.raises(Exception) as caught:
        convert(city(Troubled(kind)), tmp_path / "out", workers=2)
    if kind == "bad input":
        assert isinstance(caught.value, InputError)
        assert str(caught.value) == "scene_7.tif is broken. Restore the file."
    elif kind == "full disk":
        assert is_disk_full(caught.value)
    else:
        assert "Stubborn: scene_7.tif: line 3 is odd" in str(caught.value)
        assert "__call__" in str(caught.value)  # the worker's traceback
    assert not list(tmp_path.iterdir())


@dataclass(frozen=True)
class Endless:
    """Says which tile it has begun with, and takes ten minutes over it."""

    begun: Path

    def __call__(self, key: Key) -> Example | str:
        (self.begun / key[0]).touch()
        time.sleep(600)
        return CityReader(0, SIDE)(key)


def test_memory_that_runs_out_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"memory ran out.*smaller tile"):
        convert(city(Troubled("memory")), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def at_work(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A conversion that two workers are in the midst of, and all processes that it has started."""
    begun = tmp_path_factory.mktemp("begun")
    script = (
        f"import {__name__} as t; t.convert(t.city(t.Endless(t.Path({str(begun)!r}))), "
        f"t.Path({str(tmp_path / 'out')!r}), workers=2)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that runs the tests in the background leaves SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while len(list(begun.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    yield process, children
    process.kill()
    process.wait()
    psutil.wait_procs(children, timeout=30)


def test_when_a_conversion_is_killed_its_workers_end_and_the_next_run_completes(
    at_work: tuple[subprocess.Popen[str], list[psutil.Process]], tmp_path: Path
) -> None:
    process, children = at_work
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not psutil.wait_procs(children, timeout=30)[1]
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob(".out.converting-*"))
    synthetic.convert_city(synthetic.Options(tmp_path / "out", size=SIDE, train=2, validation=1, test=1))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_control_c_ends_all_processes_without_a_word_from_the_workers_and_leaves_nothing(
    at_work: tuple[subprocess.Popen[str], list[psutil.Process]], tmp_path: Path
) -> None:
    process, children = at_work
    # The terminal sends it to all of them. A worker that heard it would end with a traceback of its own.
    for child in children:
        child.send_signal(signal.SIGINT)
    assert not psutil.wait_procs(children, timeout=1)[0]
    os.killpg(process.pid, signal.SIGINT)
    errors = process.communicate(timeout=30)[1]
    assert process.returncode not in (0, None)
    assert errors.count("Traceback") <= 1  # the command's own
    assert "SpawnProcess" not in errors
    assert not psutil.wait_procs(children, timeout=30)[1]
    assert not list(tmp_path.iterdir())


@dataclass(frozen=True)
class Watched:
    """Notes how many of its earlier tiles are still in memory when it is asked for the next."""

    arrays: list["weakref.ref[np.ndarray]"] = field(default_factory=list)
    alive: list[int] = field(default_factory=list)

    def __call__(self, key: Key) -> Example | str:
        self.alive.append(sum(reference() is not None for reference in self.arrays))
        example = CityReader(0, SIDE)(key)
        label = example.label.copy()
        self.arrays.append(weakref.ref(label))
        return example._replace(label=label)


def test_no_tile_stays_in_memory_once_it_is_written(tmp_path: Path) -> None:
    read = Watched()
    convert(city(read), tmp_path / "out")
    assert read.alive == [0] * 10


@dataclass(frozen=True)
class Renamed:
    """Gives two keys, which lie in different shards, one id."""

    def __call__(self, key: Key) -> Example | str:
        example = CityReader(0, SIDE)(key)
        return example._replace(id="twin") if key in (("train", 0), ("train", 6)) else example


@pytest.mark.usefixtures("small_shards")
def test_no_two_records_of_a_split_share_an_id_not_even_across_shards(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'twin'"):
        convert(city(Renamed()), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@dataclass(frozen=True)
class Choosy:
    """Has a reason against some keys."""

    def __call__(self, key: Key) -> Example | str:
        reasons = {0: "no sensor has a pixel there", 1: "clouds", 4: "no sensor has a pixel there"}
        return reasons[key[1]] if key[0] == "train" and key[1] in reasons else CityReader(0, SIDE)(key)


@pytest.mark.usefixtures("small_shards")
def test_every_tile_that_is_left_out_is_counted_under_its_reason(tmp_path: Path) -> None:
    manifest = convert(city(Choosy()), tmp_path / "out")
    assert manifest.findings[:2] == ("2 tiles left out: no sensor has a pixel there", "1 tile left out: clouds")
    assert manifest.splits["train"].records == 4
    source = open_source(tmp_path / "out", "train")
    assert [source[i].id for i in range(4)] == [f"train/{i:05d}" for i in (2, 3, 5, 6)]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--workers", "0"), ("--workers is 0", "at least 1")),
        (("--beam-options", "parallelism=4"), ("--beam-options", "--beam-runner")),
        (("--beam-runner", "DirectRunner", "--workers", "4"), ("--workers 4", "--beam-options")),
    ],
)
def test_flags_that_make_no_sense_together_are_one_line(
    manifest: Path,
    tmp_path: Path,
    run_geotiff: Callable[..., tuple[int, str]],
    flags: tuple[str, ...],
    says: tuple[str, ...],
) -> None:
    status, errors = run_geotiff(manifest, tmp_path / "out", *flags)
    assert status == 2
    assert len(errors.splitlines()) == 1
    assert all(word in errors for word in says)
