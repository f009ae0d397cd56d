"""Where arrays live on several devices, seen in processes that have four."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from sgma_jax.errors import InputError
from sgma_jax.sharding import check_batch_size, make_mesh, put_batch, with_sharding
from sgma_jax.structs import Batch

HEADER = """
import jax, numpy as np, pytest
from jax.sharding import PartitionSpec as P
from sgma_jax.errors import InputError
from sgma_jax.sharding import SMALLEST_SHARDED, batch_sharding, check_batch_size, make_mesh, put_batch, replicated, with_sharding
from sgma_jax.structs import Batch
assert len(jax.devices()) == 4
def shape(*sides):
    return jax.ShapeDtypeStruct(sides, np.float32)
"""


def on_four_devices(program: str) -> None:
    """Run a program in a process of its own: the number of devices is fixed when JAX starts."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", HEADER + program], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_large_arrays_are_split_along_their_largest_divisible_axis_and_the_others_replicated() -> None:
    on_four_devices("""
large = SMALLEST_SHARDED
tree = {
    "last": shape(4, large),           # both axes divide, the last is larger
    "first": shape(large, 4),
    "middle": shape(3, 1024, 5, 8),    # the largest that divides, not the last
    "odd largest": shape(100_001, 4),  # the largest does not divide
    "none": shape(100_001, 3),
    "just large enough": shape(large),
    "small": shape(large - 4),
    "scalar": shape(),
}
for fsdp in (2, 4):
    mesh = make_mesh(fsdp)
    assert dict(mesh.shape) == {"data": 4 // fsdp, "fsdp": fsdp}
    got = with_sharding(tree, mesh)
    assert {k: v.sharding.spec for k, v in got.items()} == {
        "last": P(None, "fsdp"), "first": P("fsdp"), "middle": P(None, "fsdp"), "odd largest": P(None, "fsdp"),
        "none": P(), "just large enough": P("fsdp"), "small": P(), "scalar": P()}
    assert all((v.shape, v.dtype) == (tree[k].shape, tree[k].dtype) for k, v in got.items())
    # A device really holds its share, and the whole is what it was.
    array = np.arange(4 * large, dtype=np.float32).reshape(4, large)
    placed = jax.device_put(array, got["last"].sharding)
    assert {s.data.shape for s in placed.addressable_shards} == {(4, large // fsdp)}
    np.testing.assert_array_equal(placed, array)
assert all(v.sharding.is_fully_replicated for v in with_sharding(tree, make_mesh(1)).values())
""")


def test_an_fsdp_or_a_batch_that_the_devices_do_not_allow_is_an_input_error() -> None:
    on_four_devices("""
with pytest.raises(InputError, match="fsdp is 3.* 4 devices"):
    make_mesh(3)
with pytest.raises(InputError, match="fsdp is 8"):
    make_mesh(8)
for fsdp in (1, 2, 4):  # every device takes rows, whatever the axes
    check_batch_size("data.batch_size", 8, make_mesh(fsdp))
    for size in (1, 2, 6):
        with pytest.raises(InputError, match=f"data.batch_size is {size}.* multiple of 4"):
            check_batch_size("data.batch_size", size, make_mesh(fsdp))
""")


def test_every_device_gets_its_rows_of_a_batch() -> None:
    on_four_devices("""
rows = np.arange(8)
batch = Batch(
    images={"rgb": np.broadcast_to(rows[:, None, None, None], (8, 2, 2, 3)).astype(np.float32)}, available=np.ones((8, 1, 2, 2), bool),
    kept=np.ones((8, 1), bool), labels=np.broadcast_to(rows[:, None, None], (8, 2, 2)).astype(np.int32), ids=rows.astype(np.int32),
    drawn=np.zeros(8, np.int32))
for fsdp in (1, 2, 4):
    placed = put_batch(batch, make_mesh(fsdp))
    for mine, theirs in zip(jax.tree.leaves(placed), jax.tree.leaves(batch), strict=True):
        assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_array_equal(mine, theirs)
        assert len({s.device for s in mine.addressable_shards}) == 4
        assert {s.data.shape[0] for s in mine.addressable_shards} == {2}
    # Images and labels of a row lie together.
    for image, label, number in zip(*(a.addressable_shards for a in (placed.images["rgb"], placed.labels, placed.ids)), strict=True):
        assert image.device == label.device == number.device
        np.testing.assert_array_equal(np.asarray(image.data)[:, 0, 0, 0], np.asarray(number.data))
        np.testing.assert_array_equal(np.asarray(label.data)[:, 0, 0], np.asarray(number.data))
    summed = jax.jit(lambda b: b.images["rgb"].sum(), out_shardings=replicated(make_mesh(fsdp)))(placed)
    assert float(summed) == batch.images["rgb"].sum()
""")


def test_one_device_is_the_same_program() -> None:
    mesh = make_mesh(1)
    check_batch_size("data.batch_size", 3 * mesh.size, mesh)
    tree = with_sharding({"kernel": jax.ShapeDtypeStruct((512, 512), np.float32)}, mesh)
    assert tree["kernel"].sharding.is_fully_replicated
    size = 2 * mesh.size
    batch = Batch({}, np.ones((size, 1), bool), np.ones((size, 1), bool), np.zeros((size, 2, 2), np.int32), np.arange(size), np.zeros(size, int))
    np.testing.assert_array_equal(put_batch(batch, mesh).ids, np.arange(size))
    with pytest.raises(InputError, match="fsdp is"):
        make_mesh(len(jax.devices()) + 1)
