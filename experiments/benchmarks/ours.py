"""Our side of the benchmarks: the training step of `sgma train` and the prediction of `sgma evaluate`, on JAX's
default device."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.timing import Subject
from experiments.benchmarks.workload import (
    SETTLING_STEPS,
    TORCH_WEIGHTS,
    Workload,
    batch_of,
    config_of,
    load_variables,
    save_variables,
)
from sgma_jax.evaluation.evaluator import Evaluator
from sgma_jax.interop.torch_weights import state_dict_of
from sgma_jax.models.network import make_model
from sgma_jax.sharding import make_mesh, one_device_a_core, put_batch, replicated
from sgma_jax.structs import Batch, TrainState
from sgma_jax.training.optimization import optimizer
from sgma_jax.training.step import make_train_step, state_initializer


def write_weights(workload: Workload, folder: Path) -> Subject:
    """Draw the weights that all contenders start from and leave them in `folder`."""
    config = config_of(workload)
    initialise, _ = state_initializer(config, make_mesh(1))
    state = initialise()
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    save_variables(folder, variables)
    np.savez(folder / TORCH_WEIGHTS, **state_dict_of(variables, config.model))  # type: ignore[arg-type]
    return Subject(lambda case: None, {}, _device_memory)


def training(workload: Workload, folder: Path) -> Subject:
    """One optimiser step. Its compilation is timed cold: the persistent cache is off."""
    jax.config.update("jax_enable_compilation_cache", False)
    one_device_a_core(workload.batch)
    config, mesh = config_of(workload), make_mesh(1)
    _, shapes = state_initializer(config, mesh)
    variables = load_variables(folder)
    opt_state = optimizer(config.optimizer, config.steps, config.warmup_steps).init(variables["params"])
    state = TrainState(jnp.zeros((), jnp.int32), variables["params"], variables["batch_stats"], opt_state)
    state = jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), state, shapes)
    batch = put_batch(batch_of(workload), mesh)

    jitted: Any = make_train_step(config, mesh, shapes)
    began = time.perf_counter()
    lowered = jitted.lower(state, batch)
    traced = time.perf_counter()
    step = lowered.compile()
    facts = _facts() | {
        "trace_s": round(traced - began, 2),
        "compile_s": round(time.perf_counter() - traced, 2),
        **_costs(step),
    }

    answer = []
    for _ in range(SETTLING_STEPS):
        state, report = step(state, batch)
        answer.append(float(report.losses["loss"]))

    def run(case: str) -> None:
        nonlocal state
        state, report = step(state, batch)
        jax.block_until_ready((state, report))

    return Subject(run, facts | {"answer": answer}, _device_memory)


def inference(workload: Workload, folder: Path) -> Subject:
    """Classes and robustness maps; a case is a subset of the sensors, its names joined by "+"."""
    one_device_a_core(workload.batch)
    config, mesh = config_of(workload), make_mesh(1)
    model = make_model(config)
    evaluator = Evaluator(model, config.data.classes, mesh)
    variables = jax.device_put(load_variables(folder), replicated(mesh))
    batch = put_batch(batch_of(workload), mesh)

    def run(case: str) -> None:
        jax.block_until_ready(evaluator.predict(variables, batch, evaluator.present(tuple(case.split("+")))))

    everything = evaluator.present(config.data.modalities)
    began = time.perf_counter()
    compiled = evaluator.predict.lower(variables, batch, everything).compile()
    facts = _facts() | {"compile_s": round(time.perf_counter() - began, 2), **_costs(compiled)}

    def size_of_logits(variables: Any, batch: Batch) -> jax.Array:
        outputs: Any = model.apply(variables, batch.images, batch.available, subset=everything)
        return jnp.abs(outputs.logits).mean((0, 1, 2))

    logits = jax.jit(size_of_logits)(variables, batch)
    run("+".join(config.data.modalities))
    return Subject(run, facts | {"answer": np.asarray(logits).tolist()}, _device_memory)


def _costs(compiled: Any) -> dict[str, Any]:
    """The compiler's own figures: floating-point operations, and bytes of temporary buffers."""
    analysis: Any = compiled.cost_analysis() or {}
    memory = compiled.memory_analysis()
    return {
        "gflop": round(analysis.get("flops", 0.0) / 1e9, 3),
        "temporary_bytes": getattr(memory, "temp_size_in_bytes", None),
    }


def _facts() -> dict[str, Any]:
    return {
        "framework": f"jax {jax.__version__}",
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "cores": len(os.sched_getaffinity(0)),
    }


def _device_memory() -> int | None:
    statistics = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    return statistics["peak_bytes_in_use"] if statistics else None
