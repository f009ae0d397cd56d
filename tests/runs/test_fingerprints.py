"""Any change of an array changes its fingerprint; where it lives does not."""

from __future__ import annotations

import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgma_jax.runs.fingerprints import fingerprints


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool"])
def test_one_flipped_bit_anywhere_changes_the_fingerprint(dtype: str) -> None:
    array = jnp.asarray(np.arange(60).reshape(3, 4, 5) % 2, dtype)
    want = fingerprints(array)
    for place in range(array.size):
        for bit in (0,) if dtype == "bool" else (0, 7, 8 * array.dtype.itemsize - 1):
            raw = bytearray(np.asarray(array).tobytes())
            raw[place * array.dtype.itemsize + bit // 8] ^= 1 << bit % 8
            assert fingerprints(jnp.asarray(np.frombuffer(bytes(raw), array.dtype).reshape(array.shape))) != want


@given(st.permutations(range(6)))
def test_values_in_another_order_have_another_fingerprint(order: list[int]) -> None:
    values = np.array([0.5, -1.25, 3.0, 1e-8, 7.0, 2.0], np.float32)
    same = fingerprints(jnp.asarray(values)) == fingerprints(jnp.asarray(values[list(order)]))
    assert same == (list(order) == sorted(order))


def test_how_an_array_is_sharded_changes_nothing() -> None:
    program = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from sgma_jax.runs.fingerprints import fingerprints
mesh = jax.make_mesh((2, 2), ("data", "fsdp"))
array = np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float32)
alone = fingerprints([jax.numpy.asarray(array), jax.numpy.float32(3)])
for spec in (P(), P("fsdp"), P(None, None, "fsdp"), P("data", "fsdp"), P(("data", "fsdp"))):
    assert fingerprints([jax.device_put(array, NamedSharding(mesh, spec)), jax.device_put(np.float32(3), NamedSharding(mesh, P()))]) == alone, spec
"""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, timeout=120)
