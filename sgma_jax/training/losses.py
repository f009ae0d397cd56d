"""Losses over labelled pixels: each is a function of logits, labels and the pixels' weights."""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from sgma_jax.structs import IGNORE


def pixel_weights(
    labels: Int[Array, "batch height width"], answered: Bool[Array, "batch height width"]
) -> Float[Array, "batch height width"]:
    """Return each pixel's weight in the mean: 1 where it has a label and an answer, else 0."""
    return ((labels != IGNORE) & answered).astype(jnp.float32)


def cross_entropy(
    logits: Float[Array, "batch height width classes"],
    labels: Int[Array, "batch height width"],
    weights: Float[Array, "batch height width"],
) -> Float[Array, ""]:
    """Return the weighted sum of the pixels' cross-entropies: the numerator of a mean, so parts of a batch add up."""
    counts = weights > 0
    errors = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(counts, labels, 0))
    return jnp.where(counts, errors * weights, 0.0).sum()
