"""What a compiled program is said to send, against programs whose collectives are known, and the laws that
extrapolate it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from experiments.benchmarks.collectives import collectives
from experiments.benchmarks.scaling import Link, among, law

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec as P
from experiments.benchmarks.collectives import collectives
mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("a", "b"))
def program(x):
    x = lax.psum(x, "a")                                                       # [8] of 4 bytes, pairs
    whole = lax.all_gather(x, "b", tiled=True)                                 # [16]
    part = lax.psum_scatter(jnp.sin(whole), "b", tiled=True)                   # [8] out of [16]
    def step(total, _):
        return total + lax.ppermute(jnp.sin(total), "b", [(0, 1)]), None       # five times
    return lax.psum(lax.scan(step, part, None, length=5)[0].sum(), "b")
on_four = jax.jit(jax.shard_map(program, mesh=mesh, in_specs=P(("a", "b")), out_specs=P(), check_vma=False))
found = {(c.kind, c.group, c.times, c.shapes, c.whole_bytes) for c in collectives(on_four.lower(jnp.ones(32)).compile().as_text())}
assert found == {("all-reduce", 2, 1, ((8,),), 32), ("all-gather", 2, 1, ((16,),), 64), ("reduce-scatter", 2, 1, ((8,),), 64),
                 ("collective-permute", 2, 5, ((8,),), 32), ("all-reduce", 2, 1, ((),), 4)}, found
"""


def test_every_collective_is_found_with_its_bytes_and_how_often_a_loop_gets_there() -> None:
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("groups", "devices"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", 4),
        ("[2,4]<=[8]", 4),
        ("mesh['x'=2,'y'=4] {'y'}", 4),
        ("mesh['x'=2,'y'=4] {'x','y'}", 8),
        ("{{0},{1}}", None),
    ],
)
def test_every_way_to_write_the_devices_of_a_group_is_read(groups: str, devices: int | None) -> None:
    reduce = f"(f32[3]{{0}}, bf16[2,5]{{1,0}}) all-reduce(%p, %q), replica_groups={groups}, to_apply=%add"
    found = collectives(
        f"%add (a: f32[]) -> f32[] {{\n}}\nENTRY %main (p: f32[3]) -> f32[3] {{\n  ROOT %r = {reduce}\n}}\n"
    )
    assert [(c.group, c.shapes, c.whole_bytes) for c in found] == (
        [] if devices is None else [(devices, ((3,), (2, 5)), 32)]
    )


def test_a_loop_of_unknown_length_that_sends_something_is_refused() -> None:
    loop = "%body (p: f32[2]) -> f32[2] {\n  %r = f32[2] all-reduce(%p), replica_groups={{0,1}}\n}\n"
    entry = "ENTRY %main (p: f32[2]) -> f32[2] {\n  %w = f32[2] while(%p), condition=%body, body=%body\n}\n"
    with pytest.raises(ValueError, match="unknown length"):
        collectives(loop + entry)


def test_collectives_over_part_of_the_mesh_are_told_apart() -> None:
    assert among("all-reduce", 64, 64, 8) == "all"
    assert (
        among("all-reduce", 8, 64, 8) == "data"
    )  # a group of eight either way: only gathers and scatters run over fsdp
    assert among("all-gather", 8, 64, 8) == "fsdp"


def test_bytes_off_the_line_are_refused_rather_than_extrapolated() -> None:
    rows = {n: {"kind": "all-reduce", "over": "all", "bytes": 1000 + 8 * n} for n in (2, 4, 8, 16)}
    assert law(rows) == (1000, 8)
    rows[4]["bytes"] += 1
    with pytest.raises(RuntimeError, match="4 devices"):
        law(rows)


def test_time_is_what_goes_through_a_devices_links_and_the_hops() -> None:
    tree = Link("tree", "", 1e9, near=8, near_bytes_per_second=1e10, hop_seconds=0.0)
    assert tree.seconds("all-gather", 8e9, 16) == pytest.approx(7.5)  # 15 of 16 parts come in
    assert tree.seconds("all-reduce", 8e9, 16) == pytest.approx(15.0)
    assert tree.seconds("all-gather", 8e9, 8) == pytest.approx(0.7)
    assert Link("torus", "", 1e9, torus=True, hop_seconds=1.0).seconds("all-gather", 0.0, 4096) == pytest.approx(
        45.0
    )  # 15 along each side
    assert Link("tree", "", 1e9, hop_seconds=1.0).seconds("all-reduce", 0.0, 4096) == pytest.approx(24.0)
