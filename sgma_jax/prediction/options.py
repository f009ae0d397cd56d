"""Options of a prediction. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Robustness = Literal["none", "mean", "scales"]


@dataclass(frozen=True, kw_only=True)
class PlainOptions:
    """The options of one word, several words or a yes, which the command takes as they are."""

    window: int = 0
    """Side of the windows that the network sees, a multiple of 32; 0 is the crop that it was trained on."""
    overlap: int = -1
    """Pixels that neighbouring windows share, a multiple of 32 up to half a window; -1 is a quarter of the window."""
    batch: int = 8
    """Windows that the devices get at once. It changes the speed, not the map."""
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
    log_sensors: tuple[str, ...] = ()
    """Sensors whose files hold intensities while the run was trained on decibels; known by itself where the data set
    says so, as it does if its converter took the logarithm."""
    cog: bool = False
    """Write cloud-optimised GeoTIFFs, with overviews."""
    resume: bool = False
    """Go on where a prediction with the same arguments was stopped."""
    overwrite: bool = False
    """Replace files that are there already."""


@dataclass(frozen=True, kw_only=True)
class PredictOptions(PlainOptions):
    """How a scene is predicted and what is written."""

    memory: int = 0
    """Bytes that the rows being blended may take; more makes higher strips. 0 is as little as possible, one row of
    windows."""
    bands: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Sensor -> numbers of the bands to take from its files, from 1; by default all but alpha."""
    polygons: Mapping[str, Path] = field(default_factory=dict)
    """Name of a class -> GeoPackage for its outlines."""
    shard: tuple[int, int] | None = None
    """(I, N): compute the I-th of N parts of the scene only, from 1; `merge_shards` puts them together."""
