"""Fusions to compare with: concatenation, ranked selection (after MAGIC), a fusion token with its losses (after
IMLT).

Reimplemented from the published descriptions on our encoder and head; experiments/baselines/ says of each what it is
after and what was simplified. All choices here are [C]. Each is called as SemanticGuidedFusion is, but knows no
drawn modality.
"""

from __future__ import annotations

import math
from itertools import combinations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sgma_jax.config import ConcatenationFusionConfig, FusionTokenConfig
from sgma_jax.modalities import by_modality, softmax_over_modalities, take_drawn
from sgma_jax.models.fusions.semantic_guided import (
    AttentionKernels,
    Fused,
    Projector,
    default_heads,
    equal_shares,
    mean_over_heads,
    mix,
    projection_init,
)
from sgma_jax.models.layers import Kernel, depthwise, linear

EPSILON = 1e-6
"""Smallest squared length in a cosine, and smallest variance in a normalisation."""
FAR = -1e9
"""Score of a position that takes no part."""


class ConcatenationFusion(nn.Module):
    """All sensors' features side by side through one 1 x 1 convolution; a stand-in where a sensor is absent."""

    config: ConcatenationFusionConfig
    modalities: tuple[str, ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "batch modality height width channels"],
        available: Bool[Array, "batch modality height width"],
        subset: Int[Array, " modality"] | None = None,
    ) -> Fused:
        """Fuse the modalities along axis 1; those that `subset` leaves out are absent everywhere."""
        channels = features.shape[-1]
        # A 1 x 1 convolution of a concatenation is a sum of 1 x 1 convolutions, one a sensor; they begin as the one
        # would, by Xavier's rule.
        initializer = nn.initializers.variance_scaling(2 / (len(self.modalities) + 1), "fan_avg", "uniform")
        kernels = jnp.stack([Kernel((channels, channels), initializer, name=f"linear_{m}")() for m in self.modalities])
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        absent = jnp.zeros((len(self.modalities), channels))
        if self.config.absent == "learned":
            absent = jnp.stack(
                [
                    self.param(f"stand_in_{m}", nn.initializers.normal(0.02), (channels,), jnp.float32)
                    for m in self.modalities
                ]
            )
        of_absent = jnp.einsum("mc,mcd->md", absent, kernels).astype(self.dtype)
        here = jnp.arange(len(self.modalities)) if subset is None else subset
        # Everything begins absent, and each sensor that a position has replaces its stand-in.
        fused = (of_absent.sum(0) + bias).astype(self.dtype)
        mapped = jnp.einsum("bmhwc,mcd->bmhwd", features.astype(self.dtype), kernels[here].astype(self.dtype))
        gained = jnp.where(available[..., None], mapped - of_absent[here][:, None, None, :], jnp.zeros((), self.dtype))
        return Fused(fused + gained.sum(1), None, equal_shares(available))


class RankedSelectionFusion(nn.Module):
    """An aggregate of all sensors; the sensors that are most and least like it are selected, and train on their own."""

    dtype: jnp.dtype
    unroll: bool = False
    """Compile without loops, for the compiler's cost analysis."""

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "batch modality height width channels"],
        available: Bool[Array, "batch modality height width"],
        subset: Int[Array, " modality"] | None = None,
    ) -> Fused:
        """The aggregate as features, the selected sensors' mean as `drawn_features`, and the loss "alignment"."""
        del subset  # it treats all sensors alike
        features = features.astype(self.dtype)
        shares = equal_shares(available)
        mean = mix(by_modality(shares[..., None]), features)
        spread, point = Projector(features.shape[-1], name="aggregate")()
        aggregate = mean + linear(depthwise(mean, spread.astype(self.dtype), self.unroll), point.astype(self.dtype))

        likeness = _over_positions(_cosine(features, aggregate[:, None]), available)
        present = available.any((2, 3))
        robust = jnp.where(present, likeness, -jnp.inf).argmax(1)
        fragile = jnp.where(present, likeness, jnp.inf).argmin(1)
        both = jnp.stack([robust, fragile])
        chosen, seen = (jax.vmap(lambda i, x=x: take_drawn(x, i))(both) for x in (features, available[..., None]))
        # Where neither of the two sees a position, it is the aggregate that has to answer there.
        selected = jnp.where(seen, chosen, jnp.zeros((), self.dtype)).sum(0) / jnp.maximum(seen.sum(0), 1).astype(
            self.dtype
        )
        selected = jnp.where(seen.any(0), selected, aggregate)

        rest = present & (jnp.arange(present.shape[1]) != robust[:, None])
        distance = 1.0 - _over_positions(_cosine(features, lax.stop_gradient(aggregate)[:, None]), available)
        return Fused(aggregate, selected, shares, {"alignment": _mean(distance, rest, (1,))})


