"""Results of a run on a split: typed, and written to and read from files under RUN/evaluation.

Scores are fractions. A number is None where nothing could be counted.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from sgma_jax.decoding import decode, plain, upgraded
from sgma_jax.errors import InputError
from sgma_jax.files import write_atomically
from sgma_jax.runs.names import EVALUATION

Missing = Literal["skip", "zero"]
"""Absent sensors: not computed, or zeros after normalisation."""
Result = Literal[".json", "_corruptions.json", "_analysis.json", "_records.npz"]
"""Files of an `Evaluation`, `Corruptions` and `Analysis`, and of each record's own counts."""
VERSION = 2


def _failing_modality(fields: dict[str, Any]) -> dict[str, Any]:
    """Version 1 called the modality that fails a sensor; evaluations and analyses always said modality."""
    if "failures" not in fields:
        return fields
    rows = [{"modality" if name == "sensor" else name: x for name, x in row.items()} for row in fields["failures"]]
    return {**fields, "failures": rows}


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _failing_modality}


@dataclass(frozen=True)
class Bin:
    """One bin of confidence, as `metrics.calibration` counts it."""

    pixels: int
    confidence: float | None
    """Mean over the pixels."""
    accuracy: float | None
    """Share of the pixels whose answer is right."""


@dataclass(frozen=True)
class Calibration:
    """How far the probabilities of a subset's answers can be believed."""

    ece: float | None
    """Expected calibration error."""
    bins: tuple[Bin, ...]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of one confusion matrix."""

    miou: float | None
    f1: float | None
    """Mean over the classes."""
    oa: float | None
    """Overall accuracy."""
    iou: dict[str, float | None]
    """Per class."""


@dataclass(frozen=True, kw_only=True)
class SubsetScores(Scores):
    """Scores of one subset of the sensors."""

    modalities: tuple[str, ...]
    coverage: float | None
    """Share of the labelled pixels that its sensors saw; the scores are over those."""
    confusion: tuple[tuple[int, ...], ...]
    """Pixels by label (row) and prediction (column)."""
    calibration: Calibration | None
    """None where the program that scored did not count confidences, as that of experiments/torch_baseline."""


@dataclass(frozen=True)
class Extreme:
    """The best or the worst subset."""

    modalities: tuple[str, ...]
    miou: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of every non-empty subset of the sensors, and their summary."""

    split: str
    modalities: tuple[str, ...]
    classes: tuple[str, ...]
    missing: Missing
    subsets: tuple[SubsetScores, ...]
    average: float | None
    """Mean mIoU of the subsets [P]."""
    top1: Extreme | None
    last1: Extreme | None
    bernoulli: dict[str, float | None]
    """Expected mIoU by the probability with which each sensor fails."""
    provenance: dict[str, Any]

    def of(self, modalities: Sequence[str]) -> SubsetScores:
        """Scores of these sensors."""
        return next(s for s in self.subsets if s.modalities == tuple(modalities))

    @property
    def full(self) -> SubsetScores:
        """Scores of all sensors together."""
        return self.of(self.modalities)


@dataclass(frozen=True, kw_only=True)
class FailureScores(Scores):
    """Scores of all sensors while one of them fails in part."""

    modality: str
    kind: str
    level: float


@dataclass(frozen=True, kw_only=True)
class Corruptions:
    """Scores of all sensors under every failure of `data.corruptions`."""

    split: str
    modalities: tuple[str, ...]
    classes: tuple[str, ...]
    missing: Missing
    clean: float | None
    """mIoU without any failure."""
    missing_wholly: dict[str, float | None]
    """mIoU by the sensor that is not there; None where it is the only one."""
    failures: tuple[FailureScores, ...]
    provenance: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Separability:
    """How well the classes part in a sensor's features."""

    modality: str
    stride: int
    features: str
    """"encoder": what the encoder makes of the sensor; "fused": what fusion makes of it alone."""
    positions: int
    silhouette: float | None
    """-1 to 1."""
    variance: dict[str, float | None]
    """Within each class, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Separability of the features and robustness of the sensors."""

    split: str
    modalities: tuple[str, ...]
    classes: tuple[str, ...]
    separability: tuple[Separability, ...]
    robustness: dict[str, dict[str, dict[str, float] | None]] | None
    """By stride, class and sensor: mean share over the pixels of the class that all sensors see. None for a fusion
    that does not weigh sensors."""
    provenance: dict[str, Any]


Kind = TypeVar("Kind", Evaluation, Corruptions, Analysis)


def result_file(folder: Path, split: str, what: Result = ".json", missing: Missing = "skip") -> Path:
    """Return the path of a result; `missing` is what absent sensors were."""
    return folder / EVALUATION / f"{split if missing == 'skip' else f'{split}_{missing}'}{what}"


def write_result(path: Path, result: Evaluation | Corruptions | Analysis) -> None:
    """Write a result whole or not at all; numbers that are not finite become null."""
    fields = plain(dataclasses.asdict(result))
    write_atomically(path, (json.dumps({"version": VERSION, **fields}, indent=2, allow_nan=False) + "\n").encode())


def read_result(path: Path, kind: type[Kind]) -> Kind:
    """Return what `write_result` of this or an earlier version wrote.

    Raises InputError for a file that is damaged, missing, of another kind or of a newer version.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}). Restore the file, or write it again.") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path} holds no result. Restore the file, or write it again with `sgma evaluate`.")
    try:
        result: Kind = decode(upgraded(fields, VERSION, MIGRATIONS), kind)
    except InputError as error:
        raise InputError(f"{path}: {error} Write it again with `sgma evaluate`.") from error
    return result
