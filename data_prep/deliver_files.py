"""DELIVER on disk: which file is which sensor of which frame, and under which conditions it was taken."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from data_prep.findings import Finding, Severity
from data_prep.sources import SourceTree

KINDS = {"img": "rgb", "hha": "depth", "depth": "depth", "lidar": "lidar", "event": "event", "semantic": "semantic"}
"""Folder -> word in the names of its files. The depth is there twice: as it is, and encoded in three channels (HHA)."""
WEATHERS = ("cloud", "fog", "night", "rain", "sun")
SPLITS = {"train": "train", "val": "validation", "test": "test"}
FAILURES = ("motionblur", "overexposure", "underexposure", "lidarjitter", "eventlowres")
"""Sensor failures. They are the end of a scene's name (MAP_1_point2_motionblur) or a folder of their own."""
PUBLISHED = {"train": 3983, "validation": 2005, "test": 1897}
"""Frames."""


@dataclass(frozen=True)
class FrameFiles:
    """One frame by the names of its files."""

    id: str
    """WEATHER/FAILURE/SCENE/FRAME, with "none" where no sensor fails: what scores per condition are told apart by."""
    split: str
    """In which the set was published."""
    files: Mapping[str, str]
    """Folder of KINDS -> name in the source; only of those that are there."""

    @property
    def scene(self) -> str:
        """The scene with its map, such as MAP_1_point2."""
        return self.id.split("/", 2)[2].rpartition("/")[0]

    @property
    def map(self) -> str:
        """The map, such as MAP_1: a town of the simulator. Scenes of one map see the same streets."""
        match = re.match(r"MAP_\d+", self.scene)
        return match.group() if match else self.scene


@dataclass(frozen=True)
class Arrangement:
    """The files of a source, known by their names alone."""

    frames: tuple[FrameFiles, ...]
    inventory: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...]


def is_deliver(tree: SourceTree) -> bool:
    """Return whether a file is named as in DELIVER."""
    return any(_place(name) for name in tree.files)


def arrange(tree: SourceTree) -> Arrangement:
    """All frames, in the order of their ids. Of several copies, the one with most files is taken."""
    copies: dict[str, dict[tuple[str, str], dict[str, str]]] = {}
    for name in tree.files:
        if place := _place(name):
            base, kind, identity, split = place
            copies.setdefault(base, {}).setdefault((identity, split), {})[kind] = name
    if not copies:
        message = "there is no file called as in img/sun/train/MAP_1_point2/000100_rgb_front.png."
        finding = Finding(
            Severity.ERROR,
            "no-frames",
            "source",
            message,
            "Give the folder that holds img, hha, lidar, event and semantic.",
        )
        return Arrangement((), (), (finding,))
    base = max(copies, key=lambda b: sum(map(len, copies[b].values())))
    findings = [
        Finding(
            Severity.NOTE,
            "another-copy",
            other or ".",
            f"frames stand here too ({len(frames)}).",
            f"Those in {base or '.'} were read, not these.",
        )
        for other, frames in copies.items()
        if other != base
    ]
    frames = tuple(FrameFiles(identity, split, files) for (identity, split), files in sorted(copies[base].items()))
    counts = Counter(frame.split for frame in frames)
    for split, published in PUBLISHED.items():
        if counts[split] != published:
            message = f"frames that are there: {counts[split]} of {published}."
            findings.append(Finding(Severity.NOTE, "incomplete", split, message, "These were taken."))
    rows = [(f"frames of {split}", f"{counts[split]} of {published}") for split, published in PUBLISHED.items()]
    rows += [(f"  with {kind}", str(sum(kind in frame.files for frame in frames))) for kind in KINDS]
    for row, words in enumerate((WEATHERS, (*FAILURES, "none"))):
        found = Counter(frame.id.split("/")[row] for frame in frames)
        rows.append((("weather", "failures")[row], ", ".join(f"{word} {found[word]}" for word in words)))
    rows.append(("maps", ", ".join(sorted({frame.map for frame in frames}, key=lambda m: (len(m), m)))))
    return Arrangement(frames, tuple(rows), tuple(findings))


def _place(name: str) -> tuple[str, str, str, str] | None:
    """The folder around the set, the kind of image, the frame's id and its split; None for a file that is none of
    the set's."""
    *folders, file = name.split("/")
    # Folders around the set may be called img or rain too: what counts is a kind followed by a weather, the last such
    # pair.
    for i in reversed(range(len(folders) - 1)):
        kind, weather, rest = folders[i], folders[i + 1], folders[i + 2 :]
        if kind not in KINDS or weather not in WEATHERS:
            continue
        match = re.fullmatch(rf"(.+)_{KINDS[kind]}_front\.png", file)
        splits = [part for part in rest if part in SPLITS]
        failure = next((word for word in FAILURES if any(word in part for part in rest)), "none")
        scene = "/".join(part for part in rest if part not in SPLITS and part not in FAILURES)
        if match and len(splits) == 1 and scene:
            return "/".join(folders[:i]), kind, f"{weather}/{failure}/{scene}/{match[1]}", SPLITS[splits[0]]
    return None
