"""Layers that Flax lacks or that must match PyTorch exactly: convolutions, masked BatchNorm, stochastic depth, resize.

Plain JAX, the same for every platform; `cpu.py` has the forms that a CPU computes two of the convolutions by.
"""

from __future__ import annotations

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from sgma_jax.models import cpu
from sgma_jax.models.bilinear import bilinear
from sgma_jax.models.devices import (
    draw_for_samples,
    max_over_rows,
    rows_are_shared,
    sum_over_devices,
    sum_over_rows,
    with_halo,
)

# PyTorch's nn.LayerNorm default; Flax's is 1e-6. PVT-v2 mixes both, so every use names its own.
TORCH_LAYER_NORM_EPSILON = 1e-5


def masked_softmax(
    scores: Float[Array, "..."], mask: Bool[Array, "..."], axis: int | tuple[int, ...]
) -> Float[Array, "..."]:
    """Return the softmax over `axis` where the mask holds: exactly 0 elsewhere, all 0 where it holds nowhere.

    Finite in value and gradient for every mask, as long as the scores are finite. `axis` includes the image rows
    where devices share them; over the modalities alone it is `modalities.softmax_over_modalities`.
    """
    highest = lax.stop_gradient(jnp.max(scores, axis=axis, keepdims=True, where=mask, initial=-jnp.inf))
    highest = max_over_rows(highest)
    highest = jnp.where(jnp.isfinite(highest), highest, 0.0)
    weights = jnp.where(mask, jnp.exp(jnp.where(mask, scores - highest, 0.0)), 0.0)
    total = sum_over_rows(jnp.sum(weights, axis=axis, keepdims=True))
    return weights / jnp.where(total > 0, total, 1.0)


def masked_mean(values: Float[Array, "..."], mask: Bool[Array, "..."], axes: tuple[int, ...]) -> Float[Array, "..."]:
    """Return the mean over the axes where the mask holds; 0 where it holds nowhere."""
    return jnp.where(mask, values, 0.0).sum(axes) / jnp.maximum(mask.sum(axes), 1)


# --- linear maps and strided convolutions -----------------------------------------------------------------------------


def linear(
    x: Float[Array, "*positions inputs"], kernel: Float[Array, "inputs outputs"]
) -> Float[Array, "*positions outputs"]:
    """Return `x @ kernel`, computed with the positions in one axis.

    On CPU the kernel's gradient is four times faster so (docs/benchmarks.md).
    """
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def with_row_margin(
    x: Float[Array, "*batch rows width channels"],
    size: int,
    stride: int,
    padding: int,
    border: Literal["constant", "edge"] = "constant",
) -> tuple[Array, tuple[int, int]]:
    """Return `x` and the rows (above, below) of padding that a window of `size` rows, moved by `stride`, still needs.

    A strip of an image comes back with the rows of its neighbours, and needs none. `border` is as for `with_halo`.
    """
    if not rows_are_shared():
        return x, (padding, padding)
    return with_halo(x, padding, max(size - stride - padding, 0), border), (0, 0)


def _strided(x: Array, kernel: Array, *, stride: int, margins: tuple[int, int], padding: int) -> Array:
    margin = (margins, (padding, padding))
    return lax.conv_general_dilated(x, kernel, (stride, stride), margin, dimension_numbers=("NHWC", "HWIO", "NHWC"))


_strided_convolution = bilinear(
    "strided_convolution",
    _strided,
    cpu.strided_convolution,
    cpu.strided_convolution_by_input,
    cpu.strided_convolution_by_kernel,
)


def strided_convolution(
    x: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "rows columns inputs outputs"],
    stride: int,
    padding: int,
) -> Float[Array, "batch coarse_height coarse_width outputs"]:
    """Return a convolution with `padding` zeros around, as PyTorch's."""
    x, margins = with_row_margin(x, kernel.shape[0], stride, padding)
    out: Array = _strided_convolution(x, kernel, stride=stride, margins=margins, padding=padding)
    return out


