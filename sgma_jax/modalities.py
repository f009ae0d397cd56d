"""Subsets of modalities, the one door at which absent pixels are replaced, and sums over modalities."""

from __future__ import annotations

import functools
import operator
from itertools import combinations
from typing import TypeVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

T = TypeVar("T")


def subsets(modalities: tuple[T, ...]) -> list[tuple[T, ...]]:
    """Return every non-empty subset in the order of the paper's tables: by size, then by the order of the
    modalities."""
    return [c for n in range(1, len(modalities) + 1) for c in combinations(modalities, n)]


def blank_unavailable(
    image: Float[Array, "batch height width bands"], available: Bool[Array, "batch height width"]
) -> Float[Array, "batch height width bands"]:
    """Return one modality's images with 0 (the mean, after normalisation) wherever it is not available.

    A selection, never a product: NaN times zero is NaN. Everything behind this door is finite, so masks may multiply.
    """
    return jnp.where(available[..., None], image, jnp.zeros((), image.dtype))


def by_modality(values: Array) -> list[Array]:
    """Split [batch, modality, ...] into one [batch, ...] for each modality.

    Sums over modalities are written out with it: XLA on CPU does not vectorise a reduction over a middle axis
    (docs/benchmarks.md). The gradient is a concatenation; that of `values[:, m]` would be as many arrays of zeros,
    added up.
    """
    return [part[:, 0] for part in lax.split(values, [1] * values.shape[1], axis=1)]


def softmax_over_modalities(
    scores: list[Float[Array, "*position"]], available: list[Bool[Array, "*#position"]]
) -> list[Float[Array, "*position"]]:
    """Return the softmax over the modalities that are available: exactly 0 for the others, all 0 where there is none.

    Finite in value and gradient for every mask, as long as the scores are finite.
    """
    masked = [jnp.where(m, s, -jnp.inf) for s, m in zip(scores, available, strict=True)]
    highest = lax.stop_gradient(functools.reduce(jnp.maximum, masked))
    highest = jnp.where(jnp.isfinite(highest), highest, 0.0)
    weights = [
        jnp.where(m, jnp.exp(jnp.where(m, s - highest, 0.0)), 0.0) for s, m in zip(scores, available, strict=True)
    ]
    total = functools.reduce(operator.add, weights)
    total = jnp.where(total > 0, total, 1.0)
    return [weight / total for weight in weights]
