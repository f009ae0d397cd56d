"""The loss is the mean over labelled, answered pixels, and everything else is as if it were not there."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sgma_jax.config import CrossEntropyConfig, FocalLossConfig
from sgma_jax.structs import IGNORE
from sgma_jax.training.losses import focal_loss, pixel_weights, weighted_loss

K = 4
SHAPE = (2, 3, 5)  # one shape, so that nothing compiles anew

label_maps = arrays(np.int32, SHAPE, elements=st.sampled_from([*range(K), IGNORE]))
masks = arrays(bool, SHAPE)
logit_maps = arrays(np.float32, (*SHAPE, K), elements=st.floats(-30, 30, width=32) | st.sampled_from([-1e4, 1e4]))


@jax.jit
@jax.value_and_grad
def loss_and_gradient(logits: jax.Array, labels: jax.Array, answered: jax.Array) -> jax.Array:
    """The mean as the training step forms it."""
    weights = pixel_weights(labels, answered)
    return weighted_loss(CrossEntropyConfig(), logits, labels, weights) / jnp.maximum(weights.sum(), 1)


@given(logits=logit_maps, labels=label_maps, answered=masks)
def test_loss_and_gradient_are_those_of_the_mean_over_labelled_answered_pixels(
    logits: np.ndarray, labels: np.ndarray, answered: np.ndarray
) -> None:
    counts = (labels != IGNORE) & answered
    rows, targets = logits[counts].astype(np.float64), labels[counts]
    shifted = rows - rows.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    want = -np.mean(logs[np.arange(len(rows)), targets]) if len(rows) else 0.0
    want_gradient = np.zeros((*SHAPE, K))
    want_gradient[counts] = (np.exp(logs) - np.eye(K)[targets]) / max(len(rows), 1)

    loss, gradient = loss_and_gradient(logits, labels, answered)
    np.testing.assert_allclose(loss, want, rtol=1e-5, atol=1e-6 * max(1.0, np.abs(logits).max()))
    np.testing.assert_allclose(gradient, want_gradient, rtol=1e-4, atol=1e-6)
    assert (np.asarray(gradient)[~counts] == 0).all()


@given(logits=logit_maps, labels=label_maps, answered=masks, elsewhere=st.sampled_from([0.0, 1e6, -1e30]))
def test_what_stands_at_pixels_that_do_not_count_changes_no_bit(
    logits: np.ndarray, labels: np.ndarray, answered: np.ndarray, elsewhere: float
) -> None:
    counts = (labels != IGNORE) & answered
    other = np.where(counts[..., None], logits, np.float32(elsewhere))
    for got, want in zip(
        loss_and_gradient(other, labels, answered), loss_and_gradient(logits, labels, answered), strict=True
    ):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("nothing", ["no label", "no answer"])
def test_where_no_pixel_counts_the_loss_and_its_gradient_are_zero(nothing: str) -> None:
    labels = np.full(SHAPE, IGNORE if nothing == "no label" else 0, np.int32)
    answered = np.full(SHAPE, nothing == "no label")
    loss, gradient = loss_and_gradient(jnp.full((*SHAPE, K), 1e4), labels, answered)
    assert loss == 0
    assert (np.asarray(gradient) == 0).all()


WEIGHTS = (0.25, 0.0, 3.0, 1.0)


@jax.jit
def weighted_focal(logits: jax.Array, labels: jax.Array, answered: jax.Array) -> tuple[jax.Array, jax.Array]:
    config = FocalLossConfig(focus=1.5, class_weights=WEIGHTS)
    weights = pixel_weights(labels, answered, config.class_weights)
    return weighted_loss(config, logits, labels, weights), weights.sum()


@given(logits=logit_maps, labels=label_maps, answered=masks)
def test_a_weighted_focal_loss_is_the_formula_of_its_paper_over_the_weights(
    logits: np.ndarray, labels: np.ndarray, answered: np.ndarray
) -> None:
    counts = (labels != IGNORE) & answered
    rows, targets = logits[counts].astype(np.float64), labels[counts]
    shifted = rows - rows.max(-1, keepdims=True)
    logs = (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))[np.arange(len(rows)), targets]
    weights = np.array(WEIGHTS)[targets]
    total, whole = weighted_focal(logits, labels, answered)
    np.testing.assert_allclose(whole, weights.sum(), rtol=1e-5)
    expected = (weights * (-np.expm1(logs)) ** 1.5 * -logs).sum() if len(rows) else 0.0
    np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-5 * max(1.0, np.abs(logits).max()))


def test_the_gradient_of_a_focal_loss_is_finite_where_a_class_is_certain_and_where_it_is_excluded() -> None:
    logits = jnp.array([[[[1e4, 0, 0, 0], [-1e4, 0, 0, 0]]]])
    gradient = jax.grad(lambda x: focal_loss(x, jnp.zeros((1, 1, 2), jnp.int32), 1.0).sum())(logits)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[0, 0, 1]).max() > 0
