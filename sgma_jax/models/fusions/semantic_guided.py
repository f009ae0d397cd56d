"""Semantic-Guided Fusion: one fused map and one robustness map per modality, at one scale.

Section III of arXiv 2603.02505. Tags: [P] the paper, [D] derived, [C] our choice.
The module computes the cheap exact form [D] of docs/method.md.
The naive form, written plainly, is the oracle in experiments/benchmarks/naive_fusion.py.
"""

from __future__ import annotations

import functools
import math
from dataclasses import field
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sgma_jax.availability import take_drawn
from sgma_jax.kinds import SemanticGuidedFusionConfig
from sgma_jax.modalities import by_modality, softmax_over_modalities
from sgma_jax.models.cpu import in_chunks
from sgma_jax.models.devices import sum_over_rows
from sgma_jax.models.fusions.attention import (
    AttentionKernels,
    Projector,
    default_heads,
    mean_over_heads,
    mix,
    projection_init,
)
from sgma_jax.models.fusions.fused import Drawn, Fused, Second
from sgma_jax.models.layers import Kernel, depthwise, linear, masked_softmax
from sgma_jax.models.torch_table import Table, attention

MANY_CHANNELS = 16
"""[C] Channels per head above which sensors are mixed before their values are projected; below, the wider
intermediate takes longer."""


def semantic_prototypes(
    class_maps: Float[Array, "batch modality height width classes"],
    features: Float[Array, "batch modality height width channels"],
    available: Bool[Array, "batch modality height width"],
    norm: str,
) -> Float[Array, "batch classes channels"]:
    """Return one vector per class and sample: all modalities' features, weighted by the class's maps [P].

    [C] `norm="softmax"` makes the weights of a class sum to 1 over all positions; "none" takes the maps as they are.
    """
    mask = available[..., None]
    class_maps = class_maps.astype(jnp.float32)
    weights = masked_softmax(class_maps, mask, (1, 2, 3)) if norm == "softmax" else jnp.where(mask, class_maps, 0.0)
    # Positions are contracted here, so nothing of size pixels x classes x channels exists.
    prototypes = jnp.einsum("bmhwk,bmhwc->bkc", weights.astype(features.dtype), features)
    return sum_over_rows(prototypes.astype(jnp.float32)).astype(features.dtype)


def linear_by_modality(
    x: Float[Array, "batch modality height width inputs"], kernels: Float[Array, "modality inputs outputs"]
) -> Float[Array, "batch modality height width outputs"]:
    """Every modality through a linear map of its own: a batch of matrix products that leaves the axes in their
    order, which einsum does not."""
    batch, modalities, *_, inputs = x.shape
    by_map = jnp.broadcast_to(kernels, (batch, *kernels.shape)).reshape(batch * modalities, *kernels.shape[1:])
    return (x.reshape(batch * modalities, -1, inputs) @ by_map).reshape(*x.shape[:-1], kernels.shape[-1])


