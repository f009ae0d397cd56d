"""From the parts of a map to its files: what ends a prediction, and joins the shards of several hosts."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.transform import Affine

from sgma_jax.data.grid import Grid
from sgma_jax.errors import InputError
from sgma_jax.prediction.geotiff import Contents, write_geotiff
from sgma_jax.prediction.layers import layers_from_json
from sgma_jax.prediction.options import PredictOptions
from sgma_jax.prediction.parts import Parts, read_parts
from sgma_jax.prediction.polygons import polygon_files, write_polygons
from sgma_jax.prediction.windows import Tiling


def grid_to_json(grid: Grid) -> dict[str, Any]:
    """A grid as the journal has it."""
    return {
        "crs": grid.crs.to_wkt() if grid.crs else None,
        "transform": list(grid.transform)[:6],
        "height": grid.height,
        "width": grid.width,
    }


def assemble(parts: Parts, out: Path, options: PredictOptions) -> list[Path]:
    """Write all files of a map from its parts, and remove these; what was written, the map first. InputError where
    parts are missing."""
    journal = parts.journal
    fields = journal["grid"]
    grid = Grid(
        CRS.from_wkt(fields["crs"]) if fields["crs"] else None,
        Affine(*fields["transform"]),
        fields["height"],
        fields["width"],
    )
    layers = layers_from_json(journal["layers"])
    files = layers.files()
    tiling = Tiling(grid.height, grid.width, journal["window"], journal["overlap"])
    if missing := [unit for unit in range(tiling.rows) if unit not in parts]:
        raise InputError(
            f"{parts.folder} has {tiling.rows - len(missing)} of {tiling.rows} rows of windows; the first that is "
            f"missing is {missing[0]}. "
            "Run the missing shard, with --resume where it was stopped."
        )

    _check_room(parts, out)

    def rows(name: str) -> Iterator[np.ndarray]:
        return (parts.read(unit)[name] for unit in range(tiling.rows))

    tags = {
        "software": "sgma_jax",
        "classes": ",".join(layers.classes),
        "sensors": ",".join(layers.modalities),
        **journal["tags"],
    }

    def contents(name: str, **more: Any) -> Contents:
        first, bands = files[name][0], [band for layer in files[name] for band in layer.bands]
        return Contents(dtype=first.dtype, nodata=first.nodata, bands=bands, tags=tags, cog=options.cog, **more)

    written = []
    if options.probabilities:
        shares = contents("probabilities", overviews="AVERAGE")
        write_geotiff(options.probabilities, grid, rows("probabilities"), shares)
        written.append(options.probabilities)
    for code, path in polygon_files(options.polygons, layers.classes):
        write_polygons(path, (r[0] == code for r in rows("map")), grid, layers.classes[code], code)
        written.append(path)
    # Last, so that who finds the map finds the rest.
    write_geotiff(out, grid, rows("map"), contents("map", colours=layers.palette, names=layers.classes))
    parts.remove()
    return [out, *written]


def _check_room(parts: Parts, out: Path) -> None:
    """Raise OSError where the disk has less room than the rows take, which are compressed about as well as the map
    will be.

    Asked before and not found out midway, because libtiff tells of a failed write on stderr by itself.
    """
    if shutil.disk_usage(out.parent).free < parts.stored_bytes():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out))


def merge_shards(out: Path, options: PredictOptions) -> list[Path]:
    """Join what `predict_scene` with `shard` left beside `out`, on a file system that all hosts see: the same bytes
    as one host's.

    Of the options only those about files count. InputError where a shard is missing.
    """
    check_outputs(out, options)
    parts = read_parts(out)
    if bool(options.probabilities) != layers_from_json(parts.journal["layers"]).probabilities:
        raise InputError("--probabilities must be given to every shard and to --merge, or to none.")
    return assemble(parts, out, options)


def check_outputs(out: Path, options: PredictOptions) -> None:
    """Raise InputError where a file could not be put in its place, before anything is computed."""
    before: dict[object, str] = {}
    for flag, path in _outputs(out, options):
        for identity in identities(path):
            if before.setdefault(identity, flag) != flag:
                raise InputError(f"{flag} is {path}, which is {before[identity]} too. Give every output its own file.")
        if not path.parent.is_dir():
            raise InputError(
                f"{flag} is {path}: the folder {path.parent} does not exist. Create it, or choose another."
            )
        if path.is_dir():
            raise InputError(f"{flag} is {path}, which is a folder; give a file.")
        if path.exists() and not options.overwrite:
            raise InputError(f"{flag} is {path}, which exists already. Choose another, or replace it with --overwrite.")
        if not flag.startswith("--polygons") and path.suffix.lower() not in (".tif", ".tiff"):
            raise InputError(f"{flag} is {path}; give a file that ends in .tif.")


def check_inputs_stay(out: Path, options: PredictOptions, inputs: Iterable[Path]) -> None:
    """Raise InputError where an output is a file that is read, by any name or link: also with --overwrite."""
    read = {identity: path for path in inputs for identity in identities(path)}
    for flag, path in _outputs(out, options):
        if found := next((read[identity] for identity in identities(path) if identity in read), None):
            raise InputError(
                f"{flag} is {path}, which is read as {found}. Choose another file: an input is never replaced."
            )


def identities(path: Path) -> tuple[object, ...]:
    """Return what tells a file whatever it is called: its place without links, and where it exists its number."""
    place = Path(path).resolve()
    try:
        status = place.stat()
    except OSError:
        return (place,)
    return place, (status.st_dev, status.st_ino)


def _outputs(out: Path, options: PredictOptions) -> list[tuple[str, Path]]:
    """Return flag and file of everything that is written."""
    probabilities = [("--probabilities", Path(options.probabilities))] if options.probabilities else []
    polygons = [(f"--polygons {name}", Path(path)) for name, path in options.polygons.items()]
    return [("--out", out), *probabilities, *polygons]
