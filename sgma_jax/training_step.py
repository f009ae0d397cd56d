"""The state and the compiled training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from sgma_jax.config import RankedSelectionFusionConfig, TrainConfig
from sgma_jax.losses import auxiliary_weights, cross_entropy
from sgma_jax.models.sgma import initial_variables, make_model
from sgma_jax.optimization import optimizer
from sgma_jax.sharding import batch_sharding, replicated, with_sharding
from sgma_jax.structs import Batch, Outputs, TrainState


class StepReport(NamedTuple):
    """What a training step tells the host; small, and replicated on every device."""

    losses: dict[str, Float[Array, ""]]
    """loss, loss_fused, loss_mas (with MAS), those that the fusion brings itself, and gradient_norm."""
    robustness: Float[Array, "batch scale modality"]
    """As SamplingTable.update takes it, of the global batch."""
    informative: Bool[Array, "batch scale modality"]
    ids: Int[Array, " batch"]


def state_initializer(config: TrainConfig, mesh: Mesh) -> tuple[Callable[[], TrainState], Any]:
    """A compiled function that makes a fresh state in place on the devices, and the state's shapes with their shardings.

    The same seed gives the same state on any mesh.
    """
    tx = optimizer(config.optimizer, config.steps, config.warmup_steps)

    def init() -> TrainState:
        variables = initial_variables(config)
        return TrainState(jnp.zeros((), jnp.int32), variables["params"], variables["batch_stats"], tx.init(variables["params"]))

    shapes = with_sharding(jax.eval_shape(init), mesh)
    # It runs once, and on CPU optimising its hundreds of random draws would take nearly as long as compiling the training step.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(init, out_shardings=jax.tree.map(lambda x: x.sharding, shapes), compiler_options=quick), shapes


def robustness_report(outputs: Outputs) -> tuple[Float[Array, "batch scale modality"], Bool[Array, "batch scale modality"]]:
    """Each sample's mean robustness per scale and modality, and where it says something.

    [C] Only positions that two or more modalities see count. A share among n of M modalities is scaled by n / M, so that being one
    of few does not look robust.
    """
    means, informative = [], []
    for robustness, sees in zip(outputs.robustness, outputs.sees, strict=True):
        seeing = sees.sum(1, keepdims=True)
        counts = sees & (seeing >= 2)
        share = jnp.where(counts, robustness * seeing / sees.shape[1], 0.0)
        positions = counts.sum((2, 3))
        means.append(share.sum((2, 3)) / jnp.maximum(positions, 1))
        informative.append(positions > 0)
    return jnp.stack(means, 1), jnp.stack(informative, 1)


def make_train_step(config: TrainConfig, mesh: Mesh, shapes: TrainState) -> Callable[[TrainState, Batch], tuple[TrainState, StepReport]]:
    """The compiled step: pure, with the state donated. What it draws depends on (seed, step) alone."""
    model, tx = make_model(config), optimizer(config.optimizer, config.steps, config.warmup_steps)
    shardings = jax.tree.map(lambda x: x.sharding, shapes)
    sampling, weight = config.sampling, config.optimizer.fused_loss_weight

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepReport]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)

        def loss(params: Any) -> tuple[Array, tuple[dict[str, Array], Outputs, Any]]:
            outputs, updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats}, batch.images, batch.available, kept=batch.kept,
                drawn=batch.drawn if sampling else None, train=True, rngs={"dropout": key}, mutable=["batch_stats"])  # fmt: skip
            fused = cross_entropy(outputs.logits, batch.labels, outputs.answered)
            losses = {"loss_fused": fused, "loss": weight * fused}
            if sampling:
                seen = jnp.take_along_axis(batch.available, batch.drawn[:, None, None, None], 1)[:, 0]
                losses["loss_mas"] = cross_entropy(outputs.drawn_logits, batch.labels, seen)
                losses["loss"] += sampling.loss_weight * losses["loss_mas"]
            if isinstance(config.model.fusion, RankedSelectionFusionConfig):
                losses["loss_selection"] = cross_entropy(outputs.drawn_logits, batch.labels, outputs.answered)
                losses["loss"] += config.model.fusion.selection_loss_weight * losses["loss_selection"]
            for name, auxiliary_weight in auxiliary_weights(config.model.fusion).items():
                losses[f"loss_{name}"] = outputs.auxiliary[name].sum() / config.data.batch_size
                losses["loss"] += auxiliary_weight * losses[f"loss_{name}"]
            return losses["loss"], (losses, outputs, updates["batch_stats"])

        gradients, (losses, outputs, batch_stats) = jax.grad(loss, has_aux=True)(state.params)
        updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        losses["gradient_norm"] = optax.tree.norm(gradients)
        return TrainState(state.step + 1, params, batch_stats, opt_state), StepReport(losses, *robustness_report(outputs), batch.ids)

    return jax.jit(train_step, in_shardings=(shardings, batch_sharding(mesh)), out_shardings=(shardings, replicated(mesh)), donate_argnums=0)
