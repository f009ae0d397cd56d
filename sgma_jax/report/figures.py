"""Numbers of the runs as the page's tables and curves show them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from sgma_jax.config import MAY_CHANGE, TrainConfig, differences
from sgma_jax.report.charts import Axis, Line, line_chart, reliability_chart
from sgma_jax.report.records import ReportedRun
from sgma_jax.runs.results import SubsetScores

MODALITY_COLOURS = 8
"""How many colours style.css has for sensors; further ones begin again, dashed."""


class Row(NamedTuple):
    """A line of the table over all subsets: what it is of, and a fraction for each run."""

    name: str
    modalities: tuple[str, ...]
    values: tuple[float | None, ...]
    notes: tuple[str, ...] = ()
    """Per run, what stands beside its value."""

    @property
    def best(self) -> float | None:
        """The highest of several runs; None where there is nothing to choose."""
        known = [v for v in self.values if v is not None]
        return max(known) if len(self.values) > 1 and known else None


class AblationRow(NamedTuple):
    """A line of the ablation table in the paper's layout."""

    run: ReportedRun
    semantic_guided_fusion: bool
    modality_aware_sampling: bool


class Difference(NamedTuple):
    """A field in which the runs' configurations differ, and what each has."""

    field: str
    values: tuple[str, ...]


def subset_rows(runs: Sequence[ReportedRun]) -> list[Row]:
    """mIoU of every subset, in the paper's order."""
    return [
        Row(subset_name(s.modalities), s.modalities, tuple(r.evaluation.of(s.modalities).miou for r in runs))
        for s in runs[0].evaluation.subsets
    ]


def summary_rows(runs: Sequence[ReportedRun]) -> list[Row]:
    """Average, Top-1, Last-1 and the expected mIoU when sensors fail."""
    evaluations = [r.evaluation for r in runs]
    rows = [Row("Average", (), tuple(e.average for e in evaluations))]
    for name, extremes in (("Top-1", [e.top1 for e in evaluations]), ("Last-1", [e.last1 for e in evaluations])):
        notes = tuple(subset_name(e.modalities) if e else "" for e in extremes)
        rows.append(Row(name, (), tuple(e.miou if e else None for e in extremes), notes))
    for probability in evaluations[0].bernoulli:
        values = tuple(e.bernoulli.get(probability) for e in evaluations)
        rows.append(Row(f"Expected, each sensor lost with p = {probability}", (), values))
    return rows


def ablation_rows(runs: Sequence[ReportedRun]) -> list[AblationRow]:
    """The runs by SGF and MAS, the baseline first, as in the paper's ablation; nothing where they do not differ in
    either, or in another fusion."""
    fusions = [r.config.model.fusion for r in runs]
    if not all(fusion.trains_drawn_modality for fusion in fusions):
        return []
    rows = [
        AblationRow(r, fusion.weighs_modalities, r.config.sampling is not None)
        for r, fusion in zip(runs, fusions, strict=True)
    ]
    if len({row[1:] for row in rows}) < 2:
        return []
    return sorted(rows, key=lambda row: (row.modality_aware_sampling, row.semantic_guided_fusion))


def config_differences(runs: Sequence[ReportedRun]) -> list[Difference]:
    """Every field in which the runs' configurations differ, but for names, paths and intervals."""
    configs = [r.config for r in runs]
    fields = dict.fromkeys(
        d for other in configs[1:] for d in differences(configs[0], other) if d not in MAY_CHANGE | {"name", "storage"}
    )
    return [Difference(field, tuple(_value(config, field) for config in configs)) for field in fields]


def besides_ablation(changes: Sequence[Difference]) -> list[str]:
    """The fields, of those in which runs differ, that are neither fusion nor sampling."""
    return [c.field for c in changes if c.field.split(".")[0] != "sampling" and not c.field.startswith("model.fusion")]


def fusion_note(run: ReportedRun) -> str:
    """Return what a reader of a run's robustness maps must know of its fusion."""
    weighs = run.config.model.fusion.weighs_modalities
    return "" if weighs else "a fusion that counts every sensor alike"


def shown_confusions(run: ReportedRun) -> list[SubsetScores]:
    """The subsets whose confusion matrix is shown: all sensors, and the worst."""
    evaluation = run.evaluation
    worst = evaluation.last1.modalities if evaluation.last1 else evaluation.modalities
    return [evaluation.full] + ([evaluation.of(worst)] if worst != evaluation.modalities else [])


