"""Facts about a run, read from its folder and its data set's manifest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sgma_jax.config import TrainConfig
from sgma_jax.data.schema import Manifest
from sgma_jax.errors import InputError
from sgma_jax.report.scenes import SceneAnswers
from sgma_jax.runs.metrics_log import read_metrics
from sgma_jax.runs.names import METRICS_FILE, PRETRAINED_FILE, STARTS_FILE
from sgma_jax.runs.results import Evaluation, read_result, result_file


@dataclass(frozen=True, kw_only=True)
class ReportedRun:
    """One column of the report."""

    label: str
    """Its name in the report."""
    folder: Path
    config: TrainConfig
    evaluation: Evaluation
    metrics: list[dict[str, Any]]
    """The lines of metrics.jsonl."""
    starts: list[dict[str, Any]]
    """The lines of starts.jsonl: when training began or went on, by which command."""
    pretrained: dict[str, Any] | None
    """Source of the encoder's first weights, None for random ones."""
    manifest: Manifest | None = None
    """Of the data set that was scored; None where it is not at hand."""
    scenes: tuple[SceneAnswers, ...] = field(default=())
    """Its answers to the scenes of the report; none where it has no checkpoint that this program can open."""


def read_run(folder: Path, config: TrainConfig, split: str, label: str) -> ReportedRun:
    """Return what a run's own files say. InputError where it was not scored, or where a file is not what it should
    be."""
    return ReportedRun(
        label=label,
        folder=folder,
        config=config,
        evaluation=read_evaluation(folder, split),
        metrics=read_metrics(folder / METRICS_FILE),
        starts=read_metrics(folder / STARTS_FILE),
        pretrained=_read_json(folder / PRETRAINED_FILE) if (folder / PRETRAINED_FILE).exists() else None,
    )


def read_evaluation(folder: Path, split: str) -> Evaluation:
    """RUN/evaluation/<split>.json; InputError, with the command that writes it, where it is missing or of an earlier
    version."""
    path, command = result_file(folder, split), f"`sgma evaluate {folder} --split {split}`"
    if not path.is_file():
        raise InputError(
            f"{folder} was not scored on {split!r}: {path} is missing. Run {command} first, or name another --split."
        )
    return read_result(path, Evaluation)


def check_comparable(runs: Sequence[ReportedRun]) -> None:
    """Raise InputError unless all runs were scored on the same data, sensors and classes, so that their columns may
    stand side by side."""
    first = runs[0]
    for other in runs[1:]:
        for what, mine, theirs in (
            ("classes", first.evaluation.classes, other.evaluation.classes),
            ("sensors", first.evaluation.modalities, other.evaluation.modalities),
            (
                "data (manifest)",
                first.evaluation.provenance.get("manifest_hash"),
                other.evaluation.provenance.get("manifest_hash"),
            ),
        ):
            if mine != theirs:
                said = (
                    f" ({', '.join(mine)}; {', '.join(theirs)})"
                    if isinstance(mine, tuple) and isinstance(theirs, tuple)
                    else ""
                )
                raise InputError(
                    f"{first.folder} and {other.folder} were scored on different {what}{said}. "
                    "Their numbers cannot stand side by side; write a report of each."
                )


def labels_of(folders: Sequence[Path], configs: Sequence[TrainConfig]) -> list[str]:
    """Return the names of the runs: the experiment's name, the folder's where names repeat, its whole path where that
    repeats too."""
    choices = [[c.name for c in configs], [f.resolve().name for f in folders], [str(f) for f in folders]]
    return next((names for names in choices if len(set(names)) == len(names)), choices[-1])


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}). Restore the file, or write it again.") from error
