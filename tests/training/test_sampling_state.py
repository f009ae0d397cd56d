"""A sampling table that is cut and restored goes on as if never interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgma_jax.config import SamplingConfig
from sgma_jax.errors import InputError
from sgma_jax.runs.checkpoints import Checkpoints
from sgma_jax.sharding import make_mesh, with_sharding
from sgma_jax.structs import TrainState
from sgma_jax.training.sampling import SamplingTable
from tests.training.test_sampling import RECORDS, SENSORS, granularities, make_table, results, seeds


def continue_run(table: SamplingTable, reports: list[Any], start: int) -> list[np.ndarray]:
    """Draw, push, draw, push ... from a step on; what was drawn and what the table then says."""
    seen = []
    for step in range(start, len(reports)):
        seen.append(table.draw(np.ones((RECORDS, SENSORS), bool), np.arange(RECORDS), step))
        table.push(*reports[step])
        seen.append(table.probabilities(np.arange(RECORDS)))
    return seen


@given(seed=seeds, granularity=granularities, lag=st.sampled_from([0, 1, 3]), cut=st.integers(0, 8))
def test_a_run_that_is_cut_and_restored_goes_on_identically(seed: int, granularity: str, lag: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    reports = [results(rng) for _ in range(8)]
    whole, first, second = (make_table(seed, granularity=granularity, lag=lag) for _ in range(3))
    told = continue_run(whole, reports, 0)
    continue_run(first, reports[:cut], 0)
    second.restore(first.state())
    for got, want in zip(continue_run(second, reports, cut), told[2 * cut :], strict=True):
        np.testing.assert_array_equal(got, want)
    jax.tree.map(np.testing.assert_array_equal, second.state(), whole.state())


def small_state() -> TrainState:
    params = {"head": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}}
    return TrainState(jnp.int32(5), params, {"norm": {"mean": jnp.zeros(3)}}, optax.adamw(1e-3).init(params))


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("granularity", ["global", "sample"])
def test_a_checkpoint_on_disk_holds_the_table_to_the_last_bit(granularity: str, lag: int, tmp_path: Path) -> None:
    # As many records as a real data set has, so that a save in the background is really still under way when the run
    # goes on.
    rng, count = np.random.default_rng(3), 20_000 if granularity == "sample" else RECORDS
    # The step returns device arrays, the record numbers come from the batch.
    reports = [
        (jnp.asarray(robustness), jnp.asarray(informative), ids)
        for robustness, informative, ids in (results(rng) for _ in range(8))
    ]
    table, restored = (make_table(granularity=granularity, lag=lag, records=count) for _ in range(2))
    continue_run(table, reports[:4], 0)
    checkpoints = Checkpoints(tmp_path, keep=None)
    checkpoints.save(4, small_state(), table.state(), {}, "hash")
    told = continue_run(table, reports, 4)  # goes on at once, as training does
    checkpoints.wait()
    got, _ = checkpoints.restore_newest(with_sharding(jax.eval_shape(small_state), make_mesh(1)))
    checkpoints.close()
    restored.restore(got.sampling)
    for mine, theirs in zip(continue_run(restored, reports, 4), told, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    jax.tree.map(np.testing.assert_array_equal, restored.state(), table.state())
    jax.tree.map(np.testing.assert_array_equal, got.state, small_state())


@pytest.mark.parametrize(
    "other",
    [
        SamplingTable(SamplingConfig(), SENSORS + 1, seed=0, records=RECORDS),
        SamplingTable(SamplingConfig(granularity="sample"), SENSORS, seed=0, records=RECORDS),
        SamplingTable(SamplingConfig(granularity="sample"), SENSORS, seed=0, records=RECORDS + 1),
    ],
    ids=["another number of sensors", "another granularity", "another number of records"],
)
def test_the_state_of_another_table_is_an_input_error_and_changes_nothing(other: SamplingTable) -> None:
    for table in (make_table(), make_table(granularity="sample")):
        if [np.shape(v) for v in table.state().values()] == [np.shape(v) for v in other.state().values()]:
            continue
        before = table.probabilities(np.arange(RECORDS))
        with pytest.raises(InputError, match="another data set or granularity"):
            table.restore(other.state())
        np.testing.assert_array_equal(table.probabilities(np.arange(RECORDS)), before)
