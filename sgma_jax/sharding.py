"""One mesh over all devices, and where each array lives on it. The same program runs on one device and on many."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sgma_jax.distributed import await_turn
from sgma_jax.errors import InputError
from sgma_jax.structs import Batch

SMALLEST_SHARDED = 2**16  # [C] parameters below this many numbers are cheaper to replicate than to gather
SAMPLES = ("data", "fsdp")
"""The axes that share the samples of a batch; `fsdp` shares parameters and optimiser state besides."""
ROWS = "space"
"""The axis that shares the image rows of a sample."""
COARSEST = 32
"""Stride of the coarsest map: a device's strip of rows is a multiple of it, so that no position of a map lies on two
devices."""
MOST_CORES = 8
"""[C] Devices that a CPU becomes at most: each has a copy of the parameters. Measured with 2 only."""
LONG_MEETINGS = (
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=3600 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=86400"
)


def one_device_a_core(*batches: int) -> None:
    """Make a CPU as many devices as it has cores, of which each computes samples of its own, as far as they divide
    all of `batches`.

    JAX takes a CPU for one device and divides single operations among its cores, which keeps 2 of them busy for
    three quarters of a training step (docs/benchmarks.md). Must be called before JAX sees a device. Nothing changes
    for an accelerator, nor where XLA_FLAGS or JAX_NUM_CPU_DEVICES says how many devices there shall be.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "") or "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    common = math.gcd(*batches)
    # XLA ends the process where devices meet more than 40 seconds apart, as on a busy machine, or one that slept.
    # Whoever waits for ever is found by `sgma train --stall-seconds`.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {LONG_MEETINGS}"
    with contextlib.suppress(RuntimeError):  # JAX has its devices already: a program that calls us has chosen them
        jax.config.update(
            "jax_num_cpu_devices", max(n for n in range(1, min(cores, MOST_CORES) + 1) if common % n == 0)
        )


def make_mesh(fsdp: int, space: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The devices of all processes, or those given, as axes ("data", "fsdp", "space").

    The devices that share a sample are neighbours in JAX's order and of one process, because a process reads whole
    samples.
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) % (fsdp * space):
        raise InputError(
            f"fsdp x space is {fsdp} x {space}, which does not divide the {len(devices)} devices; choose divisors."
        )
    if jax.local_device_count() % space:
        raise InputError(
            f"space is {space}, which does not divide the {jax.local_device_count()} devices of a process; choose a "
            f"divisor."
        )
    return Mesh(np.array(devices).reshape(-1, fsdp, space), (*SAMPLES, ROWS), axis_types=(AxisType.Auto,) * 3)


def divided(mesh: Mesh | AbstractMesh, axes: tuple[str, ...] = (*SAMPLES, ROWS)) -> tuple[str, ...]:
    """Those of a mesh's axes that have more than one device: along the others nothing is sent, so one device has no
    collectives at all."""
    return tuple(axis for axis in axes if mesh.shape.get(axis, 1) > 1)


def batch_specs(mesh: Mesh) -> Batch:
    """How the arrays of a batch are divided: samples over `data` and `fsdp`, image rows over `space`."""
    samples, rows = divided(mesh, SAMPLES) or None, divided(mesh, (ROWS,)) or None
    one: Any = P(samples)
    pixels: Any = P(samples, rows)  # also of every array in the dict of images
    available: Any = (
        P(samples, None, rows) if rows else P(samples)
    )  # where no rows are shared, a mask per sample will do
    return Batch(images=pixels, available=available, kept=one, labels=pixels, ids=one, drawn=one)


def batch_sharding(mesh: Mesh) -> Batch:
    """`batch_specs` as shardings."""
    shardings: list[Any] = [NamedSharding(mesh, spec) for spec in batch_specs(mesh)]  # type: ignore[arg-type]
    return Batch(*shardings)


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, P())


def with_sharding(shapes: Any, mesh: Mesh) -> Any:
    """The tree of shapes, each with its sharding: large arrays split along their largest axis that `fsdp` divides,
    the rest replicated."""
    fsdp = mesh.shape["fsdp"]

    def sharding(leaf: Any) -> NamedSharding:
        divisible = [axis for axis, size in enumerate(leaf.shape) if size % fsdp == 0]
        if fsdp == 1 or not divisible or np.prod(leaf.shape) < SMALLEST_SHARDED:
            return replicated(mesh)
        axis = max(divisible, key=lambda a: leaf.shape[a])
        return NamedSharding(mesh, P(*[None] * axis, "fsdp"))

    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(x)), shapes)


