"""Finds all that is odd about a copy of DFC2023 track 2: every scene is read, and every trap of the set looked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from data_prep.cities import Place, neighbours_apart, split_by_city
from data_prep.dfc2023_files import Arrangement, SceneFiles
from data_prep.dfc2023_pixels import MODALITIES, Seen, compose, read_modality
from data_prep.findings import Finding, Severity
from data_prep.footprints import Footprints, Raster, blank, read_footprints
from data_prep.sources import SourceTree
from data_prep.splits import read_splits
from sgma_jax.data.rasters import Rasters
from sgma_jax.data.schema import SPLITS
from sgma_jax.errors import InputError

NEIGHBOURS = 400.0
"""[C] Metres between the middles of two scenes that touch or overlap; they are 256 m wide."""


@dataclass(frozen=True)
class DfcScene:
    """One scene that can be converted."""

    name: str
    files: Mapping[str, Path]
    """Only of the sensors that it has."""
    footprints: Raster
    split: str


@dataclass(frozen=True)
class Survey:
    """All that was found in a source."""

    inventory: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...]
    scenes: tuple[DfcScene, ...]
    """Those with footprints and a split; complete only where no finding is an error."""
    assigned: Mapping[str, str]
    """Split of each city, or of each scene where the user's file names scenes."""
    used: Mapping[str, Path]
    """Files that a conversion reads, by their names in the source."""


@dataclass(frozen=True)
class _Look:
    """The result of a look at one scene."""

    group: str
    """City; where the name says none, the CRS, since no two cities in different UTM zones are neighbours. "" where
    neither is known."""
    place: Place | None
    bare: bool
    """True where a file of it lacks a CRS."""
    findings: tuple[Finding, ...]


def survey_scenes(
    tree: SourceTree, arrangement: Arrangement, rasters: Rasters, splits: str, max_height: float
) -> Survey:
    """Read everything and check it. Raises InputError only where the user's file of splits is wrong."""
    findings = list(arrangement.findings)
    footprints = Footprints({}, ())
    if arrangement.annotations:
        footprints = read_footprints(tree.files[arrangement.annotations], arrangement.annotations)
        findings += footprints.findings
        if not any(finding.check == "annotations-unreadable" for finding in footprints.findings):
            findings += _compare(arrangement, footprints)
    described: list[SceneFiles] = []
    looks: list[_Look] = []
    # Also those without annotations are read, so that a damaged file is found now and not when the annotations are
    # there.
    for scene in track(arrangement.scenes, "reading scenes", console=Console(stderr=True), transient=True):
        look = _look(tree, rasters, scene, footprints.rasters.get(scene.name), max_height)
        findings += look.findings
        if scene.name in footprints.rasters:
            described.append(scene)
            looks.append(look)
    findings += _describe_places(described, looks)
    assigned, chosen, problems = _assign(described, looks, splits)
    findings += problems
    scenes = tuple(
        DfcScene(
            scene.name,
            {modality: tree.files[name] for modality, name in scene.files.items()},
            footprints.rasters[scene.name],
            split,
        )
        for scene, split in zip(described, chosen, strict=True)
        if split
    )
    used = {
        name: tree.files[name]
        for scene, split in zip(described, chosen, strict=True)
        if split
        for name in scene.files.values()
    }
    if arrangement.annotations:
        used[arrangement.annotations] = tree.files[arrangement.annotations]
    rows = [*arrangement.inventory, ("buildings", str(sum(raster.buildings for raster in footprints.rasters.values())))]
    for split in SPLITS:
        cities = Counter(look.group for look, own in zip(looks, chosen, strict=True) if own == split)
        rows.append((split, ", ".join(f"{city} ({count})" for city, count in sorted(cities.items())) or "empty"))
    return Survey(tuple(rows), tuple(findings), scenes, assigned, used)


def _compare(arrangement: Arrangement, footprints: Footprints) -> list[Finding]:
    """Scenes against the images that the annotations list."""
    findings = []
    names = {scene.name for scene in arrangement.scenes}
    unknown = sorted(names - set(footprints.rasters))
    if unknown:
        message = (
            f"scenes that are not listed, so that their buildings are not known: {len(unknown)}, the first is "
            f"{unknown[0]}."
        )
        remedy = "Find the annotations of these scenes, or accept to leave them out."
        findings.append(Finding(Severity.REFUSED, "scene-not-annotated", arrangement.annotations, message, remedy))
    absent = sorted(set(footprints.rasters) - names)
    if absent:
        message = f"images that are listed but not there: {len(absent)}, the first is {absent[0]}."
        findings.append(
            Finding(Severity.NOTE, "scene-missing", arrangement.annotations, message, "They were left out.")
        )
    empty = sorted(name for name in names & set(footprints.rasters) if not footprints.rasters[name].buildings)
    if empty:
        message = (
            f"scenes without a footprint: {len(empty)} ({', '.join(empty[:5])}{', ...' if len(empty) > 5 else ''})."
        )
        findings.append(
            Finding(Severity.NOTE, "no-footprint", arrangement.annotations, message, "They are all background.")
        )
    return findings


