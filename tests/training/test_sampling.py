"""Modality-Aware Sampling keeps its contract: what it draws, and when it learns."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sgma_jax.config import SamplingConfig
from sgma_jax.training.sampling import SCALES, SamplingTable

SENSORS, RECORDS = 3, 9
UNLIKELY = 1e-3  # seeds are fixed, so a chi-square test that passes always passes
SHARES = np.array([[0.6, 0.3, 0.1], [0.4, 0.4, 0.2], [0.2, 0.3, 0.5], [0.7, 0.2, 0.1]])
"""Robustness per scale and sensor."""

granularities = st.sampled_from(["global", "sample"])
seeds = st.integers(0, 2**32 - 1)


def make_table(seed: int = 0, records: int = RECORDS, **options: Any) -> SamplingTable:
    return SamplingTable(SamplingConfig(**options), SENSORS, seed=seed, records=records)


def results(rng: np.random.Generator, batch: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a training step might return for a batch."""
    robustness = rng.dirichlet(np.ones(SENSORS), (batch, SCALES)).astype(np.float32)
    return robustness, rng.random((batch, SCALES, SENSORS)) < 0.7, rng.permutation(RECORDS)[:batch]


def certain(shares: np.ndarray, ids: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A result that says the same of every record."""
    robustness = np.broadcast_to(shares, (len(ids), SCALES, SENSORS)).copy()
    return robustness, np.ones_like(robustness, bool), np.array(ids)


def by_hand(shares: np.ndarray, floor: float = 1e-3) -> list[float]:
    """METHOD.md: invert, normalise per scale, mean over the scales."""
    total = [0.0] * len(shares[0])
    for row in shares:
        inverted = [1.0 / max(float(r), floor) for r in row]
        total = [t + v / sum(inverted) / len(shares) for t, v in zip(total, inverted, strict=True)]
    return total


def assert_drawn_by(drawn: np.ndarray, probabilities: np.ndarray) -> None:
    possible = probabilities > 0
    counts = np.bincount(drawn, minlength=len(probabilities))
    assert counts[~possible].sum() == 0
    if possible.sum() > 1:
        assert (
            stats.chisquare(counts[possible], len(drawn) * probabilities[possible] / probabilities.sum()).pvalue
            > UNLIKELY
        )


@pytest.mark.parametrize(
    "present", [(True, True, True), (True, False, True), (False, True, True), (False, True, False)]
)
@pytest.mark.parametrize("granularity", ["global", "sample"])
def test_draws_match_the_probabilities_renormalised_over_the_sensors_present(
    granularity: str, present: tuple[bool, ...]
) -> None:
    table = make_table(granularity=granularity, decay=0.0)
    table.update(*certain(SHARES, [1]))
    table.update(*certain(SHARES[:, ::-1], [2]))
    for record, shares in ((1, SHARES if granularity == "sample" else SHARES[:, ::-1]), (2, SHARES[:, ::-1])):
        drawn = np.concatenate([table.draw(np.array([present]), np.array([record]), step) for step in range(3000)])
        assert_drawn_by(drawn, np.array(by_hand(shares)) * present)


def test_draws_of_many_records_in_one_step_match_the_probabilities() -> None:
    table = make_table(decay=0.0)
    table.update(*certain(SHARES, [0]))
    assert_drawn_by(table.draw(np.ones((4000, SENSORS), bool), np.arange(4000), step=7), np.array(by_hand(SHARES)))


def test_draws_of_neighbouring_records_steps_and_seeds_are_independent() -> None:
    count, everything = 3000, np.ones((3001, SENSORS), bool)
    draws = {
        (seed, step): SamplingTable(SamplingConfig(), SENSORS, seed=seed, records=1).draw(
            everything, np.arange(count + 1), step
        )
        for seed, step in ((0, 0), (0, 1), (1, 0))
    }
    first = draws[0, 0][:-1]
    for other in (draws[0, 0][1:], draws[0, 1][:-1], draws[1, 0][:-1]):
        pairs = np.histogram2d(first, other, bins=SENSORS)[0]
        assert stats.chi2_contingency(pairs).pvalue > UNLIKELY


def test_the_modality_of_low_robustness_is_favoured() -> None:
    table = make_table()
    for _ in range(50):
        table.update(*certain(np.broadcast_to([0.6, 0.3, 0.1], (SCALES, SENSORS)), [0]))
    strong, middle, fragile = table.probabilities()
    assert fragile > middle > strong
    drawn = np.bincount(table.draw(np.ones((2000, SENSORS), bool), np.arange(2000), 0), minlength=SENSORS)
    assert drawn[2] > drawn[1] > drawn[0] > 0


@settings(max_examples=60)
@given(data=st.data(), granularity=granularities, seed=seeds, step=st.integers(0, 2**31 - 1))
def test_a_sensor_that_the_record_lacks_is_never_drawn(
    data: st.DataObject, granularity: str, seed: int, step: int
) -> None:
    masks = st.lists(st.booleans(), min_size=SENSORS, max_size=SENSORS)
    present = np.array(data.draw(st.lists(masks, min_size=1, max_size=12)))
    ids = np.array(data.draw(st.lists(st.integers(0, RECORDS - 1), min_size=len(present), max_size=len(present))))
    # Floors and robustness of zero make some sensors a million times likelier than others.
    table = make_table(seed, granularity=granularity, decay=0.0, floor=data.draw(st.sampled_from([1e-9, 1e-3])))
    table.update(
        *certain(
            np.array(data.draw(st.sampled_from([SHARES.tolist(), np.eye(SENSORS)[[0, 1, 2, 0]].tolist()]))), [0, 1]
        )
    )
    drawn = table.draw(present, ids, step)
    has_any = present.any(1)
    assert drawn.shape == (len(present),)
    assert present[has_any, drawn[has_any]].all()
    assert (drawn[~has_any] == 0).all()


@pytest.mark.parametrize("raw", [0, 2**64 - 1])
def test_the_smallest_and_the_largest_random_number_draw_a_sensor_that_is_there(
    raw: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np.random, "Philox", lambda **_: SimpleNamespace(random_raw=lambda: raw))
    masks = np.array(list(product([False, True], repeat=SENSORS))[1:])
    drawn = make_table().draw(masks, np.zeros(len(masks), int), 0)
    edge = masks.argmax(1) if raw == 0 else SENSORS - 1 - masks[:, ::-1].argmax(1)
    np.testing.assert_array_equal(drawn, edge)


@given(granularity=granularities, seed=seeds, step=st.integers(0, 10**6), hosts=st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_every_host_draws_for_its_rows_what_one_host_draws_for_the_whole_batch(
    granularity: str, seed: int, step: int, hosts: int
) -> None:
    rng = np.random.default_rng(seed)
    tables = [make_table(seed % 1000, granularity=granularity, lag=0) for _ in range(hosts + 1)]
    for _ in range(3):
        report = results(rng)
        for table in tables:
            table.push(*report)
    present, ids = rng.random((12, SENSORS)) < 0.6, rng.integers(0, RECORDS, 12)
    whole = tables[0].draw(present, ids, step)
    rows = np.split(np.arange(12), hosts)
    shares = [table.draw(present[r], ids[r], step) for table, r in zip(tables[1:], rows, strict=True)]
    np.testing.assert_array_equal(np.concatenate(shares), whole)


@given(granularity=granularities, seed=seeds, step=st.integers(0, 10**6))
def test_a_draw_depends_on_seed_step_and_record_alone(granularity: str, seed: int, step: int) -> None:
    rng = np.random.default_rng(seed)
    ids, present = rng.permutation(RECORDS), np.ones((RECORDS, SENSORS), bool)
    report = results(rng)
    fresh, used = make_table(seed, granularity=granularity), make_table(seed, granularity=granularity)
    for table in (fresh, used):
        table.update(*report)
    for other in range(5):  # what was drawn before, in which order, and beside which records, is of no matter
        used.draw(present, rng.permutation(RECORDS), step + other)
    order = rng.permutation(RECORDS)
    np.testing.assert_array_equal(used.draw(present, ids[order], step), fresh.draw(present, ids, step)[order])


def test_other_seeds_steps_and_records_draw_otherwise() -> None:
    ids, present = np.arange(64), np.ones((64, SENSORS), bool)
    draws = [
        make_table(seed).draw(present, ids + shift, step)
        for seed, step, shift in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 64))
    ]
    assert len({d.tobytes() for d in draws}) == len(draws)


@pytest.mark.parametrize("lag", [0, 1, 3])
@pytest.mark.parametrize("granularity", ["global", "sample"])
def test_the_draw_for_step_t_knows_exactly_the_results_of_the_steps_before_t_minus_lag(
    granularity: str, lag: int
) -> None:
    rng = np.random.default_rng(lag)
    reports = [results(rng) for _ in range(8)]
    table, everything = make_table(granularity=granularity, lag=lag), np.arange(RECORDS)
    for step, report in enumerate(reports):
        known = make_table(granularity=granularity)
        for earlier in reports[: max(0, step - lag)]:
            known.update(*earlier)
        np.testing.assert_array_equal(table.probabilities(everything), known.probabilities(everything))
        present = rng.random((RECORDS, SENSORS)) < 0.8
        np.testing.assert_array_equal(table.draw(present, everything, step), known.draw(present, everything, step))
        table.push(*report)


class Awaited:
    """An array of which one can tell when it was read, as a device's result that is still being computed."""

    def __init__(self, value: np.ndarray, step: int, read: list[int]) -> None:
        self.value, self.step, self.read = value, step, read

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        self.read.append(self.step)
        return self.value if dtype is None else self.value.astype(dtype)


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_push_and_draw_never_wait_for_a_result_younger_than_the_lag(lag: int) -> None:
    rng, read = np.random.default_rng(0), list[int]()
    table = make_table(lag=lag)
    for step in range(8):
        table.draw(np.ones((4, SENSORS), bool), np.arange(4), step)
        table.push(*(Awaited(a, step, read) for a in results(rng)))
        table.probabilities()
        assert set(read) == set(range(step - lag + 1))


@settings(max_examples=30)
@given(seed=seeds, granularity=granularities, decay=st.sampled_from([0.0, 0.5, 0.9, 0.99]), steps=st.integers(0, 4))
def test_the_table_is_the_moving_average_that_a_plain_loop_computes(
    seed: int, granularity: str, decay: float, steps: int
) -> None:
    rng = np.random.default_rng(seed)
    table = make_table(granularity=granularity, decay=decay)
    glob = [[1.0 / SENSORS] * SENSORS for _ in range(SCALES)]
    records: dict[int, list[list[float]]] = {}
    for _ in range(steps):
        robustness, informative, ids = results(rng)
        for scale in range(SCALES):
            for sensor in range(SENSORS):
                told = [float(robustness[b, scale, sensor]) for b in range(len(ids)) if informative[b, scale, sensor]]
                if told:
                    glob[scale][sensor] = decay * glob[scale][sensor] + (1 - decay) * sum(told) / len(told)
        for b, record in enumerate(ids):
            old = records.get(int(record), glob)
            if not informative[b].any():
                continue
            records[int(record)] = [
                [
                    decay * old[s][m] + (1 - decay) * float(robustness[b, s, m]) if informative[b, s, m] else old[s][m]
                    for m in range(SENSORS)
                ]
                for s in range(SCALES)
            ]
        table.update(robustness, informative, ids)
    np.testing.assert_allclose(table.probabilities(), by_hand(np.array(glob)), rtol=1e-12)
    for record in range(RECORDS):
        want = records.get(record, glob) if granularity == "sample" else glob
        np.testing.assert_allclose(table.probabilities(np.array([record]))[0], by_hand(np.array(want)), rtol=1e-12)


@pytest.mark.parametrize("granularity", ["global", "sample"])
@pytest.mark.parametrize("floor", [1e-6, 1e-3, 0.2])
def test_robustness_is_inverted_above_the_floor_only(granularity: str, floor: float) -> None:
    shares = np.array([[0.9, 0.1, 0.0]] * SCALES)
    table = make_table(granularity=granularity, decay=0.0, floor=floor)
    table.update(*certain(shares, [3]))
    np.testing.assert_allclose(table.probabilities(), by_hand(shares, floor), rtol=1e-12)
    np.testing.assert_allclose(table.probabilities(np.array([3]))[0], by_hand(shares, floor), rtol=1e-12)


def test_unseen_records_follow_the_global_row_and_seen_ones_their_own() -> None:
    table = make_table(granularity="sample", decay=0.0)
    for shares, record in ((SHARES, 4), (SHARES[:, ::-1], 5)):
        table.update(*certain(shares, [record]))
    of_record = table.probabilities(np.arange(RECORDS))
    np.testing.assert_allclose(of_record[4], by_hand(SHARES))
    for record in set(range(RECORDS)) - {4}:
        np.testing.assert_array_equal(of_record[record], table.probabilities())


@pytest.mark.parametrize("granularity", ["global", "sample"])
@pytest.mark.parametrize("value", [0.0, 1.0, np.nan, np.inf])
def test_records_with_one_sensor_never_move_the_table(granularity: str, value: float) -> None:
    rng, everything = np.random.default_rng(0), np.arange(RECORDS)
    table = make_table(granularity=granularity)
    table.update(*results(rng))
    before, of_record = table.probabilities(), table.probabilities(everything)
    table.update(np.full((4, SCALES, SENSORS), value, np.float32), np.zeros((4, SCALES, SENSORS), bool), np.arange(4))
    np.testing.assert_array_equal(table.probabilities(), before)
    np.testing.assert_array_equal(table.probabilities(everything), of_record)


def test_uninformative_samples_beside_informative_ones_do_not_dilute_the_mean() -> None:
    alone, beside = make_table(), make_table()
    robustness, informative, ids = results(np.random.default_rng(1))
    alone.update(robustness, informative, ids)
    silent = np.zeros_like(informative)
    beside.update(
        np.concatenate([robustness, robustness]), np.concatenate([informative, silent]), np.concatenate([ids, ids])
    )
    np.testing.assert_allclose(beside.probabilities(), alone.probabilities(), rtol=1e-12)


def test_a_record_of_which_nothing_was_ever_learnt_goes_on_following_the_global_row() -> None:
    table = make_table(granularity="sample")
    table.update(np.zeros((1, SCALES, SENSORS)), np.zeros((1, SCALES, SENSORS), bool), np.array([0]))
    for _ in range(20):
        table.update(*certain(SHARES, [1]))
    np.testing.assert_allclose(table.probabilities(np.array([0]))[0], table.probabilities())
