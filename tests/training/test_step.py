"""What a step adds up from its micro-batches, and when it is one step over the whole batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from sgma_jax.config import (
    CrossEntropyConfig,
    DataConfig,
    MeanFusionConfig,
    ModelConfig,
    OptimizerConfig,
    PlainConfig,
    PvtV2Config,
    TrainConfig,
)
from sgma_jax.sharding import make_mesh, put_batch
from sgma_jax.structs import IGNORE, Batch
from sgma_jax.training.step import make_train_step, micro_batches, state_initializer

CONFIG = TrainConfig(
    name="step",
    data=DataConfig(modalities=("rgb", "dsm"), bands=(3, 1), classes=("a", "b", "c"), crop=32, batch_size=4),
    model=ModelConfig(encoder=PvtV2Config(variant="b0", drop_path_rate=0.0), head_width=16, head_dropout=0.0),
    optimizer=OptimizerConfig(peak_learning_rate=1e-3),
    steps=100,
)


def batch_of(seed: int) -> Batch:
    """Each sample twice, next to each other, with labels of its own: two micro-batches have the same images, but not
    as many labels."""
    rng = np.random.default_rng(seed)
    images = {"rgb": rng.normal(size=(2, 32, 32, 3)), "dsm": rng.normal(size=(2, 32, 32, 1))}
    labels = rng.integers(0, 3, (4, 32, 32))
    labels[rng.random(labels.shape) < np.array([0.1, 0.9, 0.5, 1.0])[:, None, None]] = IGNORE
    available = rng.random((2, 2, 32, 32)) < 0.9

    def twice(x: Any) -> Any:
        return np.repeat(x, 2, axis=0)

    images = {name: twice(image.astype(np.float32)) for name, image in images.items()}
    return Batch(
        images,
        twice(available),
        np.ones((4, 2), bool),
        labels.astype(np.int32),
        np.arange(4, dtype=np.int32),
        np.array([0, 0, 1, 1], np.int32),
    )


def test_micro_batches_are_the_samples_in_turn_so_that_neighbours_on_a_device_stay_there() -> None:
    batch = jax.tree.map(lambda x: np.repeat(x, 3, axis=0), batch_of(0))._replace(ids=np.arange(12, dtype=np.int32))
    parts = micro_batches(batch, 3)
    np.testing.assert_array_equal(parts.ids, [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]])
    assert jax.tree.map(np.shape, parts.images) == {"rgb": (3, 4, 32, 32, 3), "dsm": (3, 4, 32, 32, 1)}
    for devices in (1, 2, 4):  # a device's part of each micro-batch is made of its own samples
        shares = [
            micro_batches(jax.tree.map(lambda x, d=d, n=12 // devices: x[d * n : (d + 1) * n], batch), 3).ids
            for d in range(devices)
        ]
        np.testing.assert_array_equal(np.concatenate(shares, 1), parts.ids)


def test_dropout_differs_from_step_to_step_and_is_the_same_for_a_step() -> None:
    model = ModelConfig(encoder=PlainConfig(), fusion=MeanFusionConfig(), head_width=16, head_dropout=0.5)
    config, mesh = dataclasses.replace(CONFIG, model=model, sampling=None), make_mesh(1, devices=jax.devices()[:1])
    init, shapes = state_initializer(config, mesh)
    step = make_train_step(config, mesh, shapes)

    def loss(number: int) -> float:
        state = init()._replace(step=jax.numpy.asarray(number, "int32"))
        return float(step(state, put_batch(batch_of(0), mesh))[1].losses["loss"])

    losses = [loss(0), loss(1), loss(2)]
    assert len(set(losses)) == 3
    assert loss(1) == losses[1]


def test_weights_of_classes_are_relative_in_both_branches() -> None:
    """Over the weights of the whole batch: their scale changes nothing, however small."""
    model = ModelConfig(encoder=PlainConfig(), fusion=MeanFusionConfig(), head_width=16, head_dropout=0.0)
    mesh, found = make_mesh(1, devices=jax.devices()[:1]), []
    for weights in ((3.0, 1.0, 2.0), (3e-6, 1e-6, 2e-6)):
        config = dataclasses.replace(CONFIG, model=model, loss=CrossEntropyConfig(class_weights=weights))
        init, shapes = state_initializer(config, mesh)
        report = make_train_step(config, mesh, shapes)(init(), put_batch(batch_of(0), mesh))[1]
        found.append([float(report.losses[name]) for name in ("loss_fused", "loss_mas")])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert min(found[0]) > 0.1


@pytest.mark.long  # two programs to compile
def test_accumulated_micro_batches_are_one_batch_where_normalisation_sees_the_same() -> None:
    """And rematerialisation changes nothing. Losses and gradients are over all labelled pixels of the batch, not
    means of means."""
    together: dict[str, Any] = {}
    for name, accumulate, remat in (("whole", 1, False), ("accumulated", 2, True)):
        config = dataclasses.replace(
            CONFIG, accumulate=accumulate, model=dataclasses.replace(CONFIG.model, remat=remat)
        )
        mesh = make_mesh(1, devices=jax.devices()[:1])
        init, shapes = state_initializer(config, mesh)
        step, state, reports = make_train_step(config, mesh, shapes), init(), []
        for number in range(3):
            state, report = step(state, put_batch(batch_of(number), mesh))
            reports.append(jax.tree.map(np.asarray, report))
            if number == 0:  # later on rounding has moved the parameters apart, where a gradient is next to nothing
                statistics = jax.tree.map(np.array, state.batch_stats["head"]["norm"])
        together[name] = reports, statistics
    for whole, accumulated in zip(together["whole"][0], together["accumulated"][0], strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, accumulated)
    whole, accumulated = (statistics for _, statistics in together.values())
    np.testing.assert_allclose(whole["mean"], accumulated["mean"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        whole["var"], accumulated["var"], rtol=1e-3
    )  # unbiased: of half as many positions a little larger
