"""The part that Potsdam and Vaihingen share: areas of colour-coded labels and aligned images, cut into tiles.

`data_prep.potsdam` and `data_prep.vaihingen` say which files make up an area, `data_prep.isprs_survey` checks them,
and this module reads tiles of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from rasterio.windows import Window

from data_prep.isprs_colours import CLASSES, CLUTTER_COLOUR, PALETTE, decode, to_label
from data_prep.labels import Tile
from data_prep.parallel import ParallelOptions
from data_prep.sources import SourceTree
from data_prep.tiling import check_tiling, ignore_foreign, overlap_of, spans
from sgma_jax.data.rasters import Rasters
from sgma_jax.data.schema import IGNORE, SPLITS, Example, Modality, Schema
from sgma_jax.errors import InputError

HEIGHTS = (-430.0, 8850.0)
"""[C] Metres above the sea, from the lowest to the highest dry land; an absolute height outside is a hole that no
nodata value declares."""


@dataclass(frozen=True)
class AreaOptions:
    """Options of Potsdam and Vaihingen alike."""

    modalities: tuple[str, ...] = ()
    """Sensors to convert, in this order; all if none is named."""
    tile: int = 512
    """Side of the tiles in pixels."""
    stride: int | None = None
    """Pixels from a tile to the next; by default the fewest tiles cover an area evenly. Validation and test count
    each pixel once."""
    splits: str = "official"
    """"official", or a CSV that assigns areas to train, validation and test."""
    validation: tuple[str, ...] = ()
    """Areas of the official training split that are held out for validation; "none" holds none out, and trains on
    all."""
    drop: tuple[str, ...] = ()
    """Areas to leave out, such as Potsdam's 7_10."""
    clutter: bool = False
    """Make clutter a sixth class; by default its pixels are ignored, as in the paper."""
    eroded_evaluation: bool = False
    """Read the eroded labels in validation and test, so that pixels within three of an object's edge are not scored."""
    accept: tuple[str, ...] = ()
    """Checks of the findings table whose refusal to override; the manifest records them."""
    name: str = ""
    """Name of the data set."""
    overwrite: bool = False
    """Replace a converted set that stands in the folder."""
    parallel: tyro.conf.OmitArgPrefixes[ParallelOptions] = field(default_factory=ParallelOptions)


class File(NamedTuple):
    """A file of the source."""

    name: str
    """Relative to the source."""
    path: Path


class Layer(NamedTuple):
    """The bands of one file that make up a sensor."""

    file: File
    bands: tuple[int, ...]
    offset: tuple[int, int] = (0, 0)
    """Row and column of the label on which the file's first pixel lies."""


class Kind(NamedTuple):
    """One of the products of which a set has a file an area."""

    what: str
    """For people."""
    pattern: str
    """Of names relative to the source; its groups are the numbers that make up the area's id."""
    bands: int
    dtype: str


@dataclass(frozen=True)
class Layout:
    """The parts of a set."""

    noun: str
    """The set's own word for an area; also the column of --splits FILE."""
    kinds: Mapping[str, Kind]
    """All products by our name for them; "label" and "eroded" are the labels."""
    modalities: Mapping[str, tuple[tuple[str, tuple[int, ...]], ...]]
    """Per sensor, the products that have it and the bands there, the preferred one first."""
    units: Mapping[str, str]
    """Per sensor."""
    band_names: Mapping[str, tuple[str, ...]]
    """Per sensor of several bands."""
    train: tuple[str, ...]
    test: tuple[str, ...]
    validation: tuple[str, ...]
    """Areas of `train` that are held out unless the user says otherwise."""
    disputed: Mapping[str, str]
    """Areas with known flaws in what is published, and which."""


@dataclass(frozen=True)
class Area:
    """One of the set's large images, with the files that a conversion reads of it."""

    id: str
    split: str
    height: int
    width: int
    modalities: Mapping[str, Layer]
    """Only of the sensors that it has."""
    label: File


def find_files(tree: SourceTree, kinds: Mapping[str, Kind]) -> dict[str, dict[str, list[File]]]:
    """Product -> id of the area -> files. Numbers may be padded with zeros in one product and not in another, so ids
    are made of the numbers."""
    compiled = {kind: re.compile(rf"(?:.*/)?{k.pattern}", re.IGNORECASE) for kind, k in kinds.items()}
    found: dict[str, dict[str, list[File]]] = {kind: {} for kind in kinds}
    for name, path in tree.files.items():
        for kind, pattern in compiled.items():
            if match := pattern.fullmatch(name):
                identity = "_".join(str(int(number)) for number in match.groups())
                found[kind].setdefault(identity, []).append(File(name, path))
    return found


def area_key(identity: str) -> tuple[int, ...]:
    """Sorts areas by their numbers."""
    return tuple(int(part) for part in identity.split("_"))