class FusionToken(nn.Module):
    """A learned token asks, at every pixel, the available sensors: multi-head attention with one query for all
    positions."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "batch modality height width channels"],
        available: Bool[Array, "batch modality height width"],
        subset: Int[Array, " modality"] | None = None,
    ) -> Fused:
        """What the token gathered; the attention weights, averaged over heads, are the robustness."""
        del subset  # it treats all sensors alike
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
        return Fused(fused, None, mean_over_heads(weights))


class ContrastAndReconstruction(nn.Module):
    """The losses that align sensors: the same place looks alike in any two of them, and the fused map tells what is
    missing."""

    config: FusionTokenConfig
    modalities: tuple[str, ...]

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "batch modality height width channels"],
        fused: Float[Array, "batch height width channels"],
        recorded: Bool[Array, "batch modality height width"],
        kept: Bool[Array, "batch modality height width"],
    ) -> dict[str, Float[Array, " batch"]]:
        """The losses "contrast" and "reconstruction" of each sample, at one scale, in float32.

        `recorded` is what the record has, `kept` what modality dropout left of it. Contrast (InfoNCE, both ways): of
        all positions of a sample, the same one in the other sensor is the right one. Reconstruction: mean squared
        error of the dropped sensors' features, normalised per position, from the fused map.
        """
        channels = features.shape[-1]
        features, fused = features.astype(jnp.float32), fused.astype(jnp.float32)
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
        contrast = _mean(jnp.stack(pairs, 1), jnp.stack(counts, 1), (1, 2)) if pairs else jnp.zeros(features.shape[0])

        kernels = jnp.stack(
            [Kernel((channels, channels), projection_init, name=f"reconstruct_{m}")() for m in self.modalities]
        )
        guessed = jnp.einsum("bhwc,mcd->bmhwd", fused, kernels)
        target = lax.stop_gradient(features)
        target = target - target.mean(-1, keepdims=True)
        target = target * lax.rsqrt(jnp.square(target).mean(-1, keepdims=True) + EPSILON)
        dropped = recorded & ~kept & kept.any(1, keepdims=True)
        reconstruction = _mean(jnp.square(guessed - target).mean(-1), dropped, (1, 2, 3))
        return {"contrast": contrast, "reconstruction": reconstruction}


def _cosine(x: Float[Array, "*any channels"], y: Float[Array, "*any channels"]) -> Float[Array, "*any"]:
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    lengths = (jnp.square(x).sum(-1) + EPSILON) * (jnp.square(y).sum(-1) + EPSILON)
    return (x * y).sum(-1) * lax.rsqrt(lengths)


def _over_positions(
    values: Float[Array, "batch modality height width"], mask: Bool[Array, "batch modality height width"]
) -> Array:
    return _mean(values, mask, (2, 3))


def _mean(values: Float[Array, "..."], mask: Bool[Array, "..."], axes: tuple[int, ...]) -> Array:
    """Mean where the mask holds; 0 where it holds nowhere."""
    return jnp.where(mask, values, 0.0).sum(axes) / jnp.maximum(mask.sum(axes), 1)
