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
from sgma_jax.sharding import SMALLEST_SHARDED, check_batch_size, check_rows, describe_sharding, make_mesh, put_batch, replicated, with_sharding
from sgma_jax.structs import Batch
assert len(jax.devices()) == 4
def shape(*sides):
    return jax.ShapeDtypeStruct(sides, np.float32)
"""


def on_four_devices(program: str) -> None:
    """Run a program in a process of its own: the number of devices is fixed when JAX starts."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", HEADER + program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
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
    assert dict(mesh.shape) == {"data": 4 // fsdp, "fsdp": fsdp, "space": 1}
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
for fsdp, space in ((3, 1), (8, 1), (1, 3), (2, 4), (1, 8)):
    with pytest.raises(InputError, match=f"fsdp x space is {fsdp} x {space}.* 4 devices"):
        make_mesh(fsdp, space)
for fsdp in (1, 2, 4):  # every device takes rows, whatever the axes
    check_batch_size("data.batch_size", 8, make_mesh(fsdp))
    for size in (1, 2, 6):
        with pytest.raises(InputError, match=f"data.batch_size is {size}.* multiple of 4"):
            check_batch_size("data.batch_size", size, make_mesh(fsdp))
    check_batch_size("data.batch_size", 24, make_mesh(fsdp), accumulate=3)
    with pytest.raises(InputError, match="4 devices that share it x accumulate 3.* multiple of 12"):
        check_batch_size("data.batch_size", 8, make_mesh(fsdp), accumulate=3)
check_batch_size("data.batch_size", 2, make_mesh(1, 2))  # two devices to a sample
""")


def test_images_whose_rows_the_devices_cannot_share_are_an_input_error() -> None:
    on_four_devices("""
mesh = make_mesh(1, 2)
check_rows("data.crop", 128, mesh)
check_rows("data.crop", 31, make_mesh(1))  # rows that nobody shares may be any number
check_rows("data.crop", 32, mesh, magnify=2)
for crop, magnify, least in ((96, 1, 64), (100, 1, 64), (16, 2, 32), (33, 64, 2)):
    with pytest.raises(InputError, match=f"data.crop is {crop}, which space 2 .* multiple of {least},"):
        check_rows("data.crop", crop, mesh, magnify)
    check_rows("data.crop", least, mesh, magnify)
""")


def test_the_log_says_what_the_sharding_rule_did() -> None:
    on_four_devices("""
tree = {"large": shape(4, SMALLEST_SHARDED), "small": shape(100)}
whole = (4 * SMALLEST_SHARDED + 100) * 4
assert describe_sharding(with_sharding(tree, make_mesh(4))) == (
    f"mesh data 1 x fsdp 4 x space 1; 1 of 2 arrays of the state are sharded over fsdp, {(whole - 3 * SMALLEST_SHARDED * 4) / 1e6:.1f} of "
    f"{whole / 1e6:.1f} MB a device")
assert "0 of 2 arrays" in describe_sharding(with_sharding(tree, make_mesh(1)))
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


def test_devices_that_share_image_rows_get_a_strip_of_each_map_and_all_that_is_per_sample() -> None:
    on_four_devices("""
rows = np.broadcast_to(np.arange(6)[None, :, None], (4, 6, 5))
batch = Batch(images={"rgb": rows[..., None].astype(np.float32)}, available=rows[:, None] > 2, kept=np.ones((4, 1), bool),
              labels=rows.astype(np.int32), ids=np.arange(4, dtype=np.int32), drawn=np.zeros(4, np.int32))
placed = put_batch(batch, make_mesh(1, 2))
for mine, theirs in zip(jax.tree.leaves(placed), jax.tree.leaves(batch), strict=True):
    np.testing.assert_array_equal(mine, theirs)
arrays = (placed.images["rgb"], placed.available, placed.labels, placed.ids)
for image, seen, label, number in zip(*(a.addressable_shards for a in arrays), strict=True):
    assert image.data.shape == (2, 3, 5, 1) and seen.data.shape == (2, 1, 3, 5) and label.data.shape == (2, 3, 5) and number.data.shape == (2,)
    np.testing.assert_array_equal(np.asarray(image.data)[..., 0], np.asarray(label.data))
""")


def test_one_device_is_the_same_program() -> None:
    mesh = make_mesh(1)
    check_batch_size("data.batch_size", 3 * mesh.size, mesh)
    tree = with_sharding({"kernel": jax.ShapeDtypeStruct((512, 512), np.float32)}, mesh)
    assert tree["kernel"].sharding.is_fully_replicated
    size = 2 * mesh.size
    batch = Batch(
        {},
        np.ones((size, 1), bool),
        np.ones((size, 1), bool),
        np.zeros((size, 2, 2), np.int32),
        np.arange(size),
        np.zeros(size, int),
    )
    np.testing.assert_array_equal(put_batch(batch, mesh).ids, np.arange(size))
    with pytest.raises(InputError, match="fsdp x space is"):
        make_mesh(len(jax.devices()) + 1)


@pytest.mark.parametrize(
    ("environment", "cores", "batches", "devices"),
    [
        ({}, None, (8, 6), 2),
        ({}, None, (7,), 1),
        ({}, None, (), 2),
        ({}, 1, (8,), 1),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, None, (8,), 3),
        ({"JAX_NUM_CPU_DEVICES": "3"}, None, (8,), 3),
    ],
)
def test_a_cpu_is_as_many_devices_as_it_has_cores_unless_told_otherwise(
    environment: dict, cores: int | None, batches: tuple, devices: int
) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    program = f"""
import os, jax
from sgma_jax.sharding import one_device_a_core
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{cores or 2}])
one_device_a_core(*{batches})
print(jax.device_count())  # which also takes XLA's flags, all or the process ends
one_device_a_core(1)  # too late: what there is stays
print(jax.device_count())
"""
    others = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=others | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == [str(devices)] * 2
