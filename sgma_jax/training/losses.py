"""Losses over labelled pixels: a function of logits and labels for each kind, and what makes their mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from sgma_jax.kinds import CrossEntropyConfig, FocalLossConfig, LossConfig
from sgma_jax.structs import IGNORE


def pixel_weights(
    labels: Int[Array, "batch height width"],
    answered: Bool[Array, "batch height width"],
    class_weights: Sequence[float] = (),
) -> Float[Array, "batch height width"]:
    """Return each pixel's weight in the mean: its class's, 1 where none are given, and 0 without label or answer."""
    counts = (labels != IGNORE) & answered
    if not class_weights:
        return counts.astype(jnp.float32)
    return jnp.where(counts, jnp.asarray(class_weights, jnp.float32)[jnp.where(counts, labels, 0)], 0.0)


def weighted_loss(
    config: LossConfig,
    logits: Float[Array, "batch height width classes"],
    labels: Int[Array, "batch height width"],
    weights: Float[Array, "batch height width"],
) -> Float[Array, ""]:
    """Return the weighted sum of the pixels' losses: the numerator of a mean, so parts of a batch add up."""
    counts = weights > 0
    labels = jnp.where(counts, labels, 0)
    match config:
        case CrossEntropyConfig():
            errors = cross_entropy(logits, labels)
        case FocalLossConfig():
            errors = focal_loss(logits, labels, config.focus)
        case _:
            assert_never(config)  # the type checker names this line to whoever adds a kind
    return jnp.where(counts, errors * weights, 0.0).sum()


def cross_entropy(
    logits: Float[Array, "batch height width classes"], labels: Int[Array, "batch height width"]
) -> Float[Array, "batch height width"]:
    """Return each pixel's cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def focal_loss(
    logits: Float[Array, "batch height width classes"], labels: Int[Array, "batch height width"], focus: float
) -> Float[Array, "batch height width"]:
    """Return each pixel's cross-entropy times (1 - p) ** focus, where p is the probability of its class."""
    entropy = cross_entropy(logits, labels)
    missing = -jnp.expm1(-entropy)
    return missing**focus * entropy
