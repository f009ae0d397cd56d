"""Finds what is there of Potsdam or Vaihingen, which areas can be converted, and everything that would make a
conversion silently wrong."""

from __future__ import annotations

import filecmp
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track

from data_prep.findings import Finding, Severity
from data_prep.isprs import Area, AreaOptions, File, Layer, Layout, area_key, check_options, find_files
from data_prep.isprs_checks import check_eroded, check_format, check_grid, check_label, check_readable, check_same_band
from data_prep.sources import SourceTree
from data_prep.splits import read_splits
from sgma_jax.data.rasters import Rasters
from sgma_jax.data.schema import SPLITS, Modality
from sgma_jax.errors import InputError

Chosen = dict[str, dict[str, File]]
"""Product -> id of the area -> its file."""


@dataclass(frozen=True)
class AreaSurvey:
    """The result of a walk over a source."""

    inventory: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...]
    areas: tuple[Area, ...]
    """Those that can be converted, in the order of their ids."""
    modalities: tuple[Modality, ...]
    used: Mapping[str, Path]
    """Files that a conversion reads, by name."""


def survey_areas(rasters: Rasters, tree: SourceTree, layout: Layout, options: AreaOptions) -> AreaSurvey:
    """Look at every file that a conversion with these options would read, strip by strip.

    Raises InputError for options that cannot be meant; what is wrong with the source is among the findings.
    """
    check_options(options, tuple(layout.modalities))
    modalities = options.modalities or tuple(layout.modalities)
    found = find_files(tree, layout.kinds)
    findings: list[Finding] = []
    chosen: Chosen = {
        kind: {i: _one(files, layout.kinds[kind].what, findings) for i, files in ids.items()}
        for kind, ids in found.items()
    }
    splits = _assign(layout, options, chosen, findings)
    _list_missing(layout, chosen, splits, options, findings)
    for modality in modalities:
        if not any(chosen[kind] for kind, _ in layout.modalities[modality]):
            what = " or ".join(layout.kinds[kind].what for kind, _ in layout.modalities[modality])
            others = " ".join(s for s in modalities if s != modality)
            remedy = (
                f"Add the files, or leave the sensor out with --modalities {others}." if others else "Add the files."
            )
            findings.append(
                Finding(
                    Severity.ERROR,
                    "no-sensor",
                    what,
                    f"there is no file of it at all, so nothing shows {modality}.",
                    remedy,
                )
            )
    areas: list[Area] = []
    lacking: dict[str, list[str]] = {modality: [] for modality in modalities}
    used: dict[str, Path] = {}
    checks = _AreaChecks(rasters, layout, options, modalities, lacking, findings)
    for identity in track(sorted(splits, key=area_key), "checking", console=Console(stderr=True), transient=True):
        files = {kind: ids[identity] for kind, ids in chosen.items() if identity in ids}
        area = checks.check(identity, splits[identity], files)
        if area:
            areas.append(area)
            used |= dict([area.label, *(layer.file for layer in area.modalities.values())])
        rasters.close()
    for modality, ids in lacking.items():
        if ids and any(chosen[kind] for kind, _ in layout.modalities[modality]):
            what = layout.kinds[layout.modalities[modality][0][0]].what
            message = (
                f"missing or empty for {len(ids)} of {len(splits)} {layout.noun}s, where {modality} would not be "
                f"available: {', '.join(ids)}."
            )
            remedy = "Add the files, or choose another product or other sensors."
            findings.append(Finding(Severity.REFUSED, "missing-sensor", what, message, remedy))
    for identity in (i for i in layout.disputed if i in splits):
        remedy = f"Kept; many papers leave it out: --drop {identity}."
        findings.append(
            Finding(Severity.NOTE, "disputed-labels", f"{layout.noun} {identity}", layout.disputed[identity], remedy)
        )
    if "validation" not in splits.values():
        remedy = "Convert with a validation split, or train with --no-validate."
        findings.append(
            Finding(
                Severity.NOTE, "no-validation", "splits", "there is no validation split to score a training on.", remedy
            )
        )
    described = tuple(_modality(layout, name) for name in modalities)
    return AreaSurvey(_inventory(tree, layout, chosen, splits), tuple(findings), tuple(areas), described, used)


def _modality(layout: Layout, name: str) -> Modality:
    kind, bands = layout.modalities[name][0]
    return Modality(
        name,
        len(bands),
        layout.units[name],
        layout.kinds[kind].dtype,
        band_names=layout.band_names.get(name, ()),
    )


def _one(files: Sequence[File], what: str, findings: list[Finding]) -> File:
    """The file to use of several for one area: any where they are equal, as copies for participants and repeated
    folders are."""
    for other in files[1:]:
        if not filecmp.cmp(files[0].path, other.path, shallow=False):
            remedy = "Remove the one that is not meant."
            findings.append(
                Finding(
                    Severity.ERROR,
                    "ambiguous-file",
                    other.name,
                    f"differs from {files[0].name}, and both are its {what}.",
                    remedy,
                )
            )
    return files[0]


