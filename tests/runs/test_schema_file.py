"""RUN/schema.json: what a run was trained on, in this version's words and in the first's."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from sgma_jax.data.schema import Manifest, Modality, Schema
from sgma_jax.errors import InputError
from sgma_jax.runs.names import SCHEMA_FILE
from sgma_jax.runs.schema_file import read_run_schema, write_run_schema

SCHEMA = Schema(
    "harbour",
    (
        Modality("optical", 2, "", "uint8", (1.0, 2.0), (1.0, 1.0), band_names=("red", "near infrared")),
        Modality("radar", 1, "decibel", "float32", (-9.0,), (4.0,), clip=(-30.0, 20.0)),
    ),
    ("water", "land"),
    ((0, 0, 255), (0, 255, 0)),
    64,
)


def manifest(**options: Any) -> Manifest:
    return Manifest(SCHEMA, "records", {}, "data_prep.geotiff", options, (), (), ())


def test_what_a_run_was_trained_on_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_run_schema(tmp_path, SCHEMA, manifest())
    assert read_run_schema(tmp_path).schema == SCHEMA
    assert read_run_schema(tmp_path).manifest_hash == manifest().manifest_hash


def test_a_set_that_names_its_decibels_among_its_converters_options_is_understood(tmp_path: Path) -> None:
    write_run_schema(tmp_path, SCHEMA, manifest(log_modalities=["radar"]))
    assert [m.log for m in read_run_schema(tmp_path).schema.modalities] == [False, True]


@pytest.mark.parametrize("stated", [{}, {"version": 1}])
def test_the_first_version_listed_sensors_in_decibels(tmp_path: Path, stated: dict[str, Any]) -> None:
    schema = json.loads(json.dumps(dataclasses.asdict(SCHEMA)))
    for modality in schema["modalities"]:
        for name in ("band_names", "log", "clip"):
            del modality[name]
    first = {
        "format": "sgma_jax run schema",
        **stated,
        "schema": schema,
        "log_sensors": ["radar"],
        "manifest_hash": "abc",
    }
    (tmp_path / SCHEMA_FILE).write_text(json.dumps(first))
    found = read_run_schema(tmp_path)
    optical, radar = SCHEMA.modalities
    assert found.schema.modalities == (
        dataclasses.replace(optical, band_names=()),
        dataclasses.replace(radar, log=True, clip=None),
    )
    assert found.manifest_hash == "abc"
    for damage in ({"schema": None}, {"schema": {}}, {"log_sensors": None}, {"schema": {"modalities": [1]}}):
        (tmp_path / SCHEMA_FILE).write_text(json.dumps({**first, **damage}))
        with pytest.raises(InputError, match=r"schema\.json: its fields are not those of version 1 .*sgma train"):
            read_run_schema(tmp_path)
