"""The state and the compiled training step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from sgma_jax.availability import Availability
from sgma_jax.config import TrainConfig
from sgma_jax.models.devices import sum_over_devices, sum_over_rows
from sgma_jax.models.network import initial_variables, make_model
from sgma_jax.sharding import batch_sharding, batch_specs, own_gradients, replicated, whole_parameters, with_sharding
from sgma_jax.structs import Batch, Branch, Outputs, TrainState
from sgma_jax.training.losses import pixel_weights, weighted_loss
from sgma_jax.training.optimization import optimizer


class StepReport(NamedTuple):
    """The report of a training step to the host; small, and replicated on every device."""

    losses: dict[str, Float[Array, ""]]
    """loss, loss_fused, loss_mas (with MAS), those that the fusion brings itself, and gradient_norm."""
    robustness: Float[Array, "batch scale modality"]
    """As SamplingTable.update takes it, of the global batch."""
    informative: Bool[Array, "batch scale modality"]
    ids: Int[Array, " batch"]
    applied: Bool[Array, ""]
    """False for a step that was not applied, because its loss or gradient was not finite; then nothing is
    informative."""


def state_initializer(config: TrainConfig, mesh: Mesh) -> tuple[Callable[[], TrainState], Any]:
    """A compiled function that makes a fresh state in place on the devices, and the state's shapes with their
    shardings.

    The same seed gives the same state on any mesh.
    """
    tx = optimizer(config.optimizer, config.steps, config.warmup_steps)

    def init() -> TrainState:
        variables = initial_variables(config)
        return TrainState(
            jnp.zeros((), jnp.int32), variables["params"], variables["batch_stats"], tx.init(variables["params"])
        )

    shapes = with_sharding(jax.eval_shape(init), mesh)
    # It runs once, and on CPU optimising its hundreds of random draws would take nearly as long as compiling the
    # training step.
    quick = {"xla_backend_optimization_level": 0} if mesh.devices.flat[0].platform == "cpu" else None
    return jax.jit(init, out_shardings=jax.tree.map(lambda x: x.sharding, shapes), compiler_options=quick), shapes


def robustness_report(
    robustness: tuple[Float[Array, "batch modality _height _width"], ...],
    sees: tuple[Bool[Array, "batch modality _height _width"], ...],
) -> tuple[Float[Array, "batch scale modality"], Bool[Array, "batch scale modality"]]:
    """Return each sample's mean robustness per scale and modality, and where it says something.

    [C] Only positions that two or more modalities see count.
    A share among n of M modalities is scaled by n / M, so that being one of few does not look robust.
    """
    means, informative = [], []
    for shares, seen in zip(robustness, sees, strict=True):
        seeing = seen.sum(1, keepdims=True)
        counts = seen & (seeing >= 2)
        scaled = jnp.where(counts, shares * seeing / seen.shape[1], 0.0)
        positions = sum_over_rows(counts.sum((2, 3)))
        means.append(sum_over_rows(scaled.sum((2, 3))) / jnp.maximum(positions, 1))
        informative.append(positions > 0)
    return jnp.stack(means, 1), jnp.stack(informative, 1)


def branch_weights(config: TrainConfig, batch: Batch) -> tuple[Array, Array]:
    """Return the whole batch's pixel weights, over all devices, of the fused and the second branch; from masks
    alone."""
    height, width = batch.labels.shape[1:]
    recorded = Availability.of(batch.available, height, width, config.model.magnify)
    fused = recorded.kept(batch.kept).answered
    second = recorded.of_drawn(batch.drawn).pixels[:, 0] if config.sampling else fused
    fused_sum, second_sum = (
        sum_over_devices(pixel_weights(batch.labels, seen, config.loss.class_weights).sum()) for seen in (fused, second)
    )
    return fused_sum, second_sum


def second_branch(config: TrainConfig) -> tuple[str, float]:
    """Return name and weight of the second branch's loss; no name where there is no such branch."""
    if config.sampling:
        return "mas", config.sampling.loss_weight
    name = config.model.fusion.second_loss
    return name, config.model.fusion.loss_weights.get(name, 0.0)


def micro_batches(batch: Batch, number: int) -> Batch:
    """A batch as `number` micro-batches along a leading axis: every `number`-th sample from the first, from the
    second, ...

    So each device keeps its own samples, and what a micro-batch holds does not depend on how many devices there are.
    """
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, number, *x.shape[1:]), 1, 0), batch)


