"""Finds all that is odd about a copy of DELIVER: every file's head and end and every label is read, and every trap of
the set looked for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from data_prep.deliver_files import Arrangement, FrameFiles
from data_prep.deliver_pixels import CLASSES, channels_of, is_whole_png, read_label
from data_prep.findings import Finding, Severity
from data_prep.sources import SourceTree
from data_prep.splits import read_splits
from data_prep.tiling import Span
from sgma_jax.data.rasters import Rasters
from sgma_jax.data.schema import IGNORE, SPLITS
from sgma_jax.errors import InputError

AGAIN = "Download the file again."


@dataclass(frozen=True)
class Frame:
    """One frame that can be converted."""

    id: str
    split: str
    files: Mapping[str, Path]
    """Sensor -> file; only of the sensors that it has."""
    label: Path
    height: int
    width: int


@dataclass(frozen=True)
class Survey:
    """All that was found in a source."""

    inventory: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...]
    frames: tuple[Frame, ...]
    """Those with a label and a split; complete only where no finding is an error."""
    kinds: Mapping[str, tuple[int, str]]
    """Sensor -> channels and type of its images."""
    assigned: Mapping[str, str]
    """Split of each map."""
    used: Mapping[str, Path]
    """Files that a conversion reads, by their names in the source."""


@dataclass
class _Heads:
    """The heads of all files of one sensor: channels, type -> names."""

    types: dict[tuple[int, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    sizes: dict[tuple[int, int], list[str]] = field(default_factory=lambda: defaultdict(list))
    """Only of images whose size is not their label's."""


def survey_frames(
    tree: SourceTree, arrangement: Arrangement, rasters: Rasters, folders: Mapping[str, str], splits: str
) -> Survey:
    """Read and check everything; `folders` says which folder each sensor is read from. InputError only for a wrong
    file of splits."""
    findings = list(arrangement.findings)
    heads = {modality: _Heads() for modality in folders}
    known: list[FrameFiles] = []
    shapes: list[tuple[int, int]] = []
    for frame in track(arrangement.frames, "reading frames", console=Console(stderr=True), transient=True):
        shape, problems = _look(tree, rasters, frame, folders, heads)
        findings += problems
        if shape:
            known.append(frame)
            shapes.append(shape)
    findings += _missing(arrangement.frames, folders)
    kinds, problems = _agree(heads, folders)
    findings += problems
    assigned, chosen, problems = assign_splits(known, splits)
    findings += problems
    frames, used = [], {}
    for frame, shape, split in zip(known, shapes, chosen, strict=True):
        names = {modality: frame.files[folder] for modality, folder in folders.items() if folder in frame.files}
        if split and names:
            label = frame.files["semantic"]
            frames.append(
                Frame(
                    frame.id,
                    split,
                    {modality: tree.files[name] for modality, name in names.items()},
                    tree.files[label],
                    *shape,
                )
            )
            used.update({name: tree.files[name] for name in (*names.values(), label)})
    rows = [*arrangement.inventory]
    for split in SPLITS:
        maps = Counter(frame.map for frame, own in zip(known, chosen, strict=True) if own == split)
        rows.append(
            (split, ", ".join(f"{name} ({maps[name]})" for name in sorted(maps, key=lambda m: (len(m), m))) or "empty")
        )
    return Survey(tuple(rows), tuple(findings), tuple(frames), kinds, assigned, used)


def _look(
    tree: SourceTree, rasters: Rasters, frame: FrameFiles, folders: Mapping[str, str], heads: Mapping[str, _Heads]
) -> tuple[tuple[int, int] | None, list[Finding]]:
    """The size of the frame's label, None where there is none that can be used, and what is odd."""
    findings: list[Finding] = []
    shape = None
    for modality, folder in {"": "semantic", **folders}.items():
        if folder not in frame.files:
            continue
        name = frame.files[folder]
        path = tree.files[name]
        try:
            dataset = rasters.open(path)
            if not is_whole_png(path):
                findings.append(
                    Finding(Severity.ERROR, "truncated", name, "the file breaks off before a PNG's end.", AGAIN)
                )
            elif dataset.colorinterp[0].name == "palette":
                message = "its colours are numbers of a table; as published they are stored themselves."
                findings.append(Finding(Severity.ERROR, "colour-table", name, message, AGAIN))
            elif dataset.dtypes[0] not in ("uint8", "uint16") or (not modality and dataset.dtypes[0] != "uint8"):
                findings.append(
                    Finding(Severity.ERROR, "wrong-type", name, f"its values are of type {dataset.dtypes[0]}.", AGAIN)
                )
            elif not modality:
                shape = dataset.shape
                findings += _check_label(rasters, path, name)
            else:
                heads[modality].types[channels_of(dataset.count), dataset.dtypes[0]].append(name)
                if shape and dataset.shape != shape:
                    heads[modality].sizes[dataset.shape].append(name)
        except InputError as error:
            message = str(error).replace(f"{path} ", "").split(". ")[0] + "."
            findings.append(Finding(Severity.ERROR, "unreadable", name, message, AGAIN))
    return shape, findings


