"""Outlines of one class as polygons in a GeoPackage, whole across the rows in which a map arrives."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.features import shapes
from rasterio.transform import Affine
from scipy import ndimage

from sgma_jax.data.grid import Grid
from sgma_jax.errors import InputError

MANY = 10_000
"""Polygons that are written at once."""


def polygon_files(given: Mapping[str, Path], classes: Sequence[str]) -> list[tuple[int, Path]]:
    """Return class codes and files; InputError where a class is unknown or the packages that write them are missing."""
    files = []
    for name, path in given.items():
        if name not in classes:
            raise InputError(
                f"--polygons {name}={path}: the run has no class {name!r}; it has {', '.join(classes)}. Give "
                f"CLASS=FILE.gpkg."
            )
        if path.suffix.lower() != ".gpkg":
            raise InputError(
                f"--polygons {name}={path}: polygons are written as GeoPackage; give a file that ends in .gpkg."
            )
        files.append((classes.index(name), path))
    if files:
        _libraries()
    return files


def write_polygons(path: Path, rows: Iterable[np.ndarray], grid: Grid, name: str, code: int) -> None:
    """Write the outlines of the pixels that the rows [rows, width] of booleans mark, with class and area in pixels.

    Pixels that touch at corners only are apart. Outlines are simplified so that they stay within one pixel of the
    pixels' edges; a shape that is no longer a polygon then keeps its edges. Memory holds the rows of polygons that
    are not complete: it grows with the largest, not with the scene.
    """
    pyogrio, shapely = _libraries()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.gpkg")
    t = grid.transform
    fields = {
        "geometry_type": "Polygon",
        "crs": grid.crs.to_wkt() if grid.crs else None,
        "layer": name,
        "driver": "GPKG",
    }
    try:
        written = False
        for outlines, areas in _batches(complete_polygons(rows)):
            geometries = shapely.simplify(shapely.from_geojson(outlines), 1.0, preserve_topology=True)
            geometries = shapely.transform(
                geometries,
                lambda p: np.stack((t.a * p[:, 0] + t.b * p[:, 1] + t.c, t.d * p[:, 0] + t.e * p[:, 1] + t.f), -1),
            )
            data = [np.full(len(areas), name, object), np.full(len(areas), code, np.int32), np.array(areas, np.int64)]
            wkb = np.array(shapely.to_wkb(geometries), object)
            pyogrio.raw.write(temporary, wkb, data, ["class", "code", "pixels"], append=written, **fields)
            written = True
        os.replace(temporary, path)
    finally:
        for left in path.parent.glob(f"{temporary.name}*"):
            left.unlink()


def complete_polygons(rows: Iterable[np.ndarray]) -> Iterator[tuple[dict[str, Any], int]]:
    """GeoJSON polygons in (column, row), and their pixels, of the connected areas of a mask that arrives in rows
    from the top."""
    open_: np.ndarray | None = None  # the rows that areas without an end reach up to, with these areas only
    first = 0
    for part in rows:
        mask = part if open_ is None else np.concatenate((open_, part))
        labels, count = ndimage.label(mask)
        unfinished = np.unique(labels[-1])
        is_open = np.zeros(count + 1, bool)
        is_open[unfinished[unfinished > 0]] = True
        yield from _outlines(mask & ~is_open[labels], first)
        rest = is_open[labels]
        used = rest.any(1)
        top = int(used.argmax()) if used.any() else len(rest)
        first, open_ = first + top, rest[top:]
    if open_ is not None and open_.size:
        yield from _outlines(open_, first)


def _outlines(mask: np.ndarray, first: int) -> Iterator[tuple[dict[str, Any], int]]:
    if not mask.any():
        return
    for outline, _ in shapes(mask.astype(np.uint8), mask=mask, connectivity=4, transform=Affine.translation(0, first)):
        yield outline, round(sum(_area(ring) * (1 if n == 0 else -1) for n, ring in enumerate(outline["coordinates"])))


def _area(ring: Sequence[Sequence[float]]) -> float:
    x, y = np.array(ring).T
    return abs(float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]))) / 2


def _batches(polygons: Iterable[tuple[dict[str, Any], int]]) -> Iterator[tuple[list[str], list[int]]]:
    """Polygons as texts of GeoJSON, and their pixels, many at a time; at least one batch, so that a file without
    polygons has its fields too."""
    import json

    outlines: list[str] = []
    areas: list[int] = []
    some = False
    for outline, area in polygons:
        outlines.append(json.dumps(outline))
        areas.append(area)
        if len(areas) == MANY:
            yield outlines, areas
            outlines, areas, some = [], [], True
    if areas or not some:
        yield outlines, areas


def _libraries() -> tuple[Any, Any]:
    try:
        import pyogrio
        import pyogrio.raw
        import shapely
    except ImportError as error:
        raise InputError(
            f"--polygons needs the package {error.name}, which is not installed: pip install 'sgma_jax[vector]'."
        ) from error
    return pyogrio, shapely
