"""Arguments and results of a fusion at one scale."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Drawn(NamedTuple):
    """One modality per sample that a second branch sees alone."""

    modality: Int[Array, " batch"]
    """Index along the modality axis."""
    sees: Bool[Array, "batch height width"]
    """Positions at which it is available."""


class Second(NamedTuple):
    """The features of a second branch, which trains beside the fused one."""

    features: Float[Array, "batch height width channels"]
    sees: Bool[Array, "batch height width"]
    """Positions that take part in the head's normalisation."""


class Fused(NamedTuple):
    """Result of a fusion at one scale."""

    features: Float[Array, "batch height width channels"]
    robustness: Float[Array, "batch modality height width"]
    """Share of each modality: sums to 1 over those that are available, 0 elsewhere."""
    second: Second | None = None
    losses: dict[str, Float[Array, " batch"]] | None = None
    """Losses that the fusion brings at every scale, each sample's own."""


def equal_shares(available: Bool[Array, "batch modality height width"]) -> Float[Array, "batch modality height width"]:
    """Return 1 / n for each of the n modalities that a position has."""
    shares = available.astype(jnp.float32)
    return shares / jnp.maximum(shares.sum(1, keepdims=True), 1.0)
