"""Subsets of sensors, availability at every scale, and the one door at which absent pixels are replaced."""

from __future__ import annotations

import functools
import operator
from itertools import combinations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


def subsets(modalities: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every non-empty subset in the order of the paper's tables: by size, then by the order of the modalities."""
    return [c for n in range(1, len(modalities) + 1) for c in combinations(modalities, n)]


def blank_unavailable(
    image: Float[Array, "batch height width bands"], available: Bool[Array, "batch height width"]
) -> Float[Array, "batch height width bands"]:
    """One modality's images with 0 (the mean, after normalisation) wherever it is not available.

    A selection, never a product: NaN times zero is NaN. Everything behind this door is finite, so masks may multiply.
    """
    return jnp.where(available[..., None], image, jnp.zeros((), image.dtype))


def per_pixel(
    available: Bool[Array, "batch modality *pixels"], height: int, width: int
) -> Bool[Array, "batch modality height width"]:
    """Availability per pixel, from a mask per sample or per pixel."""
    if available.ndim == 2:
        available = available[:, :, None, None]
    return jnp.broadcast_to(available, (*available.shape[:2], height, width))


def take_drawn(values: Array, drawn: Int[Array, " batch"]) -> Array:
    """Each sample's own modality: out of [batch, modality, ...] of any type what is left is [batch, ...]."""
    return jnp.take_along_axis(values, drawn.reshape(-1, *[1] * (values.ndim - 1)), axis=1)[:, 0]


def by_modality(values: Array) -> list[Array]:
    """[batch, modality, ...] as one [batch, ...] for each modality.

    For sums over modalities written out: XLA on CPU does not vectorise a reduction over a middle axis
    (docs/benchmarks.md). The gradient is a concatenation; that of `values[:, m]` would be as many arrays of zeros,
    added up.
    """
    return [part[:, 0] for part in lax.split(values, [1] * values.shape[1], axis=1)]


def softmax_over_modalities(
    scores: list[Float[Array, "batch height width ..."]], available: list[Bool[Array, "batch height width ..."]]
) -> list[Float[Array, "batch height width ..."]]:
    """Softmax over the modalities that are available: exactly 0 for the others, all 0 where there is none.

    Finite in value and gradient for every mask, as long as the scores are finite.
    """
    highest = lax.stop_gradient(
        functools.reduce(jnp.maximum, [jnp.where(m, s, -jnp.inf) for s, m in zip(scores, available, strict=True)])
    )
    highest = jnp.where(jnp.isfinite(highest), highest, 0.0)
    weights = [
        jnp.where(m, jnp.exp(jnp.where(m, s - highest, 0.0)), 0.0) for s, m in zip(scores, available, strict=True)
    ]
    total = functools.reduce(operator.add, weights)
    total = jnp.where(total > 0, total, 1.0)
    return [weight / total for weight in weights]


def coarsen(
    available: Bool[Array, "batch modality height width"], stride: int
) -> Bool[Array, "batch modality coarse_height coarse_width"]:
    """[C] Availability at a scale: a position is available where at least half of its pixels are.

    Cells at the lower and right edges of images that are no multiple of the stride count the pixels they really have.
    """
    height, width = available.shape[2:]
    pad = ((0, 0), (0, 0), (0, -height % stride), (0, -width % stride))

    def count(mask: Array) -> Array:
        mask = jnp.pad(mask, pad).astype(jnp.int32)
        return mask.reshape(*mask.shape[:2], mask.shape[2] // stride, stride, mask.shape[3] // stride, stride).sum(
            (3, 5)
        )

    return 2 * count(available) >= count(jnp.ones((1, 1, height, width), bool))


def refine(
    available: Bool[Array, "batch coarse_height coarse_width"], stride: int, height: int, width: int
) -> Bool[Array, "batch height width"]:
    """For every pixel, the value of the cell that it lies in."""
    return jnp.repeat(jnp.repeat(available, stride, 1), stride, 2)[:, :height, :width]