class SemanticGuidedFusion(nn.Module):
    """SGF at one scale [P], for any Flax network: each modality's features in, one map and robustness out.

    It works under `jit`, `vmap`, `jvp`, `grad` and `shard_map`, on any platform.
    """

    torch_names: ClassVar[Table] = Table(
        ("reference",),
        (
            ("fusion_{i}/projector_{m}/dw{k}", "conv", ("fusion.{i}.projectors.{m}.dw{k}",)),
            ("fusion_{i}/projector_{m}/point", "point", ("fusion.{i}.projectors.{m}.point",)),
            ("fusion_{i}/semantic_filter", "point", ("fusion.{i}.semantic_filter",)),
            ("fusion_{i}/semantic_filter_{m}", "point", ("fusion.{i}.semantic_filters.{m}",)),
            *attention("fusion_{i}/spatial", "fusion.{i}.spatial"),
            *attention("fusion_{i}/robustness", "fusion.{i}.robustness"),
        ),
    )

    config: SemanticGuidedFusionConfig = field(default_factory=SemanticGuidedFusionConfig)
    modalities: tuple[str, ...] = ()
    """Names of the modalities, in the order of the features' axis 1."""
    classes: int = 2
    """Semantic classes, each of which has a prototype."""
    dtype: jnp.dtype = jnp.dtype("float32")
    remat: bool = False
    """Keep only the projectors' convolutions for the gradient, and compute the rest again."""

    def heads(self, channels: int) -> int:
        """Return the attention heads of a scale."""
        return self.config.heads or default_heads(channels)

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "batch modality height width channels"],
        available: Bool[Array, "batch modality height width"],
        subset: Int[Array, " modality"] | None = None,
        drawn: Drawn | None = None,
    ) -> Fused:
        """Fuse the modalities along axis 1; `subset` says which of `self.modalities` they are (default: all, in order).

        A modality that a sample lacks changes nothing. Where one lacks some positions only, the projectors' kernels
        still read its features there, so let these depend on available pixels alone (blank the image before an
        encoder, as `Sgma` does). With `drawn` the second branch holds the features of one modality per sample, as if
        it were the only one (MAS).
        """
        channels = features.shape[-1]
        heads = self.heads(channels)
        features = features.astype(self.dtype)

        names = [f"projector_{modality}" for modality in self.modalities]
        kernels = [Projector(channels, self.config.kernel_sizes, name=name)() for name in names]
        depthwise_kernels, point_kernels = (jnp.stack(k).astype(self.dtype) for k in zip(*kernels, strict=True))
        if subset is not None:
            depthwise_kernels, point_kernels = depthwise_kernels[subset], point_kernels[subset]
        # [C] The filter reads the encoder's features, as the projector does; the paper's text leaves its input open.
        filter_kernel = self._filter_kernel(channels, subset)
        spatial = {k: v.astype(self.dtype) for k, v in AttentionKernels(channels, name="spatial")().items()}
        robust = {k: v.astype(self.dtype) for k, v in AttentionKernels(channels, name="robustness")().items()}

        spread = depthwise(features, depthwise_kernels)  # one call for all modalities
        # Two projections in a row are one [D]; their product pays where the positions outnumber the channels.
        positions = len(features) * features.shape[2] * features.shape[3]
        merged = positions > channels
        to_query = (spatial["out"] @ robust["query"],) if merged else (spatial["out"], robust["query"])

        def fuse(samples: tuple[Array, Array, Array, Drawn | None]) -> tuple[Array, Array, Array | None]:
            features, spread, available, drawn = samples
            semantic = linear_by_modality(spread, point_kernels)
            by_class = linear if filter_kernel.ndim == 2 else linear_by_modality
            class_maps = by_class(features, filter_kernel)
            prototypes = semantic_prototypes(class_maps, semantic, available, self.config.prototype_norm)
            query = _spatial_perceptron(prototypes, semantic, available, spatial, to_query, heads)
            weights = _robustness_weights(query, linear(semantic, robust["key"]), available, heads)
            fused = linear(_mixed_values(weights, semantic, robust["value"]), robust["out"])
            alone = None
            if drawn is not None:
                # With one modality both softmaxes are 1, so SGF is its value and output projection [D].
                own = take_drawn(semantic, drawn.modality)
                own = jnp.where(drawn.sees[..., None], own, jnp.zeros((), semantic.dtype))
                alone = linear(linear(own, robust["value"]), robust["out"])
            return fused, mean_over_heads(weights), alone

        if self.remat:
            fuse = jax.checkpoint(fuse)
        bytes_each = math.prod(features.shape[1:4]) * max(channels, self.classes * heads) * 4
        fused, robustness, alone = in_chunks(fuse, (features, spread, available, drawn), bytes_each)
        return Fused(fused, robustness, None if drawn is None else Second(alone, drawn.sees))

    def _filter_kernel(self, channels: int, subset: Array | None) -> Float[Array, "*modality channels classes"]:
        """Return the class-aware filter's kernel: one [P], or one per modality."""
        shape = (channels, self.classes)
        if self.config.semantic_filter == "shared":
            return Kernel(shape, projection_init, name="semantic_filter")().astype(self.dtype)
        kernels = jnp.stack(
            [Kernel(shape, projection_init, name=f"semantic_filter_{modality}")() for modality in self.modalities]
        )
        return (kernels if subset is None else kernels[subset]).astype(self.dtype)


