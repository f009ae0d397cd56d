"""Findings of `--corruptions` and `--analysis` about a method, over the seeds that have been looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.compare.members import Member, evaluation_path
from experiments.compare.scores import mean_and_sd as over_seeds
from sgma_jax.runs.results import Analysis, Corruptions, Kind, Result, read_result

EACH = "each in turn"
"""Where the mean over all failing sensors stands."""


def found_extras(members: Sequence[Member], split: str) -> dict[str, Any]:
    """`failures`, `separability` and `robustness` of one method's runs; each only where runs have been looked at,
    with their seeds."""
    failures = _read(members, split, "_corruptions.json", Corruptions)
    analyses = _read(members, split, "_analysis.json", Analysis)
    found: dict[str, Any] = {}
    if failures:
        found["failures"] = {"seeds": list(failures), **_failures(list(failures.values()))}
    if analyses:
        found["separability"] = {"seeds": list(analyses), "silhouettes": _silhouettes(list(analyses.values()))}
    with_robustness = {seed: report.robustness for seed, report in analyses.items() if report.robustness}
    if with_robustness:
        found["robustness"] = {"seeds": list(with_robustness), "shares": _shares(list(with_robustness.values()))}
    return found


def _read(members: Sequence[Member], split: str, what: Result, kind: type[Kind]) -> dict[int, Kind]:
    paths = {member.config.seed: evaluation_path(member, split, what) for member in members}
    return {seed: read_result(path, kind) for seed, path in paths.items() if path.is_file()}


def _failures(reports: Sequence[Corruptions]) -> dict[str, Any]:
    """mIoU over seeds: nothing failing; by failing sensor and kind of failure, mean over its levels; mean of all
    that fails in part."""
    kinds = dict.fromkeys(row.kind for row in reports[0].failures)
    sensors = tuple(reports[0].missing_wholly)

    def failing(which: Sequence[str], kind: str) -> dict[str, Any]:
        return over_seeds(
            [_mean(row.miou for row in r.failures if row.modality in which and row.kind == kind) for r in reports]
        )

    def missing(which: Sequence[str]) -> dict[str, Any]:
        return over_seeds([_mean(r.missing_wholly[sensor] for sensor in which) for r in reports])

    rows = {**{sensor: (sensor,) for sensor in sensors}, EACH: sensors}
    return {
        "clean": over_seeds([r.clean for r in reports]),
        "in_part": over_seeds([_mean(row.miou for row in r.failures) for r in reports]),
        "sensors": {
            name: {"missing": missing(which), **{kind: failing(which, kind) for kind in kinds}}
            for name, which in rows.items()
        },
    }


def _silhouettes(reports: Sequence[Analysis]) -> dict[str, dict[str, dict[str, Any]]]:
    """sensor -> stride -> `encoder` or `fused` -> silhouette over seeds."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for rows in zip(*(report.separability for report in reports), strict=True):
        first = rows[0]
        by_features = found.setdefault(first.modality, {}).setdefault(str(first.stride), {})
        by_features[first.features] = over_seeds([row.silhouette for row in rows])
    return found


def _shares(reports: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any] | None]]:
    """stride -> class -> sensor -> mean robustness over seeds; None for a class that no run saw."""
    found: dict[str, dict[str, dict[str, Any] | None]] = {}
    for stride, classes in reports[0].items():
        for name in classes:
            seen = [report[stride][name] for report in reports if report[stride][name]]
            shares = {sensor: over_seeds([one[sensor] for one in seen]) for sensor in seen[0]} if seen else None
            found.setdefault(stride, {})[name] = shares
    return found


def _mean(values: Iterable[float | None]) -> float:
    return float(np.mean([np.nan if value is None else value for value in values]))
