"""Layers that Flax lacks or that must match PyTorch exactly: depthwise convolution, masked BatchNorm, stochastic depth, resize."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

# PyTorch's nn.LayerNorm default; Flax's is 1e-6. PVT-v2 mixes both, so every use names its own.
TORCH_LAYER_NORM_EPSILON = 1e-5


def masked_softmax(scores: Float[Array, "..."], mask: Bool[Array, "..."], axis: int | tuple[int, ...]) -> Float[Array, "..."]:
    """Softmax over the positions of `axis` where the mask holds: exactly 0 elsewhere, all 0 where it holds nowhere.

    Finite in value and gradient for every mask, as long as the scores are finite.
    """
    highest = jnp.max(scores, axis=axis, keepdims=True, where=mask, initial=-jnp.inf)
    highest = lax.stop_gradient(jnp.where(jnp.isfinite(highest), highest, 0.0))
    weights = jnp.where(mask, jnp.exp(jnp.where(mask, scores - highest, 0.0)), 0.0)
    total = jnp.sum(weights, axis=axis, keepdims=True)
    return weights / jnp.where(total > 0, total, 1.0)


# --- depthwise convolution -------------------------------------------------------------------------------------------


def _shifted_products(x: Array, kernel: Array) -> Array:
    rows, columns = kernel.shape[-3:-1]
    height, width = x.shape[-3:-1]
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(rows // 2,) * 2, (columns // 2,) * 2, (0, 0)])
    total = jnp.zeros_like(x)
    for i in range(rows):
        for j in range(columns):
            total = total + padded[..., i : i + height, j : j + width, :] * kernel[..., i : i + 1, j : j + 1, :]
    return total


@jax.custom_vjp
def _depthwise_cpu(x: Array, kernel: Array) -> Array:
    return _shifted_products(x, kernel)


def _depthwise_cpu_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _shifted_products(x, kernel), (x, kernel)


def _depthwise_cpu_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    rows, columns = kernel.shape[-3:-1]
    groups = kernel.ndim - 3  # leading axes of the kernel, which match the axes of x just before height
    lead = x.ndim - 3 - groups
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(rows // 2,) * 2, (columns // 2,) * 2, (0, 0)])
    axes = (*range(lead), x.ndim - 3, x.ndim - 2)

    def tap(t: Array) -> Array:
        start: Any = [0] * (x.ndim - 3) + [t // columns, t % columns, 0]
        return jnp.sum(lax.dynamic_slice(padded, start, x.shape) * gradient, axis=axes, dtype=jnp.float32)

    # A loop over the taps: unrolled, what JAX derives compiles several times longer and is no faster (docs/benchmarks.md).
    taps = lax.map(tap, jnp.arange(rows * columns))
    kernel_gradient = jnp.moveaxis(taps, 0, groups).reshape(kernel.shape).astype(kernel.dtype)
    return _shifted_products(gradient, kernel[..., ::-1, ::-1, :]), kernel_gradient


_depthwise_cpu.defvjp(_depthwise_cpu_forward, _depthwise_cpu_backward)


def depthwise(x: Float[Array, "batch *group height width channels"], kernel: Float[Array, "*group rows columns channels"]) -> Array:
    """Depthwise convolution of stride 1, zero padding and odd kernels; with a group axis, one kernel stack per group.

    XLA's grouped convolution is 6 to 23 times slower than shifted products on CPU (docs/benchmarks.md); elsewhere it is the one to use.
    """
    if jax.default_backend() == "cpu":
        return _depthwise_cpu(x, kernel)
    if x.ndim == 5:  # one convolution over group x channels
        batch, group, height, width, channels = x.shape
        side_by_side = jnp.moveaxis(x, 1, 3).reshape(batch, height, width, group * channels)
        kernels = jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], group * channels)
        out = depthwise(side_by_side, kernels).reshape(batch, height, width, group, channels)
        return jnp.moveaxis(out, 3, 1)
    return lax.conv_general_dilated(
        x, kernel[:, :, None, :], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1]
    )


def drop_path_factors(key: Array, rates: Float[Array, " branch"], batch: int) -> Float[Array, "branch batch"]:
    """Stochastic depth: what each residual branch of each sample is multiplied by: 0 with probability `rate`, else 1 / (1 - rate).

    All branches at once, because a draw of its own for each makes random numbers a seventh of what a training step compiles.
    """
    keep = 1.0 - rates[:, None]
    return jnp.where(jax.random.uniform(key, (len(rates), batch)) < keep, 1.0 / keep, 0.0)


# --- modules -----------------------------------------------------------------------------------------------------------


class Kernel(nn.Module):
    """A parameter named `kernel` at a path of its own, for weights that several operations share or merge."""

    shape: tuple[int, ...]
    initializer: nn.initializers.Initializer

    @nn.compact
    def __call__(self) -> Array:
        return self.param("kernel", self.initializer, self.shape, jnp.float32)


class MaskedBatchNorm(nn.Module):
    """BatchNorm whose statistics see only the positions where the mask holds; as PyTorch's, its running variance is unbiased."""

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
            count = jnp.maximum(weight.sum(), 1.0)
            mean = (wide * weight).sum((0, 1, 2)) / count
            # Two passes: E[x^2] - E[x]^2 cancels in float32 and differs from PyTorch.
            var = (jnp.square(wide - mean) * weight).sum((0, 1, 2)) / count
            if not self.is_initializing():
                unbiased = var * count / jnp.maximum(count - 1.0, 1.0)
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        return ((wide - mean) * (lax.rsqrt(var + self.epsilon) * scale) + bias).astype(x.dtype)


def resize(x: Float[Array, "batch height width channels"], height: int, width: int) -> Array:
    """Bilinear resize as PyTorch's `interpolate(mode="bilinear", align_corners=False)`: half-pixel centres, no antialiasing."""
    if x.shape[1:3] == (height, width):
        return x
    return jax.image.resize(x, (x.shape[0], height, width, x.shape[3]), "bilinear", antialias=False)
