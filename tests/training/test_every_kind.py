"""Every method of the comparison and every preset trains.

Methods take one optimiser step on random records, with the plain encoder. Presets are traced as they are, in shapes.
"""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.compare.methods import METHODS
from experiments.demo import config as DEMO
from sgma_jax.config import PlainConfig, TrainConfig
from sgma_jax.config_check import check
from sgma_jax.sharding import make_mesh, put_batch
from sgma_jax.structs import Batch, TrainState
from sgma_jax.training.step import make_train_step, second_branch, state_initializer

PRESETS = {p.stem: p for p in sorted((Path(__file__).parents[2] / "experiments").glob("*.py")) if p.stem != "__init__"}
SIDE = 32


def small(config: TrainConfig) -> TrainConfig:
    """The configuration with an encoder and sizes that compile in seconds; what makes it what it is stays."""
    data = dataclasses.replace(config.data, crop=SIDE, batch_size=2)
    model = dataclasses.replace(config.model, encoder=PlainConfig(), head_width=8, pretrained="", magnify=1)
    # The schedule is a constant of the program: with one for all, equal networks are compiled once.
    return dataclasses.replace(config, data=data, model=model, steps=10, warmup_steps=0)


TWO = dataclasses.replace(DEMO, data=dataclasses.replace(DEMO.data, modalities=("rgb", "nir"), bands=(3, 1)))
"""The base of the methods, with two modalities: each compiles a program of its own."""


def begin(shapes: TrainState) -> TrainState:
    """A state of random parameters, without compiling what draws them as training does."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(x.dtype), shapes.params)
    rest = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    stats = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes.batch_stats)
    return jax.device_put(rest._replace(params=params, batch_stats=stats), jax.tree.map(lambda x: x.sharding, shapes))


def batch_of(config: TrainConfig, samples: int = 2, side: int = SIDE) -> Batch:
    rng, size = np.random.default_rng(0), (samples, side, side)
    data, modalities = config.data, len(config.data.modalities)
    return Batch(
        images={
            m: rng.normal(size=(*size, b)).astype(np.float32) for m, b in zip(data.modalities, data.bands, strict=True)
        },
        available=rng.random((samples, modalities, side, side)) < 0.9,
        kept=np.array([[True] * modalities, [i > 0 or modalities == 1 for i in range(modalities)]])[:samples],
        labels=rng.integers(0, len(data.classes), size).astype(np.int32),
        ids=np.arange(samples, dtype=np.int32),
        drawn=np.array([0, modalities - 1], np.int32)[:samples],
    )


def programs() -> list[str]:
    """Methods whose network or loss is their own; the others change numbers that no program holds."""
    found: dict[str, str] = {}
    for name, method in METHODS.items():
        config = small(method(TWO))
        found.setdefault(repr((config.model, config.sampling is None)), name)
    return list(found.values())


@pytest.mark.parametrize("name", programs())
def test_a_method_trains_a_step_and_every_part_of_it_moves(name: str) -> None:
    config = small(METHODS[name](TWO))
    check(config)
    mesh = make_mesh(1)
    _, shapes = state_initializer(config, mesh)
    state = begin(shapes)
    before = jax.device_get(state.params)
    state, report = make_train_step(config, mesh, shapes)(state, put_batch(batch_of(config), mesh))
    assert bool(report.applied)
    losses = {name: float(value) for name, value in report.losses.items()}
    branch, _ = second_branch(config)
    expected = {"loss", "loss_fused", "gradient_norm", *(f"loss_{n}" for n in config.model.fusion.loss_weights)}
    assert set(losses) == expected | ({f"loss_{branch}"} if branch else set())
    assert np.isfinite(list(losses.values())).all()
    weights = {"fused": config.optimizer.fused_loss_weight, **config.model.fusion.loss_weights}
    weights |= {"mas": config.sampling.loss_weight} if config.sampling else {}
    np.testing.assert_allclose(losses["loss"], sum(w * losses[f"loss_{n}"] for n, w in weights.items()), rtol=1e-5)
    for root, tree in before.items():
        moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), tree, jax.device_get(state.params[root]))
        assert max(jax.tree.leaves(moved)) > 0, f"{root} does not move"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_a_training_step_at_its_own_size(name: str) -> None:
    config = runpy.run_path(str(PRESETS[name]))["config"]
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=1))
    check(config)
    mesh = make_mesh(1)
    _, shapes = state_initializer(config, mesh)
    batch = jax.eval_shape(lambda: batch_of(config, 1, config.data.crop))
    state, report = jax.eval_shape(make_train_step(config, mesh, shapes), shapes, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(lambda x: (x.shape, x.dtype), shapes)
    assert report.robustness.shape == (1, 4, len(config.data.modalities))
