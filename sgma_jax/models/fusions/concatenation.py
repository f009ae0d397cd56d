"""Concatenation of all modalities, as M3L fuses them (arXiv 2304.10756).

Reimplemented from the published description on our encoder and head; experiments/baselines/ says what was simplified.
All choices here are [C].
"""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sgma_jax.kinds import ConcatenationFusionConfig
from sgma_jax.models.fusions.fused import Drawn, Fused, equal_shares
from sgma_jax.models.layers import Kernel
from sgma_jax.models.torch_table import Table


class ConcatenationFusion(nn.Module):
    """All modalities' features side by side through one 1 x 1 convolution; a stand-in where a modality is absent."""

    torch_names: ClassVar[Table] = Table(
        ("reference",),
        (
            ("fusion_{i}/linear_{m}", "point", ("fusion.{i}.linear.{m}",)),
            ("fusion_{i}", "norm", ("fusion.{i}",)),
            ("fusion_{i}/stand_in_{m}", "vector", ("fusion.{i}.stand_in.{m}",)),
        ),
    )

    config: ConcatenationFusionConfig
    modalities: tuple[str, ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "batch modality height width channels"],
        available: Bool[Array, "batch modality height width"],
        subset: Int[Array, " modality"] | None = None,
        drawn: Drawn | None = None,
    ) -> Fused:
        """Fuse the modalities along axis 1; those that `subset` leaves out are absent everywhere."""
        del drawn
        channels, number = features.shape[-1], len(self.modalities)
        # A 1 x 1 convolution of a concatenation is a sum of 1 x 1 convolutions, one a modality; they begin as the one
        # would, by Xavier's rule.
        initializer = nn.initializers.variance_scaling(2 / (number + 1), "fan_avg", "uniform")
        kernels = jnp.stack([Kernel((channels, channels), initializer, name=f"linear_{m}")() for m in self.modalities])
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        absent = jnp.zeros((number, channels))
        if self.config.absent == "learned":
            begin = nn.initializers.normal(0.02)
            vectors = [self.param(f"stand_in_{m}", begin, (channels,), jnp.float32) for m in self.modalities]
            absent = jnp.stack(vectors)
        of_absent = jnp.einsum("mc,mcd->md", absent, kernels).astype(self.dtype)
        here = jnp.arange(number) if subset is None else subset
        # Everything begins absent, and each modality that a position has replaces its stand-in.
        fused = (of_absent.sum(0) + bias).astype(self.dtype)
        mapped = jnp.einsum("bmhwc,mcd->bmhwd", features.astype(self.dtype), kernels[here].astype(self.dtype))
        gained = jnp.where(available[..., None], mapped - of_absent[here][:, None, None, :], jnp.zeros((), self.dtype))
        return Fused(fused + gained.sum(1), equal_shares(available))