def _spatial_perceptron(
    prototypes: Array,
    semantic: Array,
    available: Array,
    kernels: dict[str, Array],
    to_query: tuple[Array, ...],
    heads: int,
) -> Float[Array, "batch height width channels"]:
    """Return the semantic reference, seen through `to_query` [P].

    Every prototype attends to the modalities of each pixel, and the mean over the prototypes is taken.
    It commutes with the mix of values and the projections behind it [D], so only mixing weights are averaged.
    """
    batch, classes, channels = prototypes.shape
    width = channels // heads
    query = (prototypes @ kernels["query"]).reshape(batch, classes, heads, width) / math.sqrt(width)
    key = kernels["key"].reshape(channels, heads, width)
    if classes * heads < channels + classes:
        # Fewer operations: absorb the key projection into the queries, classes x heads vectors per sample [D].
        absorbed = jnp.einsum("bkhd,chd->bkhc", query, key)
        scores = jnp.einsum("bmyxc,bkhc->bmyxkh", semantic, absorbed)
    else:
        scores = jnp.einsum("bmyxhd,bkhd->bmyxkh", jnp.einsum("bmyxc,chd->bmyxhd", semantic, key), query)
    weights = softmax_over_modalities(by_modality(scores.astype(jnp.float32)), by_modality(available[..., None, None]))
    # The mean over the classes as a matrix product, which is many times faster on CPU than a reduction over a
    # middle axis.
    means = jnp.tile(jnp.eye(heads) / classes, (classes, 1))
    weights = [jnp.matmul(w.reshape(*w.shape[:3], -1), means, precision=lax.Precision.HIGHEST) for w in weights]
    return functools.reduce(linear, to_query, _mixed_values(weights, semantic, kernels["value"]))


def _robustness_weights(
    query: Float[Array, "batch height width channels"],
    key: Float[Array, "batch modality height width channels"],
    available: Array,
    heads: int,
) -> list[Float[Array, "batch height width heads"]]:
    """Return the attention weights of each pixel's reference over its modalities [P]."""
    width = query.shape[-1] // heads
    query = query / math.sqrt(width)
    products = [(query * own).astype(jnp.float32) for own in by_modality(key)]
    scores = [p.reshape(*p.shape[:-1], heads, width).sum(-1) for p in products]
    return softmax_over_modalities(scores, by_modality(available[..., None]))


def _mixed_values(
    weights: list[Float[Array, "batch height width heads"]],
    semantic: Float[Array, "batch modality height width channels"],
    kernel: Float[Array, "channels channels"],
) -> Float[Array, "batch height width channels"]:
    """Return the sum over modalities of the projected values, each head's channels weighted by its weight."""
    modalities, channels, heads = semantic.shape[1], semantic.shape[-1], weights[0].shape[-1]
    if modalities == 1 or channels <= MANY_CHANNELS * heads:
        return mix(weights, linear(semantic, kernel))
    # Mixing first spares the projection of all modalities but one [D], and costs heads x channels numbers a pixel.
    mixed = jnp.einsum("bmyxh,bmyxc->byxhc", jnp.stack(weights, 1).astype(semantic.dtype), semantic)
    by_head = jnp.einsum("byxhc,chw->byxhw", mixed, kernel.reshape(channels, heads, channels // heads))
    return by_head.reshape(*mixed.shape[:3], channels)
