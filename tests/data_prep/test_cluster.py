"""Through Apache Beam the same bytes arrive, and bad input is still one line. Needs the extra `beam`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from data_prep import builder, cluster, synthetic
from data_prep.builder import Conversion, convert
from data_prep.cluster import BeamOptions
from data_prep.synthetic import CityReader
from sgma_jax.data.schema import Example
from sgma_jax.errors import InputError

Key = tuple[str, int]
Run = Callable[..., tuple[int, str]]
SIDE = 32
INSTALLED = importlib.util.find_spec("apache_beam") is not None
needs_beam = pytest.mark.skipif(not INSTALLED, reason="Apache Beam is not installed: pip install 'sgma_jax[beam]'")


@dataclass(frozen=True)
class Broken:
    """Two keys of different shards cannot be read."""

    def __call__(self, key: Key) -> Example | str:
        if key in (("train", 3), ("validation", 0)):
            raise InputError(f"scene of {key[0]} is broken. Restore the file.")
        return CityReader(0, SIDE)(key)


def city(read: Callable[[Key], Example | str]) -> Conversion[Key]:
    # More than ten shards of a split, which no text order keeps in order.
    keys = {
        split: [(split, i) for i in range(count)] for split, count in (("train", 23), ("validation", 2), ("test", 1))
    }
    return Conversion(synthetic.schema(SIDE), keys, read, converter="tests")


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two records each."""
    monkeypatch.setattr(builder, "SHARD_BYTES", 2 * SIDE**2 * 17)


@needs_beam
def test_the_direct_runner_writes_the_same_bytes_and_counts_every_tile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(city(CityReader(0, SIDE)), tmp_path / "here")
    capsys.readouterr()
    convert(city(CityReader(0, SIDE)), tmp_path / "beam", beam=BeamOptions("DirectRunner"))
    assert "26/26 tiles" in capsys.readouterr().err
    assert sum("array_record" in name for name in content(tmp_path / "here")) == 14
    assert content(tmp_path / "beam") == content(tmp_path / "here")


@needs_beam
def test_workers_that_are_other_processes_find_what_the_command_defines(
    manifest: Path, tmp_path: Path, run_geotiff: Run
) -> None:
    # A command's own module is called __main__ in its process, and in the workers' that name is taken.
    assert run_geotiff(manifest, tmp_path / "alone", "--tile", 32)[0] == 0
    beam = [
        "--beam-runner",
        "DirectRunner",
        "--beam-options",
        "direct_num_workers=2",
        "direct_running_mode=multi_processing",
    ]
    subprocess.run(
        [sys.executable, "-m", "data_prep.geotiff", "manifest.csv", "beam", "--tile", "32", *beam],
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    assert content(tmp_path / "beam") == content(tmp_path / "alone")


@needs_beam
def test_bad_input_on_a_cluster_keeps_its_own_message_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^scene of (train|validation) is broken. Restore the file.$"):
        convert(city(Broken()), tmp_path / "out", beam=BeamOptions("DirectRunner"))
    assert not list(tmp_path.iterdir())


@needs_beam
def test_machines_that_do_not_share_the_folder_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cluster, "write_shard", lambda plan, shard, on_tile: None
    )  # it goes to a disk of the machine's own
    monkeypatch.setattr(cluster, "SHARE_SECONDS", 0.0)
    with pytest.raises(InputError, match=r"14 of 14 shards did not arrive in .*share"):
        convert(city(CityReader(0, SIDE)), tmp_path / "out", beam=BeamOptions("DirectRunner"))
    assert not list(tmp_path.iterdir())


@needs_beam
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--beam-runner", "FlinkRuner"), ("'FlinkRuner'", "FlinkRunner")),
        (
            ("--beam-runner", "DirectRunner", "--beam-options=--direct_num_workers=2"),
            ("'--direct_num_workers=2'", "NAME=VALUE"),
        ),
    ],
)
def test_a_runner_that_cannot_start_is_one_line(
    manifest: Path, tmp_path: Path, run_geotiff: Run, flags: tuple[str, ...], says: tuple[str, ...]
) -> None:
    status, errors = run_geotiff(manifest, tmp_path / "out", *flags)
    assert status == 2
    assert all(word in errors.splitlines()[-1] for word in says)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(INSTALLED, reason="Apache Beam is installed, so nobody can be told that it is not")
def test_without_beam_the_line_says_what_to_install(manifest: Path, tmp_path: Path, run_geotiff: Run) -> None:
    status, errors = run_geotiff(manifest, tmp_path / "out", "--beam-runner", "DirectRunner")
    assert status == 2
    assert "sgma_jax[beam]" in errors
    assert not (tmp_path / "out").exists()
