"""One mesh over all devices, and where each array lives on it. The same program runs on one device and on many."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from sgma_jax.distributed import in_turn
from sgma_jax.errors import InputError
from sgma_jax.structs import Batch

SMALLEST_SHARDED = 2**16  # [C] parameters below this many numbers are cheaper to replicate than to gather


def make_mesh(fsdp: int) -> Mesh:
    """The devices of all processes as axes ("data", "fsdp"); the axis types are Auto, which Flax's convolutions need."""
    devices = jax.devices()
    if len(devices) % fsdp:
        raise InputError(f"fsdp is {fsdp}, which does not divide the {len(devices)} devices; choose a divisor.")
    return Mesh(np.array(devices).reshape(-1, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def with_sharding(shapes: Any, mesh: Mesh) -> Any:
    """The tree of shapes, each with its sharding: large arrays split along their largest axis that `fsdp` divides, the rest replicated."""
    fsdp = mesh.shape["fsdp"]

    def sharding(leaf: Any) -> NamedSharding:
        divisible = [axis for axis, size in enumerate(leaf.shape) if size % fsdp == 0]
        if fsdp == 1 or not divisible or np.prod(leaf.shape) < SMALLEST_SHARDED:
            return replicated(mesh)
        axis = max(divisible, key=lambda a: leaf.shape[a])
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))

    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(x)), shapes)


def check_batch_size(name: str, size: int, mesh: Mesh) -> None:
    """Raise InputError unless the batch can be split over the devices and processes."""
    if size % mesh.size:
        raise InputError(f"{name} is {size}, which the {mesh.size} devices do not divide; choose a multiple of {mesh.size}.")


def put_batch(batch: Batch, mesh: Mesh) -> Batch:
    """This process's rows of a batch, placed on the devices as parts of the global batch."""
    return jax.tree.map(lambda x: put_rows(x, mesh), batch)


def put_rows(rows: np.ndarray, mesh: Mesh) -> jax.Array:
    """An array whose first axis is this process's samples, placed where `put_batch` places the samples."""
    # With several processes JAX takes what is asked for here for an oversight, which the training loop forbids.
    with jax.transfer_guard_host_to_device("allow"):
        return jax.make_array_from_process_local_data(batch_sharding(mesh), rows)


def everywhere(tree: Any, mesh: Mesh) -> Any:
    """The tree with every array whole on every device, as evaluation wants it: then no program of it has to gather anything."""
    return jax.tree.map(lambda x: in_turn(jax.device_put(x, replicated(mesh))), tree)
