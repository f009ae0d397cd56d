"""From each run's confusion matrices to means over seeds, paired differences with bootstrap intervals, and monotony.
Numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 2000
"""[C] Bootstrap resamples of an interval."""
CONFIDENCE = 0.95
"""[C] Its level."""
FEWEST_TILES = 10
"""[C] Test tiles below which a bootstrap over them says nothing."""


def miou(confusions: Float[np.ndarray, "*any classes classes"]) -> Float[np.ndarray, "*any"]:
    """mIoU as a fraction, as `sgma_jax.evaluation.metrics.scores` has it: classes in neither do not
    count. NaN for nothing."""
    hits = np.diagonal(confusions, axis1=-2, axis2=-1)
    union = confusions.sum(-1) + confusions.sum(-2) - hits
    exists = union > 0
    with np.errstate(invalid="ignore"):
        return np.where(exists, hits / np.maximum(union, 1), 0.0).sum(-1) / exists.sum(-1)


class Measures(NamedTuple):
    """The paper's two summaries of a run, as fractions."""

    average: Float[np.ndarray, "*any"]
    last1: Float[np.ndarray, "*any"]


def measures(scores: Float[np.ndarray, "*any subsets"]) -> Measures:
    """Average and Last-1 over the subsets; subsets without a score do not count."""
    return Measures(np.nanmean(scores, -1), np.nanmin(scores, -1))


class Difference(NamedTuple):
    """How much more one method reaches than another, as fractions."""

    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """The only place where one method is called better: where the interval excludes 0."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no difference shown"


def paired_differences(
    ours: Int[np.ndarray, "seeds records subsets classes classes"],
    theirs: Int[np.ndarray, "seeds records subsets classes classes"],
) -> dict[str, Difference]:
    """Average and Last-1 of `ours` minus `theirs`, mean over seeds, each with its bootstrap interval (percentiles).

    A resample draws test tiles with replacement, the same for all runs of both methods, and [C] seeds with
    replacement, the same for both: an interval over tiles alone would speak of these very networks and not of the
    method. With one seed it does speak of these alone.
    """
    seeds, records = ours.shape[:2]
    rng = np.random.default_rng(0)
    tiles = rng.multinomial(records, np.full(records, 1 / records), size=RESAMPLES)
    drawn_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    found = {}
    whole, resampled = [], []
    for runs in (ours, theirs):
        whole.append(measures(miou(runs.sum(1, dtype=np.int64))))
        sums = np.stack(
            [(tiles @ run.reshape(records, -1).astype(np.float64)).reshape(RESAMPLES, *run.shape[1:]) for run in runs],
            1,
        )
        resampled.append(measures(miou(sums)))
    for i, name in enumerate(Measures._fields):
        differences = (drawn_seeds * (resampled[0][i] - resampled[1][i])).sum(1)
        tail = 100 * (1 - CONFIDENCE) / 2
        low, high = np.percentile(differences, [tail, 100 - tail])
        found[name] = Difference(float((whole[0][i] - whole[1][i]).mean()), float(low), float(high))
    return found


def monotony(scores: Float[np.ndarray, " subsets"], subsets: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    """Over all pairs of subsets A in B (A not B): how often the larger one scores lower, and by how much at most."""
    falls = [
        float(scores[i] - scores[j])
        for i, smaller in enumerate(subsets)
        for j, larger in enumerate(subsets)
        if set(smaller) < set(larger) and not np.isnan(scores[[i, j]]).any()
    ]
    return {"pairs": len(falls), "falls": sum(f > 0 for f in falls), "largest_fall": max([0.0, *falls])}


def mean_and_sd(values: Sequence[float | None] | Float[np.ndarray, " seeds"]) -> dict[str, Any]:
    """Mean and standard deviation over seeds (of a sample, n - 1; None for a single one), with the values themselves.

    What could not be measured, NaN or None, is None, and then so are both.
    """
    known = [None if value is None or math.isnan(value) else float(value) for value in values]
    measured = [value for value in known if value is not None]
    if len(measured) < len(known):
        return {"mean": None, "sd": None, "values": known}
    return {
        "mean": float(np.mean(measured)),
        "sd": float(np.std(measured, ddof=1)) if len(measured) > 1 else None,
        "values": known,
    }
