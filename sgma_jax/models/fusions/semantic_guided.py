"""Semantic-Guided Fusion: one fused map and one robustness map per sensor, at one scale.

Section III of arXiv 2603.02505. Tags: [P] the paper, [D] derived, [C] our choice. What is computed here is the cheap
exact form [D] of docs/method.md; the naive form, written plainly, is the oracle in
experiments/benchmarks/naive_fusion.py.
"""

from __future__ import annotations

import functools
import math
import operator
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sgma_jax.config import SemanticGuidedFusionConfig
from sgma_jax.modalities import by_modality, softmax_over_modalities, take_drawn
from sgma_jax.models.devices import sum_over_rows
from sgma_jax.models.layers import Kernel, depthwise, in_chunks, linear, masked_softmax

projection_init = nn.initializers.xavier_uniform()  # [C] as PyTorch's multi-head attention
_depthwise_init = nn.initializers.variance_scaling(
    1 / 3, "fan_in", "uniform", in_axis=(0, 1, 2), out_axis=()
)  # [C] as PyTorch's

MANY_CHANNELS = 16
"""[C] Channels per head above which sensors are mixed before their values are projected; below, the wider
intermediate takes longer."""


class Fused(NamedTuple):
    """What a fusion returns at one scale."""

    features: Float[Array, "batch height width channels"]
    drawn_features: Float[Array, "batch height width channels"] | None
    """Those of the drawn modality alone, as if it were the only one (MAS)."""
    robustness: Float[Array, "batch modality height width"]
    auxiliary: dict[str, Float[Array, " batch"]] | None = None
    """Losses that the fusion brings itself, each sample's own."""


def semantic_prototypes(
    class_maps: Float[Array, "batch modality height width classes"],
    features: Float[Array, "batch modality height width channels"],
    available: Bool[Array, "batch modality height width"],
    norm: str,
) -> Float[Array, "batch classes channels"]:
    """One vector per class and sample: the features of all available modalities, weighted by the class's maps [P].

    [C] `norm="softmax"` makes the weights of a class sum to 1 over all positions; "none" takes the maps as they are.
    """
    mask = available[..., None]
    class_maps = class_maps.astype(jnp.float32)
    weights = masked_softmax(class_maps, mask, (1, 2, 3)) if norm == "softmax" else jnp.where(mask, class_maps, 0.0)
    # Positions are contracted here, so nothing of size pixels x classes x channels exists.
    prototypes = jnp.einsum("bmhwk,bmhwc->bkc", weights.astype(features.dtype), features)
    return sum_over_rows(prototypes.astype(jnp.float32)).astype(features.dtype)


def default_heads(channels: int) -> int:
    """[C] Eight attention heads, or fewer where that would leave fewer than 8 channels to a head."""
    return 8 if channels >= 64 else channels // 8


def equal_shares(available: Bool[Array, "batch modality height width"]) -> Float[Array, "batch modality height width"]:
    """1 / n for each of the n modalities that a position has."""
    shares = available.astype(jnp.float32)
    return shares / jnp.maximum(shares.sum(1, keepdims=True), 1.0)


def linear_by_modality(
    x: Float[Array, "batch modality height width inputs"], kernels: Float[Array, "modality inputs outputs"]
) -> Float[Array, "batch modality height width outputs"]:
    """Every modality through a linear map of its own: a batch of matrix products that leaves the axes in their
    order, which einsum does not."""
    batch, modalities, *_, inputs = x.shape
    by_map = jnp.broadcast_to(kernels, (batch, *kernels.shape)).reshape(batch * modalities, *kernels.shape[1:])
    return (x.reshape(batch * modalities, -1, inputs) @ by_map).reshape(*x.shape[:-1], kernels.shape[-1])


