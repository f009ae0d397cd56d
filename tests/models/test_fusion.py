"""Semantic-Guided Fusion against its naive form, and what it promises about absent sensors."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.benchmarks.naive_fusion import NaiveFusion
from sgma_jax.config import SemanticGuidedFusionConfig
from sgma_jax.models.fusions.fused import Drawn
from sgma_jax.models.fusions.mean import MeanFusion
from sgma_jax.models.fusions.semantic_guided import SemanticGuidedFusion

MODALITIES = ("rgb", "dsm", "nir")
BATCH, HEIGHT, WIDTH, CHANNELS = 2, 6, 5, 16


@functools.cache
def programs(classes: int, norm: str, channels: int = CHANNELS, heads: int = 0):
    """The fast form, the naive form, and the gradients of both, compiled once for all examples."""
    fusion = SemanticGuidedFusion(
        SemanticGuidedFusionConfig(prototype_norm=norm, heads=heads), MODALITIES, classes, jnp.dtype("float32")
    )

    def fast(params, features, available):
        result = fusion.apply({"params": params}, features, available)
        return result.features, result.robustness

    naive = NaiveFusion(MODALITIES, fusion.heads(channels), norm)

    def gradient(form):
        def scalar(params, features, available, weights):
            fused, robustness = form(params, features, available)
            return jnp.sum(fused * weights) + jnp.sum(robustness**2)

        return jax.jit(jax.grad(scalar, argnums=(0, 1)))

    shape = (BATCH, len(MODALITIES), HEIGHT, WIDTH)
    params = jax.jit(fusion.init)(jax.random.key(classes), jnp.zeros((*shape, channels)), jnp.ones(shape, bool))[
        "params"
    ]
    return params, jax.jit(fast), jax.jit(naive), gradient(fast), gradient(naive)


def features_of(seed: int, channels: int = CHANNELS) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(BATCH, len(MODALITIES), HEIGHT, WIDTH, channels)).astype(np.float32)


@st.composite
def masks(draw) -> np.ndarray:
    """Any availability: per sample, per pixel, or nothing at all."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share = draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    if draw(st.booleans()):
        return np.broadcast_to(
            rng.random((BATCH, len(MODALITIES), 1, 1)) < share, (BATCH, len(MODALITIES), HEIGHT, WIDTH)
        ).copy()
    return rng.random((BATCH, len(MODALITIES), HEIGHT, WIDTH)) < share


# Every association of fusion.py is tested: with 3 classes the keys are absorbed into the queries, with 20 they are not;
# with 16 channels the 60 positions outnumber them and two projections are merged, with 64 not, and with 2 heads those
# are so many that the mix comes first.
@pytest.mark.parametrize(
    ("classes", "norm", "channels", "heads"), [(3, "softmax", 16, 0), (20, "softmax", 64, 2), (3, "none", 16, 0)]
)
@given(available=masks(), seed=st.integers(0, 1000))
def test_the_cheap_form_computes_what_the_naive_form_computes(
    classes: int, norm: str, channels: int, heads: int, available: np.ndarray, seed: int
) -> None:
    params, fast, naive, fast_gradient, naive_gradient = programs(classes, norm, channels, heads)
    features = features_of(seed, channels)
    for got, want in zip(fast(params, features, available), naive(params, features, available), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * max(1.0, float(np.abs(want).max())))
    weights = np.random.default_rng(seed + 1).normal(size=(BATCH, HEIGHT, WIDTH, channels)).astype(np.float32)
    got, want = (g(params, features, available, weights) for g in (fast_gradient, naive_gradient))
    for (path, g), w in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(w).max())), err_msg=str(path))