def _assign(layout: Layout, options: AreaOptions, chosen: Chosen, findings: list[Finding]) -> dict[str, str]:
    """The split of each area. The official ones are those of the publisher, with the held-out areas taken from
    training."""
    present = sorted({i for ids in chosen.values() for i in ids}, key=area_key)
    if options.splits == "official":
        held = () if options.validation == ("none",) else options.validation
        for identity in held:
            if identity not in layout.train:
                raise InputError(
                    f"--validation names {identity!r}, which is not in the official training split: "
                    f"{', '.join(layout.train)}."
                )
        splits = {i: "validation" if i in held else "train" for i in layout.train} | dict.fromkeys(layout.test, "test")
    else:
        if options.validation not in ((), layout.validation):
            raise InputError(
                f"--validation is given, but {options.splits} already says what validation is. Give one of the two."
            )
        splits = read_splits(Path(options.splits), layout.noun, present)
    for identity in options.drop:
        if identity not in {*splits, *present}:
            raise InputError(
                f"--drop names {identity!r}, which is no {layout.noun} of this set. Correct the name; ids are not "
                f"padded."
            )
    for identity in present:
        if identity not in splits and identity not in options.drop and options.splits == "official":
            sees = any(identity in chosen[kind] for kind in chosen if kind not in ("label", "eroded"))
            check, message = (
                ("not-in-a-split", "is in no official split.")
                if sees
                else ("label-without-image", "has a label but no image.")
            )
            findings.append(Finding(Severity.NOTE, check, f"{layout.noun} {identity}", message, "Left out."))
    return {i: split for i, split in splits.items() if i not in options.drop}


def _list_missing(
    layout: Layout, chosen: Chosen, splits: Mapping[str, str], options: AreaOptions, findings: list[Finding]
) -> None:
    images = [kind for alternatives in layout.modalities.values() for kind, _ in alternatives]
    for split in SPLITS:
        members = sorted((i for i in splits if splits[i] == split), key=area_key)
        label = _label_kind(options, split)
        bare = [i for i in members if not any(i in chosen[kind] for kind in images)]
        unlabelled = [i for i in members if i not in bare and i not in chosen[label]]
        for check, ids, what in (
            ("missing-image", bare, "any image"),
            ("missing-label", unlabelled, layout.kinds[label].what),
        ):
            if ids:
                message = f"{len(ids)} of {len(members)} {layout.noun}s have no file of {what}: {', '.join(ids)}."
                remedy = "Add the files, or name the rest with --splits FILE; accepted, they are left out."
                findings.append(Finding(Severity.REFUSED, check, f"split {split}", message, remedy))


def _label_kind(options: AreaOptions, split: str) -> str:
    return "eroded" if options.eroded_evaluation and split != "train" else "label"


class _AreaChecks(NamedTuple):
    """Checks area after area, and collects what they lack."""

    rasters: Rasters
    layout: Layout
    options: AreaOptions
    modalities: Sequence[str]
    lacking: dict[str, list[str]]
    """Areas without a file of a sensor, or with an empty one."""
    findings: list[Finding]

    def check(self, identity: str, split: str, files: Mapping[str, File]) -> Area | None:
        """Check an area's files against each other; None where it cannot be converted."""
        wanted = {
            s: [(kind, bands) for kind, bands in self.layout.modalities[s] if kind in files] for s in self.modalities
        }
        label_kind = _label_kind(self.options, split)
        if label_kind not in files or not any(
            kind in files for alternatives in self.layout.modalities.values() for kind, _ in alternatives
        ):
            return None  # told of all such areas together
        # Each sound file is read once, however many sensors it serves; a broken one is told once.
        sound: set[str] = set()
        empty: set[str] = set()
        checked = {label_kind, "label"} | {kind for alternatives in wanted.values() for kind, _ in alternatives}
        for kind in (k for k in self.layout.kinds if k in checked and k in files):
            problems = check_format(self.rasters, files[kind], self.layout.kinds[kind])
            if not problems and kind in ("label", "eroded"):
                problems = check_label(self.rasters, files[kind], eroded=kind == "eroded")
            elif not problems:
                problems, is_empty = check_readable(self.rasters, files[kind])
                empty |= {kind} if is_empty else set()
            self.findings.extend(problems)
            sound |= set() if any(p.severity is Severity.ERROR for p in problems) else {kind}
        if label_kind not in sound:
            return None
        label = files[label_kind]
        layers: dict[str, Layer] = {}
        for modality in self.modalities:
            usable = [(kind, bands) for kind, bands in wanted[modality] if kind in sound and kind not in empty]
            if not usable:
                self.lacking[modality] += [identity] if all(kind in empty for kind, _ in wanted[modality]) else []
                continue
            placed = []
            for kind, bands in usable:
                offset, problems = check_grid(self.rasters, files[kind], label, may_be_short=modality == "dsm")
                self.findings.extend(p for p in problems if p not in self.findings)
                if offset is not None:
                    placed.append(Layer(files[kind], bands, offset))
            if placed:
                layers[modality] = placed[0]
            if modality == "nir":
                for other in placed[1:]:
                    first = placed[0]
                    problems = check_same_band(self.rasters, other.file, other.bands[0], first.file, first.bands[0])
                    self.findings.extend(problems)
        if label_kind == "eroded" and "label" in sound:
            self.findings.extend(check_eroded(self.rasters, label, files["label"]))
        if not layers:
            return None
        dataset = self.rasters.open(label.path)
        return Area(identity, split, dataset.height, dataset.width, layers, label)


def _inventory(
    tree: SourceTree, layout: Layout, chosen: Chosen, splits: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    official = (*layout.train, *layout.test)
    rows = [("archives", ", ".join(tree.archives))] if tree.archives else []
    for kind, product in layout.kinds.items():
        there = [i for i in official if i in chosen[kind]]
        missing = [i for i in official if i not in chosen[kind]]
        listed = f"; missing {', '.join(sorted(missing, key=area_key))}" if 0 < len(missing) < len(official) else ""
        rows.append((product.what, f"{len(there)} of {len(official)} {layout.noun}s{listed}"))
    for split in SPLITS:
        members = sorted((i for i in splits if splits[i] == split), key=area_key)
        rows.append((f"split {split}", f"{len(members)} {layout.noun}s: {', '.join(members)}" if members else "empty"))
    return tuple(rows)