class Projector(nn.Module):
    """Modality-specific projector: the sum of three depthwise convolutions, then a pointwise one [P]; no biases [D]."""

    channels: int
    sizes: tuple[int, ...] = (11, 7, 3)

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "largest largest channels"], Float[Array, "channels channels"]]:
        """The two kernels that it comes down to: convolutions of one input add up as one of the largest kernel does
        [D]."""
        largest = max(self.sizes)
        merged = jnp.zeros((largest, largest, self.channels), jnp.float32)
        for size in self.sizes:
            kernel = Kernel((size, size, 1, self.channels), _depthwise_init, name=f"dw{size}")()[:, :, 0]
            margin = (largest - size) // 2
            merged = merged + jnp.pad(kernel, ((margin, margin), (margin, margin), (0, 0)))
        point = Kernel((self.channels, self.channels), projection_init, name="point")()
        return merged, point


class AttentionKernels(nn.Module):
    """The four projections of a multi-head attention, without biases [D]."""

    channels: int

    @nn.compact
    def __call__(self) -> dict[str, Float[Array, "channels channels"]]:
        shape = (self.channels, self.channels)
        return {name: Kernel(shape, projection_init, name=name)() for name in ("query", "key", "value", "out")}


class SemanticGuidedFusion(nn.Module):
    """SGF at one scale [P]."""

    config: SemanticGuidedFusionConfig
    modalities: tuple[str, ...]
    classes: int
    dtype: jnp.dtype
    remat: bool = False
    """Keep only the projectors' convolutions for the gradient, and compute the rest again."""
    unroll: bool = False
    """Compile without loops, for the compiler's cost analysis."""

    def heads(self, channels: int) -> int:
        """Attention heads of the scale."""
        return self.config.heads or default_heads(channels)

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "batch modality height width channels"],
        available: Bool[Array, "batch modality height width"],
        subset: Int[Array, " modality"] | None = None,
        drawn: Int[Array, " batch"] | None = None,
        drawn_available: Bool[Array, "batch height width"] | None = None,
    ) -> Fused:
        """Fuse the modalities along axis 1; `subset` says which of `self.modalities` they are (default: all, in
        order)."""
        channels = features.shape[-1]
        heads = self.heads(channels)
        features = features.astype(self.dtype)

        kernels = [
            Projector(channels, self.config.kernel_sizes, name=f"projector_{modality}")()
            for modality in self.modalities
        ]
        depthwise_kernels, point_kernels = (jnp.stack(k).astype(self.dtype) for k in zip(*kernels, strict=True))
        if subset is not None:
            depthwise_kernels, point_kernels = depthwise_kernels[subset], point_kernels[subset]
        # [C] The filter reads the encoder's features, as the projector does; the paper's text leaves its input open.
        filter_kernel = self._filter_kernel(channels, subset)
        spatial = {k: v.astype(self.dtype) for k, v in AttentionKernels(channels, name="spatial")().items()}
        robust = {k: v.astype(self.dtype) for k, v in AttentionKernels(channels, name="robustness")().items()}

        spread = depthwise(features, depthwise_kernels, self.unroll)  # one call for all modalities
        # Two projections in a row are one [D], and their product is worth its while where the positions outnumber the
        # channels.
        positions = len(features) * features.shape[2] * features.shape[3]
        to_query = (spatial["out"] @ robust["query"],) if positions > channels else (spatial["out"], robust["query"])

        def fuse(samples: tuple[Array, Array, Array, Array | None, Array | None]) -> Fused:
            features, spread, available, drawn, drawn_available = samples
            semantic = linear_by_modality(spread, point_kernels)
            class_maps = (
                linear(features, filter_kernel)
                if filter_kernel.ndim == 2
                else linear_by_modality(features, filter_kernel)
            )
            prototypes = semantic_prototypes(class_maps, semantic, available, self.config.prototype_norm)
            query = self._spatial_perceptron(prototypes, semantic, available, spatial, to_query, heads)
            weights = _robustness_weights(query, linear(semantic, robust["key"]), available, heads)
            fused = linear(_mixed_values(weights, semantic, robust["value"]), robust["out"])
            drawn_fused = None
            if drawn is not None and drawn_available is not None:
                # With one sensor both softmaxes are 1, so SGF is value and output projection of that sensor [D].
                alone = jnp.where(
                    drawn_available[..., None], take_drawn(semantic, drawn), jnp.zeros((), semantic.dtype)
                )
                drawn_fused = linear(linear(alone, robust["value"]), robust["out"])
            return Fused(fused, drawn_fused, mean_over_heads(weights))

        if self.remat:
            fuse = jax.checkpoint(fuse)
        widest = max(channels, self.classes * heads) * 4
        fused_samples: Fused = in_chunks(
            fuse,
            (features, spread, available, drawn, drawn_available),
            math.prod(features.shape[1:4]) * widest,
            self.unroll,
        )
        return fused_samples

    def _filter_kernel(self, channels: int, subset: Array | None) -> Float[Array, "*modality channels classes"]:
        """The class-aware filter's kernel: one [P], or one per sensor."""
        shape = (channels, self.classes)
        if self.config.semantic_filter == "shared":
            return Kernel(shape, projection_init, name="semantic_filter")().astype(self.dtype)
        kernels = jnp.stack(
            [Kernel(shape, projection_init, name=f"semantic_filter_{modality}")() for modality in self.modalities]
        )
        return (kernels if subset is None else kernels[subset]).astype(self.dtype)

    def _spatial_perceptron(
        self,
        prototypes: Array,
        semantic: Array,
        available: Array,
        kernels: dict[str, Array],
        to_query: tuple[Array, ...],
        heads: int,
    ) -> Float[Array, "batch height width channels"]:
        """Semantic reference, seen through `to_query`: every prototype attends to the modalities of each pixel; the
        mean over the prototypes [P].

        The mean commutes with the mix of values and the projections behind it [D], so only mixing weights are
        averaged.
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
        weights = softmax_over_modalities(
            by_modality(scores.astype(jnp.float32)), by_modality(available[..., None, None])
        )
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
    """Attention weights of each pixel's reference over its modalities [P]."""
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
    """Sum over modalities of the projected values, each head's channels weighted by that head's weight."""
    modalities, channels, heads = semantic.shape[1], semantic.shape[-1], weights[0].shape[-1]
    if modalities == 1 or channels <= MANY_CHANNELS * heads:
        return mix(weights, linear(semantic, kernel))
    # Mixing first spares the projection of all modalities but one [D], and costs heads x channels numbers a pixel.
    mixed = jnp.einsum("bmyxh,bmyxc->byxhc", jnp.stack(weights, 1).astype(semantic.dtype), semantic)
    by_head = jnp.einsum("byxhc,chw->byxhw", mixed, kernel.reshape(channels, heads, channels // heads))
    return by_head.reshape(*mixed.shape[:3], channels)


def mix(
    weights: list[Float[Array, "batch height width heads"]],
    values: Float[Array, "batch modality height width channels"],
) -> Float[Array, "batch height width channels"]:
    """Sum over modalities of the values, each head's channels weighted by that head's weight."""
    heads = weights[0].shape[-1]
    by_head = by_modality(values.reshape(*values.shape[:-1], heads, values.shape[-1] // heads))
    total = functools.reduce(
        operator.add, [v * w[..., None].astype(v.dtype) for v, w in zip(by_head, weights, strict=True)]
    )
    return total.reshape(values.shape[0], *values.shape[2:])


def mean_over_heads(
    weights: list[Float[Array, "batch height width heads"]],
) -> Float[Array, "batch modality height width"]:
    """Robustness: what attention gives each modality, over all heads [C]."""
    return jnp.stack([w.mean(-1) for w in weights], 1)


class MeanFusion(nn.Module):
    """The mean over the available modalities: the paper's baseline row; every available modality counts as equally
    robust."""

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "batch modality height width channels"],
        available: Bool[Array, "batch modality height width"],
        subset: Int[Array, " modality"] | None = None,
        drawn: Int[Array, " batch"] | None = None,
        drawn_available: Bool[Array, "batch height width"] | None = None,
    ) -> Fused:
        """As SemanticGuidedFusion; it has no parameters, so `subset` changes nothing."""
        del subset
        share = equal_shares(available)
        fused = mix(by_modality(share[..., None]), features)
        drawn_fused = None
        if drawn is not None and drawn_available is not None:
            drawn_fused = jnp.where(
                drawn_available[..., None], take_drawn(features, drawn), jnp.zeros((), features.dtype)
            )
        return Fused(fused, drawn_fused, share)
