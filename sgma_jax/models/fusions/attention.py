"""Pieces of attention over modalities, which several fusions share."""

from __future__ import annotations

import functools
import operator

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from sgma_jax.modalities import by_modality
from sgma_jax.models.layers import Kernel

projection_init = nn.initializers.xavier_uniform()  # [C] as PyTorch's multi-head attention
_depthwise_init = nn.initializers.variance_scaling(
    1 / 3, "fan_in", "uniform", in_axis=(0, 1, 2), out_axis=()
)  # [C] as PyTorch's


class AttentionKernels(nn.Module):
    """The four projections of a multi-head attention, without biases [D]."""

    channels: int

    @nn.compact
    def __call__(self) -> dict[str, Float[Array, "channels channels"]]:
        shape = (self.channels, self.channels)
        return {name: Kernel(shape, projection_init, name=name)() for name in ("query", "key", "value", "out")}


class Projector(nn.Module):
    """Modality-specific projector: the sum of depthwise convolutions, then a pointwise one [P]; no biases [D]."""

    channels: int
    sizes: tuple[int, ...] = (11, 7, 3)

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "largest largest channels"], Float[Array, "channels channels"]]:
        """Return the two kernels that it comes down to.

        Convolutions of one input add up as one of the largest kernel does [D].
        """
        largest = max(self.sizes)
        merged = jnp.zeros((largest, largest, self.channels), jnp.float32)
        for size in self.sizes:
            kernel = Kernel((size, size, 1, self.channels), _depthwise_init, name=f"dw{size}")()[:, :, 0]
            margin = (largest - size) // 2
            merged = merged + jnp.pad(kernel, ((margin, margin), (margin, margin), (0, 0)))
        point = Kernel((self.channels, self.channels), projection_init, name="point")()
        return merged, point


def default_heads(channels: int) -> int:
    """[C] Return eight attention heads, or fewer where that would leave fewer than 8 channels to a head."""
    return 8 if channels >= 64 else channels // 8


def mix(
    weights: list[Float[Array, "batch height width heads"]],
    values: Float[Array, "batch modality height width channels"],
) -> Float[Array, "batch height width channels"]:
    """Return the sum over modalities of the values, each head's channels weighted by that head's weight."""
    heads = weights[0].shape[-1]
    by_head = by_modality(values.reshape(*values.shape[:-1], heads, values.shape[-1] // heads))
    weighted = [v * w[..., None].astype(v.dtype) for v, w in zip(by_head, weights, strict=True)]
    return functools.reduce(operator.add, weighted).reshape(values.shape[0], *values.shape[2:])


def mean_over_heads(
    weights: list[Float[Array, "batch height width heads"]],
) -> Float[Array, "batch modality height width"]:
    """Return the robustness: what attention gives each modality, over all heads [C]."""
    return jnp.stack([w.mean(-1) for w in weights], 1)
