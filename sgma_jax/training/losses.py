"""Cross-entropy over labelled pixels."""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from sgma_jax.config import FusionConfig, FusionTokenConfig, RankedSelectionFusionConfig
from sgma_jax.structs import IGNORE


def cross_entropy(
    logits: Float[Array, "batch height width classes"],
    labels: Int[Array, "batch height width"],
    answered: Bool[Array, "batch height width"],
    pixels: Float[Array, ""] | None = None,
) -> Float[Array, ""]:
    """Mean over the pixels that have a label and an answer; 0 where there is none.

    Of a part of a batch: its share of the mean, where `pixels` is the number of such pixels in the whole batch; the
    shares add up.
    """
    counts = (labels != IGNORE) & answered
    number = counts.sum() if pixels is None else pixels
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(counts, labels, 0))
    return jnp.where(counts, losses, 0.0).sum() / jnp.maximum(number, 1)


def auxiliary_weights(fusion: FusionConfig) -> dict[str, float]:
    """Weights of the losses that a fusion brings itself, by their names in `Outputs.auxiliary`."""
    if isinstance(fusion, RankedSelectionFusionConfig):
        return {"alignment": fusion.alignment_loss_weight}
    if isinstance(fusion, FusionTokenConfig):
        return {"contrast": fusion.contrast_loss_weight, "reconstruction": fusion.reconstruction_loss_weight}
    return {}
