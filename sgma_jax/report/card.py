"""The model card: what a run is, what it learnt from, what it should not be used for, and how to get it again. Only
what its files say."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from sgma_jax.config import TrainConfig, to_json
from sgma_jax.data.schema import Manifest
from sgma_jax.report.figures import subset_name
from sgma_jax.report.records import ReportedRun
from sgma_jax.show.tables import percent

NOT_STATED = "not stated"
NEVER = 0.005
"""[C] IoU below which a class counts as not learnt."""
MISJUDGED = 0.05
"""[C] Expected calibration error above which probabilities are called misleading."""
PARTIAL = 0.995
"""[C] Coverage below which a subset is said to have been scored on a part of the pixels."""


class ModalityFacts(NamedTuple):
    """A sensor of the data set."""

    name: str
    kind: str
    unit: str
    seen: float
    """Share of all pixels of all splits."""


class SplitFacts(NamedTuple):
    """A split of the data set."""

    name: str
    records: int
    classes: tuple[float, ...]
    """Share of each class in the labelled pixels."""


class Card(NamedTuple):
    """The model card of a run."""

    sentence: str
    """The method and the data set, in a sentence."""
    facts: dict[str, str]
    modalities: list[ModalityFacts]
    splits: list[SplitFacts]
    findings: tuple[str, ...]
    limits: list[str]
    versions: dict[str, str]
    """Of the program that scored the run."""
    recorded_command: str | None
    """The command by which its training began."""
    commands: list[str]
    """Commands that make the run again, from the configuration in the page."""
    config: str
    """config.json."""


def make_card(run: ReportedRun) -> Card:
    """The model card of a run."""
    manifest, provenance = run.manifest, run.evaluation.provenance
    start = run.starts[0] if run.starts else {}
    return Card(
        sentence=_sentence(run),
        facts=_facts(run, start),
        modalities=_modalities(manifest) if manifest else [],
        splits=_splits(manifest) if manifest else [],
        findings=manifest.findings if manifest else (),
        limits=limits(run),
        versions=provenance.get("versions", {}),
        recorded_command=start.get("command"),
        commands=_commands(run, start),
        config=to_json(run.config),
    )


def limits(run: ReportedRun) -> list[str]:
    """Return what a user should know before trusting the run, read off its numbers."""
    evaluation, found = run.evaluation, []
    on = f"the data set {run.manifest.schema.name!r}" if run.manifest else "one data set"
    found.append(
        f"Trained and scored on {on} alone. How it does elsewhere, on other sensors, seasons or resolutions, was not "
        f"measured."
    )
    found.append(f"One run with one seed ({run.config.seed}); the spread over seeds was not measured.")
    never = [
        c
        for c in evaluation.classes
        if all(s.iou.get(c) is not None and (s.iou[c] or 0.0) < NEVER for s in evaluation.subsets)
    ]
    if never:
        found.append(
            f"Does not find {', '.join(never)}: IoU below {100 * NEVER:.1f} % with every subset of the sensors."
        )
    absent = [c for c in evaluation.classes if all(s.iou.get(c) is None for s in evaluation.subsets)]
    if absent:
        found.append(f"Says nothing about {', '.join(absent)}, which the split {evaluation.split!r} has no pixel of.")
    if evaluation.last1 and evaluation.full.miou is not None:
        worst, full = evaluation.last1, evaluation.full.miou
        found.append(
            f"With {subset_name(worst.modalities)} alone, mIoU is {percent(worst.miou)} % instead of {percent(full)} %."
        )
    part = [s for s in evaluation.subsets if s.coverage is not None and s.coverage < PARTIAL]
    if part:
        least = min(part, key=lambda s: s.coverage or 0.0)
        found.append(
            f"Scores are over the pixels that a subset's sensors saw, at the least {percent(least.coverage)} % "
            f"({subset_name(least.modalities)}), "
            "so subsets are not scored on quite the same pixels."
        )
    ece = {
        s.modalities: s.calibration.ece for s in evaluation.subsets if s.calibration and s.calibration.ece is not None
    }
    if ece and max(ece.values()) > MISJUDGED:
        worst_subset = max(ece, key=lambda s: ece[s])
        found.append(
            f"Probabilities mislead with {subset_name(worst_subset)}: expected calibration error "
            f"{percent(ece[worst_subset])} %."
        )
    if str(provenance_revision(run) or "").endswith("+changes"):
        found.append("The code that scored it differs from the revision named here (+changes).")
    return found


def provenance_revision(run: ReportedRun) -> str | None:
    """The git revision of the code that scored the run, if it was a checkout."""
    return run.evaluation.provenance.get("git_revision")


def describe_model(config: TrainConfig) -> str:
    """Encoder, fusion and sampling, in the field's words."""
    sampling = "modality-aware sampling (MAS)" if config.sampling else "no modality-aware sampling"
    return f"{config.model.encoder.title} with {config.model.fusion.title} and {sampling}"