def _look(tree: SourceTree, rasters: Rasters, scene: SceneFiles, footprints: Raster | None, max_height: float) -> _Look:
    findings: list[Finding] = []
    seen: dict[str, Seen] = {}
    group, place, bare = scene.city, scene.place, False
    for modality, name in scene.files.items():
        path = tree.files[name]
        bands, dtype = MODALITIES[modality].bands, MODALITIES[modality].dtype
        try:
            dataset = rasters.open(path)
            kind = (len(rasters.bands(path)), dataset.dtypes[0])
            if kind != (bands, dtype):
                message = f"{kind[0]} bands of {kind[1]} are no {modality}, which has {bands} of {dtype}."
                findings.append(Finding(Severity.ERROR, "wrong-type", name, message, "Download the file again."))
                continue
            footprints = footprints or blank(*dataset.shape)
            if dataset.shape != (footprints.height, footprints.width):
                expected = f"{footprints.height} x {footprints.width}"
                message = (
                    f"{dataset.height} x {dataset.width} pixels, but the annotations or the scene's other files have "
                    f"{expected}."
                )
                findings.append(Finding(Severity.ERROR, "wrong-size", name, message, "Download the file again."))
            else:
                seen[modality] = read_modality(rasters, path)
        except InputError as error:
            message = str(error).replace(f"{path} ", "").split(". ")[0] + "."
            findings.append(Finding(Severity.ERROR, "unreadable", name, message, "Download the file again."))
            continue
        if dataset.crs is None:
            bare = True
        elif dataset.crs.is_projected:
            edge = dataset.bounds
            place = place or Place(dataset.crs.to_string(), (edge.top + edge.bottom) / 2, (edge.left + edge.right) / 2)
            group = group or dataset.crs.to_string()
    if footprints and len(seen) == len(scene.files):
        findings += _check_pixels(scene, seen, footprints, max_height)
        first = tree.files[scene.files[next(iter(seen))]]
        for modality in list(seen)[1:]:
            path = tree.files[scene.files[modality]]
            if not rasters.is_aligned(path, first):
                message = f"its coordinates are not those of {scene.files[next(iter(seen))]}."
                remedy = "Download both again, or accept to lay them pixel on pixel."
                findings.append(Finding(Severity.REFUSED, "not-aligned", scene.files[modality], message, remedy))
    return _Look(group, place, bare, tuple(findings))


def _check_pixels(scene: SceneFiles, seen: Mapping[str, Seen], footprints: Raster, max_height: float) -> list[Finding]:
    findings = []
    pixels = compose(seen, footprints, max_height)
    if pixels.strip.any():
        share = f"{pixels.strip.mean():.1%} of it is black up to the edge: outside the optical image."
        remedy = (
            "rgb is not available there, nor dsm where it is 0, and the label is ignored where no footprint reaches."
        )
        findings.append(Finding(Severity.NOTE, "black-strip", scene.files["rgb"], share, remedy))
    if pixels.too_high.any():
        highest = seen["dsm"].values[..., 0][pixels.too_high].max()
        row, column = np.argwhere(pixels.too_high)[0]
        message = f"heights above {max_height:g} m: {pixels.too_high.sum()}, up to {highest:.0f} m."
        place = f"{scene.files['dsm']}, row {row}, column {column}"
        findings.append(Finding(Severity.NOTE, "implausible-height", place, message, "They are not available."))
    return findings


def _describe_places(scenes: Sequence[SceneFiles], looks: Sequence[_Look]) -> list[Finding]:
    findings = []
    bare = [scene.name for scene, look in zip(scenes, looks, strict=True) if look.bare]
    if bare:
        message = f"scenes with a file that states no CRS: {len(bare)}, the first is {bare[0]}."
        findings.append(Finding(Severity.NOTE, "no-crs", bare[0], message, "Their sensors were laid pixel on pixel."))
    lost = [scene.name for scene, look in zip(scenes, looks, strict=True) if look.place is None]
    if lost:
        message = f"scenes that tell neither by name nor by CRS where they lie: {len(lost)}, the first is {lost[0]}."
        findings.append(
            Finding(Severity.NOTE, "no-place", lost[0], message, "Whether they touch others cannot be checked.")
        )
    return findings


def _assign(
    scenes: Sequence[SceneFiles], looks: Sequence[_Look], splits: str
) -> tuple[dict[str, str], list[str], list[Finding]]:
    """The splits of cities or scenes, the split of each scene ("" for none), and what is wrong about them."""
    if not scenes:  # which is a finding already, and no line of a file of splits would fit
        return {}, [], []
    groups = [look.group for look in looks]
    findings = []
    if splits != "city":
        path = Path(splits)
        if not path.is_file():
            raise InputError(
                f"--splits names {path}, which does not exist. Give 'city', or a CSV with the columns city,split or "
                f"tile,split."
            )
        by_tile = "tile" in [
            cell.strip() for cell in path.read_text(encoding="utf-8", errors="replace").partition("\n")[0].split(",")
        ]
        names = [scene.name for scene in scenes] if by_tile else groups
        assigned = read_splits(path, "tile" if by_tile else "city", {name for name in names if name})
        chosen = [assigned.get(name, "") for name in names]
    else:
        if nowhere := [scene.name for scene, group in zip(scenes, groups, strict=True) if not group]:
            message = f"scenes of which neither name nor CRS tells the city: {len(nowhere)}, the first is {nowhere[0]}."
            findings.append(
                Finding(
                    Severity.ERROR,
                    "no-city",
                    nowhere[0],
                    message,
                    "Assign scenes yourself: --splits FILE with lines tile,split.",
                )
            )
        assigned = split_by_city(Counter(group for group in groups if group))
        chosen = [assigned.get(group, "") for group in groups]
    inside = [i for i, split in enumerate(chosen) if split]
    pairs = neighbours_apart([looks[i].place for i in inside], [chosen[i] for i in inside], NEIGHBOURS)
    if pairs:
        one, other = (inside[i] for i in pairs[0])
        message = (
            f"{scenes[one].name} ({chosen[one]}) and {scenes[other].name} ({chosen[other]}) touch or overlap; such "
            f"scenes: {len(pairs)}."
        )
        remedy = "Scores would be too good. Give neighbours one split."
        findings.append(Finding(Severity.REFUSED, "neighbours-in-two-splits", scenes[one].name, message, remedy))
    return assigned, chosen, findings
