"""Code that only a CPU wants: other forms of two convolutions, and work on few images at a time.

All of it stands behind this door.
`models.layers` gives the forms to `models.bilinear`, which takes them where a program is lowered for a CPU.
`in_chunks` asks the mesh for which a program is traced. docs/benchmarks.md has the measurements.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sgma_jax.models.bilinear import transposed
from sgma_jax.models.devices import rows_are_shared

CACHED = 2**20
"""[C] Bytes of one intermediate array that two cores keep in their caches."""
MOST_SAMPLES = 4
"""[C] Samples of which the kernel's gradient adds up products in one pass; more make the pass longer to compile."""

_WITHOUT_LOOPS: ContextVar[bool] = ContextVar("without_loops", default=False)


@contextlib.contextmanager
def without_loops() -> Iterator[None]:
    """Trace and lower without loops inside, for the compiler's cost analysis, which counts a loop once."""
    token = _WITHOUT_LOOPS.set(True)
    try:
        yield
    finally:
        _WITHOUT_LOOPS.reset(token)


def loops_are_unrolled() -> bool:
    """Return whether `without_loops` is in force."""
    return _WITHOUT_LOOPS.get()


def in_chunks(f: Callable[[Any], Any], inputs: Any, bytes_each: int) -> Any:
    """Return `f(inputs)`, for an `f` that works on each element of the leading axis alone.

    `bytes_each` is an element's part of the largest intermediate array.
    On a mesh of CPUs `f` runs on few elements at a time, so that what it computes stays in the cache, and its gradient
    computes it again instead of fetching it from memory.
    An MLP of PVT-v2 with its gradient takes half the time so.
    Elsewhere all elements go at once: an accelerator wants them all, and devices that share image rows exchange
    them once, not once a chunk.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device  # None outside `jax.shard_map`
    if device is None or device.platform != "cpu" or rows_are_shared() or loops_are_unrolled():
        return f(inputs)
    elements = jax.tree.leaves(inputs)[0].shape[0]
    size = max(n for n in range(1, elements + 1) if elements % n == 0 and (n == 1 or n * bytes_each <= CACHED))
    f = jax.checkpoint(f)
    if size == elements:
        return f(inputs)
    chunks = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), inputs)
    results = lax.map(f, chunks)
    return jax.tree.map(lambda x: x.reshape(elements, *x.shape[2:]), results)


# --- depthwise convolution: sums of shifted products ------------------------------------------------------------------
# A loop carries what it cuts out for its next round. Cut and used in the same round, XLA on CPU computes both in one
# piece of code, which it does not vectorise, and takes five times as long.


def depthwise(
    x: Float[Array, "batch *group height width channels"],
    kernel: Float[Array, "*group rows columns channels"],
    *,
    margins: tuple[int, int],
) -> Float[Array, "batch *group new_height width channels"]:
    """Return the depthwise convolution with `margins` rows of zeros above and below, and zeros at both sides."""
    rows, columns = kernel.shape[-3:-1]
    height, width = x.shape[-3] + sum(margins) - rows + 1, x.shape[-2]
    in_x, in_kernel = x.ndim - 3, kernel.ndim - 3
    at_once = rows if rows <= 3 or loops_are_unrolled() else 2  # rows of taps
    rounds = -(-rows // at_once)
    more = rounds * at_once - rows
    padded = _padded(x, (margins[0], margins[1] + more), columns)
    taps = jnp.pad(kernel, [(0, 0)] * in_kernel + [(0, more), (0, 0), (0, 0)])

    def add_rows(total: Array, strip: Array, taps: Array) -> Array:
        for i, j in itertools.product(range(at_once), range(columns)):
            total = total + strip[..., i : i + height, j : j + width, :] * taps[..., i : i + 1, j : j + 1, :]
        return total

    def cut(i: Any) -> tuple[Array, Array]:
        strip = lax.dynamic_slice_in_dim(padded, i * at_once, height + at_once - 1, axis=in_x)
        return strip, lax.dynamic_slice_in_dim(taps, i * at_once, at_once, axis=in_kernel)

    nothing = jnp.zeros_like(padded[..., :height, :width, :])
    if rounds == 1:
        return add_rows(nothing, padded, taps)
    # A loop, not only to compile a row once: what leaves a loop is in memory, and no reader of it computes the taps
    # anew.
    return lax.fori_loop(0, rounds, lambda i, c: (add_rows(c[0], *c[1]), cut(i + 1)), (nothing, cut(0)))[0]


def depthwise_by_input(cotangent: Array, kernel: Array, *, shape: tuple[int, ...], margins: tuple[int, int]) -> Array:
    """Return the cotangent of `depthwise`'s input."""
    reach = kernel.shape[-3] - 1
    return depthwise(cotangent, kernel[..., ::-1, ::-1, :], margins=(reach - margins[0], reach - margins[1]))


