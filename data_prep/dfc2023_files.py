"""DFC2023 track 2 on disk: which file is which sensor of which scene, in the arrangements that people have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from data_prep.cities import Place, place_of
from data_prep.findings import Finding, Severity
from data_prep.sources import SourceTree

MODALITY_NAMES = ("rgb", "dsm", "sar")
"""In the paper's order."""
PUBLISHED = {"train": 1773, "val": 579, "test": 605}
"""Scenes as delivered; only those of train have labels."""
FOLDERS = {"rgb": "rgb", "sar": "sar", "dsm": "dsm", "height": "dsm"}
"""Folder -> sensor. `height` is the read-me's name for what is delivered as `dsm`."""
IMAGE = re.compile(r"(?P<base>(?:.*/)?)train/(?P<folder>rgb|sar|dsm|height)/(?P<stem>[^/]+)\.tiff?", re.IGNORECASE)
UNLABELLED = re.compile(r"(?:.*/)?(?P<split>val|test|track2_test_data)/rgb/[^/]+\.tiff?", re.IGNORECASE)
ANNOTATIONS = re.compile(r"(?:.*/)?buildings_only_train\.json", re.IGNORECASE)
NAMED = re.compile(r"(?:SV|GF2)_(?P<city>.+)_(?P<latitude>-?\d+(?:\.\d+)?)_(?P<longitude>-?\d+(?:\.\d+)?)")
"""Satellite, city, latitude and longitude."""


@dataclass(frozen=True)
class SceneFiles:
    """One scene by the names of its files."""

    name: str
    city: str
    """"" where the name says none, as P0001 does."""
    place: Place | None
    files: Mapping[str, str]
    """Sensor -> name in the source; only of the sensors that are there."""


@dataclass(frozen=True)
class Arrangement:
    """The files of a source, known by their names alone."""

    annotations: str
    """Name of the footprints' file, "" where there is none."""
    scenes: tuple[SceneFiles, ...]
    inventory: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...]


def is_dfc2023(tree: SourceTree) -> bool:
    """Return whether the names are those of DFC2023 track 2: its annotations, or named scenes beside heights."""
    if any(re.search(r"(?:^|/)buildings_only_(train|val|test)\.json$", name) for name in tree.files):
        return True
    images = [match for name in tree.files if (match := IMAGE.fullmatch(name))]
    return any(FOLDERS[m["folder"].lower()] == "dsm" and NAMED.fullmatch(m["stem"]) for m in images)


def arrange(tree: SourceTree) -> Arrangement:
    """Scenes and annotations of the training part; the others have no labels. Of several copies, the most complete
    one is taken."""
    copies: dict[str, dict[str, dict[str, str]]] = {}
    for name in tree.files:
        if match := IMAGE.fullmatch(name):
            modalities = copies.setdefault(match["base"], {}).setdefault(match["stem"], {})
            modalities.setdefault(FOLDERS[match["folder"].lower()], name)
    documents = [name for name in tree.files if ANNOTATIONS.fullmatch(name)]
    if not copies:
        message = "there is no folder train/rgb, train/sar or train/dsm with scenes (*.tif)."
        finding = Finding(
            Severity.ERROR, "no-scenes", "source", message, "Give the folder that holds train/ and the annotations."
        )
        return Arrangement(documents[0] if documents else "", (), (), (finding,))

    def completeness(base: str) -> tuple[bool, bool, int]:
        described = any(name.startswith(base) for name in documents)
        heights = any("dsm" in modalities for modalities in copies[base].values())
        return described, heights, sum(len(modalities) for modalities in copies[base].values())

    # Also track 1 has a folder train/rgb, but neither heights nor these annotations. Of equal ones `max` takes the
    # first.
    base = max(copies, key=completeness)
    findings = [
        Finding(
            Severity.NOTE,
            "another-copy",
            f"{other}train",
            f"scenes stand here too ({len(scenes)}).",
            f"{base}train was read, this was not.",
        )
        for other, scenes in copies.items()
        if other != base
    ]
    annotations = next((name for name in documents if name.startswith(base)), documents[0] if documents else "")
    findings += [
        Finding(
            Severity.NOTE,
            "another-copy",
            name,
            "there are other annotations.",
            f"{annotations} was read, this was not.",
        )
        for name in documents
        if name != annotations
    ]
    if not annotations:
        message = "there is no buildings_only_train.json with the footprints."
        findings.append(
            Finding(
                Severity.ERROR,
                "no-annotations",
                f"{base}train",
                message,
                "Put it beside the folder train, or into annotations/.",
            )
        )
    scenes = tuple(_scene(stem, files) for stem, files in sorted(copies[base].items()))
    findings += _missing(scenes, base)
    unlabelled = Counter(
        m["split"].lower().replace("track2_test_data", "test")
        for name in tree.files
        if (m := UNLABELLED.fullmatch(name))
    )
    for split, count in sorted(unlabelled.items()):
        findings.append(
            Finding(
                Severity.NOTE, "unlabelled", split, f"these scenes have no labels ({count}).", "They were left out."
            )
        )
    rows = [("annotations", annotations or "missing"), ("scenes of train", f"{len(scenes)} of {PUBLISHED['train']}")]
    rows += [(f"  with {modality}", str(sum(modality in s.files for s in scenes))) for modality in MODALITY_NAMES]
    rows += [
        (f"scenes of {split}", f"{unlabelled[split]} of {PUBLISHED[split]}, without labels")
        for split in ("val", "test")
    ]
    return Arrangement(annotations, scenes, tuple(rows), tuple(findings))


def _scene(stem: str, files: Mapping[str, str]) -> SceneFiles:
    if match := NAMED.fullmatch(stem):
        return SceneFiles(stem, match["city"], place_of(float(match["latitude"]), float(match["longitude"])), files)
    return SceneFiles(stem, "", None, files)


def _missing(scenes: tuple[SceneFiles, ...], base: str) -> list[Finding]:
    findings = []
    for modality in MODALITY_NAMES:
        without = [scene.name for scene in scenes if modality not in scene.files]
        if len(without) == len(scenes):
            message = f"no scene has {modality}."
            findings.append(
                Finding(Severity.ERROR, "sensor-missing", f"{base}train", message, f"Add the folder train/{modality}.")
            )
        elif without:
            message = f"{modality} is missing in {len(without)} of {len(scenes)} scenes, first in {without[0]}."
            findings.append(
                Finding(
                    Severity.NOTE, "sensor-missing", f"{base}train/{modality}", message, "It is not available in them."
                )
            )
    if len(scenes) != PUBLISHED["train"]:
        message = f"scenes that are there: {len(scenes)} of {PUBLISHED['train']}."
        findings.append(Finding(Severity.NOTE, "incomplete", f"{base}train", message, "These were taken."))
    return findings
