"""Files of every version: those of earlier ones are migrated step by step, those of later ones refused."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sgma_jax.config import from_json, to_json
from sgma_jax.data.schema import read_manifest
from sgma_jax.decoding import plain, upgraded
from sgma_jax.errors import InputError
from sgma_jax.runs.results import Corruptions, Evaluation, FailureScores, read_result, result_file, write_result
from sgma_jax.runs.schema_file import read_run_schema
from tests.test_config import GOOD

MIGRATIONS = {
    1: lambda fields: {"learning_rate" if name == "rate" else name: item for name, item in fields.items()},
    2: lambda fields: {**fields, "optimizer": {"learning_rate": fields["learning_rate"]}},
}


@pytest.mark.parametrize("stated", [{}, {"version": 1}])
def test_a_file_of_an_earlier_version_is_migrated_step_by_step(stated: dict[str, Any]) -> None:
    fields = {**stated, "rate": 0.5, "name": "x"}
    assert upgraded(fields, 1, MIGRATIONS) == {"rate": 0.5, "name": "x"}
    assert upgraded(fields, 2, MIGRATIONS) == {"learning_rate": 0.5, "name": "x"}
    assert upgraded(fields, 3, MIGRATIONS)["optimizer"] == {"learning_rate": 0.5}
    assert upgraded({"version": 2, "learning_rate": 1}, 3, MIGRATIONS)["optimizer"] == {"learning_rate": 1}
    assert fields == {**stated, "rate": 0.5, "name": "x"}


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, None, True])
def test_what_is_no_version_is_refused(version: Any) -> None:
    with pytest.raises(InputError, match="'version'"):
        upgraded({"version": version}, 3, MIGRATIONS)


def written_by_a_newer_version(path: Path, fields: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**fields, "version": 99}))
    return path


def test_a_file_of_a_newer_version_is_refused_by_name_whatever_file_it_is(tmp_path: Path) -> None:
    newer = r"field 'version' is 99 .*newer version of sgma_jax"
    with pytest.raises(InputError, match=newer):
        from_json(json.dumps({**json.loads(to_json(GOOD)), "version": 99}))
    written_by_a_newer_version(tmp_path / "manifest.json", {"format": "sgma_jax converted set"})
    with pytest.raises(InputError, match=rf"manifest\.json: {newer}"):
        read_manifest(tmp_path)
    written_by_a_newer_version(tmp_path / "schema.json", {"format": "sgma_jax run schema"})
    with pytest.raises(InputError, match=rf"schema\.json: {newer}"):
        read_run_schema(tmp_path)
    path = written_by_a_newer_version(result_file(tmp_path, "test"), {"average": 0.5})
    with pytest.raises(InputError, match=rf"test\.json: {newer}"):
        read_result(path, Evaluation)


def test_a_configuration_says_its_version() -> None:
    assert json.loads(to_json(GOOD))["version"] == 1


def test_numbers_in_files_are_finite(tmp_path: Path) -> None:
    path = result_file(tmp_path, "test")
    found = Evaluation(
        split="test",
        modalities=("rgb", "dsm"),
        classes=("a",),
        missing="skip",
        subsets=(),
        average=math.nan,
        top1=None,
        last1=None,
        bernoulli={"0.1": np.float32("inf"), "0.2": np.float64(0.5)},
        provenance={"counts": np.arange(2), "loss": [-math.inf]},
    )
    write_result(path, found)
    fields = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(word))
    assert (fields["version"], fields["average"], fields["bernoulli"]) == (2, None, {"0.1": None, "0.2": 0.5})
    assert fields["provenance"] == {"counts": [0, 1], "loss": [None]}
    back = read_result(path, Evaluation)
    assert back == dataclasses.replace(
        found, average=None, bernoulli={"0.1": None, "0.2": 0.5}, provenance=fields["provenance"]
    )
    assert plain(np.float32("nan")) is None


def test_a_field_that_is_itself_called_kind_is_a_field(tmp_path: Path) -> None:
    failure = FailureScores(modality="rgb", kind="noise", level=0.5, miou=0.5, f1=None, oa=None, iou={"a": 1.0})
    found = Corruptions(
        split="test",
        modalities=("rgb",),
        classes=("a",),
        missing="skip",
        clean=0.5,
        missing_wholly={"rgb": None},
        failures=(failure,),
        provenance={},
    )
    write_result(tmp_path / "test_corruptions.json", found)
    assert read_result(tmp_path / "test_corruptions.json", Corruptions) == found


def test_the_first_version_called_the_modality_that_fails_a_sensor(tmp_path: Path) -> None:
    scores = {"miou": 0.5, "f1": 0.5, "oa": 0.5, "iou": {"a": 0.5}}
    first = {
        "split": "test",
        "modalities": ["rgb"],
        "classes": ["a"],
        "missing": "skip",
        "clean": 0.5,
        "missing_wholly": {"rgb": None},
        "failures": [{"sensor": "rgb", "kind": "noise", "level": 0.5, **scores}],
        "provenance": {},
    }
    path = result_file(tmp_path, "test", "_corruptions.json")
    path.parent.mkdir()
    path.write_text(json.dumps(first))
    (failure,) = read_result(path, Corruptions).failures
    assert (failure.modality, failure.kind, failure.miou) == ("rgb", "noise", 0.5)
    path.write_text(json.dumps({**first, "failures": [1]}))
    with pytest.raises(InputError, match=r"_corruptions\.json: its fields are not those of version 1"):
        read_result(path, Corruptions)


@pytest.mark.parametrize("content", ["[1, 2]", "{", ""])
def test_a_damaged_result_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "test.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"test\.json"):
        read_result(path, Evaluation)
