"""A user's own rasters: `python -m data_prep.geotiff SOURCE OUT`.

SOURCE is a manifest in CSV (one column per modality with the paths of its rasters, `label`, and `split` or
`split_raster`; an empty cell is a missing sensor) or a folder with one scene (a GeoTIFF per modality, label.tif,
split.tif). Every scene is cut into tiles on its label's grid. Nodata, masks, alpha and NaN become "not available",
pixel by pixel.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rasterio.io import DatasetReader

from data_prep.builder import Conversion, convert
from data_prep.labels import LabelRules, Tile, read_codes, read_palette, survey_labels, tile_label
from data_prep.parallel import ParallelOptions, parallel_arguments
from data_prep.scenes import LabelledScene, read_scenes
from data_prep.tiling import check_tiling
from data_prep.workspace import check_target
from sgma_jax.data.raster_checks import check_raster
from sgma_jax.data.rasters import Box, Rasters
from sgma_jax.data.schema import IGNORE, Example, Modality, Schema
from sgma_jax.data.values import as_stored
from sgma_jax.errors import InputError, one_line_errors
from sgma_jax.flags import parse_process
from sgma_jax.show.tables import print_dataset


@dataclass(frozen=True)
class Options:
    """Convert GeoTIFFs into a data set for training."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Manifest (CSV) or folder with one scene."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder to write."""
    modalities: tuple[str, ...] = ()
    """Sensors to convert, in this order; all that SOURCE has if none is named."""
    classes: tuple[str, ...] = ()
    """Names of the label values 0, 1, ...; class_0, class_1, ... up to the highest value found if none is named."""
    tile: int = 256
    """Side of the tiles in pixels of the label."""
    overlap: int = 0
    """Pixels that neighbouring tiles share. In validation and test each labelled pixel still counts in one tile
    only."""
    codes: tuple[str, ...] = ()
    """CODE=NAME for every class, such as 10=tree 20=shrub, where label values are not 0, 1, ...; or a CSV with the
    columns code,name."""
    ignore: tuple[int, ...] = (IGNORE,)
    """Label values of pixels that are neither trained on nor scored; the label's nodata value is one too."""
    nodata: tuple[str, ...] = ()
    """SENSOR=VALUE: a number that stands for a hole, besides those that the files declare."""
    log_modalities: tuple[str, ...] = ()
    """Sensors stored as 10 log10 of their values (radar intensities); values of 0 and less become not available."""
    name: str = ""
    """Name of the data set; that of SOURCE if empty."""
    licence: str = ""
    """Licence and attribution of the data, for the manifest and the reports on what is trained on it."""
    overwrite: bool = False
    """Replace a converted set that stands in the folder."""
    parallel: tyro.conf.OmitArgPrefixes[ParallelOptions] = dataclasses.field(default_factory=ParallelOptions)


def convert_rasters(options: Options) -> None:
    """Check everything, then write the converted set."""
    options = dataclasses.replace(options, source=options.source.absolute())  # other processes may stand elsewhere
    _check_options(options)
    workers = parallel_arguments(options.parallel)
    check_target(options.out, options.overwrite)
    scenes, names = read_scenes(options.source, options.modalities)
    for name in options.log_modalities:
        if name not in names:
            raise InputError(f"--log-modalities names {name!r}, which is not among the modalities {', '.join(names)}.")
    nodata = _nodata_of(options.nodata, names)
    with contextlib.closing(Rasters()) as rasters:
        modalities = tuple(
            dataclasses.replace(
                _modality(rasters, scenes, name, name in options.log_modalities), nodata=nodata.get(name)
            )
            for name in names
        )
        rules = LabelRules(options.tile, options.overlap, options.classes, options.ignore, read_codes(options.codes))
        survey = survey_labels(rasters, scenes, rules)
        schema = Schema(
            name=options.name or options.source.resolve().stem,
            modalities=modalities,
            classes=survey.classes,
            palette=read_palette(rasters, scenes, len(survey.classes)),
            tile=options.tile,
        )
        conversion = Conversion(
            schema=schema,
            keys=survey.tiles,
            read=TileReader(rasters, tuple(scenes), schema, rules),
            converter="data_prep.geotiff",
            options={
                "modalities": list(names),
                "classes": list(survey.classes),
                "tile": options.tile,
                "overlap": options.overlap,
                "codes": list(options.codes),
                "ignore": list(options.ignore),
                "nodata": list(options.nodata),
                "log_modalities": list(options.log_modalities),
                "licence": options.licence,
            },
            sources=_source_files(rasters, scenes, options.source),
            findings=survey.findings,
        )
        print_dataset(convert(conversion, options.out, overwrite=options.overwrite, **workers), options.out)