def whole_parameters(params: Any, specs: Any) -> Any:
    """On a device of `jax.shard_map`: the whole parameters, out of what the devices along `fsdp` hold.

    They are typed as differing between devices, so that a gradient is this device's own until `own_gradients` adds
    them up.
    """
    axes = divided(jax.sharding.get_abstract_mesh())

    def gather(x: Any, spec: P) -> Any:
        axis = _sharded_axis(spec)
        if axis is None:
            return lax.pcast(x, axes, to="varying")
        return lax.pcast(
            lax.all_gather(x, "fsdp", axis=axis, tiled=True), tuple(a for a in axes if a != "fsdp"), to="varying"
        )

    return jax.tree.map(gather, params, specs)


def own_gradients(gradients: Any, specs: Any) -> Any:
    """On a device of `jax.shard_map`: the sum of all devices' gradients, of a sharded parameter this device's part
    of it."""
    axes = divided(jax.sharding.get_abstract_mesh())

    def reduce(x: Any, spec: P) -> Any:
        axis = _sharded_axis(spec)
        if axis is None:
            return lax.psum(x, axes)
        return lax.psum(
            lax.psum_scatter(x, "fsdp", scatter_dimension=axis, tiled=True), tuple(a for a in axes if a != "fsdp")
        )

    return jax.tree.map(reduce, gradients, specs)


def describe_sharding(shapes: Any) -> str:
    """Return in one line for the log what the rule of `with_sharding` did to a state."""
    leaves = jax.tree.leaves(shapes)
    split = sum(not x.sharding.is_fully_replicated for x in leaves)
    held = sum(np.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)
    whole = sum(np.prod(x.shape) * x.dtype.itemsize for x in leaves)
    mesh = leaves[0].sharding.mesh
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    return (
        f"mesh {axes}; {split} of {len(leaves)} arrays of the state are sharded over fsdp, {held / 1e6:.1f} of "
        f"{whole / 1e6:.1f} MB a device"
    )


def _sharded_axis(spec: P) -> int | None:
    return spec.index("fsdp") if "fsdp" in spec else None


def check_batch_size(name: str, size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raise InputError unless the batch can be split over the devices, and every device's part into `accumulate`
    micro-batches."""
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    if size % (devices * accumulate):
        parts = f"the {devices} devices that share it" + (f" x accumulate {accumulate}" if accumulate > 1 else "")
        raise InputError(f"{name} is {size}, which {parts} do not divide; choose a multiple of {devices * accumulate}.")


def check_rows(name: str, rows: int, mesh: Mesh, magnify: int = 1) -> None:
    """Raise InputError unless images of so many rows can be split into strips, after their magnification."""
    space = mesh.shape[ROWS]
    if space > 1 and (rows % space or rows * magnify % (space * COARSEST)):
        least = space * COARSEST // np.gcd(magnify, COARSEST)
        raise InputError(
            f"{name} is {rows}, which space {space} cannot share; choose a multiple of {least}, or another space."
        )


def put_batch(batch: Batch, mesh: Mesh) -> Batch:
    """This process's samples of a batch, placed on the devices as parts of the global batch."""

    def place(part: Any, sharding: NamedSharding) -> Any:
        return jax.tree.map(lambda x: _put(x, sharding), part)

    return Batch(*map(place, batch, batch_sharding(mesh)))


def put_samples(samples: np.ndarray, mesh: Mesh) -> jax.Array:
    """An array whose first axis is this process's samples, placed where `put_batch` places the samples."""
    return _put(samples, batch_sharding(mesh).ids)


def _put(part: np.ndarray, sharding: NamedSharding) -> jax.Array:
    # With several processes JAX takes what is asked for here for an oversight, which the training loop forbids.
    with jax.transfer_guard_host_to_device("allow"):
        return jax.make_array_from_process_local_data(sharding, part)


def put_replicated(tree: Any, mesh: Mesh) -> Any:
    """The tree with every array whole on every device, as evaluation wants it: then no program of it has to gather
    anything."""
    return jax.tree.map(lambda x: await_turn(jax.device_put(x, replicated(mesh))), tree)
