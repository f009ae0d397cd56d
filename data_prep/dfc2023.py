"""DFC2023 track 2, buildings from colour, height and radar: `python -m data_prep.dfc2023 SOURCE OUT`.

SOURCE is the folder that holds `track2` (or what is in it), or the archive. Only the scenes of `train` have labels,
so they are split here, by city. docs/datasets.md tells what is understood, and what is done about the oddities of
the set.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import tyro

from data_prep.builder import Conversion, convert
from data_prep.dfc2023_files import MODALITY_NAMES, arrange, is_dfc2023
from data_prep.dfc2023_pixels import MODALITIES, compose, read_modality
from data_prep.dfc2023_survey import DfcScene, Survey, survey_scenes
from data_prep.findings import settle
from data_prep.parallel import ParallelOptions, parallel_arguments
from data_prep.sources import SourceTree, open_source_beside
from data_prep.tiling import Span, check_tiling, ignore_foreign, overlap_of, spans
from data_prep.workspace import check_target
from sgma_jax.data.rasters import Rasters
from sgma_jax.data.schema import IGNORE, SPLITS, Example, Schema
from sgma_jax.errors import InputError, one_line_errors
from sgma_jax.flags import parse_process
from sgma_jax.show.tables import print_dataset

NAME = "DFC2023 track 2"


@dataclass(frozen=True)
class Options:
    """Convert DFC2023 track 2 into a data set for training."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Folder that holds `train` and the annotations (or a folder around it), or the archive as it was downloaded."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder to write."""
    splits: str = "city"
    """"city": whole cities by size, aiming at 70 % training, 10 % validation, 20 % test [C]. Or a CSV with the
    columns city,split or tile,split."""
    tile: int = 512
    """Side of the tiles in pixels; scenes are 512 x 512."""
    stride: int | None = None
    """Pixels from one tile to the next; unset, the fewest tiles that cover a scene evenly."""
    max_height: float = 150.0
    """Heights above this, in metres, become not available: the set's tallest real building has 149, stereo blunders
    reach 183."""
    accept: tuple[str, ...] = ()
    """Checks whose findings are taken as they are; the manifest records it."""
    name: str = "dfc2023"
    """Name of the data set."""
    overwrite: bool = False
    """Replace a converted set that stands in the folder."""
    parallel: tyro.conf.OmitArgPrefixes[ParallelOptions] = dataclasses.field(default_factory=ParallelOptions)


def recognise(tree: SourceTree) -> bool:
    """Return whether the names are those of this set."""
    return is_dfc2023(tree)


def survey(tree: SourceTree, options: Options) -> Survey:
    """Everything odd about the source, and the scenes that can be converted. Reads every scene; writes nothing."""
    with contextlib.closing(Rasters()) as rasters:
        return survey_scenes(tree, arrange(tree), rasters, options.splits, options.max_height)


def convert_dfc2023(options: Options) -> None:
    """Check everything, then write the converted set."""
    _check_options(options)
    workers = parallel_arguments(options.parallel)
    check_target(options.out, options.overwrite)
    with open_source_beside(options.source, options.out) as tree, contextlib.closing(Rasters()) as rasters:
        found = survey(tree, options)
        findings = settle(found.findings, options.accept)
        conversion = Conversion(
            schema=schema(options.tile, options.name),
            keys=plan_tiles(found.scenes, options.tile, options.stride),
            read=TileReader(rasters, options.tile, options.max_height),
            converter="data_prep.dfc2023",
            options={
                "splits": "city" if options.splits == "city" else "file",
                "assigned": dict(found.assigned),
                "tile": options.tile,
                "stride": options.stride,
                "max_height": options.max_height,
                "accept": sorted(options.accept),
            },
            sources=tree.source_files(found.used),
            findings=findings,
        )
        print_dataset(convert(conversion, options.out, overwrite=options.overwrite, **workers), options.out)


def schema(tile: int, name: str = "dfc2023") -> Schema:
    """The set's schema, without statistics."""
    return Schema(
        name=name,
        modalities=tuple(MODALITIES[modality] for modality in MODALITY_NAMES),
        classes=("background", "building"),
        palette=((255, 255, 255), (0, 0, 255)),
        tile=tile,
    )


class SceneTile(NamedTuple):
    """One record to be: a window of a scene."""

    scene: DfcScene
    row: Span
    column: Span


def plan_tiles(scenes: tuple[DfcScene, ...], side: int, stride: int | None) -> dict[str, list[SceneTile]]:
    """Per split, the windows of its scenes."""
    keys: dict[str, list[SceneTile]] = {split: [] for split in SPLITS}
    for scene in scenes:
        rows, columns = (
            spans(n, side, overlap_of(n, side, stride)) for n in (scene.footprints.height, scene.footprints.width)
        )
        keys[scene.split] += [SceneTile(scene, row, column) for row in rows for column in columns]
    return keys


@dataclass(frozen=True)
class TileReader:
    """Tiles to examples, in any order and in any process."""

    rasters: Rasters
    tile: int
    max_height: float

    def __call__(self, key: SceneTile) -> Example | str:
        """The tile's example, or why there is none."""
        scene = key.scene
        # The end of the optical image shows in the whole scene only; 512 x 512 pixels are quickly read.
        whole = compose(
            {name: read_modality(self.rasters, path) for name, path in scene.files.items()},
            scene.footprints,
            self.max_height,
        )
        window = (slice(key.row.start, key.row.stop), slice(key.column.start, key.column.stop))
        label = (
            whole.label[window] if scene.split == "train" else ignore_foreign(whole.label[window], key.row, key.column)
        )
        available = whole.available[:, *window]
        if not available.any():
            return "no sensor has a pixel in them"
        if (label == IGNORE).all():
            return "nothing in them is labelled"
        padding = ((0, self.tile - label.shape[0]), (0, self.tile - label.shape[1]))
        return Example(
            images={name: np.pad(image[window], (*padding, (0, 0))) for name, image in whole.images.items()},
            available=np.pad(available, ((0, 0), *padding)),
            label=np.pad(label, padding, constant_values=IGNORE),
            id=f"{scene.name}/{key.row.start:05d}_{key.column.start:05d}",
        )


def _check_options(options: Options) -> None:
    check_tiling(options.tile, options.stride)
    if not options.max_height > 0:
        raise InputError(
            f"--max-height is {options.max_height}; it must be above 0 metres (a large number, such as 1e9, keeps all "
            f"heights)."
        )


@one_line_errors
def main() -> None:
    """The command."""
    convert_dfc2023(parse_process(Options, "data_prep.dfc2023"))


if __name__ == "__main__":
    main()
