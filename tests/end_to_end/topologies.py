"""Trains some steps on several meshes of simulated devices and prints what came out, as JSON; a program of its own
for test_devices.py.

python topologies.py STEPS FLAGS DATAxFSDPxSPACE ...   FLAGS: "plain", or fields of the configuration joined by "+":
accumulate, remat, bfloat16
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.collectives import collectives
from sgma_jax.config import DataConfig, ModelConfig, OptimizerConfig, PvtV2Config, TrainConfig
from sgma_jax.sharding import make_mesh, put_batch
from sgma_jax.structs import IGNORE, Batch
from sgma_jax.training.step import make_train_step, state_initializer

SAMPLES, HEIGHT, WIDTH = 8, 128, 32  # four devices share the 128 rows
CONFIG = TrainConfig(
    name="topologies",
    data=DataConfig(modalities=("rgb", "dsm"), bands=(3, 1), classes=("a", "b", "c"), crop=HEIGHT, batch_size=SAMPLES),
    model=ModelConfig(encoder=PvtV2Config(variant="b0", drop_path_rate=0.2), head_width=16),
    optimizer=OptimizerConfig(peak_learning_rate=1e-3),
    steps=100,
)


def batch_of(seed: int) -> Batch:
    """Sensors missing from samples, pixels and branches, and unlabelled pixels, so that no two devices have the same
    to do."""
    rng = np.random.default_rng(seed)
    shape = (SAMPLES, HEIGHT, WIDTH)
    images = {
        "rgb": rng.normal(size=(*shape, 3)).astype(np.float32),
        "dsm": rng.normal(size=(*shape, 1)).astype(np.float32),
    }
    available = np.ones((SAMPLES, 2, HEIGHT, WIDTH), bool)
    available[::3, 1, : HEIGHT // 2] = False
    available[5, 0] = False
    kept = np.ones((SAMPLES, 2), bool)
    kept[1, 0] = False
    labels = (images["rgb"][..., 0] > 0).astype(np.int32) + (images["dsm"][..., 0] > 0)  # something to learn
    labels[rng.random(shape) < np.linspace(0.0, 0.9, SAMPLES)[:, None, None]] = IGNORE
    return Batch(
        images,
        available,
        kept,
        labels,
        np.arange(SAMPLES, dtype=np.int32),
        rng.integers(0, 2, SAMPLES).astype(np.int32),
    )


@functools.cache
def first_state() -> Any:
    """The initial state as arrays on the host: made once, because it is the same on every mesh and takes long to
    compile."""
    init, _ = state_initializer(CONFIG, make_mesh(1, devices=jax.devices()[:1]))
    return jax.tree.map(np.asarray, init())


def configuration(flags: str) -> TrainConfig:
    """CONFIG with the named choices."""
    model = dataclasses.replace(
        CONFIG.model, remat="remat" in flags, dtype="bfloat16" if "bfloat16" in flags else "float32"
    )
    return dataclasses.replace(CONFIG, model=model, accumulate=2 if "accumulate" in flags else 1)


def train(config: TrainConfig, topology: str, steps: int) -> dict[str, Any]:
    """Losses and reports of the steps on one mesh, what a step with a NaN does, and the compiled step's collectives."""
    data, fsdp, space = map(int, topology.split("x"))
    mesh = make_mesh(fsdp, space, jax.devices()[: data * fsdp * space])
    _, shapes = state_initializer(config, mesh)
    step = make_train_step(config, mesh, shapes).lower(shapes, put_batch(batch_of(0), mesh)).compile()  # type: ignore[attr-defined]
    state, reports = jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), first_state(), shapes), []
    for number in range(steps):
        state, report = step(state, put_batch(batch_of(number), mesh))
        losses = {name: float(value) for name, value in report.losses.items()}
        reports.append(losses | {"robustness": np.asarray(report.robustness).tolist(), "applied": bool(report.applied)})
    before = jax.tree.map(np.asarray, state)
    broken = batch_of(0)
    broken.images["rgb"][0, 0, 0] = np.nan
    state, report = step(state, put_batch(broken, mesh))
    same = jax.tree.map(lambda a, b: bool((a == np.asarray(b)).all()), before._replace(step=before.step + 1), state)
    parameters = [{"shape": s.shape, "shard": s.sharding.shard_shape(s.shape)} for s in jax.tree.leaves(shapes.params)]
    return {
        "reports": reports,
        "not_applied": {
            "applied": bool(report.applied),
            "informative": bool(report.informative.any()),
            "same": all(jax.tree.leaves(same)),
        },
        "collectives": [dataclasses.asdict(c) for c in collectives(step.as_text())],
        "parameters": parameters,
    }


if __name__ == "__main__":
    print(
        json.dumps(
            {topology: train(configuration(sys.argv[2]), topology, int(sys.argv[1])) for topology in sys.argv[3:]}
        )
    )
