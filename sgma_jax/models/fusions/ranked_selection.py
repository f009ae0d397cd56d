"""Ranked selection after MAGIC (arXiv 2407.11344).

Reimplemented from the published description on our encoder and head; experiments/baselines/ says what was simplified.
All choices here are [C].
"""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sgma_jax.availability import take_drawn
from sgma_jax.modalities import by_modality
from sgma_jax.models.fusions.attention import Projector, mix
from sgma_jax.models.fusions.fused import Drawn, Fused, Second, equal_shares
from sgma_jax.models.layers import depthwise, linear, masked_mean
from sgma_jax.models.torch_table import Table

EPSILON = 1e-6
"""Smallest squared length in a cosine."""


class RankedSelectionFusion(nn.Module):
    """An aggregate of all modalities; those that are most and least like it are selected, and train on their own."""

    torch_names: ClassVar[Table] = Table(
        ("reference",),
        (
            ("fusion_{i}/aggregate/dw{k}", "conv", ("fusion.{i}.aggregate.dw{k}",)),
            ("fusion_{i}/aggregate/point", "point", ("fusion.{i}.aggregate.point",)),
        ),
    )

    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "batch modality height width channels"],
        available: Bool[Array, "batch modality height width"],
        subset: Int[Array, " modality"] | None = None,
        drawn: Drawn | None = None,
    ) -> Fused:
        """Return the aggregate, the selected modalities' mean as second branch, and the loss "alignment"."""
        del subset, drawn  # it treats all modalities alike, and draws none
        features = features.astype(self.dtype)
        shares = equal_shares(available)
        mean = mix(by_modality(shares[..., None]), features)
        spread, point = Projector(features.shape[-1], name="aggregate")()
        aggregate = mean + linear(depthwise(mean, spread.astype(self.dtype)), point.astype(self.dtype))

        likeness = masked_mean(_cosine(features, aggregate[:, None]), available, (2, 3))
        present = available.any((2, 3))
        robust = jnp.where(present, likeness, -jnp.inf).argmax(1)
        fragile = jnp.where(present, likeness, jnp.inf).argmin(1)
        both = jnp.stack([robust, fragile])
        chosen, seen = (jax.vmap(lambda i, x=x: take_drawn(x, i))(both) for x in (features, available[..., None]))
        # Where neither of the two sees a position, it is the aggregate that has to answer there.
        total = jnp.where(seen, chosen, jnp.zeros((), self.dtype)).sum(0)
        selected = total / jnp.maximum(seen.sum(0), 1).astype(self.dtype)
        selected = jnp.where(seen.any(0), selected, aggregate)

        rest = present & (jnp.arange(present.shape[1]) != robust[:, None])
        distance = 1.0 - masked_mean(_cosine(features, lax.stop_gradient(aggregate)[:, None]), available, (2, 3))
        losses = {"alignment": masked_mean(distance, rest, (1,))}
        return Fused(aggregate, shares, Second(selected, available.any(1)), losses)


def _cosine(x: Float[Array, "*#any channels"], y: Float[Array, "*#any channels"]) -> Float[Array, "*#any"]:
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    lengths = (jnp.square(x).sum(-1) + EPSILON) * (jnp.square(y).sum(-1) + EPSILON)
    return (x * y).sum(-1) * lax.rsqrt(lengths)
