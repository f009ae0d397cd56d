"""Means, intervals and monotony are what their plain definitions say, and nothing is called better without an
interval."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.compare.scores import Difference, mean_and_sd, measures, miou, monotony, paired_differences
from sgma_jax.evaluation.metrics import scores as scores_of

CLASSES = ("a", "b", "c")


def confusions_of(seed: int, *shape: int, skill: float = 0.5) -> np.ndarray:
    """Random counts, with more on the diagonal the greater the skill."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 20, size=(*shape, 3, 3))
    return (counts * (1 - skill) + counts * np.eye(3) * 3 * skill).astype(np.int32)


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.5, 0.9]))
def test_miou_is_the_evaluations_also_where_a_class_is_absent(seed: int, empty: float) -> None:
    rng = np.random.default_rng(seed)
    matrices = confusions_of(seed, 4)
    gone = rng.random(3) < empty
    matrices[:, gone] = 0
    matrices[:, :, gone] = 0
    for matrix, value in zip(matrices, miou(matrices), strict=True):
        expected = scores_of(matrix, CLASSES).miou
        assert np.isnan(value) if expected is None else value == pytest.approx(expected, abs=1e-12)


def test_a_method_differs_from_itself_by_nothing() -> None:
    runs = confusions_of(0, 3, 8, 2)
    for difference in paired_differences(runs, runs).values():
        assert difference == Difference(0.0, 0.0, 0.0)
        assert difference.verdict == "no difference shown"


def test_swapping_the_methods_swaps_the_signs() -> None:
    one, other = confusions_of(0, 3, 8, 2, skill=0.6), confusions_of(1, 3, 8, 2)
    forth, back = paired_differences(one, other), paired_differences(other, one)
    for name, d in forth.items():
        assert (d.difference, d.low, d.high) == pytest.approx(
            (-back[name].difference, -back[name].high, -back[name].low)
        )


def test_the_difference_is_that_of_the_whole_split_and_lies_in_its_interval() -> None:
    one, other = confusions_of(0, 2, 10, 3, skill=0.8), confusions_of(1, 2, 10, 3, skill=0.3)
    found = paired_differences(one, other)
    for name in ("average", "last1"):
        expected = np.mean(
            [
                getattr(measures(miou(a.sum(0))), name) - getattr(measures(miou(b.sum(0))), name)
                for a, b in zip(one, other, strict=True)
            ]
        )
        assert found[name].difference == pytest.approx(expected)
        assert found[name].low <= found[name].difference <= found[name].high
        assert found[name].verdict == "better"
        assert paired_differences(other, one)[name].verdict == "worse"


def test_one_lucky_tile_or_seed_makes_nothing_better() -> None:
    same = confusions_of(0, 3, 10, 2)
    lucky = same.copy()
    lucky[:, 0] = confusions_of(5, 3, 1, 2, skill=1.0)[:, 0]
    assert paired_differences(lucky, same)["average"].low <= 0
    # One seed far better than the two others, which are a little worse.
    better, worse = confusions_of(0, 1, 10, 2, skill=0.9), confusions_of(0, 2, 10, 2, skill=0.45)
    assert (
        paired_differences(np.concatenate([better, worse]), confusions_of(0, 3, 10, 2))["average"].verdict
        == "no difference shown"
    )


def test_the_interval_widens_with_the_spread_of_the_tiles() -> None:
    base = confusions_of(0, 1, 30, 1)
    even, uneven = base.copy(), base.copy()
    even += (10 * np.eye(3)).astype(np.int32)
    uneven[:, ::3] += (30 * np.eye(3)).astype(np.int32)
    widths = [d.high - d.low for d in (paired_differences(x, base)["average"] for x in (even, uneven))]
    assert widths[1] > widths[0] > 0


def test_falls_are_counted_over_all_pairs_of_a_subset_and_a_larger_one() -> None:
    subsets = [("r",), ("d",), ("n",), ("r", "d"), ("r", "n"), ("d", "n"), ("r", "d", "n")]
    rising = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert monotony(rising, subsets) == {"pairs": 12, "falls": 0, "largest_fall": 0.0}
    fallen = rising.copy()
    fallen[6] = 0.45  # below r+n and d+n
    found = monotony(fallen, subsets)
    assert (found["falls"], found["largest_fall"]) == (2, pytest.approx(0.15))
    fallen[5] = np.nan  # not scored: its pairs do not count
    assert monotony(fallen, subsets)["pairs"] == 9


def test_the_spread_over_seeds_is_of_a_sample_and_unknown_for_one() -> None:
    assert mean_and_sd([1.0, 2.0, 3.0]) == {"mean": 2.0, "sd": 1.0, "values": [1.0, 2.0, 3.0]}
    assert mean_and_sd([1.0])["sd"] is None
    assert (
        mean_and_sd([1.0, None])
        == mean_and_sd([1.0, float("nan")])
        == {"mean": None, "sd": None, "values": [1.0, None]}
    )
