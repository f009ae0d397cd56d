"""The variants of SGF that ablations use: filters per sensor, other kernels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from sgma_jax.config import SemanticGuidedFusionConfig
from sgma_jax.models.fusions.semantic_guided import SemanticGuidedFusion

SENSORS = ("rgb", "dsm")
SHAPE = (2, 2, 4, 5)


def fusion_with(**changes: object) -> SemanticGuidedFusion:
    return SemanticGuidedFusion(SemanticGuidedFusionConfig(**changes), SENSORS, 3, jnp.dtype("float32"))  # type: ignore[arg-type]


def test_equal_filters_per_sensor_are_the_shared_filter_also_when_a_sensor_is_skipped() -> None:
    shared, separate = fusion_with(), fusion_with(semantic_filter="separate")
    features, available = jax.random.normal(jax.random.key(0), (*SHAPE, 16)), jnp.ones(SHAPE, bool)
    params = jax.jit(shared.init)(jax.random.key(0), features, available)["params"]
    own = {k: v for k, v in params.items() if k != "semantic_filter"} | {
        f"semantic_filter_{m}": params["semantic_filter"] for m in SENSORS
    }
    own["semantic_filter_rgb"] = jax.tree.map(
        lambda x: x + 1, own["semantic_filter_rgb"]
    )  # unseen below, where rgb is skipped
    for chosen in (None, jnp.array([1])):
        seen = slice(None) if chosen is None else slice(1, 2)
        same = own if chosen is not None else {**own, "semantic_filter_rgb": params["semantic_filter"]}
        want = shared.apply({"params": params}, features[:, seen], available[:, seen], chosen)
        got = separate.apply({"params": same}, features[:, seen], available[:, seen], chosen)
        np.testing.assert_allclose(got.features, want.features, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(got.robustness, want.robustness, rtol=1e-5, atol=1e-5)
    assert not np.allclose(
        separate.apply({"params": own}, features, available).features,
        shared.apply({"params": params}, features, available).features,
    )


def test_fewer_kernels_are_the_full_set_with_the_others_zero() -> None:
    full, small = fusion_with(), fusion_with(kernel_sizes=(3,))
    features, available = jax.random.normal(jax.random.key(1), (*SHAPE, 16)), jnp.ones(SHAPE, bool)
    params = jax.jit(full.init)(jax.random.key(0), features, available)["params"]
    assert set(params["projector_rgb"]) == {"dw11", "dw7", "dw3", "point"}
    without, few = dict(params), dict(params)
    for name in (f"projector_{m}" for m in SENSORS):
        without[name] = {
            k: jax.tree.map(jnp.zeros_like, v) if k in ("dw11", "dw7") else v for k, v in params[name].items()
        }
        few[name] = {k: params[name][k] for k in ("dw3", "point")}
    want = full.apply({"params": without}, features, available)
    np.testing.assert_allclose(
        small.apply({"params": few}, features, available).features, want.features, rtol=1e-4, atol=1e-5
    )
