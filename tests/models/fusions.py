"""Every fusion at one scale, as the network builds it, compiled once for all tests."""

from __future__ import annotations

import functools
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from sgma_jax.config import ConcatenationFusionConfig, FusionConfig, SemanticGuidedFusionConfig
from sgma_jax.models.parts import build_fusion

SENSORS = ("rgb", "dsm", "nir")
CLASSES = 3
BATCH, HEIGHT, WIDTH, CHANNELS = 2, 4, 5, 16
SHAPE = (BATCH, len(SENSORS), HEIGHT, WIDTH)
FLOAT = jnp.dtype("float32")
CONFIGS: dict[str, FusionConfig] = {
    **{kind.__name__: kind() for kind in get_args(FusionConfig)},
    "learned": ConcatenationFusionConfig(absent="learned"),
    "separate": SemanticGuidedFusionConfig(semantic_filter="separate"),
}
"""Every kind of fusion, by its class, and the variants that have parameters of their own."""


def features_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(*SHAPE, CHANNELS)).astype(np.float32)


def mask_of(seed: int, share: float = 0.6) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE) < share


@functools.cache
def programs(name: str) -> tuple[Any, Any, Any]:
    """Parameters, outputs, and the gradients of all that a fusion returns."""
    fusion = build_fusion(CONFIGS[name], SENSORS, CLASSES, FLOAT).at_one_scale()
    params = jax.jit(fusion.init)(jax.random.key(0), jnp.zeros((*SHAPE, CHANNELS)), jnp.ones(SHAPE, bool)).get(
        "params", {}
    )

    def run(params: Any, features: Any, available: Any, subset: Any = None) -> Any:
        return fusion.apply({"params": params}, features, available, subset)

    def scalar(params: Any, features: Any, available: Any) -> Any:
        out = run(params, features, available)
        selected = 0.0 if out.second is None else jnp.sum(jnp.sin(out.second.features))
        return jnp.sum(jnp.sin(out.features)) + selected + sum(loss.sum() for loss in (out.losses or {}).values())

    return params, jax.jit(run), jax.jit(jax.grad(scalar, argnums=(0, 1)))
