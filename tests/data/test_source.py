"""A converted set opens anywhere, gives the sensors that were asked for, and says what is wrong with it."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.synthetic import Options, convert_city, render
from sgma_jax.data.schema import read_manifest
from sgma_jax.data.source import open_source
from sgma_jax.errors import InputError


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "city"
    convert_city(Options(out, size=32, train=12, validation=2, test=0))
    return out


def test_sensors_come_in_the_order_asked_for_with_their_availability(city: Path) -> None:
    source = open_source(city, "train", ("sar", "rgb"))
    assert source.schema.names == ("sar", "rgb")
    assert len(source) == 12
    for i in (0, 5, 7, 11):  # 5 lacks rgb wholly, 7 in part
        drawn, example = render(0, "train", i, 32), source[i]
        assert list(example.images) == ["sar", "rgb"]
        np.testing.assert_array_equal(example.available, drawn.available[[3, 0]])
        np.testing.assert_array_equal(example.images["rgb"], drawn.images["rgb"])
        np.testing.assert_array_equal(example.images["sar"], drawn.images["sar"])
        np.testing.assert_array_equal(example.label, drawn.label)
        assert example.id == source.record_id(i) == f"train/{i:05d}"


def test_no_name_means_every_sensor(city: Path) -> None:
    assert list(open_source(city, "train")[0].images) == ["rgb", "nir", "dsm", "sar"]


def test_statistics_and_hash_are_those_of_the_manifest(city: Path) -> None:
    source, manifest = open_source(city, "validation", ("dsm",)), read_manifest(city)
    assert source.schema.modalities == (manifest.schema.modalities[2],)
    assert source.manifest_hash == manifest.manifest_hash
    assert source.split == "validation"


def test_a_workers_copy_reads_the_same_and_imports_neither_jax_nor_tensorflow(city: Path) -> None:
    source = open_source(city, "train", ("nir",))
    script = (
        "import pickle, sys; source = pickle.loads(sys.stdin.buffer.read()); e = source[3];"
        "print(e.id, e.images['nir'].sum(dtype=int), 'jax' in sys.modules, 'tensorflow' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], input=pickle.dumps(source), capture_output=True, check=True)
    assert result.stdout.decode().split() == [
        "train/00003",
        str(source[3].images["nir"].sum(dtype=int)),
        "False",
        "False",
    ]


@pytest.mark.parametrize("index", [-1, 12, 1000])
def test_an_index_outside_the_split_is_an_index_error(city: Path, index: int) -> None:
    source = open_source(city, "train")
    with pytest.raises(IndexError, match="12"):
        source[index]
    with pytest.raises(IndexError):
        source.record_id(index)


def test_what_cannot_be_opened_is_named_with_what_is_there(city: Path, tmp_path: Path) -> None:
    wrong = [
        (tmp_path, "train", (), r"not a converted data set"),
        (tmp_path / "lost", "train", (), r"lost is not a converted data set"),
        (city / "manifest.json", "train", (), r"not a converted data set"),
        (city, "dev", (), r"no split 'dev'; it has train, validation, test"),
        (city, "test", (), r"'test' is empty"),
        (city, "train", ("rgb", "thermal"), r"no modality 'thermal'; it has rgb, nir, dsm, sar"),
    ]
    for path, split, modalities, says in wrong:
        with pytest.raises(InputError, match=says):
            open_source(path, split, modalities)


def test_missing_or_damaged_records_are_named(city: Path, tmp_path: Path) -> None:
    spoils: dict[str, Callable[[Path], object]] = {
        "gone": lambda shard: shard.unlink(),
        "cut": lambda shard: shard.write_bytes(shard.read_bytes()[:1000]),
        "emptied": lambda shard: shard.write_bytes(b""),
        "no_builder": lambda shard: (shard.parent / "dataset_info.json").unlink(),
        "no_records": lambda shard: shutil.rmtree(shard.parent),
    }
    for name, spoil in spoils.items():
        shutil.copytree(city, tmp_path / name)
        spoil(next((tmp_path / name).rglob("*train.array_record*")))
        with pytest.raises(InputError, match=rf"{name}.*onvert the data again"):
            open_source(tmp_path / name, "train")


def test_a_record_that_rotted_on_disk_is_named_and_never_returned(city: Path, tmp_path: Path) -> None:
    shutil.copytree(city, tmp_path / "rotten")
    shard = next((tmp_path / "rotten").rglob("*train.array_record*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 64] = b"\xff" * 64
    shard.write_bytes(data)
    source, sound = open_source(tmp_path / "rotten", "train"), open_source(city, "train")
    failed = 0
    for i in range(len(source)):
        try:
            example = source[i]
        except InputError as error:
            assert f"record {i} of split 'train'" in str(error)  # noqa: PT017
            failed += 1
        else:
            assert all((example.images[name] == sound[i].images[name]).all() for name in example.images)
    assert failed >= 1
