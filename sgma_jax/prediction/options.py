"""Options of a prediction. Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sgma_jax.errors import InputError

Robustness = Literal["none", "mean", "scales"]
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """How a scene is predicted and what is written."""

    window: int = 0
    """Side of the windows that the network sees, a multiple of 32; 0 is the crop that it was trained on."""
    overlap: int = -1
    """Pixels that neighbouring windows share, a multiple of 32 up to half a window; -1 is a quarter of the window."""
    batch: int = 8
    """Windows that the devices get at once. It changes the speed, not the map."""
    memory: str = ""
    """What the rows being blended may take, such as 2GB; more makes higher strips. By default as little as possible,
    one row of windows."""
    bands: tuple[str, ...] = ()
    """SENSOR=1,2,3: bands to take from a sensor's files, from 1; by default all but alpha."""
    grid: str = ""
    """Sensor whose pixels the map has; by default the first one given."""
    crs: str = ""
    """CRS of the map, such as EPSG:32632, if not that of the grid's sensor."""
    resolution: tuple[float, float] | None = None
    """Width and height of the map's pixels in units of its CRS, if not those of the grid's sensor."""
    bounds: tuple[float, float, float, float] | None = None
    """Left, bottom, right, top of the map in units of its CRS, if not those of the grid's sensor."""
    confidence: bool = False
    """Add a band with the probability of the class, in percent."""
    used: bool = False
    """Add a band that says which sensors the network used, a bit each."""
    robustness: Robustness = "none"
    """Add a band per sensor with its share in the answer, in percent: the mean over the scales, or each scale."""
    probabilities: Path | None = None
    """File for the probabilities of all classes, float32."""
    polygons: tuple[str, ...] = ()
    """CLASS=FILE.gpkg, or CLASS.gpkg: file for the outlines of a class."""
    log_sensors: tuple[str, ...] = ()
    """Sensors whose files hold intensities while the run was trained on decibels; known by itself where
    data_prep.geotiff took the logarithm."""
    cog: bool = False
    """Write cloud-optimised GeoTIFFs, with overviews."""
    resume: bool = False
    """Go on where a prediction with the same arguments was stopped."""
    overwrite: bool = False
    """Replace files that are there already."""
    shard: str = ""
    """I/N: compute the I-th of N parts of the scene only (from 1); `--merge` puts them together."""


def memory_bytes(text: str) -> int:
    """A size such as 500MB or 2 GiB in bytes; InputError where it is none."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    if not match:
        raise InputError(f"--memory is {text!r}; give a size such as 500MB or 2GB.")
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 ** "kmgt".index(prefix) * 1024 if binary and prefix else UNITS[prefix]))


def bands_of(given: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Sensor -> numbers of bands, of texts such as "rgb=1,2,3"; InputError where one is none."""
    bands = {}
    for text in given:
        if not (match := re.fullmatch(r"(\w+)=(\d+(?:,\d+)*)", text)):
            raise InputError(f"--bands is {text!r}; give SENSOR=NUMBERS, such as rgb=1,2,3.")
        bands[match[1]] = tuple(map(int, match[2].split(",")))
    return bands


def shard_of(text: str) -> tuple[int, int]:
    """(number from 0, count) of "I/N"; the whole where it is empty. InputError where it is neither."""
    if not text:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"--shard is {text!r}; give I/N with I from 1 to N, such as 2/4.")
    return int(match[1]) - 1, int(match[2])
