"""The presets of the public sets train and evaluate on what their converters write, from trees with the real names and types."""

from __future__ import annotations

import dataclasses
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.potsdam import convert_potsdam
from data_prep.vaihingen import convert_vaihingen
from sgma_jax.config import PvtV2Config, TrainConfig, check
from sgma_jax.data.pipeline import open_split
from sgma_jax.data.schema import SPLITS
from sgma_jax.reporting.metrics_log import read_metrics
from sgma_jax.training import fit
from tests.data.make_vaihingen import write_vaihingen
from tests.data_prep.isprs_runs import potsdam_options, vaihingen_options, write_small


def potsdam(folder: Path) -> None:
    convert_potsdam(potsdam_options(write_small(folder / "source"), folder / "set"))


def vaihingen(folder: Path) -> None:
    (folder / "splits.csv").write_text("area,split\n1,train\n3,train\n7,val\n4,test\n")
    source = write_vaihingen(folder / "source", ("1", "3", "7", "4"))
    convert_vaihingen(vaihingen_options(source, folder / "set", splits=str(folder / "splits.csv")))


SETS: dict[str, Callable[[Path], None]] = {"potsdam_pvt_v2_b2": potsdam, "vaihingen_pvt_v2_b2": vaihingen}


@pytest.fixture(scope="session", params=SETS)
def preset_on_its_set(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A preset with the path of the set that its converter wrote."""
    folder = tmp_path_factory.mktemp(request.param)
    SETS[request.param](folder)
    config: TrainConfig = runpy.run_path(f"experiments/{request.param}.py")["config"]
    return dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(folder / "set")))


def test_a_preset_is_written_for_what_its_converter_writes(preset_on_its_set: TrainConfig) -> None:
    check(preset_on_its_set)
    for split in SPLITS:
        assert len(open_split(preset_on_its_set.data, split)) > 0


@pytest.mark.slow
def test_a_preset_trains_on_its_converted_set(preset_on_its_set: TrainConfig, tmp_path: Path) -> None:
    config = preset_on_its_set
    data = dataclasses.replace(config.data, crop=32, batch_size=2, evaluation_batch_size=2)
    model = dataclasses.replace(config.model, encoder=PvtV2Config(variant="b0"), head_width=16, dtype="float32")
    fit(dataclasses.replace(config, data=data, model=model, steps=2, warmup_steps=1, log_every=1), tmp_path / "run")
    training, evaluation = read_metrics(tmp_path / "run" / "metrics.jsonl")[-2:]
    assert (training["step"], evaluation["kind"]) == (2, "evaluation")
    assert set(training["sampling"]) == set(config.data.modalities)
