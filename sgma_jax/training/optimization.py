"""AdamW with warm-up and polynomial decay (arXiv 2603.02505, section IV-B)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from sgma_jax.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, steps: int, warmup_steps: int) -> optax.Schedule:
    """Linear from `warmup_start` of the peak to the peak, then polynomial to 0 at the last step."""
    length = steps - warmup_steps

    def decay(count: Any) -> Any:
        # Optax's polynomial_schedule is NaN at the last step when compiled: 1 - count / length rounds below 0 before
        # the power.
        left = jnp.clip(length - count, 0, length) / length
        return config.peak_learning_rate * left**config.decay_power

    if warmup_steps == 0:
        return decay
    warmup = optax.linear_schedule(
        config.warmup_start * config.peak_learning_rate, config.peak_learning_rate, warmup_steps
    )
    return optax.join_schedules([warmup, decay], [warmup_steps])


def decayed(params: Any) -> Any:
    """Return true for the parameters that weight decay applies to: kernels, not biases and norms [C]."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def optimizer(config: OptimizerConfig, steps: int, warmup_steps: int) -> optax.GradientTransformation:
    """The paper's optimiser, behind a clip of the gradient's global norm."""
    rate = learning_rate(config, steps, warmup_steps)
    adamw = optax.adamw(rate, eps=config.epsilon, weight_decay=config.weight_decay, mask=decayed)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
