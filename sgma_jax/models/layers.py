"""Layers that Flax lacks or that must match PyTorch exactly: depthwise convolution, masked BatchNorm, stochastic
depth, resize."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

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
    """Softmax over the positions of `axis` where the mask holds: exactly 0 elsewhere, all 0 where it holds nowhere.

    Finite in value and gradient for every mask, as long as the scores are finite. `axis` includes the image rows
    where devices share them; over the modalities alone it is `modalities.softmax_over_modalities`.
    """
    highest = lax.stop_gradient(jnp.max(scores, axis=axis, keepdims=True, where=mask, initial=-jnp.inf))
    highest = max_over_rows(highest)
    highest = jnp.where(jnp.isfinite(highest), highest, 0.0)
    weights = jnp.where(mask, jnp.exp(jnp.where(mask, scores - highest, 0.0)), 0.0)
    total = sum_over_rows(jnp.sum(weights, axis=axis, keepdims=True))
    return weights / jnp.where(total > 0, total, 1.0)


# --- linear maps and strided convolutions -----------------------------------------------------------------------------


def linear(
    x: Float[Array, "*positions inputs"], kernel: Float[Array, "inputs outputs"]
) -> Float[Array, "*positions outputs"]:
    """`x @ kernel` with the positions in one axis: on CPU the kernel's gradient is four times faster so
    (docs/benchmarks.md)."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def with_row_margin(
    x: Float[Array, "*batch rows width channels"],
    size: int,
    stride: int,
    padding: int,
    border: Literal["constant", "edge"] = "constant",
) -> tuple[Array, tuple[int, int]]:
    """What a window of `size` rows moved by `stride` is to run over, and the rows of padding above and below that
    are still to be added to it.

    On a strip of an image: the strip with the rows of its neighbours, and nothing. `border` as for `with_halo`.
    """
    if not rows_are_shared():
        return x, (padding, padding)
    return with_halo(x, padding, max(size - stride - padding, 0), border), (0, 0)


