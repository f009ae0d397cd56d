"""Building footprints in COCO's format: which image has which, drawn as pycocotools draws them."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco

from data_prep.findings import Finding, Severity

FARTHEST = 10
"""[C] Corners farther outside than so many image sides are damage; pycocotools would also draw every pixel on the
way to them."""
AGAIN = "Download the annotations again."


class Raster(NamedTuple):
    """All footprints of one image in one run-length code, a few kilobytes."""

    height: int
    width: int
    runs: bytes
    """COCO's compressed runs of the union."""
    buildings: int
    """Annotations that went into it."""

    def mask(self) -> np.ndarray:
        """bool [height, width]: where a building stands."""
        return np.ascontiguousarray(coco.decode({"size": [self.height, self.width], "counts": self.runs})).astype(bool)


@dataclass(frozen=True)
class Footprints:
    """The contents of a file of annotations."""

    rasters: Mapping[str, Raster]
    """By the image's file name without folders and suffix."""
    findings: tuple[Finding, ...]


def blank(height: int, width: int) -> Raster:
    """The raster of an image without buildings."""
    return Raster(height, width, bytes(coco.encode(np.zeros((height, width), np.uint8, order="F"))["counts"]), 0)


def read_footprints(path: Path, name: str) -> Footprints:
    """The footprints of every image that the file lists; an image without any is all background.

    Polygons (several a building are united, not holes), runs and compressed runs are understood. What cannot be
    drawn is a finding at `name`, the file's name in the source.
    """
    try:
        content = json.loads(path.read_bytes())
        images = [_Image.read(entry, f"{name}, images[{number}]") for number, entry in enumerate(content["images"])]
        annotations = [
            (int(entry["id"]), int(entry["image_id"]), entry.get("segmentation")) for entry in content["annotations"]
        ]
        categories = [str(category.get("name")) for category in content.get("categories", [])]
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        what = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
        return Footprints(
            {},
            (
                Finding(
                    Severity.ERROR, "annotations-unreadable", name, f"these are no COCO annotations ({what}).", AGAIN
                ),
            ),
        )
    findings = [
        Finding(Severity.ERROR, "image-listed-twice", name, f"the image {stem!r} is listed {count} times.", AGAIN)
        for stem, count in Counter(image.stem for image in images).items()
        if count > 1
    ]
    if len(categories) > 1:
        few = ", ".join(categories[:3])
        findings.append(
            Finding(
                Severity.NOTE,
                "several-categories",
                name,
                f"there are {len(categories)} categories ({few}, ...).",
                "All are buildings.",
            )
        )
    shapes: dict[int, list[tuple[int, Any]]] = {image.id: [] for image in images}
    strays = []
    for identity, image_id, shape in annotations:
        if image_id in shapes:
            shapes[image_id].append((identity, shape))
        else:
            strays.append(identity)
    if strays:
        message = f"footprints of images that are not listed: {len(strays)}, the first is annotation {strays[0]}."
        findings.append(Finding(Severity.REFUSED, "footprint-without-image", name, message, AGAIN))
    rasters = {}
    for image in images:
        rasters[image.stem], found = _draw(image, shapes[image.id], name)
        findings += found
    return Footprints(rasters, tuple(findings))


class _Image(NamedTuple):
    id: int
    stem: str
    height: int
    width: int

    @classmethod
    def read(cls, entry: Mapping[str, Any], place: str) -> _Image:
        # Names have dots of their own (52.4902), so only what is known as a suffix is cut off.
        stem = re.sub(
            r"\.(tiff?|png|jpe?g)$",
            "",
            PurePosixPath(str(entry["file_name"]).replace("\\", "/")).name,
            flags=re.IGNORECASE,
        )
        image = cls(int(entry["id"]), stem, int(entry["height"]), int(entry["width"]))
        if not (0 < image.height <= 2**15 and 0 < image.width <= 2**15):
            raise ValueError(f"{place} is {image.height} x {image.width} pixels")
        return image


def _draw(image: _Image, shapes: Sequence[tuple[int, Any]], name: str) -> tuple[Raster, list[Finding]]:
    runs: list[dict[str, Any]] = []
    findings = []
    buildings = 0
    for identity, shape in shapes:
        place = f"{name}, annotation {identity} of {image.stem}"
        try:
            drawn, flat = _encode(shape, image.height, image.width)
        except ValueError as error:
            remedy = "Download the annotations again, or accept to leave this building out."
            findings.append(Finding(Severity.REFUSED, "footprint-unreadable", place, f"{error}.", remedy))
            continue
        if flat:
            message = f"parts with fewer than three corners: {flat}."
            findings.append(
                Finding(
                    Severity.NOTE, "footprint-without-area", place, message, "They cover nothing and were left out."
                )
            )
        runs += drawn
        buildings += bool(drawn)
    if not runs:
        return blank(image.height, image.width), findings
    return Raster(image.height, image.width, bytes(coco.merge(runs)["counts"]), buildings), findings


def _encode(shape: Any, height: int, width: int) -> tuple[list[dict[str, Any]], int]:
    """Runs of an annotation's parts, and how many parts have no area. ValueError says why it cannot be drawn."""
    if isinstance(shape, dict):
        return [_check_runs(shape, height, width)], 0
    if not isinstance(shape, list) or not shape:
        raise ValueError("it has no outline")
    parts = shape if isinstance(shape[0], list) else [shape]
    whole, flat = [], 0
    for part in parts:
        if not isinstance(part, list) or len(part) % 2 or not all(isinstance(v, int | float) for v in part):
            raise ValueError("its outline is no list of x and y")
        if not all(math.isfinite(v) and abs(v) <= FARTHEST * max(height, width) for v in part):
            raise ValueError(f"its outline runs far outside the image of {height} x {width} pixels")
        # Four numbers are no polygon: pycocotools would take them for a box.
        if len(part) < 6:
            flat += 1
        else:
            whole.append(part)
    return (list(coco.frPyObjects(whole, height, width)) if whole else []), flat


def _check_runs(shape: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
    size, counts = shape.get("size"), shape.get("counts")
    if size != [height, width]:
        raise ValueError(f"its runs are for {size}, the image has [{height}, {width}]")
    if isinstance(counts, list):
        if not all(isinstance(run, int) and run >= 0 for run in counts) or sum(counts) != height * width:
            raise ValueError("its runs do not fill the image")
        return dict(coco.frPyObjects({"size": size, "counts": counts}, height, width))
    if not isinstance(counts, str):
        raise ValueError("it has no runs")
    encoded = {"size": size, "counts": counts.encode()}
    if sum(_runs(counts)) != height * width:
        raise ValueError("its runs do not fill the image")
    return encoded


def _runs(counts: str) -> list[int]:
    """Lengths in COCO's compressed runs: five bits a character, low bits first, each run but the first three
    relative to the one before the last.

    pycocotools reads them too, but trusts them: damaged ones would be drawn outside its memory.
    """
    runs: list[int] = []
    position = 0
    while position < len(counts):
        value, shift, more = 0, 0, True
        while more:
            if position == len(counts):
                raise ValueError("its runs break off")
            bits = ord(counts[position]) - 48
            if not 0 <= bits < 64:
                raise ValueError("its runs hold a foreign character")
            value |= (bits & 31) << shift
            more = bool(bits & 32)
            position, shift = position + 1, shift + 5
            if not more and bits & 16:
                value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        if runs[-1] < 0:
            raise ValueError("its runs have negative lengths")
    return runs