def _sentence(run: ReportedRun) -> str:
    config, manifest = run.config, run.manifest
    data = manifest.schema.name if manifest else config.data.path or "a data set that is not at hand"
    modalities = config.data.modalities
    step = run.evaluation.provenance.get("checkpoint_step")
    of = "" if step in (None, config.steps) else f", here after {step:,}"
    count = f"{len(modalities)} sensors" if len(modalities) > 1 else "one sensor"
    return (
        f"{describe_model(config)}, trained for {config.steps:,} steps{of} on {data} with {count} "
        f"({', '.join(modalities)}) "
        f"to tell {len(config.data.classes)} classes apart."
    )


def _facts(run: ReportedRun, start: dict[str, Any]) -> dict[str, str]:
    config, provenance, manifest = run.config, run.evaluation.provenance, run.manifest
    batch, crop = config.data.batch_size, config.data.crop
    training = f"{config.steps:,} steps of {batch} crops of {crop} x {crop} pixels"
    if manifest and "train" in manifest.splits and manifest.splits["train"].records:
        training += f" ({config.steps * batch / manifest.splits['train'].records:.1f} epochs)"
    facts = {"Model": describe_model(config)}
    weights = run.pretrained
    facts["First weights"] = (
        f"{weights.get('source')} ({weights.get('layout')} layout), SHA-256 {weights.get('source_sha256')}"
        if weights
        else "random"
    )
    facts["Training"] = (
        f"{training}; peak learning rate {config.optimizer.peak_learning_rate:g}, modality dropout "
        f"{config.data.modality_dropout:g}"
    )
    facts["Trained on"] = str(start.get("devices", NOT_STATED))
    facts["Data"] = _data(manifest, run)
    licence = manifest.options.get("licence") if manifest else None
    unknown = f"{NOT_STATED} when the data were converted. Ask their publisher before passing on pictures or maps."
    facts["Data licence"] = str(licence or unknown)
    facts["Checkpoint"] = f"step {provenance.get('checkpoint_step', NOT_STATED)}"
    facts["Code that trained"] = str(start.get("git_revision") or NOT_STATED)
    facts["Code that scored"] = str(provenance_revision(run) or NOT_STATED)
    facts["Data set's manifest"] = str(provenance.get("manifest_hash", NOT_STATED))
    if provenance.get("manifest_hash") != provenance.get("trained_on_manifest_hash"):
        facts["Trained on another set"] = f"manifest {provenance.get('trained_on_manifest_hash')}"
    return facts


def _data(manifest: Manifest | None, run: ReportedRun) -> str:
    if manifest is None:
        return f"was at {run.config.data.path or NOT_STATED}; not at hand when this page was written"
    options = ", ".join(f"{name} {json.dumps(value)}" for name, value in manifest.options.items() if name != "licence")
    return (
        f"{manifest.schema.name}, tiles of {manifest.schema.tile} x {manifest.schema.tile} pixels, converted by "
        f"{manifest.converter} ({options})"
    )


def _modalities(manifest: Manifest) -> list[ModalityFacts]:
    pixels = sum(c.records for c in manifest.splits.values()) * manifest.schema.tile**2
    return [
        ModalityFacts(
            m.name,
            m.type_text,
            m.unit_text or NOT_STATED,
            sum(c.pixels_available[i] for c in manifest.splits.values()) / max(pixels, 1),
        )
        for i, m in enumerate(manifest.schema.modalities)
    ]


def _splits(manifest: Manifest) -> list[SplitFacts]:
    return [
        SplitFacts(name, c.records, tuple(n / max(sum(c.labelled_pixels), 1) for n in c.labelled_pixels))
        for name, c in manifest.splits.items()
    ]


def _commands(run: ReportedRun, start: dict[str, Any]) -> list[str]:
    # Of the code that trained, if that was recorded, else of the code that scored.
    revision = (start.get("git_revision") or provenance_revision(run) or "").removesuffix("+changes")
    checkout = [f"git checkout {revision}"] if revision else []
    return [
        *checkout,
        "sgma train config.json --workdir RUN --data.path DATA",
        f"sgma evaluate RUN --split {run.evaluation.split}",
        "sgma report RUN --out report.html",
    ]