def strided_convolution(
    x: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "rows columns inputs outputs"],
    stride: int,
    padding: int,
) -> Float[Array, "batch coarse_height coarse_width outputs"]:
    """A convolution with zeros around, as PyTorch's.

    On CPU as one matrix product over patches, because XLA's gradient of a strided convolution there is many times
    slower.
    """
    size, outputs = kernel.shape[0], kernel.shape[3]
    x, margins = with_row_margin(x, size, stride, padding)
    if jax.default_backend() != "cpu":
        margin = (margins, (padding, padding))
        return lax.conv_general_dilated(x, kernel, (stride, stride), margin, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    height = (x.shape[1] + sum(margins) - size) // stride + 1
    width = (x.shape[2] + 2 * padding - size) // stride + 1
    # Blocks of stride x stride pixels, side by side in the channels. A window covers `reach` blocks each way, the
    # kernel filled up with zeros: a few wide slices instead of size x size narrow ones.
    reach = -(-size // stride)
    rows, columns = ((n + reach - 1) for n in (height, width))
    ends = [
        (low, n * stride - side - low)
        for n, side, low in ((rows, x.shape[1], margins[0]), (columns, x.shape[2], padding))
    ]
    x = lax.pad(
        x, jnp.zeros((), x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in ends), (0, 0, 0)]
    )  # cuts off where negative
    blocks = (
        x.reshape(-1, rows, stride, columns, stride, x.shape[3])
        .transpose(0, 1, 3, 2, 4, 5)
        .reshape(-1, rows, columns, stride**2 * x.shape[3])
    )
    windows = jnp.concatenate(
        [blocks[:, i : i + height, j : j + width] for i in range(reach) for j in range(reach)], -1
    )
    fill = reach * stride - size
    filled = jnp.pad(kernel, ((0, fill), (0, fill), (0, 0), (0, 0)))
    filled = filled.reshape(reach, stride, reach, stride, -1, outputs).transpose(0, 2, 1, 3, 4, 5).reshape(-1, outputs)
    return linear(windows, filled)


def gelu(x: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """x times the normal distribution's function, as PyTorch computes it; `jax.nn.gelu` goes by erfc, which costs
    several times as much.

    Only x is kept for the gradient: computing the rest again is cheaper than moving it through memory.
    """
    return jax.checkpoint(lambda y: 0.5 * y * (1.0 + lax.erf(y * math.sqrt(0.5))))(x)


# --- depthwise convolution -------------------------------------------------------------------------------------------


MOST_SAMPLES = 4
"""[C] Samples of which the kernel's gradient adds up products in one pass; more make the pass longer to compile."""

# What a loop cuts out for its next round is carried into it: cut and used in the same round, XLA on CPU computes both
# in one piece of code, which it does not vectorise, and takes five times as long (docs/benchmarks.md).


def _shifted_products(x: Array, kernel: Array, unroll: bool = False) -> Array:
    rows, columns = kernel.shape[-3:-1]
    height, width = x.shape[-3:-1]
    in_x, in_kernel = x.ndim - 3, kernel.ndim - 3
    at_once = rows if rows <= 3 or unroll else 2  # rows of taps
    rounds = -(-rows // at_once)
    more = rounds * at_once - rows
    padded = jnp.pad(x, [(0, 0)] * in_x + [(rows // 2, rows // 2 + more), (columns // 2,) * 2, (0, 0)])
    taps = jnp.pad(kernel, [(0, 0)] * in_kernel + [(0, more), (0, 0), (0, 0)])

    def add_rows(total: Array, strip: Array, taps: Array) -> Array:
        for i, j in itertools.product(range(at_once), range(columns)):
            total = total + strip[..., i : i + height, j : j + width, :] * taps[..., i : i + 1, j : j + 1, :]
        return total

    def cut(i: Any) -> tuple[Array, Array]:
        strip = lax.dynamic_slice_in_dim(padded, i * at_once, height + at_once - 1, axis=in_x)
        return strip, lax.dynamic_slice_in_dim(taps, i * at_once, at_once, axis=in_kernel)

    if rounds == 1:
        return add_rows(jnp.zeros_like(x), padded, taps)
    # A loop, not only to compile a row once: what leaves a loop is in memory, and no reader of it computes the taps
    # anew.
    return lax.fori_loop(0, rounds, lambda i, c: (add_rows(c[0], *c[1]), cut(i + 1)), (jnp.zeros_like(x), cut(0)))[0]


def _kernel_gradient(x: Array, gradient: Array, rows: int, columns: int) -> Array:
    """Of `_shifted_products`, by its kernel, in float32.

    Row by row of the gradient, a few samples at a time, elementwise into sums over all but the columns of the map,
    which come last: XLA on CPU vectorises that, and not a sum of products.
    """
    batch, *group, height, width, channels = x.shape
    samples = max(n for n in range(1, MOST_SAMPLES + 1) if batch % n == 0)
    parts, rest = batch // samples, [0] * len(group)
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(rows // 2,) * 2, (columns // 2,) * 2, (0, 0)])

    def cut(i: Any) -> tuple[Array, Array]:
        start = [i % parts * samples, *rest, i // parts, 0, 0]
        band = lax.dynamic_slice(padded, start, (samples, *group, rows, width + columns - 1, channels))
        return band, lax.dynamic_slice(gradient, start, (samples, *group, 1, width, channels))

    def add_row(i: Any, carried: tuple[list[Array], tuple[Array, Array]]) -> tuple[list[Array], tuple[Array, Array]]:
        sums, (band, row) = carried
        for j, sample in itertools.product(range(columns), range(samples)):
            sums[j] = sums[j] + band[sample, ..., j : j + width, :] * row[sample]
        return sums, cut(i + 1)

    zeros = jnp.zeros_like(padded[0, ..., :rows, :width, :], jnp.float32)
    sums, _ = lax.fori_loop(0, height * parts, add_row, ([zeros] * columns, cut(0)))
    return jnp.stack([by_column.sum(-2) for by_column in sums], -2)


@jax.custom_vjp
def _depthwise_cpu(x: Array, kernel: Array) -> Array:
    return _shifted_products(x, kernel)


def _depthwise_cpu_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _shifted_products(x, kernel), (x, kernel)


def _depthwise_cpu_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    by_kernel = _kernel_gradient(x, gradient, *kernel.shape[-3:-1])
    return _shifted_products(gradient, kernel[..., ::-1, ::-1, :]), by_kernel.astype(kernel.dtype)


_depthwise_cpu.defvjp(_depthwise_cpu_forward, _depthwise_cpu_backward)


def depthwise(
    x: Float[Array, "batch *group height width channels"],
    kernel: Float[Array, "*group rows columns channels"],
    unroll: bool = False,
) -> Array:
    """Depthwise convolution of stride 1, zero padding and odd kernels; with a group axis, one kernel stack per
    group.

    `unroll` is for the compiler's cost analysis, which counts a loop once. XLA's grouped convolution is 6 to 23
    times slower than shifted products on CPU (docs/benchmarks.md); elsewhere it is the one to use.
    """
    reach = kernel.shape[-3] // 2
    if jax.default_backend() == "cpu":
        extended, margins = with_row_margin(x, 2 * reach + 1, 1, reach)
        out = _shifted_products(extended, kernel, unroll) if unroll else _depthwise_cpu(extended, kernel)
        cut = reach - margins[0]  # of the neighbours' rows the results are theirs
        return lax.slice_in_dim(out, cut, out.shape[-3] - cut, axis=x.ndim - 3)
    if x.ndim == 5:  # one convolution over group x channels
        batch, group, height, width, channels = x.shape
        side_by_side = jnp.moveaxis(x, 1, 3).reshape(batch, height, width, group * channels)
        kernels = jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], group * channels)
        out = depthwise(side_by_side, kernels).reshape(batch, height, width, group, channels)
        return jnp.moveaxis(out, 3, 1)
    x, margins = with_row_margin(x, 2 * reach + 1, 1, reach)
    margin = (margins, (kernel.shape[1] // 2,) * 2)
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        (1, 1),
        margin,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


CACHED = 2**20
"""Bytes of one intermediate array that two cores keep in their caches [C]."""


def in_chunks(f: Callable[[Any], Any], inputs: Any, bytes_each: int, unroll: bool = False) -> Any:
    """`f(inputs)`, for an `f` that works on each element of the leading axis alone; `bytes_each` is its largest
    intermediate array's part.

    On a CPU device `f` runs on few elements at a time, so that what it computes stays in the cache, and its gradient
    computes it again instead of fetching it from memory: an MLP of PVT-v2 with its gradient takes half the time
    (docs/benchmarks.md). Elsewhere it is just `f(inputs)`: an accelerator wants all at once, and devices that share
    rows exchange them once, not once a chunk. `unroll` asks for that too, for the compiler's cost analysis.
    """
    elements = jax.tree.leaves(inputs)[0].shape[0]
    # Inside shard_map every device has elements of its own, whose axis nobody shares, unless it has but a strip of
    # each.
    shared = jax.device_count() > 1 and (not jax.sharding.get_abstract_mesh().manual_axes or rows_are_shared())
    if unroll or jax.default_backend() != "cpu" or shared:
        return f(inputs)
    size = max(n for n in range(1, elements + 1) if elements % n == 0 and (n == 1 or n * bytes_each <= CACHED))
    f = jax.checkpoint(f)
    if size == elements:
        return f(inputs)
    chunks = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), inputs)
    results = lax.map(f, chunks)
    return jax.tree.map(lambda x: x.reshape(elements, *x.shape[2:]), results)


def drop_path_factors(key: Array, rates: Float[Array, " branch"], batch: int) -> Float[Array, "branch batch"]:
    """Stochastic depth: what each residual branch of each sample is multiplied by: 0 with probability `rate`, else 1
    / (1 - rate).

    All branches at once, because a draw of its own for each makes random numbers a seventh of what a training step
    compiles.
    """
    keep = 1.0 - rates[:, None]
    return jnp.where(keep > draw_for_samples(key, batch, (len(rates),)).T, 1.0 / keep, 0.0)


def drop_channels(
    x: Float[Array, "batch height width channels"], rate: float, key: Array
) -> Float[Array, "batch height width channels"]:
    """Dropout of whole channels of a sample; the others are scaled by 1 / (1 - rate)."""
    kept = draw_for_samples(key, x.shape[0], (1, 1, x.shape[3])) >= rate
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros((), x.dtype))


# --- modules
# -----------------------------------------------------------------------------------------------------------


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