def gelu(x: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """Return x times the normal distribution's function, as PyTorch computes it.

    `jax.nn.gelu` goes by erfc, which costs several times as much.
    Only x is kept for the gradient: computing the rest again is cheaper than moving it through memory.
    """
    return jax.checkpoint(lambda y: 0.5 * y * (1.0 + lax.erf(y * math.sqrt(0.5))))(x)


def _grouped(x: Array, kernel: Array, *, margins: tuple[int, int]) -> Array:
    if x.ndim == 5:  # one convolution over group x channels
        batch, group, height, width, channels = x.shape
        side_by_side = jnp.moveaxis(x, 1, 3).reshape(batch, height, width, group * channels)
        kernels = jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], group * channels)
        out = _grouped(side_by_side, kernels, margins=margins)
        return jnp.moveaxis(out.reshape(batch, -1, width, group, channels), 3, 1)
    margin = (margins, (kernel.shape[1] // 2,) * 2)
    layout, groups = ("NHWC", "HWIO", "NHWC"), x.shape[-1]
    kernel = kernel[:, :, None, :]
    return lax.conv_general_dilated(x, kernel, (1, 1), margin, dimension_numbers=layout, feature_group_count=groups)


_depthwise = bilinear("depthwise", _grouped, cpu.depthwise, cpu.depthwise_by_input, cpu.depthwise_by_kernel)


def depthwise(
    x: Float[Array, "batch *group height width channels"], kernel: Float[Array, "*group rows columns channels"]
) -> Float[Array, "batch *group height width channels"]:
    """Return the depthwise convolution of stride 1 with zeros around; kernels are odd, and each group has its own."""
    x, margins = with_row_margin(x, kernel.shape[-3], 1, kernel.shape[-3] // 2)
    out: Array = _depthwise(x, kernel, margins=margins)
    return out


def drop_path_factors(key: Array, rates: Float[Array, " branch"], batch: int) -> Float[Array, "branch batch"]:
    """Return the factors of stochastic depth: 0 with probability `rate`, else 1 / (1 - rate), per branch and sample.

    All branches are drawn at once: a draw for each would be a seventh of what a training step compiles.
    """
    keep = 1.0 - rates[:, None]
    return jnp.where(keep > draw_for_samples(key, batch, (len(rates),)).T, 1.0 / keep, 0.0)


def drop_channels(
    x: Float[Array, "batch height width channels"], rate: float, key: Array
) -> Float[Array, "batch height width channels"]:
    """Drop whole channels of each sample with probability `rate`; the others are scaled by 1 / (1 - rate)."""
    kept = draw_for_samples(key, x.shape[0], (1, 1, x.shape[3])) >= rate
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros((), x.dtype))


# --- modules ----------------------------------------------------------------------------------------------------------


class Kernel(nn.Module):
    """A parameter named `kernel` at a path of its own, for weights that several operations share or merge."""

    shape: tuple[int, ...]
    initializer: nn.initializers.Initializer

    @nn.compact
    def __call__(self) -> Array:
        return self.param("kernel", self.initializer, self.shape, jnp.float32)


class Linear(nn.Module):
    """`nn.Dense` by `linear`: parameters `kernel` and `bias`."""

    outputs: int
    initializer: nn.initializers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.initializer, (x.shape[-1], self.outputs), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.outputs,), jnp.float32)
        return linear(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)


class StridedConvolution(nn.Module):
    """`nn.Conv` by `strided_convolution`: parameters `kernel` and `bias`."""

    outputs: int
    size: int
    stride: int
    padding: int
    initializer: nn.initializers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.initializer, (self.size, self.size, x.shape[-1], self.outputs), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.outputs,), jnp.float32)
        return strided_convolution(
            x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.padding
        ) + bias.astype(self.dtype)


class MaskedBatchNorm(nn.Module):
    """BatchNorm whose statistics see only the positions where the mask holds, on all devices; as PyTorch's, its
    running variance is unbiased.

    [C] One position or none has no variance, which PyTorch refuses: such a batch is normalised by the running
    statistics and leaves them as they are.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], mask: Bool[Array, "batch height width"], train: bool
    ) -> Float[Array, "batch height width channels"]:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        wide = x.astype(jnp.float32)
        if train:
            weight = mask[..., None].astype(jnp.float32)
            positions = sum_over_devices(weight.sum())
            count = jnp.maximum(positions, 2.0)
            mean = sum_over_devices((wide * weight).sum((0, 1, 2))) / count
            # Two passes: E[x^2] - E[x]^2 cancels in float32 and differs from PyTorch.
            var = sum_over_devices((jnp.square(wide - mean) * weight).sum((0, 1, 2))) / count
            enough = positions >= 2
            mean, unbiased = (
                jnp.where(enough, mean, running_mean.value),
                jnp.where(enough, var * count / (count - 1.0), running_var.value),
            )
            var = jnp.where(enough, var, running_var.value)
            if not self.is_initializing():
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        return ((wide - mean) * (lax.rsqrt(var + self.epsilon) * scale) + bias).astype(x.dtype)


def resize(x: Float[Array, "batch height width channels"], height: int, width: int) -> Array:
    """Bilinear resize as PyTorch's `interpolate(mode="bilinear", align_corners=False)`: half-pixel centres, no
    antialiasing."""
    if x.shape[1:3] == (height, width):
        return x
    if rows_are_shared():  # a strip grows by a whole factor, because strips are multiples of the coarsest stride
        factor = height // x.shape[1]
        extended = with_halo(x, 1, 1, "edge")
        return _resize(extended, factor * extended.shape[1], width)[:, factor:-factor]
    return _resize(x, height, width)


def _resize(x: Array, height: int, width: int) -> Array:
    batch, rows, columns, channels = x.shape
    if channels < columns:
        return jax.image.resize(x, (batch, height, width, channels), "bilinear", antialias=False)
    # Two matrix products that leave the axes in their order, the matrix repeated along the batch: jax.image.resize
    # moves the axes about, which takes three times as long on CPU (docs/benchmarks.md). With few channels the repeated
    # matrix would be larger than the map.

    def along(y: Array, size: int) -> Array:
        matrix = jax.image.resize(jnp.eye(y.shape[1]), (size, y.shape[1]), "bilinear", antialias=False)
        return jnp.matmul(
            jnp.broadcast_to(matrix.astype(y.dtype), (len(y), *matrix.shape)), y, precision=lax.Precision.HIGHEST
        )

    x = along(x.reshape(batch * rows, columns, channels), width)
    return along(x.reshape(batch, rows, width * channels), height).reshape(batch, height, width, channels)
