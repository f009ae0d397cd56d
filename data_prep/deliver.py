"""DELIVER, street scenes from colour, depth, events and LiDAR: `python -m data_prep.deliver SOURCE OUT`.

SOURCE is the folder DELIVER, or one around it, or the archive. docs/datasets.md tells what is understood, and what
is done about the oddities of the set. The id of a record begins with WEATHER/FAILURE, for scores per condition.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import tyro

from data_prep.builder import Conversion, convert
from data_prep.deliver_files import arrange, is_deliver
from data_prep.deliver_pixels import CLASSES, PALETTE, decode_label, read_image, read_label
from data_prep.deliver_survey import Frame, Survey, survey_frames
from data_prep.findings import settle
from data_prep.parallel import ParallelOptions, parallel_arguments
from data_prep.sources import SourceTree, open_source_beside
from data_prep.tiling import Span, check_tiling, ignore_foreign, overlap_of, spans
from data_prep.workspace import check_target
from sgma_jax.data.rasters import Rasters
from sgma_jax.data.schema import IGNORE, SPLITS, Example, Modality, Schema
from sgma_jax.errors import one_line_errors
from sgma_jax.flags import parse_process
from sgma_jax.show.tables import print_dataset

NAME = "DELIVER"
BAND_NAMES = {"rgb": ("red", "green", "blue")}


@dataclass(frozen=True)
class Options:
    """Convert DELIVER into a data set for training."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Folder that holds img, hha, lidar, event and semantic (or a folder around it), or the archive as it was
    downloaded."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder to write."""
    depth: Literal["hha", "raw"] = "hha"
    """Depth encoded in three channels, which the published results for "depth" read, or the raw depth."""
    splits: str = "official"
    """"official", by map as published; or a CSV with the columns map,split."""
    tile: int = 544
    """Side of the tiles in pixels. [C] Frames are 1042 x 1042: four tiles cover one, and leave room for random crops
    of 512."""
    stride: int | None = None
    """Pixels from one tile to the next; unset, the fewest tiles that cover a frame evenly."""
    accept: tuple[str, ...] = ()
    """Checks whose findings are taken as they are; the manifest records it."""
    name: str = "deliver"
    """Name of the data set."""
    overwrite: bool = False
    """Replace a converted set that stands in the folder."""
    parallel: tyro.conf.OmitArgPrefixes[ParallelOptions] = dataclasses.field(default_factory=ParallelOptions)


def recognise(tree: SourceTree) -> bool:
    """Return whether the names are those of this set."""
    return is_deliver(tree)


def survey(tree: SourceTree, options: Options) -> Survey:
    """Everything odd about the source, and the frames that can be converted. Reads every label; writes nothing."""
    folders = {"rgb": "img", "depth": "hha" if options.depth == "hha" else "depth", "event": "event", "lidar": "lidar"}
    with contextlib.closing(Rasters()) as rasters:
        return survey_frames(tree, arrange(tree), rasters, folders, options.splits)


def convert_deliver(options: Options) -> None:
    """Check everything, then write the converted set."""
    check_tiling(options.tile, options.stride)
    workers = parallel_arguments(options.parallel)
    check_target(options.out, options.overwrite)
    with open_source_beside(options.source, options.out) as tree, contextlib.closing(Rasters()) as rasters:
        found = survey(tree, options)
        findings = settle(found.findings, options.accept)
        conversion = Conversion(
            schema=schema(options.tile, found.kinds, options.name),
            keys=plan_tiles(found.frames, options.tile, options.stride),
            read=TileReader(rasters, dict(found.kinds), options.tile),
            converter="data_prep.deliver",
            options={
                "depth": options.depth,
                "splits": "official" if options.splits == "official" else "file",
                "assigned": dict(found.assigned),
                "tile": options.tile,
                "stride": options.stride,
                "accept": sorted(options.accept),
            },
            sources=tree.source_files(found.used),
            findings=(
                *findings,
                *(f"{what}: {there}" for what, there in found.inventory if what in ("weather", "failures")),
            ),
        )
        print_dataset(convert(conversion, options.out, overwrite=options.overwrite, **workers), options.out)


def schema(tile: int, kinds: Mapping[str, tuple[int, str]], name: str = "deliver") -> Schema:
    """The set's schema, without statistics; `kinds` are channels and type of each sensor."""
    return Schema(
        name=name,
        modalities=tuple(
            Modality(modality, channels, "digital number", dtype, band_names=BAND_NAMES.get(modality, ()))
            for modality, (channels, dtype) in kinds.items()
        ),
        classes=CLASSES,
        palette=PALETTE,
        tile=tile,
    )


class FrameTile(NamedTuple):
    """One record to be: a window of a frame."""

    frame: Frame
    row: Span
    column: Span


def plan_tiles(frames: tuple[Frame, ...], side: int, stride: int | None) -> dict[str, list[FrameTile]]:
    """Per split, the windows of its frames."""
    keys: dict[str, list[FrameTile]] = {split: [] for split in SPLITS}
    for frame in frames:
        rows, columns = (spans(n, side, overlap_of(n, side, stride)) for n in (frame.height, frame.width))
        keys[frame.split] += [FrameTile(frame, row, column) for row in rows for column in columns]
    return keys


@dataclass(frozen=True)
class TileReader:
    """Tiles to examples, in any order and in any process."""

    rasters: Rasters
    kinds: Mapping[str, tuple[int, str]]
    tile: int

    def __call__(self, key: FrameTile) -> Example | str:
        """The tile's example, or why there is none."""
        frame, row, column = key
        label = decode_label(read_label(self.rasters, frame.label, row, column))
        if frame.split != "train":
            label = ignore_foreign(label, row, column)
        if (label == IGNORE).all():
            return "nothing in them is labelled"
        padding = ((0, self.tile - label.shape[0]), (0, self.tile - label.shape[1]))
        shape = (frame.height, frame.width)
        images = {
            modality: np.pad(
                read_image(self.rasters, path, self.kinds[modality][0], shape, row, column), (*padding, (0, 0))
            )
            for modality, path in frame.files.items()
        }
        inside = np.pad(np.ones(label.shape, bool), padding)
        return Example(
            images=images,
            available=np.stack([inside & (modality in images) for modality in self.kinds]),
            label=np.pad(label, padding, constant_values=IGNORE),
            id=f"{frame.id}/{row.start:05d}_{column.start:05d}",
        )


@one_line_errors
def main() -> None:
    """The command."""
    convert_deliver(parse_process(Options, "data_prep.deliver"))


if __name__ == "__main__":
    main()