@dataclass(frozen=True)
class TileReader:
    """From a window of a scene to the example."""

    rasters: Rasters
    scenes: tuple[LabelledScene, ...]
    schema: Schema
    rules: LabelRules

    def __call__(self, tile: Tile) -> Example | str:
        scene, side = self.scenes[tile.scene], self.schema.tile
        box = Box(tile.row.start, tile.column.start, side)
        images: dict[str, np.ndarray] = {}
        notes: list[str] = []
        available = np.zeros((len(self.schema.modalities), side, side), bool)
        for row, modality in enumerate(self.schema.modalities):
            if modality.name in scene.images:
                pixels, mask = self.rasters.image(scene.images[modality.name], scene.label, box, modality.nodata)
                images[modality.name], available[row] = as_stored(pixels, mask, modality)
                if self.rasters.overflowed():
                    notes.append(f"{modality.name} holds the lowest or largest number of its type, taken for a hole")
                if modality.log and (pixels[mask] < 0).any():
                    notes.append(
                        f"{modality.name} has numbers below 0, taken for holes: no intensity is. Leave it out of "
                        f"--log-modalities if it is in decibels already"
                    )
        if not available.any():
            return "no sensor has a pixel in them"
        label = tile_label(self.rasters, scene, tile, side, self.rules)
        identity = f"{scene.id}/{tile.row.start:05d}_{tile.column.start:05d}"
        return Example(images, available, label, identity, tuple(notes))


def _modality(rasters: Rasters, scenes: Sequence[LabelledScene], name: str, log: bool) -> Modality:
    """Return the modality that a sensor's files agree on.

    Opens every file, so that a broken one is found before anything is written.
    """
    first: tuple[Path, int, str] | None = None
    meaning: dict[str, tuple[Any, ...]] = {}
    for scene in scenes:
        if name not in scene.images:
            continue
        path = scene.images[name]
        bands, dataset = check_raster(rasters, path), rasters.open(path)
        dtype = dataset.dtypes[bands[0] - 1]
        if first is None:
            first, unit = (path, len(bands), dtype), dataset.units[bands[0] - 1] or ""
            described = tuple(dataset.descriptions[band - 1] or "" for band in bands)
        if (len(bands), dtype) != first[1:]:
            raise InputError(
                f"{path}: modality {name!r} has {len(bands)} bands of {dtype} here, but {first[1]} of {first[2]} in "
                f"{first[0]}. "
                "Make the files alike, or give them columns of their own."
            )
        own = _meaning(dataset, bands)
        # A file that does not state something contradicts nobody.
        stated = {what: values for what, values in own.items() if any(value is not None for value in values)}
        if different := next((what for what in stated if stated[what] != meaning.setdefault(what, stated[what])), None):
            raise InputError(
                f"{path}: the {different} of modality {name!r} are {_listed(own[different])} here, but "
                f"{_listed(meaning[different])} in {first[0]}, so equal numbers mean different things. Make the files "
                f"alike (gdal_translate -unscale, -b), or give them columns of their own."
            )
        rasters.is_aligned(path, scene.label)  # raises where the two cannot be laid over each other
    if first is None:
        raise InputError(
            f"modality {name!r}: no record has it, all its cells are empty. Leave it out with --modalities."
        )
    band_names = described if all(described) else ()
    if log:
        return Modality(name, first[1], "decibel", "float32", band_names=band_names, log=True)
    return Modality(name, first[1], unit, first[2], band_names=band_names)


def _meaning(dataset: DatasetReader, bands: Sequence[int]) -> dict[str, tuple[Any, ...]]:
    """Return what a file says that its bands mean."""
    colours = tuple(dataset.colorinterp[band - 1].name for band in bands)
    return {
        "scales": tuple(dataset.scales[band - 1] for band in bands),
        "offsets": tuple(dataset.offsets[band - 1] for band in bands),
        "descriptions": tuple(dataset.descriptions[band - 1] for band in bands),
        "colours": colours if set(colours) == {"red", "green", "blue"} else (),
    }


def _listed(values: Sequence[Any]) -> str:
    return ", ".join("not stated" if value is None else str(value) for value in values) or "not stated"


def _nodata_of(texts: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Return sensor -> number of texts such as "dsm=-9999"; InputError where one is none."""
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in names:
            raise InputError(f"--nodata names {name!r}, which is not among the modalities {', '.join(names)}.")
        try:
            found[name] = float(value)
        except ValueError:
            raise InputError(f"--nodata is {text!r}; give SENSOR=NUMBER, such as dsm=-9999.") from None
    return found


def _source_files(rasters: Rasters, scenes: Sequence[LabelledScene], source: Path) -> dict[str, Path]:
    """All files read, by names that do not depend on where on the machine they lie."""
    base = (source if source.is_dir() else source.parent).resolve()
    files = [] if source.is_dir() else [source]
    for scene in scenes:
        for path in (scene.label, *scene.images.values(), *([scene.split] if isinstance(scene.split, Path) else [])):
            files += [
                Path(part) for part in rasters.open(path).files if Path(part).is_file()
            ]  # with masks and the like beside it
    named: dict[str, Path] = {}
    for path in dict.fromkeys(file.resolve() for file in files):
        inside = path.is_relative_to(base)
        # A file elsewhere is named by as much of the end of its path as tells it from the others.
        parts = len(path.relative_to(base).parts) if inside else 1
        while (name := Path(*path.parts[-parts:]).as_posix()) in named:
            parts += 1
        named[name] = path
    return named


def _check_options(options: Options) -> None:
    check_tiling(options.tile)
    if not 0 <= options.overlap < options.tile:
        raise InputError(
            f"--overlap is {options.overlap}; it must be at least 0 and less than --tile ({options.tile})."
        )


@one_line_errors
def main() -> None:
    """The command."""
    convert_rasters(parse_process(Options, "data_prep.geotiff"))


if __name__ == "__main__":
    main()
