"""The presets of DFC2023 and DELIVER fit what the converters write, and train on it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from data_prep import deliver, dfc2023
from sgma_jax.cli import load_preset
from sgma_jax.config import TrainConfig
from sgma_jax.data.pipeline import open_split, training_batches
from sgma_jax.data.schema import IGNORE
from sgma_jax.sampling import SamplingTable
from sgma_jax.sharding import make_mesh, put_batch
from sgma_jax.training import make_train_step, state_initializer
from tests.data.make_deliver import make_deliver
from tests.data.make_dfc2023 import make_dfc2023


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both sets, converted."""
    folder = tmp_path_factory.mktemp("sets")
    make_dfc2023(folder / "dfc2023_source", size=64)
    make_deliver(folder / "deliver_source", size=64)
    dfc2023.convert_dfc2023(dfc2023.Options(folder / "dfc2023_source", folder / "dfc2023", tile=64))
    deliver.convert_deliver(deliver.Options(folder / "deliver_source", folder / "deliver", tile=64))
    return {"dfc2023": folder / "dfc2023", "deliver": folder / "deliver"}


def small(preset: str, data: Path) -> TrainConfig:
    """The preset with its smallest encoder on small crops."""
    config = load_preset(Path("experiments") / f"{preset}.py")
    encoder = dataclasses.replace(config.model.encoder, variant="b0")
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, path=str(data), crop=32, batch_size=2),
        model=dataclasses.replace(config.model, encoder=encoder, head_width=16, dtype="float32"),
    )


@pytest.mark.parametrize("name", ["dfc2023", "deliver"])
def test_a_preset_fits_every_split_of_its_converted_set(sets: dict[str, Path], name: str) -> None:
    config = small(f"{name}_pvt_v2_b2", sets[name])
    for split in ("train", "validation", "test"):
        batch = next(training_batches(config.data, open_split(config.data, split), seed=0))
        assert batch.labels.shape == (2, 32, 32)
        assert set(np.unique(batch.labels)) <= {*range(len(config.data.classes)), IGNORE}


@pytest.mark.parametrize("name", ["dfc2023", pytest.param("deliver", marks=pytest.mark.slow)])
def test_a_preset_trains_on_its_converted_set(sets: dict[str, Path], name: str) -> None:
    config = small(f"{name}_pvt_v2_b2", sets[name])
    source = open_split(config.data, "train")
    mesh = make_mesh(config.fsdp)
    init, shapes = state_initializer(config, mesh)
    step = make_train_step(config, mesh, shapes)
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
