"""The public names, and the parts that other networks take up: SGF and the sampling table."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import sgma_jax
from sgma_jax.config import SamplingConfig
from sgma_jax.errors import InputError
from sgma_jax.training.sampling import SamplingTable

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_the_package_loads_nothing_until_a_name_is_asked_for() -> None:
    code = (
        "import sys, sgma_jax; assert not {'jax', 'numpy', 'flax'} & set(sys.modules);"
        "assert sgma_jax.TrainConfig and 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_public_name_is_there_and_no_other() -> None:
    assert dir(sgma_jax) == sorted(sgma_jax.__all__)
    for name in sgma_jax.__all__:
        assert getattr(sgma_jax, name)
        assert name == "__version__" or getattr(sgma_jax, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sgma_jax.nothing


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """What the README's network computed, in its own words."""
    (code,) = (text for text in re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S) if "TwoSensors" in text)
    assert len([line for line in code.splitlines() if line.strip()]) <= 25
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def test_the_readmes_network_fuses_and_its_table_learns(example: dict[str, Any]) -> None:
    assert example["logits"].shape == example["logits_alone"].shape == (4, 32, 32, 5)
    np.testing.assert_allclose(example["robustness"].sum(1), 1.0, rtol=1e-5)
    assert not example["robustness"][0, 1].any()
    assert example["drawn"][0] == 0
    table, before = example["table"], example["table"].probabilities()
    table.push(*example["robustness_report"]((example["robustness"],), (example["seen"],)), example["ids"])
    assert (table.probabilities() != before).any()


def test_a_foreign_network_may_be_transformed_as_jax_can(example: dict[str, Any]) -> None:
    """Values under vmap and shard_map with an axis of another name, and derivatives by jvp and grad, agree."""
    model, variables, seen, drawn = (example[n] for n in ("model", "variables", "seen", "drawn"))
    rng = np.random.default_rng(0)
    images = tuple(rng.normal(size=x.shape).astype(np.float32) for x in example["images"])

    def answer(*inputs: Any) -> Any:
        return model.apply(variables, *inputs)

    plain = jax.jit(answer)(*images, seen, drawn)
    twice = tuple(np.stack([x, x[::-1]]) for x in (*images, seen, drawn))
    over_two = jax.jit(jax.vmap(answer))(*twice)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("workers",))
    spec = PartitionSpec("workers")
    shared = jax.jit(jax.shard_map(answer, mesh=mesh, in_specs=(spec,) * 4, out_specs=spec))(*images, seen, drawn)
    for one, two, three in zip(plain, over_two, shared, strict=True):
        np.testing.assert_allclose(two[0], one, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(two[1], one[::-1], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(three, one, rtol=1e-4, atol=1e-5)

    def loss(rgb: Any) -> Any:
        return sum(jnp.square(x).sum() for x in answer(rgb, images[1], seen, drawn))

    direction = rng.normal(size=images[0].shape).astype(np.float32)
    gradient = jax.jit(jax.grad(loss))(images[0])
    _, slope = jax.jit(lambda x, v: jax.jvp(loss, (x,), (v,)))(images[0], direction)
    assert float(slope) == pytest.approx(float((gradient * direction).sum()), rel=1e-3)


def test_a_table_of_records_says_that_it_needs_their_number() -> None:
    with pytest.raises(InputError, match="how many records"):
        SamplingTable(SamplingConfig(granularity="sample"), modalities=2)
