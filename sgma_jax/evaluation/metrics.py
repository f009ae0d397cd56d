"""Scores from integer confusion matrices that are summed over a whole split, never means of per-image scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sgma_jax.runs.results import Bin, Calibration, Evaluation, Extreme, Missing, Scores, SubsetScores
from sgma_jax.structs import IGNORE

CALIBRATION_BINS = 15
"""[C] Equal bins of confidence in a reliability diagram, as in Guo et al. (arXiv 1706.04599)."""
LEVELS_PER_BIN = 64
"""[C] Levels that a bin's confidences are counted in, so that counts stay integers; a mean confidence is exact to
0.0005."""


class Tally(NamedTuple):
    """Counts over a split for one subset of the sensors; tallies of parts add up."""

    confusion: Int[np.ndarray, "classes classes"]
    """int64 pixels by label (row) and prediction (column)."""
    labelled: int
    """Labelled pixels, also those that no sensor saw."""
    confidences: Int[np.ndarray, "levels 2"] | None = None
    """int64 pixels by confidence, lowest first, and whether the answer is wrong or right; None where they were not
    counted."""

    def add(self, confusion: np.ndarray, labelled: int, confidences: np.ndarray | None = None) -> Tally:
        """The tally with one more part counted."""
        more = None if self.confidences is None or confidences is None else self.confidences + confidences
        return Tally(self.confusion + confusion, self.labelled + labelled, more)


def confusion_matrix(
    labels: Int[Array, "*batch height width"],
    predictions: Int[Array, "*batch height width"],
    counted: Bool[Array, "*batch height width"],
    classes: int,
) -> Int[Array, "classes classes"]:
    """Pixels by label (row) and prediction (column), int32; pixels that are not counted or have no label do not
    show."""
    counted = counted & (labels != IGNORE)
    cell = jnp.where(counted, labels * classes + predictions, classes * classes)
    return jnp.bincount(cell.reshape(-1), length=classes * classes + 1)[:-1].reshape(classes, classes).astype(jnp.int32)


def confidence_histogram(
    labels: Int[Array, "batch height width"],
    predictions: Int[Array, "batch height width"],
    confidence: Float[Array, "batch height width"],
    counted: Bool[Array, "batch height width"],
) -> Int[Array, "levels 2"]:
    """Labelled pixels by the probability of their answer, in equal levels from 0 to 1, and whether it is wrong (0)
    or right (1), int32."""
    levels = CALIBRATION_BINS * LEVELS_PER_BIN
    level = jnp.clip((confidence * levels).astype(jnp.int32), 0, levels - 1)
    cell = jnp.where(counted & (labels != IGNORE), 2 * level + (predictions == labels), 2 * levels)
    return jnp.bincount(cell.reshape(-1), length=2 * levels + 1)[:-1].reshape(levels, 2).astype(jnp.int32)


def calibration(confidences: Int[np.ndarray, "levels 2"]) -> Calibration:
    """Return the expected calibration error (ECE) and the bins that it is of.

    The ECE is the mean of |share right - mean confidence| over the bins, weighted by their pixels (Guo et al., arXiv
    1706.04599).
    """
    centres = (np.arange(len(confidences)) + 0.5) / len(confidences)
    by_bin = confidences.astype(np.int64).reshape(CALIBRATION_BINS, -1, 2)
    pixels = by_bin.sum((1, 2))
    confidence = (by_bin.sum(2) * centres.reshape(CALIBRATION_BINS, -1)).sum(1) / np.maximum(pixels, 1)
    accuracy = by_bin[..., 1].sum(1) / np.maximum(pixels, 1)
    return Calibration(
        ece=float((pixels * np.abs(accuracy - confidence)).sum() / pixels.sum()) if pixels.any() else None,
        bins=tuple(
            Bin(int(n), float(c) if n else None, float(a) if n else None)
            for n, c, a in zip(pixels, confidence, accuracy, strict=True)
        ),
    )


def scores(confusion: Int[np.ndarray, "classes classes"], classes: Sequence[str]) -> Scores:
    """Return the scores of a confusion matrix.

    Classes that appear neither in the labels nor in the predictions have no score and do not count in the means.
    """
    confusion = confusion.astype(np.int64)
    hits, labelled, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    union = labelled + predicted - hits
    exists = union > 0
    iou, f1 = hits / np.maximum(union, 1), 2 * hits / np.maximum(labelled + predicted, 1)
    if not exists.any():
        return Scores(miou=None, f1=None, oa=None, iou=dict.fromkeys(classes))
    return Scores(
        miou=float(iou[exists].mean()),
        f1=float(f1[exists].mean()),
        oa=float(hits.sum() / confusion.sum()),
        iou={name: float(v) if e else None for name, v, e in zip(classes, iou, exists, strict=True)},
    )


FAILURE_PROBABILITIES = (0.05, 0.1, 0.2)


class Summary(NamedTuple):
    """Averages and extremes over the subsets."""

    average: float | None
    top1: Extreme | None
    last1: Extreme | None
    bernoulli: dict[str, float | None]


def summarise(miou: Mapping[tuple[str, ...], float | None], modalities: tuple[str, ...]) -> Summary:
    """Return Average, Top-1 and Last-1 over the subsets [P], and the expected mIoU when every sensor fails
    independently.

    `bernoulli` maps a failure probability to the mean over subsets, weighted by each subset's probability given that
    at least one sensor is left. Subsets without a score (nothing to score them on) are left out, and the weights
    renormalised.
    """
    known = {subset: value for subset, value in miou.items() if value is not None}
    if not known:
        return Summary(None, None, None, {str(p): None for p in FAILURE_PROBABILITIES})
    best, worst = max(known, key=lambda s: known[s]), min(known, key=lambda s: known[s])
    bernoulli: dict[str, float | None] = {}
    for p in FAILURE_PROBABILITIES:
        weights = {s: (1 - p) ** len(s) * p ** (len(modalities) - len(s)) for s in known}
        bernoulli[str(p)] = sum(weights[s] * known[s] for s in known) / sum(weights.values())
    average = sum(known.values()) / len(known)
    return Summary(average, Extreme(best, known[best]), Extreme(worst, known[worst]), bernoulli)


def make_evaluation(
    tallies: Mapping[tuple[str, ...], Tally],
    split: str,
    modalities: tuple[str, ...],
    classes: Sequence[str],
    missing: Missing = "skip",
) -> Evaluation:
    """Return the evaluation that the counts of every subset come to, without provenance.

    `missing` is what absent sensors were.
    """
    rows = tuple(
        SubsetScores(
            modalities=subset,
            **vars(scores(tally.confusion, classes)),
            coverage=float(tally.confusion.sum() / tally.labelled) if tally.labelled else None,
            confusion=tuple(tuple(row) for row in tally.confusion.tolist()),
            calibration=None if tally.confidences is None else calibration(tally.confidences),
        )
        for subset, tally in tallies.items()
    )
    return Evaluation(
        split=split,
        modalities=tuple(modalities),
        classes=tuple(classes),
        missing=missing,
        subsets=rows,
        **summarise({row.modalities: row.miou for row in rows}, modalities)._asdict(),
        provenance={},
    )


def score_line(evaluation: Evaluation) -> dict[str, Any]:
    """Return the part of an evaluation that a line of metrics.jsonl holds: the mIoU of every subset, their average and
    the worst."""
    miou = {"+".join(row.modalities): row.miou for row in evaluation.subsets}
    return {
        "average": evaluation.average,
        "last1": evaluation.last1.miou if evaluation.last1 else None,
        "miou": miou,
    }