def depthwise_by_kernel(x: Array, cotangent: Array, *, shape: tuple[int, ...], margins: tuple[int, int]) -> Array:
    """Return the cotangent of `depthwise`'s kernel.

    Row by row of the cotangent, a few samples at a time, elementwise into sums over all but the columns of the map,
    which come last: XLA on CPU vectorises that, and not a sum of products.
    """
    rows, columns = shape[-3:-1]
    batch, *group, height, width, channels = cotangent.shape
    samples = max(n for n in range(1, MOST_SAMPLES + 1) if batch % n == 0)
    parts, rest = batch // samples, [0] * len(group)
    padded = _padded(x, margins, columns)

    def cut(i: Any) -> tuple[Array, Array]:
        start = [i % parts * samples, *rest, i // parts, 0, 0]
        band = lax.dynamic_slice(padded, start, (samples, *group, rows, width + columns - 1, channels))
        return band, lax.dynamic_slice(cotangent, start, (samples, *group, 1, width, channels))

    def add_row(i: Any, carried: tuple[list[Array], tuple[Array, Array]]) -> tuple[list[Array], tuple[Array, Array]]:
        sums, (band, row) = carried
        for j, sample in itertools.product(range(columns), range(samples)):
            sums[j] = sums[j] + band[sample, ..., j : j + width, :] * row[sample]
        return sums, cut(i + 1)

    zeros = jnp.zeros_like(padded[0, ..., :rows, :width, :], jnp.float32)
    sums, _ = lax.fori_loop(0, height * parts, add_row, ([zeros] * columns, cut(0)))
    return jnp.stack([by_column.sum(-2) for by_column in sums], -2).astype(x.dtype)


def _padded(x: Array, margins: tuple[int, int], columns: int) -> Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [margins, (columns // 2,) * 2, (0, 0)])


# --- strided convolution: one matrix product over patches -------------------------------------------------------------


def strided_convolution(
    x: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "rows columns inputs outputs"],
    *,
    stride: int,
    margins: tuple[int, int],
    padding: int,
) -> Float[Array, "batch coarse_height coarse_width outputs"]:
    """Return the convolution with `margins` rows of zeros above and below, and `padding` columns at each side."""
    size, outputs = kernel.shape[0], kernel.shape[3]
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
    cut_off = [(0, 0, 0), *((low, high, 0) for low, high in ends), (0, 0, 0)]  # cuts off where negative
    x = lax.pad(x, jnp.zeros((), x.dtype), cut_off)
    blocks = x.reshape(-1, rows, stride, columns, stride, x.shape[3]).transpose(0, 1, 3, 2, 4, 5)
    blocks = blocks.reshape(-1, rows, columns, stride**2 * x.shape[3])
    parts = [blocks[:, i : i + height, j : j + width] for i in range(reach) for j in range(reach)]
    windows = jnp.concatenate(parts, -1)
    fill = reach * stride - size
    filled = jnp.pad(kernel, ((0, fill), (0, fill), (0, 0), (0, 0)))
    filled = filled.reshape(reach, stride, reach, stride, -1, outputs).transpose(0, 2, 1, 3, 4, 5).reshape(-1, outputs)
    return (windows.reshape(-1, windows.shape[-1]) @ filled).reshape(*windows.shape[:-1], outputs)


def strided_convolution_by_input(cotangent: Array, kernel: Array, *, shape: tuple[int, ...], **static: Any) -> Any:
    """Return the cotangent of `strided_convolution`'s input."""
    return transposed(lambda x: strided_convolution(x, kernel, **static), cotangent, shape)


def strided_convolution_by_kernel(x: Array, cotangent: Array, *, shape: tuple[int, ...], **static: Any) -> Any:
    """Return the cotangent of `strided_convolution`'s kernel."""
    return transposed(lambda kernel: strided_convolution(x, kernel, **static), cotangent, shape)
