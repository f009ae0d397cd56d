"""A fusion token with its losses, after IMLT (arXiv 2304.11381).

Reimplemented from the published description on our encoder and head; experiments/baselines/ says what was simplified.
All choices here are [C].
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sgma_jax.availability import Availability
from sgma_jax.kinds import FusionTokenConfig
from sgma_jax.modalities import by_modality, softmax_over_modalities
from sgma_jax.models.fusions.attention import AttentionKernels, default_heads, mean_over_heads, mix, projection_init
from sgma_jax.models.fusions.fused import Drawn, Fused
from sgma_jax.models.layers import Kernel, linear, masked_mean
from sgma_jax.models.torch_table import Table, attention

EPSILON = 1e-6
"""Smallest squared length of an embedding, and smallest variance in a normalisation."""
FAR = -1e9
"""Score of a position that takes no part."""
CONTRASTED = 256
"""Most positions among which modalities are contrasted, which costs positions squared.

The finest scale that has no more is taken.
"""


class FusionToken(nn.Module):
    """A learned token asks, at every pixel, the available modalities: attention with one query for all positions."""

    torch_names: ClassVar[Table] = Table(
        ("reference",),
        (
            *attention("fusion_{i}/attention", "fusion.{i}.attention"),
            ("fusion_{i}/token", "vector", ("fusion.{i}.token",)),
            ("alignment/embed", "linear", ("alignment.embed",)),
            ("alignment/reconstruct_{m}", "linear", ("alignment.reconstruct.{m}",)),
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
        """Return what the token gathered; the attention weights, averaged over heads, are the robustness."""
        del subset, drawn  # it treats all modalities alike, and draws none
        channels = features.shape[-1]
        heads = default_heads(channels)
        width = channels // heads
        features = features.astype(self.dtype)
        kernels = {k: v.astype(self.dtype) for k, v in AttentionKernels(channels, name="attention")().items()}
        token = self.param("token", nn.initializers.normal(0.02), (channels,), jnp.float32).astype(self.dtype)
        query = (token @ kernels["query"]).reshape(heads, width) / math.sqrt(width)
        # The query is the same everywhere, so it absorbs the key projection: one vector a head.
        absorbed = jnp.einsum("hd,chd->hc", query, kernels["key"].reshape(channels, heads, width))
        scores = jnp.einsum("bmyxc,hc->bmyxh", features, absorbed)
        weights = softmax_over_modalities(by_modality(scores.astype(jnp.float32)), by_modality(available[..., None]))
        fused = linear(mix(weights, linear(features, kernels["value"])), kernels["out"])
        return Fused(fused, mean_over_heads(weights))


class ContrastAndReconstruction(nn.Module):
    """The losses that align modalities.

    The same place looks alike in any two of them, and the fused map tells what is missing.
    """

    config: FusionTokenConfig
    modalities: tuple[str, ...]

    @nn.compact
    def __call__(
        self, maps: list[Array], fused: list[Fused], recorded: Availability, kept: Availability
    ) -> dict[str, Float[Array, " batch"]]:
        """Return the losses "contrast" and "reconstruction" of each sample, at one scale, in float32.

        `recorded` is what the record has, `kept` what modality dropout left of it. Contrast (InfoNCE, both ways): of
        all positions of a sample, the same one in the other modality is the right one. Reconstruction: mean squared
        error of the dropped modalities' features, normalised per position, from the fused map.
        """
        scale = next((i for i, m in enumerate(maps) if m.shape[2] * m.shape[3] <= CONTRASTED), len(maps) - 1)
        features = maps[scale].astype(jnp.float32)
        in_record, left = recorded.scales[scale], kept.scales[scale]
        return {
            "contrast": self._contrast(features, in_record),
            "reconstruction": self._reconstruction(features, fused[scale].features, in_record, left),
        }

    def _contrast(
        self,
        features: Float[Array, "batch modality height width channels"],
        recorded: Bool[Array, "batch modality height width"],
    ) -> Float[Array, " batch"]:
        channels = features.shape[-1]
        embed = Kernel((channels, channels), projection_init, name="embed")()
        flat = recorded.reshape(*recorded.shape[:2], -1)
        embedded = linear(features, embed).reshape(*flat.shape, channels)
        embedded = embedded * lax.rsqrt(jnp.square(embedded).sum(-1, keepdims=True) + EPSILON)
        pairs, counts = [], []
        for i, j in combinations(range(len(self.modalities)), 2):
            both = flat[:, i] & flat[:, j]
            logits = jnp.einsum("bpc,bqc->bpq", embedded[:, i], embedded[:, j]) / self.config.temperature
            for scores in (logits, jnp.swapaxes(logits, 1, 2)):
                among = jax.nn.logsumexp(jnp.where(both[:, None, :], scores, FAR), axis=2)
                pairs.append(among - jnp.diagonal(scores, axis1=1, axis2=2))
                counts.append(both)
        if not pairs:
            return jnp.zeros(features.shape[0])
        return masked_mean(jnp.stack(pairs, 1), jnp.stack(counts, 1), (1, 2))

    def _reconstruction(
        self,
        features: Float[Array, "batch modality height width channels"],
        fused: Float[Array, "batch height width channels"],
        recorded: Bool[Array, "batch modality height width"],
        kept: Bool[Array, "batch modality height width"],
    ) -> Float[Array, " batch"]:
        shape = (features.shape[-1],) * 2
        kernels = jnp.stack([Kernel(shape, projection_init, name=f"reconstruct_{m}")() for m in self.modalities])
        guessed = jnp.einsum("bhwc,mcd->bmhwd", fused.astype(jnp.float32), kernels)
        target = lax.stop_gradient(features)
        target = target - target.mean(-1, keepdims=True)
        target = target * lax.rsqrt(jnp.square(target).mean(-1, keepdims=True) + EPSILON)
        dropped = recorded & ~kept & kept.any(1, keepdims=True)
        return masked_mean(jnp.square(guessed - target).mean(-1), dropped, (1, 2, 3))
