"""The schedule and the optimiser against their formulas, written out by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sgma_jax.config import OptimizerConfig
from sgma_jax.training.optimization import decayed, learning_rate, optimizer

STEPS, WARMUP = 1000, 50
CONFIG = OptimizerConfig(
    peak_learning_rate=0.02, weight_decay=0.1, epsilon=1e-3, decay_power=0.9, warmup_start=0.1, clip_norm=1.0
)


def rate_by_hand(config: OptimizerConfig, step: int, steps: int, warmup: int) -> float:
    """Linear from warmup_start x peak to peak, then peak x (1 - share of what follows) ^ power."""
    if step < warmup:
        return config.peak_learning_rate * (config.warmup_start + (1 - config.warmup_start) * step / warmup)
    return config.peak_learning_rate * (1 - (step - warmup) / (steps - warmup)) ** config.decay_power


@pytest.mark.parametrize("warmup", [0, 1, WARMUP, STEPS - 1])
@pytest.mark.parametrize("config", [OptimizerConfig(), CONFIG, OptimizerConfig(decay_power=1.0, warmup_start=0.0)])
def test_learning_rate_is_that_of_the_formula_at_every_step(config: OptimizerConfig, warmup: int) -> None:
    rate = jax.jit(jax.vmap(learning_rate(config, STEPS, warmup)))
    # float32 loses digits in 1 - share just before the end.
    want = [rate_by_hand(config, step, STEPS, warmup) for step in range(STEPS)]
    np.testing.assert_allclose(rate(jnp.arange(STEPS)), want, rtol=1e-4, atol=1e-6 * config.peak_learning_rate)


@pytest.mark.parametrize(("steps", "warmup"), [(20, 0), (100, 0), (300, 20), (1000, 0), (43200, 2160)])
def test_learning_rate_ends_at_zero_and_is_never_nan_compiled_or_not(steps: int, warmup: int) -> None:
    rate = learning_rate(OptimizerConfig(), steps, warmup)
    for at in (steps, steps + 1):
        assert float(rate(at)) == pytest.approx(0.0, abs=1e-10)
        assert float(jax.jit(rate)(at)) == pytest.approx(0.0, abs=1e-10)


def test_learning_rate_has_the_papers_values_at_its_corners() -> None:
    rate = learning_rate(OptimizerConfig(), 200, 10)  # the paper's epochs as steps
    assert float(rate(0)) == pytest.approx(6e-6)
    assert float(rate(5)) == pytest.approx(0.55 * 6e-5)
    assert float(rate(10)) == pytest.approx(6e-5)
    assert float(rate(105)) == pytest.approx(6e-5 * 0.5**0.9)
    assert float(rate(199)) > 0
    assert float(rate(200)) == 0


def small_params() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    layer = {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)}
    return {
        "head": layer,
        "norm": {"scale": rng.normal(size=4), "bias": rng.normal(size=4)},
        "stem": {"conv": {"kernel": rng.normal(size=(1, 1, 2, 3))}},
    }


def global_norm(tree: Any) -> float:
    return float(np.sqrt(sum(np.sum(np.asarray(leaf, np.float64) ** 2) for leaf in jax.tree.leaves(tree))))


def test_weight_decay_touches_kernels_and_nothing_else() -> None:
    params = jax.tree.map(jnp.float32, small_params())
    assert decayed(params) == {
        "head": {"kernel": True, "bias": False},
        "norm": {"scale": False, "bias": False},
        "stem": {"conv": {"kernel": True}},
    }
    tx = optimizer(CONFIG, STEPS, 0)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        leaf = params
        for key in path:
            leaf = leaf[key.key]
        decay = CONFIG.peak_learning_rate * CONFIG.weight_decay if path[-1].key == "kernel" else 0.0
        np.testing.assert_allclose(update, -decay * np.asarray(leaf), rtol=1e-5)


@pytest.mark.parametrize("norm", [0.01, 1.0, 50.0])
def test_gradients_are_scaled_down_to_the_clip_norm_and_never_up(norm: float) -> None:
    params = jax.tree.map(jnp.float32, small_params())
    gradients = jax.tree.map(lambda p: p * norm / global_norm(params), params)
    tx = optimizer(CONFIG, STEPS, WARMUP)
    _, state = tx.update(gradients, tx.init(params), params)
    seen = jax.tree.map(
        lambda m: m / 0.1, optax.tree_utils.tree_get(state, "mu")
    )  # the first moment is 0.1 x what Adam was given
    assert global_norm(seen) == pytest.approx(min(norm, CONFIG.clip_norm), rel=1e-5)
    shrink = min(1.0, CONFIG.clip_norm / norm)
    jax.tree.map(lambda got, g: np.testing.assert_allclose(got, g * shrink, rtol=1e-5), seen, gradients)


def test_steps_are_those_of_adamw_written_by_hand() -> None:
    """Loshchilov and Hutter 2019, algorithm 2, with optax's betas 0.9 and 0.999, in float64."""
    want, rng = small_params(), np.random.default_rng(1)
    params = jax.tree.map(jnp.float32, want)
    tx = optimizer(CONFIG, STEPS, WARMUP)
    state = tx.init(params)
    first = second = jax.tree.map(np.zeros_like, want)
    for step in range(3):
        gradients = jax.tree.map(lambda p: rng.normal(size=p.shape) * 10.0 ** rng.integers(-3, 2), want)
        updates, state = tx.update(jax.tree.map(jnp.float32, gradients), state, params)
        params = optax.apply_updates(params, updates)

        norm = global_norm(gradients)
        clipped = jax.tree.map(lambda g, n=norm: g * min(1.0, CONFIG.clip_norm / n), gradients)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, clipped)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, second, clipped)
        rate = rate_by_hand(CONFIG, step, STEPS, WARMUP)

        def move(
            path: Any, p: np.ndarray, m: np.ndarray, v: np.ndarray, t: int = step + 1, rate: float = rate
        ) -> np.ndarray:
            adam = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + CONFIG.epsilon)
            return p - rate * (adam + (CONFIG.weight_decay * p if path[-1].key == "kernel" else 0.0))

        want = jax.tree_util.tree_map_with_path(move, want, first, second)
        jax.tree.map(lambda got, w: np.testing.assert_allclose(got, w, rtol=1e-4, atol=1e-6), params, want)