def training_charts(runs: Sequence[ReportedRun]) -> list[list[tuple[str, Markup]]]:
    """Per run: loss, validation mIoU of each sensor alone and on average, and MAS's probabilities, each with its title.

    A quantity has one upright axis for all runs.
    """
    recorded = [_curves(run) for run in runs]
    highest = [
        max((y for curves in recorded for line in curves[kind] for _, y in line.points), default=1.0)
        for kind in range(3)
    ]
    axes = [Axis(name, 0.0, most) for name, most in zip(("cross-entropy", "mIoU", "probability"), highest, strict=True)]
    titles = ("Training loss", "Validation mIoU, each sensor alone", "MAS: how often each sensor is drawn")
    return [
        [
            (title, line_chart(f"curve-{number}-{kind}", f"{title}, {run.label}", lines, axis) or _no_curve(kind, run))
            for kind, (title, lines, axis) in enumerate(zip(titles, curves, axes, strict=True))
        ]
        for number, (run, curves) in enumerate(zip(runs, recorded, strict=True))
    ]


def reliability_charts(runs: Sequence[ReportedRun]) -> list[tuple[str, float | None, Markup | None]]:
    """Name, ECE and reliability diagram: of each run with all sensors, and of a single run of each sensor alone too.

    The diagram is None where confidences were not counted.
    """
    shown = [(run.label if len(runs) > 1 else "All sensors", run.evaluation.full) for run in runs]
    if len(runs) == 1:
        shown += [
            (f"{s.modalities[0]} alone", s)
            for s in runs[0].evaluation.subsets
            if len(s.modalities) == 1 < len(runs[0].evaluation.modalities)
        ]
    return [
        (name, s.calibration.ece, reliability_chart(f"reliability-{number}", f"Reliability: {name}", s.calibration))
        if s.calibration
        else (name, None, None)
        for number, (name, s) in enumerate(shown)
    ]


def modality_style(modalities: Sequence[str], name: str) -> str:
    """Class of a sensor's colour in style.css."""
    number = list(modalities).index(name)
    return f"c{number % MODALITY_COLOURS}" + (" dashed" if number >= MODALITY_COLOURS else "")


def subset_name(names: Sequence[str]) -> str:
    """A subset as the page writes it, "rgb + nir"."""
    return " + ".join(names)


def row_shares(confusion: Sequence[Sequence[int]]) -> list[list[float | None]]:
    """A confusion matrix as shares of each row, that is of each label; None for a class that has no label."""
    return [[cell / sum(row) if sum(row) else None for cell in row] for row in confusion]


def _curves(run: ReportedRun) -> tuple[list[Line], list[Line], list[Line]]:
    train = [m for m in run.metrics if m.get("kind") == "train"]
    evaluations = [m for m in run.metrics if m.get("kind") == "evaluation"]
    modalities = run.evaluation.modalities

    def points(lines: Sequence[dict[str, Any]], *keys: str) -> list[tuple[float, float]]:
        """Steps and values of a line's entry, which `keys` lead to."""
        found = []
        for line in lines:
            value: Any = line
            for key in keys:
                value = (value or {}).get(key)
            if value is not None:
                found.append((float(line["step"]), float(value)))
        return found

    losses = (("loss", "total", "ink"), ("loss_fused", "fused", "c0"), ("loss_mas", "MAS branch", "c1"))
    loss = [Line(name, points(train, key), style) for key, name, style in losses]
    alone = [Line(s, points(evaluations, "miou", s), modality_style(modalities, s)) for s in modalities]
    alone.append(Line("Average", points(evaluations, "average"), "ink dashed"))
    drawn = [Line(s, points(train, "sampling", s), modality_style(modalities, s)) for s in modalities]
    return loss, alone, drawn


def _no_curve(kind: int, run: ReportedRun) -> Markup:
    without = kind == 2 and run.config.sampling is None
    return Markup('<p class="nothing">{}</p>').format("trained without MAS" if without else "nothing recorded")


def _value(config: TrainConfig, field: str) -> str:
    value: Any = config
    for name in field.split("."):
        value = getattr(value, name)
    if value is None:
        return "none"
    return type(value).__name__.removesuffix("Config") if dataclasses.is_dataclass(value) else str(value)
