"""Scores from integer confusion matrices that are summed over a whole split, never means of per-image scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from sgma_jax.structs import IGNORE


def confusion_matrix(
    labels: Int[Array, "batch height width"],
    predictions: Int[Array, "batch height width"],
    counted: Bool[Array, "batch height width"],
    classes: int,
) -> Int[Array, "classes classes"]:
    """Pixels by label (row) and prediction (column), int32; pixels that are not counted or have no label do not show."""
    counted = counted & (labels != IGNORE)
    cell = jnp.where(counted, labels * classes + predictions, classes * classes)
    return jnp.bincount(cell.reshape(-1), length=classes * classes + 1)[:-1].reshape(classes, classes).astype(jnp.int32)


def scores(confusion: Int[np.ndarray, "classes classes"], classes: Sequence[str]) -> dict[str, Any]:
    """mIoU, mean F1, overall accuracy and IoU per class, as fractions; None where nothing was counted.

    Classes that appear neither in the labels nor in the predictions have no score and do not count in the means.
    """
    confusion = confusion.astype(np.int64)
    hits, labelled, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    union = labelled + predicted - hits
    exists = union > 0
    iou, f1 = hits / np.maximum(union, 1), 2 * hits / np.maximum(labelled + predicted, 1)
    if not exists.any():
        return {"miou": None, "f1": None, "oa": None, "iou": dict.fromkeys(classes)}
    return {
        "miou": float(iou[exists].mean()),
        "f1": float(f1[exists].mean()),
        "oa": float(hits.sum() / confusion.sum()),
        "iou": {name: float(v) if e else None for name, v, e in zip(classes, iou, exists, strict=True)},
    }


FAILURE_PROBABILITIES = (0.05, 0.1, 0.2)


def summarise(miou: Mapping[tuple[str, ...], float | None], modalities: tuple[str, ...]) -> dict[str, Any]:
    """Average, Top-1 and Last-1 over the subsets [P], and the expected mIoU when every sensor fails independently.

    `bernoulli` maps a failure probability to the mean over subsets, weighted by each subset's probability given that at least
    one sensor is left. Subsets without a score (nothing to score them on) are left out, and the weights renormalised.
    """
    known = {subset: value for subset, value in miou.items() if value is not None}
    if not known:
        return {"average": None, "top1": None, "last1": None, "bernoulli": {str(p): None for p in FAILURE_PROBABILITIES}}
    best, worst = max(known, key=lambda s: known[s]), min(known, key=lambda s: known[s])
    bernoulli = {}
    for p in FAILURE_PROBABILITIES:
        weights = {s: (1 - p) ** len(s) * p ** (len(modalities) - len(s)) for s in known}
        bernoulli[str(p)] = sum(weights[s] * known[s] for s in known) / sum(weights.values())
    return {
        "average": sum(known.values()) / len(known),
        "top1": {"modalities": list(best), "miou": known[best]},
        "last1": {"modalities": list(worst), "miou": known[worst]},
        "bernoulli": bernoulli,
    }


def evaluation_report(
    confusions: Mapping[tuple[str, ...], tuple[np.ndarray, int]],
    split: str,
    modalities: tuple[str, ...],
    classes: Sequence[str],
    missing: str = "skip",
) -> dict[str, Any]:
    """The evaluation as RUN/evaluation/<split>.json has it, without provenance.

    `confusions` holds, per subset, the confusion matrix of the split and the number of its labelled pixels; `missing` is what absent
    sensors were. `coverage` is the share of labelled pixels that a subset's sensors saw at all; the scores are over those.
    """
    rows, miou = [], {}
    for subset, (matrix, labelled) in confusions.items():
        row = scores(matrix, classes)
        miou[subset] = row["miou"]
        rows.append({"modalities": list(subset), **row, "coverage": float(matrix.sum() / labelled) if labelled else None})
    header = {"split": split, "modalities": list(modalities), "classes": list(classes), "missing": missing}
    return {**header, "subsets": rows, **summarise(miou, modalities)}