@given(available=masks(), seed=st.integers(0, 1000))
def test_robustness_sums_to_one_over_what_is_available_and_is_zero_elsewhere(available: np.ndarray, seed: int) -> None:
    params, fast, *_ = programs(3, "softmax")
    _, robustness = fast(params, features_of(seed), available)
    np.testing.assert_allclose(np.asarray(robustness).sum(1), available.any(1), atol=1e-6)
    assert (np.asarray(robustness)[~available] == 0).all()


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 0, 1)])
def test_permuting_modalities_with_their_weights_permutes_the_robustness(order: tuple[int, ...]) -> None:
    params, fast, *_ = programs(3, "softmax")
    features, available = features_of(0), np.random.default_rng(0).random((BATCH, 3, HEIGHT, WIDTH)) < 0.8
    permuted = dict(params)
    for new, old in enumerate(order):
        permuted[f"projector_{MODALITIES[new]}"] = params[f"projector_{MODALITIES[old]}"]
    fused, robustness = fast(params, features, available)
    fused2, robustness2 = fast(permuted, features[:, order], available[:, order])
    np.testing.assert_allclose(fused2, fused, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(robustness2, np.asarray(robustness)[:, order], rtol=1e-5, atol=1e-6)


def test_the_drawn_branch_is_what_fusion_gives_that_modality_alone() -> None:
    params, fast, *_ = programs(3, "softmax")
    fusion = SemanticGuidedFusion(SemanticGuidedFusionConfig(), MODALITIES, 3, jnp.dtype("float32"))
    features, drawn = features_of(0), np.array([2, 1], np.int32)
    available = np.random.default_rng(3).random((BATCH, 3, HEIGHT, WIDTH)) < 0.7
    drawn_available = available[np.arange(BATCH), drawn]
    alone = np.zeros_like(available)
    alone[np.arange(BATCH), drawn] = drawn_available
    want, _ = fast(params, features, alone)
    # What the fused branch sees must not matter to the drawn one: modality dropout has taken the drawn modality away
    # here.
    others = available.copy()
    others[np.arange(BATCH), drawn] = False
    branch = Drawn(jnp.asarray(drawn), jnp.asarray(drawn_available))
    got = fusion.apply({"params": params}, jnp.asarray(features), jnp.asarray(others), None, branch)
    np.testing.assert_allclose(got.second.features, want, rtol=1e-5, atol=1e-6)


def test_mean_fusion_is_the_mean_over_the_available_modalities() -> None:
    features = features_of(1)
    available = np.random.default_rng(1).random((BATCH, 3, HEIGHT, WIDTH)) < 0.6
    drawn = Drawn(jnp.array([0, 1]), jnp.asarray(available[[0, 1], [0, 1]]))
    result = MeanFusion().apply({}, jnp.asarray(features), jnp.asarray(available), None, drawn)
    count = available.sum(1)[..., None]
    want = (features * available[..., None]).sum(1) / np.maximum(count, 1)
    np.testing.assert_allclose(result.features, want, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(result.second.features, features[[0, 1], [0, 1]] * available[[0, 1], [0, 1]][..., None])


def test_nothing_of_size_pixels_by_classes_by_channels_is_ever_made() -> None:
    """In the compiled forward and backward programs, no buffer reaches that size; the naive program does, so the
    test can fail."""
    classes, channels, side = 32, 64, 16
    fusion = SemanticGuidedFusion(SemanticGuidedFusionConfig(), MODALITIES, classes, jnp.dtype("float32"))
    features, available = jnp.zeros((1, 3, side, side, channels)), jnp.ones((1, 3, side, side), bool)
    params = jax.eval_shape(fusion.init, jax.random.key(0), features, available)["params"]

    def largest(form) -> int:
        program = (
            jax.jit(jax.grad(lambda p, f: form(p, f).sum(), argnums=(0, 1))).lower(params, features).compile().as_text()
        )
        shapes = re.findall(r"f32\[([\d,]+)\]", program)
        return max(int(np.prod([int(n) for n in s.split(",")])) for s in shapes)

    limit = side * side * classes * channels
    assert largest(lambda p, f: fusion.apply({"params": p}, f, available).features) < limit
    assert largest(lambda p, f: NaiveFusion(MODALITIES, 8)(p, f, available)[0]) >= limit