def plan_tiles(areas: Sequence[Area], options: AreaOptions) -> dict[str, list[Tile]]:
    """Per split, the tiles of its areas in the order of the areas, row by row."""
    tiles: dict[str, list[Tile]] = {split: [] for split in SPLITS}
    for index, area in enumerate(areas):
        rows, columns = (
            spans(n, options.tile, overlap_of(n, options.tile, options.stride)) for n in (area.height, area.width)
        )
        tiles[area.split] += [Tile(index, area.split, row, column) for row in rows for column in columns]
    return tiles


def area_schema(name: str, modalities: tuple[Modality, ...], options: AreaOptions) -> Schema:
    """The schema of a set with these sensors."""
    clutter = options.clutter
    return Schema(
        name, modalities, (*CLASSES, *["clutter"] * clutter), (*PALETTE, *[CLUTTER_COLOUR] * clutter), options.tile
    )


def check_options(options: AreaOptions, modalities: Sequence[str]) -> None:
    """Raise InputError for an option that cannot be meant."""
    check_tiling(options.tile, options.stride)
    for name in options.modalities:
        if name not in modalities:
            raise InputError(f"--modalities names {name!r}; this set has {', '.join(modalities)}.")
        if options.modalities.count(name) > 1:
            raise InputError(f"--modalities names {name!r} twice; name each sensor once.")


@dataclass(frozen=True)
class AreaReader:
    """Tiles to examples, in any order and process."""

    areas: tuple[Area, ...]
    modalities: tuple[Modality, ...]
    side: int
    clutter: bool
    rasters: Rasters = field(default_factory=Rasters, compare=False)

    def __call__(self, tile: Tile) -> Example | str:
        """The tile's example, or why there is none."""
        area = self.areas[tile.scene]
        label = self._label(area, tile)
        if (label == IGNORE).all():
            return "no pixel of them has a class"
        images: dict[str, np.ndarray] = {}
        available = np.zeros((len(self.modalities), self.side, self.side), bool)
        for row, modality in enumerate(self.modalities):
            if layer := area.modalities.get(modality.name):
                pixels, mask = read_layer(self.rasters, layer, tile.row.start, tile.column.start, self.side)
                inside = np.zeros_like(mask)
                inside[: area.height - tile.row.start, : area.width - tile.column.start] = True
                images[modality.name], available[row] = pixels, mask & inside
        if not available.any():
            return "no sensor has a pixel in them"
        return Example(images, available, label, f"{area.id}/{tile.row.start:05d}_{tile.column.start:05d}")

    def _label(self, area: Area, tile: Tile) -> np.ndarray:
        rows, columns = tile.row.stop - tile.row.start, tile.column.stop - tile.column.start
        colours = self.rasters.window(
            area.label.path, [1, 2, 3], Window(tile.column.start, tile.row.start, columns, rows)
        )
        found = to_label(decode(colours), self.clutter)
        if tile.split != "train":
            found = ignore_foreign(found, tile.row, tile.column)
        label = np.full((self.side, self.side), IGNORE, np.uint8)
        label[:rows, :columns] = found
        return label


def read_layer(rasters: Rasters, layer: Layer, row: int, column: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [side, side, bands] as stored, 0 where there are none, and availability [side, side], of a square of
    the label's grid.

    Beyond the file's last row or column, at its nodata value, where it is not finite, and at impossible heights,
    nothing is available.
    """
    dataset = rasters.open(layer.file.path)
    pixels = np.zeros((side, side, len(layer.bands)), dataset.dtypes[0])
    available = np.zeros((side, side), bool)
    top, left = row - layer.offset[0], column - layer.offset[1]
    first_row, first_column = max(top, 0), max(left, 0)
    height, width = min(top + side, dataset.height) - first_row, min(left + side, dataset.width) - first_column
    if height > 0 and width > 0:
        values = rasters.window(layer.file.path, list(layer.bands), Window(first_column, first_row, width, height))
        valid = is_data(values, dataset.nodatavals[layer.bands[0] - 1])
        place = np.s_[first_row - top : first_row - top + height, first_column - left : first_column - left + width]
        pixels[place] = np.where(valid[..., None], np.moveaxis(values, 0, -1), np.zeros((), values.dtype))
        available[place] = valid
    return pixels, available


def is_data(values: np.ndarray, nodata: float | None) -> np.ndarray:
    """Where pixels [bands, rows, columns] hold a measurement."""
    valid = np.ones(values.shape[1:], bool)
    if np.issubdtype(values.dtype, np.floating):
        valid &= ((values >= HEIGHTS[0]) & (values <= HEIGHTS[1])).all(0)  # false for NaN
    if nodata is not None and not np.isnan(nodata):
        # A file stores its nodata value in its own type, and states it as a 64 bit number.
        valid &= ~(values == (np.float32(nodata) if values.dtype == np.float32 else nodata)).all(0)
    return valid
