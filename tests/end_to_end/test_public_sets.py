"""The presets of the public sets fit what their converters write, and train on it, from trees with the real names
and types."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from data_prep import deliver, dfc2023
from data_prep.potsdam import convert_potsdam
from data_prep.vaihingen import convert_vaihingen
from sgma_jax.commands.preset import load_preset
from sgma_jax.config import PvtV2Config, ResNetConfig, TrainConfig
from sgma_jax.config_check import check
from sgma_jax.data.pipeline import open_split, training_batches
from sgma_jax.data.schema import IGNORE, SPLITS
from sgma_jax.sharding import make_mesh, put_batch
from sgma_jax.training.sampling import SamplingTable
from sgma_jax.training.step import make_train_step, state_initializer
from tests.data.make_deliver import make_deliver
from tests.data.make_dfc2023 import make_dfc2023
from tests.data.make_vaihingen import write_vaihingen
from tests.data_prep.isprs_runs import potsdam_options, vaihingen_options, write_small


def convert_small_potsdam(folder: Path) -> None:
    convert_potsdam(potsdam_options(write_small(folder / "source"), folder / "set"))


def convert_small_vaihingen(folder: Path) -> None:
    (folder / "splits.csv").write_text("area,split\n1,train\n3,train\n7,val\n4,test\n")
    source = write_vaihingen(folder / "source", ("1", "3", "7", "4"))
    convert_vaihingen(vaihingen_options(source, folder / "set", splits=str(folder / "splits.csv")))


def convert_small_dfc2023(folder: Path) -> None:
    make_dfc2023(folder / "source", size=64)
    dfc2023.convert_dfc2023(dfc2023.Options(folder / "source", folder / "set", tile=64))


def convert_small_deliver(folder: Path) -> None:
    make_deliver(folder / "source", size=64)
    deliver.convert_deliver(deliver.Options(folder / "source", folder / "set", tile=64))


SETS: dict[str, Callable[[Path], None]] = {
    "potsdam": convert_small_potsdam,
    "vaihingen": convert_small_vaihingen,
    "dfc2023": convert_small_dfc2023,
    "deliver": convert_small_deliver,
}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """converted(name) -> folder of the set, converted once."""
    done: dict[str, Path] = {}

    def convert(name: str) -> Path:
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            SETS[name](folder)
            done[name] = folder / "set"
        return done[name]

    return convert


def small(preset: str, data: Path) -> TrainConfig:
    """The preset on small crops, with the smallest encoder of its family."""
    config = load_preset(Path("experiments") / f"{preset}.py")
    encoder = PvtV2Config(variant="b0") if isinstance(config.model.encoder, PvtV2Config) else ResNetConfig(variant="18")
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, path=str(data), crop=32, batch_size=2),
        model=dataclasses.replace(config.model, encoder=encoder, head_width=16, dtype="float32"),
    )


@pytest.mark.parametrize("encoder", ["pvt_v2_b2", "resnet50"])
@pytest.mark.parametrize("name", SETS)
def test_a_preset_fits_every_split_of_its_converted_set(
    converted: Callable[[str], Path], name: str, encoder: str
) -> None:
    config = small(f"{name}_{encoder}", converted(name))
    check(config)
    assert config.name == f"{name}_{encoder}"
    assert config.model.pretrained == f"weights/{encoder}.safetensors"
    for split in SPLITS:
        batch = next(training_batches(config.data, open_split(config.data, split), seed=0))
        assert batch.labels.shape == (2, 32, 32)
        assert set(np.unique(batch.labels)) <= {*range(len(config.data.classes)), IGNORE}


PRESETS = [f"{name}_{encoder}" for name in SETS for encoder in ("pvt_v2_b2", "resnet50")]
IN_CI = ("dfc2023_resnet50", "deliver_pvt_v2_b2")


# Each has a program of its own to compile.
@pytest.mark.parametrize(
    "preset", [pytest.param(p, marks=pytest.mark.slow if p in IN_CI else pytest.mark.long) for p in PRESETS]
)
def test_a_preset_trains_on_its_converted_set(converted: Callable[[str], Path], preset: str) -> None:
    """Two steps each."""
    config = small(preset, converted(preset.split("_")[0]))
    source = open_split(config.data, "train")
    mesh = make_mesh(config.fsdp)
    init, shapes = state_initializer(config, mesh)
    step = make_train_step(config, mesh, shapes)
    assert config.sampling is not None
    table = SamplingTable(config.sampling, len(config.data.modalities), seed=config.seed, records=len(source))
    batches = training_batches(config.data, source, seed=config.seed)
    state = init()
    before: Any = jax.tree.map(np.asarray, state.params)
    for number in range(2):
        batch = next(batches)
        batch = batch._replace(drawn=table.draw(batch.available.any((2, 3)), batch.ids, number))
        state, report = step(state, put_batch(batch, mesh))
        assert all(np.isfinite(float(loss)) for loss in report.losses.values())
    moved = jax.tree.map(lambda a, b: bool((np.asarray(b) != a).any()), before, state.params)
    assert np.mean(jax.tree.leaves(moved)) > 0.9