def _check_label(rasters: Rasters, path: Path, name: str) -> list[Finding]:
    height, width = rasters.open(path).shape
    raw = read_label(rasters, path, Span(0, height, (0, height)), Span(0, width, (0, width)))
    strange = (raw > len(CLASSES)) & (raw != IGNORE)
    if not strange.any():
        return []
    row, column = np.argwhere(strange)[0]
    message = (
        f"the value {raw[row, column]} is no class (1 to {len(CLASSES)}) and not 0 or {IGNORE}; pixels with such "
        f"values: {strange.sum()}."
    )
    remedy = "Download the file again, or accept to ignore these pixels."
    return [Finding(Severity.REFUSED, "unknown-label", f"{name}, row {row}, column {column}", message, remedy)]


def _missing(frames: Sequence[FrameFiles], folders: Mapping[str, str]) -> list[Finding]:
    findings = []
    for modality, folder in folders.items():
        without = [frame.id for frame in frames if folder not in frame.files]
        if frames and len(without) == len(frames):
            others = ("--depth raw", "depth") if folder == "hha" else ("--depth hha", "hha")
            can = modality == "depth" and any(others[1] in frame.files for frame in frames)
            remedy = f"Add the folder, or read the folder {others[1]} with {others[0]}." if can else "Add the folder."
            findings.append(Finding(Severity.ERROR, "sensor-missing", folder, f"no frame has {modality}.", remedy))
        elif without:
            message = f"{modality} is missing in {len(without)} of {len(frames)} frames, first in {without[0]}."
            findings.append(Finding(Severity.NOTE, "sensor-missing", folder, message, "It is not available in them."))
    bare = [frame.id for frame in frames if "semantic" not in frame.files]
    if bare:
        message = f"frames without a label: {len(bare)}, the first is {bare[0]}."
        findings.append(
            Finding(
                Severity.REFUSED,
                "label-missing",
                "semantic",
                message,
                "Find the labels, or accept to leave these frames out.",
            )
        )
    return findings


def _agree(heads: Mapping[str, _Heads], folders: Mapping[str, str]) -> tuple[dict[str, tuple[int, str]], list[Finding]]:
    """Channels and type of each sensor, and where its files do not agree on them or on the label's size."""
    kinds, findings = {}, []
    for modality, head in heads.items():
        for size, names in head.sizes.items():
            message = f"images of {size[0]} x {size[1]} pixels, which is not the size of their labels: {len(names)}."
            if modality == "event":
                findings.append(
                    Finding(
                        Severity.NOTE,
                        "event-size",
                        names[0],
                        message,
                        "They were resized by nearest neighbour, as in the published loader.",
                    )
                )
            else:
                findings.append(Finding(Severity.ERROR, "wrong-size", names[0], message, AGAIN))
        types = sorted(head.types, reverse=True)
        if not types:
            continue
        kinds[modality] = types[0]
        if len({dtype for _, dtype in types}) > 1:
            one, other = (head.types[t][0] for t in types[:2])
            message = f"it is of another type than {one}."
            findings.append(
                Finding(Severity.ERROR, "mixed-types", other, message, f"Make all images of {folders[modality]} alike.")
            )
        elif len(types) > 1:
            message = f"images with one channel where others have three: {len(head.types[types[1]])}."
            findings.append(
                Finding(Severity.NOTE, "mixed-channels", head.types[types[1]][0], message, "The one was repeated.")
            )
    return kinds, findings


def assign_splits(frames: Sequence[FrameFiles], splits: str) -> tuple[dict[str, str], list[str], list[Finding]]:
    """The split of each map and of each frame ("" for none), and maps that are on both sides."""
    if not frames:  # which is a finding already, and no line of a file of splits would fit
        return {}, [], []
    if splits != "official":
        assigned = read_splits(Path(splits), "map", {frame.map for frame in frames})
        return assigned, [assigned.get(frame.map, "") for frame in frames], []
    own: dict[str, dict[str, str]] = defaultdict(dict)
    for frame in frames:
        own[frame.map].setdefault(frame.split, frame.id)
    findings = [
        Finding(
            Severity.REFUSED,
            "map-in-two-splits",
            name,
            f"its streets are in {' and '.join(f'{split} ({first})' for split, first in sorted(members.items()))}.",
            "Scores would be too good. Assign whole maps with --splits FILE, or accept it.",
        )
        for name, members in sorted(own.items())
        if len(members) > 1
    ]
    assigned = {name: "+".join(sorted(members)) for name, members in sorted(own.items())}
    return assigned, [frame.split for frame in frames], findings
