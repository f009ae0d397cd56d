"""Summary of a comparison: one JSON-able dict, from the runs' own files alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.compare.budget import Budget
from experiments.compare.extras import found_extras
from experiments.compare.members import Member, evaluation_path
from experiments.compare.scores import CONFIDENCE, FEWEST_TILES, RESAMPLES, measures, miou, monotony, paired_differences
from experiments.compare.scores import mean_and_sd as over_seeds
from sgma_jax.errors import InputError
from sgma_jax.runs.metrics_log import read_metrics
from sgma_jax.runs.names import METRICS_FILE
from sgma_jax.runs.record_confusions import RecordConfusions, read_record_confusions
from sgma_jax.runs.results import Evaluation, read_result


class EvaluatedMember(NamedTuple):
    """A member that is done."""

    member: Member
    evaluation: Evaluation
    """Its evaluation/<split>.json."""
    records: RecordConfusions


def finished(everything: Sequence[Member], split: str) -> list[EvaluatedMember]:
    """Those members that have been evaluated; InputError where they were not scored on the same records of the same
    data."""
    runs = []
    for member in everything:
        path = evaluation_path(member, split)
        if path.is_file():
            evaluation = read_result(path, Evaluation)
            runs.append(
                EvaluatedMember(
                    member, evaluation, read_record_confusions(evaluation_path(member, split, "_records.npz"))
                )
            )
    for run in runs:
        same = run.records.ids == runs[0].records.ids and run.records.subsets == runs[0].records.subsets
        if not same or run.evaluation.provenance["manifest_hash"] != runs[0].evaluation.provenance["manifest_hash"]:
            raise InputError(
                f"{run.member.folder} was scored on other data than {runs[0].member.folder}; delete what is out of "
                f"date, or give another --out."
            )
    return runs


def summarise(everything: Sequence[Member], budget: Budget, split: str, reference: str) -> dict[str, Any]:
    """Scores per method (mean and sd over seeds), monotony, and `reference` against every other method, over what is
    done so far."""
    runs = finished(everything, split)
    if not runs:
        raise InputError("no member of the comparison is done yet, so there is nothing to put into a table.")
    methods = list(dict.fromkeys(run.member.method for run in runs))
    by_method = {name: [run for run in runs if run.member.method == name] for name in methods}
    done = {(run.member.method, run.member.seed) for run in runs}
    return {
        "split": split,
        "records": len(runs[0].records.ids),
        "modalities": list(runs[0].evaluation.modalities),
        "classes": list(runs[0].evaluation.classes),
        "subsets": ["+".join(subset) for subset in runs[0].records.subsets],
        "budget": dataclasses.asdict(budget),
        "methods": {name: _method(of_method, split) for name, of_method in by_method.items()},
        "comparisons": _comparisons(by_method, reference),
        "intervals": {"resamples": RESAMPLES, "confidence": CONFIDENCE, "over": "tiles and seeds"},
        "not_done": [f"{m.method}/{m.seed}" for m in everything if (m.method, m.seed) not in done],
        "manifest_hash": runs[0].evaluation.provenance["manifest_hash"],
        "code": sorted({run.evaluation.provenance["git_revision"] or "of no checkout" for run in runs}),
    }


def _method(runs: Sequence[EvaluatedMember], split: str) -> dict[str, Any]:
    subsets = runs[0].records.subsets
    scores = np.stack([miou(run.records.confusions.sum(0, dtype=np.int64)) for run in runs])
    falls = [monotony(row, subsets) for row in scores]
    found: dict[str, Any] = {
        "seeds": [run.member.config.seed for run in runs],
        "runs": [f"{run.member.method}/{run.member.seed}" for run in runs],
        "subsets": {"+".join(subset): over_seeds(scores[:, i]) for i, subset in enumerate(subsets)},
        **{name: over_seeds(values) for name, values in measures(scores)._asdict().items()},
        "top1": over_seeds(np.nanmax(scores, 1)),
        "expected": {
            p: over_seeds([run.evaluation.bernoulli[p] for run in runs]) for p in runs[0].evaluation.bernoulli
        },
        "monotony": {"pairs": falls[0]["pairs"], "falls": over_seeds([f["falls"] for f in falls]),
                     "largest_fall": over_seeds([f["largest_fall"] for f in falls])},
        "train_images_per_second": over_seeds([_speed(run.member.folder) for run in runs]),
    }  # fmt: skip
    sampling = [_sampling(run.member.folder) for run in runs]
    if all(sampling):
        found["sampling"] = sampling
    return {**found, **found_extras([run.member for run in runs], split)}


def _comparisons(by_method: Mapping[str, Sequence[EvaluatedMember]], reference: str) -> list[dict[str, Any]]:
    """The reference against every other method, over the seeds that both have."""
    found = []
    for other in by_method:
        if other == reference or reference not in by_method:
            continue
        ours, theirs = (
            {run.member.seed: run.records.confusions for run in by_method[name]} for name in (reference, other)
        )
        seeds = sorted(set(ours) & set(theirs))
        if not seeds:
            continue
        differences = paired_differences(np.stack([ours[s] for s in seeds]), np.stack([theirs[s] for s in seeds]))
        for measure, difference in differences.items():
            line = {"method": reference, "against": other, "measure": measure, "seeds": len(seeds)}
            enough = len(by_method[reference][0].records.ids) >= FEWEST_TILES
            found.append(
                {
                    **line,
                    **difference._asdict(),
                    "verdict": difference.verdict if enough else "not to be said from so few tiles",
                }
            )
    return found


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(folder / METRICS_FILE) if line["kind"] == "train"]


def _speed(folder: Path) -> float:
    speeds = [line["images_per_second"] for line in _lines(folder)]
    return float(np.median(speeds)) if speeds else float("nan")


def _sampling(folder: Path) -> dict[str, dict[str, float]]:
    """MAS's probabilities at the start, a third, two thirds and the end of a training; empty without MAS."""
    lines = [line for line in _lines(folder) if "sampling" in line]
    if not lines:
        return {}
    return {str(line["step"]): line["sampling"] for line in (lines[i * (len(lines) - 1) // 3] for i in range(4))}