def make_gradients(config: TrainConfig, specs: Any) -> Callable[..., Any]:
    """Return what each device computes of a step, for `jax.shard_map`; `specs` says how the parameters are sharded.

    (params, batch_stats, step, batch) -> gradients of the whole batch's loss (this device's part, where sharded),
    batch_stats, losses, and the robustness report of this device's samples. Between devices go, besides what
    `models.devices` says: parameters, once; gradients, once, also where micro-batches accumulate them; counts and
    losses.
    """
    model, fusion = make_model(config), config.model.fusion
    second, second_weight = second_branch(config)

    def loss(params: Any, batch_stats: Any, pixels: tuple[Array, Array], batch: Batch, key: Array) -> tuple[Array, Any]:
        def mean(branch: Branch | Outputs, whole: Array) -> Array:
            """Return this part's share of the branch's mean over the whole batch."""
            weights = pixel_weights(batch.labels, branch.answered, config.loss.class_weights)
            return weighted_loss(config.loss, branch.logits, batch.labels, weights) / jnp.where(whole > 0, whole, 1)

        outputs, updates = model.apply(
            {"params": params, "batch_stats": batch_stats},
            batch.images,
            batch.available,
            kept=batch.kept,
            drawn=batch.drawn if config.sampling else None,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        parts = {"fused": (config.optimizer.fused_loss_weight, mean(outputs, pixels[0]))}
        if second:
            parts[second] = (second_weight, mean(outputs.second, pixels[1]))
        for name, own in outputs.losses.items():
            parts[name] = (fusion.loss_weights[name], own.sum() / config.data.batch_size)
        total = jnp.asarray(sum(weight * part for weight, part in parts.values()))
        losses = {"loss": total, **{f"loss_{name}": part for name, (_, part) in parts.items()}}
        return total, (losses, updates["batch_stats"], robustness_report(outputs.robustness, outputs.sees))

    def gradients(params: Any, batch_stats: Any, step: Array, batch: Batch) -> tuple[Any, Any, dict[str, Array], Any]:
        params = whole_parameters(params, specs)
        key = jax.random.fold_in(jax.random.key(config.seed), step)
        part = partial(jax.grad(loss, has_aux=True), params, batch_stats, branch_weights(config, batch))
        if config.accumulate == 1:
            total, (losses, batch_stats, report) = part(batch, key)
        else:

            def add(total: Any, inputs: tuple[Batch, Array]) -> tuple[Any, Any]:
                own, others = part(*inputs)
                return jax.tree.map(jnp.add, total, own), others

            parts = micro_batches(batch, config.accumulate), jax.random.split(key, config.accumulate)
            total, (losses, batch_stats, report) = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), parts)
            losses = jax.tree.map(lambda x: x.sum(0), losses)
            # [C] One update of the running statistics a step, by the micro-batches' mean, so that their momentum means
            # what it did.
            batch_stats = jax.tree.map(lambda x: x.mean(0), batch_stats)
            report = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), report)
        return own_gradients(total, specs), batch_stats, jax.tree.map(sum_over_devices, losses), report

    return gradients


def make_train_step(
    config: TrainConfig, mesh: Mesh, shapes: TrainState
) -> Callable[[TrainState, Batch], tuple[TrainState, StepReport]]:
    """The compiled step: pure, with the state donated. What it draws depends on (seed, step) alone.

    A step whose loss or gradient is not finite is not applied: parameters, statistics and the optimiser's state, its
    place in the schedule included, stay as they were; only `step` moves on, so that the next step draws and reads
    anew.
    """
    tx = optimizer(config.optimizer, config.steps, config.warmup_steps)
    shardings = jax.tree.map(lambda x: x.sharding, shapes)
    specs = jax.tree.map(lambda x: x.sharding.spec, shapes.params)
    whole = PartitionSpec()
    gradients_of = jax.shard_map(
        make_gradients(config, specs),
        mesh=mesh,
        in_specs=(specs, whole, whole, batch_specs(mesh)),
        out_specs=(specs, whole, whole, batch_specs(mesh).ids),
    )

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepReport]:
        gradients, batch_stats, losses, (robustness, informative) = gradients_of(
            state.params, state.batch_stats, state.step, batch
        )
        updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        losses["gradient_norm"] = optax.tree.norm(gradients)
        applied = jnp.isfinite(losses["loss"]) & jnp.isfinite(losses["gradient_norm"])
        moved = TrainState(state.step, optax.apply_updates(state.params, updates), batch_stats, opt_state)
        after = jax.tree.map(lambda new, old: jnp.where(applied, new, old), moved, state)
        return after._replace(step=state.step + 1), StepReport(
            losses, robustness, informative & applied, batch.ids, applied
        )

    return jax.jit(
        train_step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )
