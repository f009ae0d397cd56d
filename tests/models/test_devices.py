"""Strips of image rows on several devices against the whole image on one: every layer that looks beyond its own
rows, and its gradients."""

from __future__ import annotations

import os
import subprocess
import sys

HEADER = """
import functools, jax, jax.numpy as jnp, numpy as np
import flax.linen as nn
from jax.sharding import PartitionSpec as P
from sgma_jax.models.devices import all_rows, draw_for_samples, rows_are_shared, with_halo
from sgma_jax.models.fusions.semantic_guided import semantic_prototypes
from sgma_jax.models.layers import MaskedBatchNorm, depthwise, drop_channels, drop_path_factors, resize, strided_convolution, with_row_margin
from sgma_jax.sharding import make_mesh, whole_parameters
rng = np.random.default_rng(0)
def random(*shape):
    return rng.normal(size=shape).astype(np.float32)
"""


def on_four_devices(program: str) -> None:
    """Run a program in a process of its own: the number of devices is fixed when JAX starts."""
    options = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    environment = {**os.environ, "XLA_FLAGS": options, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", HEADER + program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_layers_on_strips_are_the_layers_on_the_whole_image_and_so_are_their_gradients() -> None:
    on_four_devices("""
all_kernels = {size: random(size, size, 2) for size in (3, 11)}
strided = {(7, 4, 3): random(7, 7, 2, 3), (3, 2, 1): random(3, 3, 2, 3), (4, 4, 0): random(4, 4, 2, 3)}
filters = random(2, 4)

def layers(x, mask):
    assert rows_are_shared() == (x.shape[1] == 8)
    kernels = whole_parameters(all_kernels, dict.fromkeys(all_kernels, P())) if rows_are_shared() else all_kernels  # as the training step has them
    out = {f"depthwise {size}": depthwise(x, kernel) for size, kernel in kernels.items()}
    # Strips of 2 rows, from which a halo of 5 reaches beyond the neighbours.
    out["depthwise of a coarse map"] = depthwise(x[:, ::4], kernels[11])
    out["grouped depthwise"] = depthwise(jnp.stack([x, 2 * x], 1), jnp.stack([kernels[3], -kernels[3]]))[:, 1]
    out |= {f"strided {how}": strided_convolution(x, kernel, *how[1:]) for how, kernel in strided.items()}
    out["resize"] = resize(x, 4 * x.shape[1], 4 * x.shape[2])
    extended, margins = with_row_margin(nn.relu(x), 3, 2, 1, "edge")
    out["maximum"] = nn.max_pool(extended, (3, 3), (2, 2), padding=(margins, (1, 1)))
    out["norm"] = MaskedBatchNorm().apply(norm, x, mask, True, mutable=["batch_stats"])[0]
    pairs = jnp.stack([x, x + 1], 1)
    prototypes = [semantic_prototypes(pairs @ filters, pairs, jnp.stack([mask, mask], 1), how) for how in ("softmax", "none")]
    whole = all_rows(x[:, ::4])
    assert whole.shape[1] == height // 4
    return out, (*prototypes, whole.sum((1, 2)) if not rows_are_shared() else jax.lax.pmean(whole.sum((1, 2)), "space"))

x, mask = random(4, 32, 6, 2), rng.random((4, 32, 6)) < 0.7
norm = MaskedBatchNorm().init(jax.random.key(0), x, mask, True)
samples = P("data")
def loss(function, x):
    maps, vectors = function(x, mask)
    return sum(jnp.square(a).mean() for a in (*maps.values(), *vectors)), (maps, vectors)
rows = P("data", "space")
for data, space in ((1, 4), (2, 2)):
    mesh, height = make_mesh(1, space), 8 * space
    x, mask = x[:, :height], mask[:, :height]
    names = samples if data > 1 else P()
    shape = P(None, "space") if data == 1 else rows
    on_strips = jax.shard_map(layers, mesh=mesh, in_specs=(shape, shape), out_specs=(shape, names))
    (_, got), gradient = jax.jit(jax.value_and_grad(functools.partial(loss, on_strips), has_aux=True))(x)
    (_, want), want_gradient = jax.jit(jax.value_and_grad(functools.partial(loss, layers), has_aux=True))(x)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5), got, want)
    np.testing.assert_allclose(gradient, want_gradient, rtol=2e-5, atol=2e-6 * np.abs(want_gradient).max())
""")


def test_a_halo_is_the_neighbours_rows_and_zeros_or_the_outermost_row_beyond_the_image() -> None:
    on_four_devices("""
x = np.arange(1, 17, dtype=np.float32).reshape(1, 16, 1, 1)
for border in ("constant", "edge"):
    for above, below in ((1, 0), (0, 2), (3, 4), (5, 5), (9, 0)):  # more than the four rows of a strip too
        halo = lambda x: with_halo(x, above, below, border)
        got = jax.jit(jax.shard_map(halo, mesh=make_mesh(1, 4), in_specs=P(None, "space"), out_specs=P("space")))(x)
        if border == "edge" and max(above, below) > 4:
            continue
        padded = np.pad(x[0], ((above, below), (0, 0), (0, 0)), mode=border)
        for device in range(4):
            np.testing.assert_array_equal(got[device], padded[4 * device : 4 * device + above + 4 + below])
""")


def test_what_is_drawn_for_a_sample_does_not_depend_on_how_the_batch_is_divided() -> None:
    on_four_devices("""
key, x, rates = jax.random.key(3), jnp.ones((8, 4, 4, 16)), jnp.linspace(0.0, 0.5, 5)
def draw(x):
    return drop_channels(x, 0.5, key), drop_path_factors(key, rates, x.shape[0]).T
want = draw(x)
for share in want:  # every sample draws its own
    assert len({np.asarray(s).tobytes() for s in share}) > 4
assert 0.3 < float((want[0] == 0).mean()) < 0.7
assert set(np.unique(want[0])) == {0.0, 2.0}
for fsdp, space in ((1, 1), (4, 1), (2, 1), (1, 2), (2, 2)):
    mesh = make_mesh(fsdp, space)
    axes = tuple(a for a in ("data", "fsdp") if mesh.shape[a] > 1)
    maps, vectors = P(axes, "space" if space > 1 else None), P(axes)
    got = jax.jit(jax.shard_map(draw, mesh=mesh, in_specs=maps, out_specs=(maps, vectors)))(x)
    jax.tree.map(np.testing.assert_array_equal, got, want)
""")
