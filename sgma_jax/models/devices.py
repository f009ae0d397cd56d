"""Operations that the devices of a mesh do together inside the network: each holds some samples, and of these all image
rows or a strip of them.

The program of one device says so itself where it needs the others (`jax.shard_map` in training/step.py and
evaluation/evaluator.py). In a program that is not divided so, and along an axis of one device, every function here is
the plain operation."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sgma_jax.sharding import ROWS, SAMPLES, divided


def _divided(axes: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the axes along which the program being traced is divided among several devices."""
    mesh = jax.sharding.get_abstract_mesh()
    return divided(mesh, axes) if mesh.manual_axes else ()


def rows_are_shared() -> bool:
    """Return whether an image's rows lie on several devices, in strips of the same height from the first device to the
    last."""
    return bool(_divided((ROWS,)))


def sum_over_devices(x: Array) -> Array:
    """The sum of what all devices have: of a reduction over samples and positions, the parts."""
    axes = _divided((*SAMPLES, ROWS))
    return lax.psum(x, axes) if axes else x


def sum_over_rows(x: Array) -> Array:
    """The sum over the devices that share a sample: of a reduction over positions, the parts."""
    return lax.psum(x, ROWS) if rows_are_shared() else x


def max_over_rows(x: Array) -> Array:
    """The maximum over the devices that share a sample; it has no gradient."""
    x = lax.stop_gradient(x)
    return lax.pmax(x, ROWS) if rows_are_shared() else x


def all_rows(x: Float[Array, "batch strip width channels"]) -> Float[Array, "batch height width channels"]:
    """The whole map on every device that shares its samples; for maps that are small."""
    return lax.all_gather(x, ROWS, axis=1, tiled=True) if rows_are_shared() else x


def with_halo(
    x: Float[Array, "*batch strip width channels"],
    above: int,
    below: int,
    border: Literal["constant", "edge"] = "constant",
) -> Float[Array, "*batch extended width channels"]:
    """The strip between `above` rows of the devices before and `below` rows of those after; only where
    `rows_are_shared()`.

    Beyond the image's borders lie zeros, or the outermost row again ("edge"), as `jnp.pad` calls it. One exchange
    each way; a strip that is lower than what is asked for is of a coarse map, which is gathered whole instead.
    """
    axis = x.ndim - 3
    strip, devices, own = x.shape[axis], lax.axis_size(ROWS), lax.axis_index(ROWS)
    if max(above, below) > strip:
        margins = [(0, 0)] * axis + [(above, below), (0, 0), (0, 0)]
        padded = jnp.pad(lax.all_gather(x, ROWS, axis=axis, tiled=True), margins, mode=border)
        return lax.dynamic_slice_in_dim(padded, own * strip, above + strip + below, axis)
    parts = [x]
    for rows, start, step, end in ((above, strip - above, 1, 0), (below, 0, -1, devices - 1)):
        if not rows:
            continue
        neighbours = [(i, i + step) for i in range(devices) if 0 <= i + step < devices]
        halo = lax.ppermute(
            lax.slice_in_dim(x, start, start + rows, axis=axis), ROWS, neighbours
        )  # zeros where nobody sends
        if border == "edge":
            outermost = lax.slice_in_dim(x, 0 if step == 1 else strip - 1, 1 if step == 1 else strip, axis=axis)
            halo = jnp.where(own == end, outermost, halo)
        parts = [halo, *parts] if step == 1 else [*parts, halo]
    return jnp.concatenate(parts, axis)


def draw_for_samples(key: Array, samples: int, shape: tuple[int, ...]) -> Float[Array, "batch ..."]:
    """Uniform numbers in [0, 1), of `shape` for each of this device's samples.

    They depend on the key and the sample's place in the global batch alone, so they are the same however the batch
    is divided, and on all devices that share a sample.
    """
    axes = _divided(SAMPLES)
    first = lax.axis_index(axes) * samples if axes else 0
    keys = jax.vmap(lambda place: jax.random.fold_in(key, place))(first + jnp.arange(samples))
    return jax.vmap(lambda k: jax.random.uniform(k, shape))(keys)
